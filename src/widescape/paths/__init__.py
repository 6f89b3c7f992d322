"""Connecting two solutions: barriers, trained curves, alignment, elastic bands, and paths with a proved maximum."""

from widescape.paths.bands import BandStatus, NEBResult, auto_neb, neb
from widescape.paths.barriers import Barrier, barrier
from widescape.paths.condition import ConditionReport, feature_condition
from widescape.paths.connection import connect
from widescape.paths.curves import Curve, CurveStatus, fit_curve
from widescape.paths.dropout import DropoutReport, dropout_stability
from widescape.paths.figures import path_chart
from widescape.paths.layered import ChainLayer, Layered
from widescape.paths.matching import (
    ActivationAlignment,
    Alignment,
    AlignmentStatus,
    activation_matching,
    hidden_activations,
    weight_matching,
)
from widescape.paths.memorization import MemorizationProbe, memorization_probe
from widescape.paths.merging import Merge, merge
from widescape.paths.path_proof import PathBound, path_bound
from widescape.paths.permutations import apply_permutation, check_spec, leaf_names, mlp_spec, permutation_spec
from widescape.paths.polyline import PiecewiseLinearPath
from widescape.paths.profiles import PathProfile, evaluate_path
from widescape.paths.separability import Separability, SeparabilityStatus, linear_separability
from widescape.paths.sibling_runs import Instability, instability
from widescape.paths.side_by_side import LayerLosses, PathLosses
from widescape.paths.spanning import Tree, TreeStatus, connectivity_tree
from widescape.paths.tradeoff import FeatureTradeoff, feature_tradeoff

__all__ = [
    "ActivationAlignment",
    "Alignment",
    "AlignmentStatus",
    "BandStatus",
    "Barrier",
    "ChainLayer",
    "ConditionReport",
    "Curve",
    "CurveStatus",
    "DropoutReport",
    "FeatureTradeoff",
    "Instability",
    "LayerLosses",
    "Layered",
    "MemorizationProbe",
    "Merge",
    "NEBResult",
    "PathBound",
    "PathLosses",
    "PathProfile",
    "PiecewiseLinearPath",
    "Separability",
    "SeparabilityStatus",
    "Tree",
    "TreeStatus",
    "activation_matching",
    "apply_permutation",
    "auto_neb",
    "barrier",
    "check_spec",
    "connect",
    "connectivity_tree",
    "dropout_stability",
    "evaluate_path",
    "feature_condition",
    "feature_tradeoff",
    "fit_curve",
    "hidden_activations",
    "instability",
    "leaf_names",
    "linear_separability",
    "memorization_probe",
    "merge",
    "mlp_spec",
    "neb",
    "path_bound",
    "path_chart",
    "permutation_spec",
    "weight_matching",
]
