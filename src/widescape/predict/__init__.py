"""Predictions from kernels: posteriors, gradient flow and descent in closed form, and how good they are."""

from widescape.predict.augmentation import AugmentationEnsemble, augmentation_ensemble
from widescape.predict.choose import LooRegularizer, loo_regularizer
from widescape.predict.covariances import Covariances
from widescape.predict.curves import (
    DEFAULT_REGS,
    LearningCurve,
    RegularizerCurve,
    learning_charts,
    learning_curve,
    regularizer_charts,
    regularizer_curve,
)
from widescape.predict.descent import discrete_gd, flow
from widescape.predict.gp import GP, LeaveOneOut, Posterior
from widescape.predict.gradient_flow import GradientFlow, max_learning_rate, reg_path
from widescape.predict.score import (
    ClassificationScore,
    PairedDifference,
    ProbabilityScore,
    RegressionScore,
    classification_score,
    one_hot,
    paired_difference,
    probability_score,
    regression_score,
    root_mean_square,
)

__all__ = [
    "DEFAULT_REGS",
    "GP",
    "AugmentationEnsemble",
    "ClassificationScore",
    "Covariances",
    "GradientFlow",
    "LearningCurve",
    "LeaveOneOut",
    "LooRegularizer",
    "PairedDifference",
    "Posterior",
    "ProbabilityScore",
    "RegressionScore",
    "RegularizerCurve",
    "augmentation_ensemble",
    "classification_score",
    "discrete_gd",
    "flow",
    "learning_charts",
    "learning_curve",
    "loo_regularizer",
    "max_learning_rate",
    "one_hot",
    "paired_difference",
    "probability_score",
    "reg_path",
    "regression_score",
    "regularizer_charts",
    "regularizer_curve",
    "root_mean_square",
]
