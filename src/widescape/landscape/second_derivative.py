"""How curved the outputs are: the norm of their second derivative, searched from below."""

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from widescape.core import checks
from widescape.core.errors import NonFiniteError
from widescape.core.evidence import EXACT, bound
from widescape.core.precision import double_scope
from widescape.core.random import named_key
from widescape.core.result import Result, quantity
from widescape.curvature import System
from widescape.curvature.krylov import lanczos
from widescape.curvature.operators import Operators

Kind = Literal["bilinear", "max_output"]
_MOST_OUTPUTS = 16
_STEPS = 30


class HessianNorm(Result):
    """A norm of the second derivative of the residuals, found by a search; the norm itself is at least this."""

    source = "liu2020loss"
    value: float = quantity(bound("lower", "the largest that a search found"), "|D^2 F(w)|")
    kind: str = quantity(EXACT, "bilinear: sup of z . D^2 F[u, v]; max_output: largest |eigenvalue| over outputs")
    found: np.ndarray = quantity(EXACT, "what each restart, or each output, gave")
    outputs: np.ndarray | None = quantity(EXACT, "which of the N outputs were looked at", default=None)

    def __float__(self) -> float:
        return self.value


def hessian_norm(
    system: System,
    params: Any = None,
    *,
    kind: Kind = "bilinear",
    outputs: Any = None,
    iters: int = 50,
    restarts: int = 3,
    key: jax.Array | None = None,
) -> HessianNorm:
    """The norm of the second derivative of the residuals F - y (over sqrt(n) for the mean) at a point, from below.

    ``"bilinear"``
        sup over unit u, v, z of z . D^2 F(w)[u, v], a local Lipschitz constant of the Jacobian in operator norm.
        Found by alternating maximization, which never decreases.
    ``"max_output"``
        max_i |H_i|_2 over the Hessians of single outputs, by Lanczos on each. At most the bilinear norm, which is
        at most sqrt(N) times it.

    For functions with kinks (ReLU) it is that of the smooth pieces, and no Lipschitz constant of anything.

    Args:
        system: the function and its data; targets are not needed.
        params: where, as a PyTree or flat; None for the system's own parameters.
        kind: which norm.
        outputs: for ``"max_output"``, places among the N outputs; None for all, or 16 at random of more.
        iters: alternations.
        restarts: random starts of ``"bilinear"``.
        key: of the random starts; `jax.random.key(0)` if None.

    Raises:
        ShapeError, DtypeError, ValueError: arguments that do not fit.
        NonFiniteError: derivatives overflow.

    Cost: ``"bilinear"`` about ten forward passes an alternation; ``"max_output"`` 30 Hessian products an output.

    Example:
        >>> system = System(lambda w, x: w[:1] * w[1:], np.array([1.0, 2.0]), np.zeros(1), np.array([1.0]))
        >>> round(float(hessian_norm(system)), 9), round(float(hessian_norm(system, kind="max_output")), 9)
        (1.0, 1.0)
    """
    checks.choice(kind, "kind", Kind)
    checks.count(iters, "iters", "hessian_norm")
    checks.count(restarts, "restarts", "hessian_norm")
    point = system.vector(params)
    root = named_key(jax.random.key(0) if key is None else key, "second derivative")
    scale = system.weight**0.5
    if kind == "bilinear":
        found = scale * _searched(system, point, iters, restarts, root)
        return HessianNorm(value=float(found.max()), kind=kind, found=found)
    places = _places(system, outputs, root)
    found = scale * np.array([_output_norm(system, point, int(i), root) for i in places])
    return HessianNorm(value=float(found.max()), kind=kind, found=found, outputs=places)


def _searched(system: System, point: np.ndarray, iters: int, restarts: int, key: jax.Array) -> np.ndarray:
    with double_scope(system.double):
        keys = jax.random.split(key, restarts)
        found = np.asarray(_alternate(system.operators, point, *system.arrays, keys, iters))
    if not np.isfinite(found).all():
        raise NonFiniteError("second derivatives are NaN or infinite at this point; scale the parameters or data.")
    return found.astype(np.float64)


@partial(jax.jit, static_argnums=0)
def _alternate(operators: Operators, w: Any, x: Any, y: Any, keys: Any, iters: Any) -> jax.Array:
    def turn(_: Any, pair: Any) -> Any:
        u, v = pair
        z = _unit(operators.second_derivative(w, x, y, u, v).reshape(-1))
        return _unit(operators.second_adjoint(w, x, y, z, u)), u

    def search(key: Any) -> jax.Array:
        start = jax.random.normal(key, (2, w.size), w.dtype)
        u, v = jax.lax.fori_loop(0, iters, turn, (_unit(start[0]), _unit(start[1])))
        return jnp.linalg.norm(operators.second_derivative(w, x, y, u, v))

    return jax.lax.map(search, keys)


def _unit(vector: jax.Array) -> jax.Array:
    length = jnp.linalg.norm(vector)
    return vector / jnp.where(length > 0, length, 1.0)


def _places(system: System, outputs: Any, key: jax.Array) -> np.ndarray:
    order = system.num_residuals
    if outputs is None:
        if order <= _MOST_OUTPUTS:
            return np.arange(order)
        return np.sort(np.asarray(jax.random.permutation(key, order))[:_MOST_OUTPUTS])
    places = np.atleast_1d(np.asarray(outputs))
    if (
        places.dtype.kind not in "iu"
        or places.ndim != 1
        or places.size == 0
        or places.min() < 0
        or places.max() >= order
    ):
        raise ValueError(f"`outputs` is {outputs!r}; give places from 0 to {order - 1}.")
    return places


def _output_norm(system: System, point: np.ndarray, place: int, key: jax.Array) -> float:
    """The largest absolute eigenvalue of one output's Hessian that a Krylov space shows."""
    chosen = np.zeros(system.num_residuals)
    chosen[place] = 1.0
    run = lanczos(
        lambda v: system.second_adjoint(chosen, v, point),
        system.num_params,
        min(_STEPS, system.num_params),
        key=named_key(key, place),
    )
    return float(np.abs(run.ritz).max())
