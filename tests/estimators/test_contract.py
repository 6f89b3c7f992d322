"""Every estimator passes scikit-learn's own checks."""

import warnings

import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import parametrize_with_checks

from widescape.core.errors import AssumptionWarning, RankWarning, WhiteningWarning
from widescape.estimators import (
    IdentityRepresentation,
    InputScaler,
    LayerRepresentation,
    LinearTaylorClassifier,
    LinearTaylorRegressor,
    NeuralRepresentation,
    NNGPClassifier,
    NNGPRegressor,
    NTKClassifier,
    NTKRegressor,
    PolynomialRepresentation,
    QuadraticTaylorClassifier,
    QuadraticTaylorRegressor,
    RandomFeatureMap,
    Whitener,
    ZCAWhitener,
)


class _Scaled:
    """A model whose name holds no address, as names of tests that run side by side must not."""

    def __call__(self, params, x):
        return params * x

    def __repr__(self):
        return "scaled"


NOT_PASSED: dict[str, str] = {}


@pytest.mark.slow
@pytest.mark.claim("lee2020finite/4-estimators")
@pytest.mark.claim("chen2020hierarchical/S1")
@parametrize_with_checks(
    [
        NNGPRegressor(),
        NTKRegressor(),
        NNGPClassifier(),
        NTKClassifier(),
        NTKClassifier(t=1e4),
        NNGPRegressor(reg="loo"),
        ZCAWhitener(),
        InputScaler(),
        RandomFeatureMap(8),
        Whitener(),
        NeuralRepresentation(8, shrinkage=0.1),
        PolynomialRepresentation(2, shrinkage=0.1),
        IdentityRepresentation(),
        LayerRepresentation(_Scaled(), 2.0),
        LinearTaylorRegressor(width=20),
        LinearTaylorRegressor(width=None, ridge=1e-2),
        LinearTaylorClassifier(width=20, intercept=True),
        QuadraticTaylorRegressor(width=8, lam=1e-4, max_iter=30, intercept=True, certify=False),
        QuadraticTaylorClassifier(width=8, lam=1e-4, max_iter=30, intercept=True, certify=False),
    ],
    expected_failed_checks=lambda estimator: NOT_PASSED,
)
def test_scikit_learn_check(estimator, check):
    with warnings.catch_warnings():
        for category in (
            WhiteningWarning,
            RankWarning,
            AssumptionWarning,
            ConvergenceWarning,
        ):  # the checks whiten a handful of examples
            warnings.simplefilter("ignore", category)
        check(estimator)
