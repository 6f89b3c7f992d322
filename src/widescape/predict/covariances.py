"""The spread of outputs over random networks, before training and after."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from widescape.core import checks
from widescape.core.errors import ShapeError


@dataclass(frozen=True, eq=False)
class Covariances:
    """The covariance of the outputs before training: three blocks of the NNGP kernel.

    Attributes:
        train: between training points, (m, m), without a regularizer.
        cross: between test and training points, (M, m).
        test: between test points, (M, M).
    """

    train: Any
    cross: Any
    test: Any

    def __post_init__(self) -> None:
        train = checks.square_matrix(self.train, "train")
        test = checks.square_matrix(self.test, "test")
        cross = np.asarray(checks.real_array(self.cross, "cross"), np.float64)
        if cross.shape != (len(test), len(train)):
            raise ShapeError(
                f"`cross` has shape {cross.shape}, but `train` is of {len(train)} and `test` of {len(test)} points; "
                f"give ({len(test)}, {len(train)})."
            )
        checks.all_finite(cross, "cross")
        for name, array in (("train", train), ("cross", cross), ("test", test)):
            object.__setattr__(self, name, array)

    def after(self, transfer: np.ndarray) -> np.ndarray:
        """The covariance of f(*) - P f(X), for a transfer matrix P (M, m): how an ensemble spreads after training.

        K_** + P K P^T - P K_X* - K_*X P^T. With a P that training on the residuals applies to them.
        """
        mixed = transfer @ self.cross.T
        spread: np.ndarray = self.test + transfer @ self.train @ transfer.T - mixed - mixed.T
        return (spread + spread.T) / 2

    def check_sizes(self, num_test: int, num_train: int) -> None:
        """Refuse blocks for other numbers of points.

        Raises:
            ShapeError: they do not fit.
        """
        if self.cross.shape != (num_test, num_train):
            raise ShapeError(
                f"`prior` is for {self.cross.shape[0]} test and {self.cross.shape[1]} training points, but there are "
                f"{num_test} and {num_train}."
            )
