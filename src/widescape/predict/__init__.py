"""Predictions from kernels: Gaussian-process posteriors and how good they are."""

from widescape.predict.curves import (
    DEFAULT_REGS,
    LearningCurve,
    RegularizerCurve,
    learning_charts,
    learning_curve,
    regularizer_charts,
    regularizer_curve,
)
from widescape.predict.gp import GP, LeaveOneOut, Posterior
from widescape.predict.score import (
    ClassificationScore,
    PairedDifference,
    classification_score,
    one_hot,
    paired_difference,
)

__all__ = [
    "DEFAULT_REGS",
    "GP",
    "ClassificationScore",
    "LearningCurve",
    "LeaveOneOut",
    "PairedDifference",
    "Posterior",
    "RegularizerCurve",
    "classification_score",
    "learning_charts",
    "learning_curve",
    "one_hot",
    "paired_difference",
    "regularizer_charts",
    "regularizer_curve",
]
