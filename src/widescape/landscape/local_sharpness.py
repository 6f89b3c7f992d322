"""How sharp a minimum is: by the Hessian, or by how much the loss rises within a step of given length."""

from typing import Any, Literal

import jax
import numpy as np

from widescape.core import checks
from widescape.core.evidence import EXACT, Evidence, bound
from widescape.core.result import Result, quantity
from widescape.core.status import Status
from widescape.curvature import System
from widescape.curvature.krylov import TopEigsStatus, top_eigs
from widescape.curvature.product import unit
from widescape.curvature.segment import as_system

SharpnessKind = Literal["hessian", "sam", "asam"]

_RADIUS = {"sam": 0.05, "asam": 0.5}
_GAIN = Evidence("exact", note="of the first-order step; the largest gain within that distance is no smaller")


class SharpnessStatus(Status):
    """How a measurement of sharpness ended."""

    OK = "It was measured as defined."
    STATIONARY = (
        "The gradient is zero (for asam: wherever a parameter is not), so no step rises to first order: gain 0."
    )
    NOT_CONVERGED = "Lanczos' method ran out of steps; the residual says how far an eigenvalue can be."
    INEXACT = "Products with the Hessian are inexact or asymmetric; the residual says how far an eigenvalue can be."


class Sharpness(Result):
    """The sharpness of a loss at a point of parameters; as a float it is its value."""

    source = "foret2021sharpness; kwon2021asam; cohen2021edge"
    status: SharpnessStatus = quantity(EXACT, "how the measurement ended")
    value: float = quantity(
        bound("lower", "a Ritz value; an eigenvalue lies within resid"),
        "largest eigenvalue of the Hessian of L, or the gain L(w + e) - L(w)",
    )
    kind: str = quantity(EXACT, "hessian, sam or asam")
    loss: float = quantity(EXACT, "L(w)")
    rho: float | None = quantity(EXACT, "radius: |e| for sam, |e / T| for asam", default=None)
    resid: float | None = quantity(EXACT, "|H v - value v|, for hessian", default=None)

    def __float__(self) -> float:
        return self.value


def sharpness(
    system: Any,
    params: Any = None,
    kind: SharpnessKind = "hessian",
    rho: float | None = None,
    *,
    key: jax.Array | None = None,
) -> Sharpness:
    """The sharpness of a loss L at w, in float64.

    - ``"hessian"``: the algebraically largest eigenvalue of the Hessian of L. Gradient descent with learning rate lr
      is unstable where it exceeds 2 / lr.
    - ``"sam"``: L(w + e) - L(w) with e = rho g / |g| and g the gradient: the first-order solution of the largest
      rise within |e| <= rho.
    - ``"asam"``: the same with e = rho T^2 g / |T g|, T = |w| entry by entry: within |e / T| <= rho. Does not change
      when parameters are rescaled against each other without changing the function.

    Args:
        system: a `System`, or a function of the parameters that returns one number.
        params: w, as a PyTree or flat; None for the system's own parameters.
        kind: which of the three.
        rho: radius of the step, for sam and asam. None for the usual 0.05 of sam (foret2021sharpness) and 0.5 of asam,
            the default of the code of kwon2021asam, which also adds 0.01 to the T of weights; here nothing is
            added, since that breaks the invariance.
        key: of the start of Lanczos' method; `jax.random.key(0)` if None.

    Returns:
        a `Sharpness`. Where the gradient is zero the gain is 0 with status STATIONARY, at maxima too. At kinks, as of
        ReLU, the Hessian is the one that exists almost everywhere.

    Raises:
        ShapeError, DtypeError, TypeError, ValueError: arguments that do not fit; `rho` given for the Hessian.
        NonFiniteError: the loss or its gradient is NaN or infinite, here or after the step.

    Cost: five forward passes; for the Hessian some tens to hundreds of products with it, six forward passes each.

    Example:
        >>> loss = lambda w: 3 * w[0] ** 2 + w[1] ** 2
        >>> w = np.array([1.0, 0.0])
        >>> float(sharpness(loss, w)), round(float(sharpness(loss, w, "sam", rho=0.5)), 12)
        (6.0, 3.75)
    """
    checks.choice(kind, "kind", SharpnessKind)
    double = as_system(system, params).as_float64()
    w = double.vector(params)
    if kind == "hessian":
        if rho is not None:
            raise ValueError(f"`rho` is {rho!r}, but the sharpness of the Hessian has no radius; leave it out.")
        return _top_curvature(double, w, key)
    radius = _RADIUS[kind] if rho is None else checks.number(rho, "rho", "sharpness")
    checks.positive(radius, "rho", "sharpness")
    gradient, size = double.grad(w), np.abs(w) if kind == "asam" else np.ones_like(w)
    pull = size * gradient
    rises = bool(pull.any())
    before = double.value(w)
    return Sharpness(
        status=SharpnessStatus.OK if rises else SharpnessStatus.STATIONARY,
        value=double.value(w + radius * size * unit(pull)) - before if rises else 0.0,
        kind=kind,
        loss=before,
        rho=radius,
        stands={"value": _GAIN},
    )


def _top_curvature(system: System, w: np.ndarray, key: jax.Array | None) -> Sharpness:
    """The largest eigenvalue of the Hessian at w."""
    found = top_eigs(lambda v: system.hvp(v, w), system.num_params, 1, which="LA", key=key, vectors=False)
    outcome = {
        TopEigsStatus.OK: SharpnessStatus.OK,
        TopEigsStatus.NOT_CONVERGED: SharpnessStatus.NOT_CONVERGED,
        TopEigsStatus.INEXACT: SharpnessStatus.INEXACT,
    }
    return Sharpness(
        status=outcome[found.status],
        value=float(found.eigs[0]),
        kind="hessian",
        loss=system.value(w),
        resid=float(found.resid[0]),
        stands={"value": found.evidence("eigs")},
    )
