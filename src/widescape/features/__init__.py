"""Representations as pure functions: their similarity, their ranks, and what can be read off them."""

from widescape.features.balanced_factors import balanced_rows, quadratic_form
from widescape.features.canonical_correlations import CanonicalCorrelations, cca, pwcca, svcca
from widescape.features.complexity_exponents import (
    ExponentStatus,
    SampleExponent,
    fit_exponent,
    sample_complexity_exponent,
)
from widescape.features.convex_quadratic import ConvexQuadratic, ConvexStatus, solve_convex_quadratic
from widescape.features.energy_by_degree import DegreeEnergies, degree_energies
from widescape.features.expansions import two_layer_terms
from widescape.features.feature_kernels import ntk_neural_kernel, random_feature_kernel
from widescape.features.harmonics import ZonalHarmonic, harmonic_dim, invariant_kernel_risk_floor, zonal_harmonic
from widescape.features.kernel_alignment import MinibatchCKA, cka, kta
from widescape.features.lam_selection import LamSelection, select_lam
from widescape.features.layers import LayerSimilarity, layer_activations, layer_similarity
from widescape.features.learners import Learner, on_representation
from widescape.features.linear_taylor import (
    LinearTaylorFit,
    LinearTaylorStatus,
    fit_linear_taylor,
    infinite_linear_taylor,
    linear_taylor_kernel,
    linear_taylor_outputs,
    taylor_weights,
)
from widescape.features.matrix_ranks import (
    RankReport,
    effective_rank,
    numerical_rank,
    participation_ratio,
    rank_report,
    srank,
    stable_rank,
)
from widescape.features.neural_representations import NeuralFeatures, neural_representation
from widescape.features.procrustes_distance import procrustes
from widescape.features.quadratic_fit import QuadraticFit, fit_quadratic_taylor
from widescape.features.quadratic_objective import QuadraticProblem, gates, l24_norm, quadratic_outputs
from widescape.features.quadratic_search import QuadraticStatus
from widescape.features.rademacher import RademacherBound, quad_rademacher_bound
from widescape.features.random_layers import RandomFeatures, input_scale, random_features
from widescape.features.rank_collapse import (
    BootstrapRanks,
    RankTrace,
    bootstrap_rank_theory,
    rank_penalty,
    rank_trace,
)
from widescape.features.readouts import LinearReadout, NeighborsReadout, linear_readout, nearest_neighbors_readout
from widescape.features.representational import rsa
from widescape.features.sample_complexity import SampleComplexity, sample_complexity_curve
from widescape.features.second_moments import SecondMoment, Whitening, second_moment, unlabeled_samples, whitening
from widescape.features.second_order import SecondOrderCertificate, second_order_certificate
from widescape.features.sign_randomization import (
    SignRandomizedFit,
    SignRandomizedStatus,
    fit_sign_randomized,
    sign_mean,
)
from widescape.features.similarity_index import similarity
from widescape.features.targets import LowRankPolynomial, PolynomialTarget, make_low_rank_polynomial
from widescape.features.taylor_learners import LinearTaylorLearner, NeuralInputs, QuadraticTaylorLearner, four_learners
from widescape.train import taylor_terms

__all__ = [
    "BootstrapRanks",
    "CanonicalCorrelations",
    "ConvexQuadratic",
    "ConvexStatus",
    "DegreeEnergies",
    "ExponentStatus",
    "LamSelection",
    "LayerSimilarity",
    "Learner",
    "LinearReadout",
    "LinearTaylorFit",
    "LinearTaylorLearner",
    "LinearTaylorStatus",
    "LowRankPolynomial",
    "MinibatchCKA",
    "NeighborsReadout",
    "NeuralFeatures",
    "NeuralInputs",
    "PolynomialTarget",
    "QuadraticFit",
    "QuadraticProblem",
    "QuadraticStatus",
    "QuadraticTaylorLearner",
    "RademacherBound",
    "RandomFeatures",
    "RankReport",
    "RankTrace",
    "SampleComplexity",
    "SampleExponent",
    "SecondMoment",
    "SecondOrderCertificate",
    "SignRandomizedFit",
    "SignRandomizedStatus",
    "Whitening",
    "ZonalHarmonic",
    "balanced_rows",
    "bootstrap_rank_theory",
    "cca",
    "cka",
    "degree_energies",
    "effective_rank",
    "fit_exponent",
    "fit_linear_taylor",
    "fit_quadratic_taylor",
    "fit_sign_randomized",
    "four_learners",
    "gates",
    "harmonic_dim",
    "infinite_linear_taylor",
    "input_scale",
    "invariant_kernel_risk_floor",
    "kta",
    "l24_norm",
    "layer_activations",
    "layer_similarity",
    "linear_readout",
    "linear_taylor_kernel",
    "linear_taylor_outputs",
    "make_low_rank_polynomial",
    "nearest_neighbors_readout",
    "neural_representation",
    "ntk_neural_kernel",
    "numerical_rank",
    "on_representation",
    "participation_ratio",
    "procrustes",
    "pwcca",
    "quad_rademacher_bound",
    "quadratic_form",
    "quadratic_outputs",
    "random_feature_kernel",
    "random_features",
    "rank_penalty",
    "rank_report",
    "rank_trace",
    "rsa",
    "sample_complexity_curve",
    "sample_complexity_exponent",
    "second_moment",
    "second_order_certificate",
    "select_lam",
    "sign_mean",
    "similarity",
    "solve_convex_quadratic",
    "srank",
    "stable_rank",
    "svcca",
    "taylor_terms",
    "taylor_weights",
    "two_layer_terms",
    "unlabeled_samples",
    "whitening",
    "zonal_harmonic",
]
