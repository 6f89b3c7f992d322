"""The data sets that scikit-learn brings along."""

from typing import Any

import numpy as np

from widescape.data.dataset import Dataset, split

_DIGITS_TEST = 500
_FRACTION = 0.2


def digits() -> Dataset:
    """1,797 images of 8 x 8 pixels, the last 500 for testing."""
    from sklearn.datasets import load_digits

    bundle = load_digits()
    x = (bundle.images / 16.0)[..., None]
    y = bundle.target.astype(np.int64)
    cut = len(x) - _DIGITS_TEST
    return Dataset(
        "digits", x[:cut], y[:cut], x[cut:], y[cut:], 10, "scikit-learn's load_digits, in its own order",
        tuple("0123456789"),
    )  # fmt: skip


def table(name: str) -> Dataset:
    """One of scikit-learn's tables; a fifth of it, of each class alike, is held out, the same fifth each time."""
    from sklearn import datasets

    bundle: Any = getattr(datasets, f"load_{name}")()
    regression = name in ("diabetes", "linnerud")
    y = bundle.target.astype(np.float64 if regression else np.int64)
    train, test = split(y, _FRACTION, seed=0, balanced=not regression)
    x = bundle.data.astype(np.float64)
    classes = () if regression else tuple(str(own) for own in bundle.target_names)
    return Dataset(
        name, x[train], y[train], x[test], y[test], len(classes) or None,
        f"scikit-learn's load_{name}, a fifth held out at random", classes, tuple(map(str, bundle.feature_names)),
    )  # fmt: skip
