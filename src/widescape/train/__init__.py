"""Training finite networks: the loop, linearized and centered functions, ensembles, interventions."""

from widescape.train.expansion import center, linearize, taylor, taylor_terms
from widescape.train.interventions import Penalty, layerwise_weights, scale_updates
from widescape.train.limit_distance import LimitDistance, limit_distance
from widescape.train.linear_distance import LinearizationDistance, linearization_distance, stable_rate
from widescape.train.members import EnsembleRun, ensemble
from widescape.train.run import TrainingRun, TrainingStatus, fit

__all__ = [
    "EnsembleRun",
    "LimitDistance",
    "LinearizationDistance",
    "Penalty",
    "TrainingRun",
    "TrainingStatus",
    "center",
    "ensemble",
    "fit",
    "layerwise_weights",
    "limit_distance",
    "linearization_distance",
    "linearize",
    "scale_updates",
    "stable_rate",
    "taylor",
    "taylor_terms",
]
