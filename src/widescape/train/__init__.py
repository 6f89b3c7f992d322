"""Training finite networks: the loop, linearized and centered functions, ensembles, interventions."""

from widescape.train.expansion import center, linearize, taylor
from widescape.train.interventions import Penalty, layerwise_weights, scale_updates
from widescape.train.members import EnsembleRun, ensemble
from widescape.train.run import TrainingRun, TrainingStatus, fit

__all__ = [
    "EnsembleRun",
    "Penalty",
    "TrainingRun",
    "TrainingStatus",
    "center",
    "ensemble",
    "fit",
    "layerwise_weights",
    "linearize",
    "scale_updates",
    "taylor",
]
