"""Minima: eliminating bad ones with an added neuron, certifying what was found, finding critical points."""

from widescape.landscape.minima.augmentation import AugmentedLoss, AugModel, augment_exp, augmented_loss
from widescape.landscape.minima.augmented_training import TrainReport, train_augmented, train_scaled
from widescape.landscape.minima.bases import ConvexStatus, augmented_basis, model_basis
from widescape.landscape.minima.census import EliminationCensus, elimination_census
from widescape.landscape.minima.classification import PointKind, PointReport, classify_point
from widescape.landscape.minima.escape import EscapeReport, escape_value
from widescape.landscape.minima.finders import CPReport, PointStatus, find_critical_points, index_chart
from widescape.landscape.minima.gradient_flat import flatness
from widescape.landscape.minima.losses import group_residual
from widescape.landscape.minima.minres import MinimumLength, minres_qlp
from widescape.landscape.minima.monitor import EscapeMonitor, MonitorRow, MonitorStatus
from widescape.landscape.minima.pgb import PGBReport, PGBVerdict, pgb_certificate
from widescape.landscape.minima.scaled_loss import ScaledLoss, scale_out_minima
from widescape.landscape.minima.searches import CriticalPointSearches
from widescape.landscape.minima.starts import LossUniformStarts, loss_uniform_starts

__all__ = [
    "AugModel",
    "AugmentedLoss",
    "CPReport",
    "ConvexStatus",
    "CriticalPointSearches",
    "EliminationCensus",
    "EscapeMonitor",
    "EscapeReport",
    "LossUniformStarts",
    "MinimumLength",
    "MonitorRow",
    "MonitorStatus",
    "PGBReport",
    "PGBVerdict",
    "PointKind",
    "PointReport",
    "PointStatus",
    "ScaledLoss",
    "TrainReport",
    "augment_exp",
    "augmented_basis",
    "augmented_loss",
    "classify_point",
    "elimination_census",
    "escape_value",
    "find_critical_points",
    "flatness",
    "group_residual",
    "index_chart",
    "loss_uniform_starts",
    "minres_qlp",
    "model_basis",
    "pgb_certificate",
    "scale_out_minima",
    "train_augmented",
    "train_scaled",
]
