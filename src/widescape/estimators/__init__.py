"""The scikit-learn face: estimators with `fit` and `predict`, for pipelines and grid searches."""

from widescape.estimators.cache import KernelCache, kernel_cache
from widescape.estimators.classification import NNGPClassifier, NTKClassifier
from widescape.estimators.plan import FitPlan, plan_fit
from widescape.estimators.preprocessing import InputScaler, ZCAWhitener
from widescape.estimators.regression import NNGPRegressor, NTKRegressor
from widescape.estimators.saving import SavedModel, load, save

__all__ = [
    "FitPlan",
    "InputScaler",
    "KernelCache",
    "NNGPClassifier",
    "NNGPRegressor",
    "NTKClassifier",
    "NTKRegressor",
    "SavedModel",
    "ZCAWhitener",
    "kernel_cache",
    "load",
    "plan_fit",
    "save",
]
