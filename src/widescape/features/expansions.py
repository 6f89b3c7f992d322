"""The Taylor terms of a two-layer network in its hidden weights, and the activations by name."""

from collections.abc import Callable, Mapping
from math import factorial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from widescape.arch.elementwise import Elementwise
from widescape.core import checks
from widescape.core.errors import ShapeError
from widescape.core.precision import call_in_float64

Phi = Callable[[jax.Array], jax.Array]


def relu(t: jax.Array) -> jax.Array:
    """max(t, 0)."""
    return jnp.maximum(t, 0)


def _relu3(t: jax.Array) -> jax.Array:
    return jnp.maximum(t, 0) ** 3 / 6


def _half_square(t: jax.Array) -> jax.Array:
    return t**2 / 2


TAYLOR_ACTIVATIONS: dict[str, Phi] = {"relu": relu, "relu3": _relu3, "square": _half_square}
"""By name: max(t, 0), max(t, 0)^3/6 (its second derivative is the ReLU) and t^2/2 (whose second derivative is 1)."""


def activation_of(activation: Any, owner: str, names: Mapping[str, Phi] = TAYLOR_ACTIVATIONS) -> Phi:
    """The function that an argument `activation` names.

    Args:
        activation: one of `names`, a nonlinearity of `widescape.arch`, or a function of JAX, elementwise.
        owner: who asks, for the message.
        names: functions by name; by default those of a Taylor model.

    Raises:
        ValueError: an unknown name.
        TypeError: neither a name nor a function.
    """
    if isinstance(activation, str):
        if activation not in names:
            known = ", ".join(map(repr, names))
            raise ValueError(f"{owner}: `activation` is {activation!r}; choose one of {known}, or give a function.")
        return names[activation]
    if isinstance(activation, Elementwise):
        return activation.phi
    if not callable(activation):
        raise TypeError(f"{owner}: `activation` is {activation!r}; give a name or an elementwise function of JAX.")
    function: Phi = activation
    return function


def derivatives(phi: Phi, z: jax.Array, order: int) -> tuple[jax.Array, ...]:
    """phi(z), phi'(z), ... up to the derivative of that order, each shaped like `z`.

    Cost: nested forward derivatives, about 2^order evaluations.
    """
    if order == 0:
        return (phi(z),)
    lower, higher = jax.jvp(lambda t: derivatives(phi, t, order - 1), (z,), (jnp.ones_like(z),))
    return (*lower, higher[-1])


def two_layer_terms(
    W0: Any,
    a: Any,
    W: Any,
    H: Any,
    activation: Any = "relu3",
    order: int = 2,
) -> tuple[Any, ...]:
    """Taylor terms in W of m^(-1/2) sum_r a_r phi((w0_r + w_r) . h), at W = 0.

    Term k is m^(-1/2) sum_r a_r phi^(k)(w0_r . h) (w_r . h)^k / k!, so that the terms sum to the Taylor polynomial.

    Args:
        W0: hidden weights at the start, (m, k).
        a: output weights, (m,).
        W: displacement of the hidden weights, (m, k).
        H: representations, (n, k).
        activation: ``"relu"``, ``"relu3"`` for max(t, 0)^3/6, ``"square"`` for t^2/2, a nonlinearity of
            `widescape.arch`, or an elementwise function.
        order: of the last term.

    Returns:
        order + 1 arrays (n,): of NumPy in float64, or of JAX in the precision of the arguments if one of them is.

    Raises:
        ShapeError: shapes that do not fit.
        ValueError: a negative order, or an unknown name.

    Source: chen2020hierarchical, the linear and the quadratic model.

    Example:
        >>> terms = two_layer_terms([[1.0]], [1.0], [[1.0]], [[2.0]], "square")  # (2 + 2)^2 / 2
        >>> [float(term[0]) for term in terms]
        [2.0, 4.0, 2.0]
    """
    checks.count(order, "order", "two_layer_terms", minimum=0)
    phi = activation_of(activation, "two_layer_terms")
    in_jax = any(isinstance(value, jax.Array) for value in (W0, a, W, H))
    arrays: list[Any] = [jnp.asarray(v) if in_jax else np.asarray(v, dtype=np.float64) for v in (W0, a, W, H)]
    w0, signs, w, h = arrays
    if w0.ndim != 2 or w.shape != w0.shape or signs.shape != w0.shape[:1] or h.ndim != 2 or h.shape[1] != w0.shape[1]:
        raise ShapeError(
            f"`W0` {w0.shape}, `a` {signs.shape}, `W` {w.shape} and `H` {h.shape} do not fit; they must be "
            "(m, k), (m,), (m, k) and (n, k)."
        )

    def terms(w0: jax.Array, signs: jax.Array, w: jax.Array, h: jax.Array) -> tuple[jax.Array, ...]:
        moved = h @ w.T
        scaled = signs / len(w0) ** 0.5
        parts = derivatives(phi, h @ w0.T, order)
        return tuple((part * moved**k) @ scaled / factorial(k) for k, part in enumerate(parts))

    return terms(*arrays) if in_jax else call_in_float64(terms, *arrays)
