"""Gradient-flat points: where the gradient lies in the kernel of the Hessian, and second-order searches end."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from widescape.core.errors import NonDifferentiableWarning, NonFiniteError, ShapeError
from widescape.core.random import named_generator
from widescape.curvature import System
from widescape.curvature.inspection import kinks
from widescape.curvature.margins import kink_margin
from widescape.curvature.product import norm_of
from widescape.curvature.traces import random_signs
from widescape.landscape.minima.derivatives import Derivatives
from widescape.landscape.minima.in_float64 import loss_in_float64
from widescape.landscape.minima.minres import MinimumLength, minres_qlp

DENSE_UP_TO = 2000
RCOND = 1e-4
FLAT_R, FLAT_R_H = 0.9, 5e-4
KINK = 1e-9  # the distance to a kink below which derivatives are those of one side
_PROBES = 30


def flatness(
    L: System | Callable[[Any], Any],  # noqa: N803
    params: Any,
    step: Any = None,
    *,
    allow_float32: bool = False,
) -> tuple[float, float]:
    """How much of the gradient g a Newton step p leaves, and how nearly the rest is in the kernel of the Hessian H.

        r = |H p + g| / (|H|_F |p| + |g|),    r_H = |H (H p + g)| / (|H|_F |H p + g|).

    A point is called approximately gradient-flat where r > 0.9 and r_H < 5e-4. A step of the exact pseudo-inverse hides
    this: eigenvalues that are tiny and not zero give r near 0 and a useless step. So the step is to be inexact.

    Args:
        L: the loss: a `System`, or a function of the parameters alone.
        params: where.
        step: p, like the parameters or flat. None for an inexact step of least length: up to 2000 parameters
            -sum_i v_i (v_i.g) / lambda_i over the eigenvalues |lambda_i| > 1e-4 max |lambda|, and above by
            `minres_qlp` with its defaults.
        allow_float32: start from parameters of single precision, and from functions that compute in it.

    Returns:
        r and r_H. Where the gradient or what is left of it is 0 there is nothing to be flat: 0 for r or r_H. With
        p = 0 and g not 0, r is 1.

    Raises:
        PrecisionError: single precision, unless it is allowed.
        ShapeError, DtypeError, TypeError, ValueError: arguments that do not fit.
        NonFiniteError: a derivative is NaN or infinite.

    Warns:
        NonDifferentiableWarning: the point lies within 1e-9 of a kink.

    Cost: the Hessian and its eigenvalues up to 2000 parameters. Above, two products, those of `minres_qlp`, and 30 for
    |H|_F, whose square is then estimated within about a quarter.

    Example:
        >>> from widescape.landscape.minima.gradient_flat import flatness
        >>> flatness(lambda w: w[0] + w[1] ** 2, np.array([5.0, 0.0]))
        (1.0, 0.0)
    """
    system = loss_in_float64(L, params, "flatness", allow_float32=allow_float32)
    at = Derivatives(system)
    w = system.flat
    gradient = _finite(at.gradients(w[None]))
    if kinks(system) and kink_margin(system) < KINK:
        warnings.warn(
            f"the point lies within {KINK:.0e} of a kink of the function, where gradient and Hessian are those of one "
            "side and say nothing of flatness; move it off the kink.",
            NonDifferentiableWarning,
            stacklevel=2,
        )
    given = None if step is None else _vector(system, step)
    if w.size <= DENSE_UP_TO:
        hessian = _finite(at.hessians(w[None]))
        move = truncated_steps(hessian, gradient, RCOND) if given is None else given[None]
        r, r_h = flatness_of(hessian, gradient, move)
        return float(r[0]), float(r_h[0])
    move_one = inexact_step(at, w, gradient[0]).x if given is None else given
    return flatness_by_products(at, w, gradient[0], move_one)


def truncated_steps(hessians: np.ndarray, gradients: np.ndarray, rcond: float) -> np.ndarray:
    """Newton steps of least length (n, p), without the eigenvalues of at most rcond times the largest in size."""
    eigenvalues, vectors = np.linalg.eigh(hessians)
    return spectral_steps(eigenvalues, vectors, gradients, rcond)


def spectral_steps(eigenvalues: np.ndarray, vectors: np.ndarray, gradients: np.ndarray, rcond: float) -> np.ndarray:
    """The same, of decomposed matrices: eigenvalues (n, p) and eigenvectors in columns (n, p, p)."""
    size = np.abs(eigenvalues)
    kept = size > rcond * size.max(axis=1, keepdims=True)
    inverse = np.divide(1.0, eigenvalues, out=np.zeros_like(eigenvalues), where=kept)
    parts = np.einsum("nij,ni->nj", vectors, gradients)
    return -np.einsum("nij,nj->ni", vectors, inverse * parts)


def inexact_step(at: Derivatives, w: np.ndarray, gradient: np.ndarray, shift: float = 0.0) -> MinimumLength:
    """A Newton step of H + shift, of least length, by products."""
    return minres_qlp(lambda v: at.product(w, v) + shift * v, -gradient)


def flatness_of(hessians: np.ndarray, gradients: np.ndarray, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers r and r_H at n points, (n,) each."""
    size = np.linalg.norm(hessians, axis=(1, 2))
    left = np.einsum("nij,nj->ni", hessians, steps) + gradients
    image = np.einsum("nij,nj->ni", hessians, left)
    whole = size * np.linalg.norm(steps, axis=1) + np.linalg.norm(gradients, axis=1)
    rest = np.linalg.norm(left, axis=1)
    return _ratio(rest, whole), _ratio(np.linalg.norm(image, axis=1), size * rest)


def flatness_by_products(at: Derivatives, w: np.ndarray, gradient: np.ndarray, step: np.ndarray) -> tuple[float, float]:
    """Both at a point with many parameters; |H|_F^2 is the mean of |H s|^2 over vectors s of random signs."""
    signs = random_signs(named_generator(None, "flatness"), _PROBES, w.size)
    size = float(np.mean([norm_of(_finite(at.product(w, s))) ** 2 for s in signs])) ** 0.5
    left = _finite(at.product(w, step)) + gradient
    rest = norm_of(left)
    r = _ratio(np.asarray(rest), np.asarray(size * norm_of(step) + norm_of(gradient)))
    return float(r), float(_ratio(np.asarray(norm_of(_finite(at.product(w, left)))), np.asarray(size * rest)))


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """A quotient that is at most 1 in exact arithmetic; 0 where there is nothing to divide by."""
    quotient = np.divide(above, below, out=np.zeros_like(above, dtype=np.float64), where=below > 0)
    return np.asarray(np.minimum(quotient, 1.0))


def _vector(system: System, step: Any) -> np.ndarray:
    try:
        return system.vector(step)
    except ShapeError as error:
        raise ShapeError(f"`step`, like `params`, is a vector of the parameters: {error}") from error


def _finite(array: np.ndarray) -> np.ndarray:
    if not np.isfinite(array).all():
        raise NonFiniteError("a derivative of the loss is NaN or infinite at this point; scale the parameters or data.")
    return array
