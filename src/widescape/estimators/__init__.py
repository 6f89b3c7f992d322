"""The scikit-learn face: estimators with `fit` and `predict`, for pipelines and grid searches."""

from widescape.estimators.cache import KernelCache, kernel_cache
from widescape.estimators.classification import NNGPClassifier, NTKClassifier
from widescape.estimators.plan import FitPlan, plan_fit
from widescape.estimators.preprocessing import InputScaler, ZCAWhitener
from widescape.estimators.regression import NNGPRegressor, NTKRegressor
from widescape.estimators.representations import (
    IdentityRepresentation,
    LayerRepresentation,
    NeuralRepresentation,
    PolynomialRepresentation,
    RandomFeatureMap,
    Whitener,
)
from widescape.estimators.saving import SavedModel, load, save
from widescape.estimators.taylor import (
    LinearTaylorClassifier,
    LinearTaylorRegressor,
    QuadraticTaylorClassifier,
    QuadraticTaylorRegressor,
    second_order_certificate,
)

__all__ = [
    "FitPlan",
    "IdentityRepresentation",
    "InputScaler",
    "KernelCache",
    "LayerRepresentation",
    "LinearTaylorClassifier",
    "LinearTaylorRegressor",
    "NNGPClassifier",
    "NNGPRegressor",
    "NTKClassifier",
    "NTKRegressor",
    "NeuralRepresentation",
    "PolynomialRepresentation",
    "QuadraticTaylorClassifier",
    "QuadraticTaylorRegressor",
    "RandomFeatureMap",
    "SavedModel",
    "Whitener",
    "ZCAWhitener",
    "kernel_cache",
    "load",
    "plan_fit",
    "save",
    "second_order_certificate",
]
