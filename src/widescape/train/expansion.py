"""Functions made from a function: its Taylor expansion in the parameters, and the function less its start."""

from collections.abc import Callable
from math import factorial
from typing import Any

import jax

from widescape.core import checks, tree

Function = Callable[[Any, Any], Any]


def linearize(f: Function, params: Any) -> Function:
    """The network that is linear in its parameters: f(w0, x) + J(w0, x) (w - w0).

    Its tangent kernel is that of `f` at w0, wherever its own parameters are.

    Args:
        f: maps (params, x) to outputs.
        params: w0, the point of expansion.

    Returns:
        a function of (params, x).

    Cost: about three forward passes of `f`.

    Example:
        >>> import jax.numpy as jnp
        >>> line = linearize(lambda w, x: x * w**2, jnp.array(3.0))
        >>> float(line(jnp.array(4.0), 1.0))  # 9 + 6 (4 - 3)
        15.0
    """
    return taylor(f, params, 1)


def taylor(f: Function, params: Any, order: int) -> Function:
    """The Taylor polynomial of a network in its parameters: sum over k <= order of D^k f(w0)[w - w0, ...] / k!.

    Args:
        f: maps (params, x) to outputs, differentiable `order` times.
        params: w0, the point of expansion.
        order: degree, from 0.

    Returns:
        a function of (params, x).

    Raises:
        ValueError: a negative order.

    Cost: nested forward derivatives, about 2^order forward passes: for small orders.

    Example:
        >>> import jax.numpy as jnp
        >>> square = taylor(lambda w, x: x * w**2, jnp.array(3.0), 2)
        >>> float(square(jnp.array(4.0), 1.0))
        16.0
    """
    checks.count(order, "order", "taylor", minimum=0)

    def expanded(moved: Any, x: Any) -> Any:
        return sum(taylor_terms(f, params, tree.subtract(moved, params), x, order=order))

    return expanded


def taylor_terms(fun: Callable[..., Any], params0: Any, delta: Any, *args: Any, order: int = 2) -> tuple[Any, ...]:
    r"""The terms of a Taylor expansion in the parameters: D^k fun(params0)[delta, ...] / k! for k = 0 ... order.

    Args:
        fun: maps (params, \*args) to an array.
        params0: the point of expansion, any PyTree.
        delta: a displacement, shaped like it.
        *args: further arguments of `fun`.
        order: of the last term.

    Returns:
        order + 1 values like those of `fun`; their sum is the Taylor polynomial at params0 + delta.

    Raises:
        ValueError: a negative order.

    Cost: nested forward derivatives, about 2^order forward passes: for small orders.

    Example:
        >>> import jax.numpy as jnp
        >>> [float(term) for term in taylor_terms(lambda w: w**2, jnp.array(3.0), jnp.array(1.0))]
        [9.0, 6.0, 1.0]
    """
    checks.count(order, "order", "taylor_terms", minimum=0)

    def along(point: Any, degree: int) -> tuple[Any, ...]:
        """Derivatives of fun along `delta`, of degrees 0 to `degree`, at `point`."""
        if degree == 0:
            return (fun(point, *args),)
        lower, higher = jax.jvp(lambda q: along(q, degree - 1), (point,), (delta,))
        return (*lower, higher[-1])

    terms = enumerate(along(params0, order))
    return tuple(jax.tree.map(lambda part, k=k: part / factorial(k), term) for k, term in terms)


def center(f: Function, params: Any) -> Function:
    """The network less what it was: f(w, x) - f(w0, x), which starts at zero.

    An ensemble of centered networks has no spread before training.

    Args:
        f: maps (params, x) to outputs.
        params: w0.

    Returns:
        a function of (params, x).

    Example:
        >>> import jax.numpy as jnp
        >>> float(center(lambda w, x: x * w**2, jnp.array(3.0))(jnp.array(4.0), 1.0))
        7.0
    """

    def centered(moved: Any, x: Any) -> Any:
        return f(moved, x) - jax.lax.stop_gradient(f(params, x))

    return centered
