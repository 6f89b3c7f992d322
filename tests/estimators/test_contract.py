"""Every estimator passes scikit-learn's own checks."""

import warnings

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from widescape.core.errors import WhiteningWarning
from widescape.estimators import (
    InputScaler,
    NNGPClassifier,
    NNGPRegressor,
    NTKClassifier,
    NTKRegressor,
    ZCAWhitener,
)

NOT_PASSED: dict[str, str] = {}


@pytest.mark.slow
@pytest.mark.claim("lee2020finite/4-estimators")
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
    ],
    expected_failed_checks=lambda estimator: NOT_PASSED,
)
def test_scikit_learn_check(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", WhiteningWarning)  # the checks whiten a handful of examples
        check(estimator)
