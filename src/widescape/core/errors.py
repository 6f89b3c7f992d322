"""The errors and warnings that widescape raises by name.

Each message says which argument it is about and what arrived, what is accepted, and what to do.
"""

import numpy as np


class WidescapeError(Exception):
    """The base of every error with a name of its own."""


class ShapeError(WidescapeError, ValueError):
    """Array shapes, or a layer and its input, do not fit."""


class DtypeError(WidescapeError, TypeError):
    """An array holds something other than real floating-point numbers."""


class PrecisionError(WidescapeError, TypeError):
    """A traced value has less than the precision that the computation promises."""


class NonGaussianInputError(WidescapeError, ValueError):
    """A layer needs jointly Gaussian input and gets something else."""


class NotTractableError(WidescapeError, ValueError):
    """A layer, or a kernel of it, has no infinite-width limit in closed form."""


class QuadratureError(WidescapeError, ArithmeticError):
    """A numerical integral is less accurate than was asked for."""


class NonFiniteError(WidescapeError, FloatingPointError):
    """A computation overflowed although its inputs were finite."""


class MemoryBudgetError(WidescapeError, MemoryError):
    """A computation needs more memory than its budget."""


class DataError(WidescapeError, ValueError):
    """A data set is unknown, absent or damaged."""


class ResultFormatError(WidescapeError, ValueError):
    """A file does not hold a result that this version can read."""


class ModelFileError(WidescapeError, ValueError):
    """A model cannot be saved, or a file holds none that this version can read."""


class CheckpointError(WidescapeError, ValueError):
    """A checkpoint is damaged, or belongs to another run."""


class IllConditionedError(WidescapeError, np.linalg.LinAlgError):
    """A matrix is not positive definite to working precision.

    Attributes:
        lambda_min: the smallest eigenvalue of the matrix that was to be factorized.
        suggested_reg: a relative regularizer that makes the factorization well defined.
    """

    def __init__(self, message: str, *, lambda_min: float, suggested_reg: float) -> None:
        super().__init__(message)
        self.lambda_min = lambda_min
        self.suggested_reg = suggested_reg


class NotCertifiable(WidescapeError, ValueError):  # noqa: N818  the name that the mathematics gives it
    """No certificate can exist for this system: the loss, the function or its precision rules it out."""


class ConditioningWarning(UserWarning):
    """A linear system was solved, but rounding may have eaten much of the answer."""


class UnderparameterizedWarning(UserWarning):
    """There are fewer parameters than residuals, so the tangent kernel is singular by its rank."""


class NonSmoothWarning(UserWarning):
    """A derivative exists almost everywhere only, and that is what was returned."""


class NonDifferentiableWarning(UserWarning):
    """A point lies on a kink of the function, or within rounding of one, where its derivative says nothing."""


class AssumptionWarning(UserWarning):
    """An assumption of the theorem that gives a result its meaning does not hold for these data."""


class RankWarning(UserWarning):
    """A matrix has less rank than its size, and directions were left out."""


class WhiteningWarning(UserWarning):
    """Whitening was asked for with fewer examples than entries, which usually harms."""


class DegenerateWarning(UserWarning):
    """A quantity is undefined for these data, or has its value whatever they are."""
