"""What the program of a function gives away before it runs: kinks, and floats below double precision."""

from typing import Any
from weakref import WeakKeyDictionary

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex_core

from widescape.core.precision import double_scope
from widescape.curvature.program import bodies_of, equations, one_way_operation
from widescape.curvature.system import System

Kinks = frozenset[str]
_PROGRAMS: WeakKeyDictionary[System, Any] = WeakKeyDictionary()
_NO_KINKS: Kinks = frozenset()
_KINKED = frozenset(
    (
        *("abs", "sign", "max", "min", "clamp", "floor", "ceil", "round", "rem", "sort", "top_k", "argmax", "argmin"),
        "approx_top_k",
        *("reduce_max", "reduce_min", "cummax", "cummin", "reduce_window_max", "reduce_window_min"),
        *("select_and_scatter_add", "select_and_gather_add"),
    )
)
_ORDERS = frozenset(("gt", "ge", "lt", "le"))
_GUARDS = frozenset(("eq", "ne", "is_finite", "stop_gradient"))
SMOOTH_RULES = frozenset(("logaddexp",))  # written with maxima, differentiated by a smooth rule


def kinks(system: System) -> tuple[str, ...]:
    """Operations through which the parameters reach the outputs and that have no second derivative everywhere.

    Maxima, absolute values, roundings, and choices by an order (x > 0), unless the gradient is stopped behind them, as
    in a softmax. A function without any is smooth wherever it and its derivatives are finite; one that has some may
    still be smooth, if its pieces fit.

    Cost: one tracing of the function.
    """
    program = _program(system)
    num_params = len(jax.tree.leaves(system.params))
    start: list[Kinks | None] = [_NO_KINKS] * num_params
    start += [None] * (len(program.jaxpr.invars) - num_params)
    found = (out for out in _followed(program.jaxpr, start) if out is not None)
    return tuple(sorted(frozenset[str]().union(*found)))


def lower_floats(system: System) -> tuple[str, ...]:
    """Operations that return floats of less than double precision although parameters and inputs are doubles.

    Each as "primitive to dtype". Empty where everything is computed in float64.

    Cost: one tracing of the function.
    """
    found = []
    for equation in equations(_program(system.as_float64()).jaxpr):
        for out in equation.outvars:
            dtype = getattr(out.aval, "dtype", None)
            if dtype is not None and jnp.issubdtype(dtype, jnp.floating) and np.dtype(dtype).itemsize < 8:
                found.append(f"{equation.primitive.name} to {np.dtype(dtype).name}")
    return tuple(dict.fromkeys(found))


def reverse_only(system: System) -> str:
    """The operation of a function that has a derivative in reverse mode only; empty if it has none."""
    return one_way_operation(_program(system).jaxpr)


def _program(system: System) -> Any:
    """The program of a system's function, traced once for each system."""
    if system not in _PROGRAMS:
        with double_scope(system.double):
            _PROGRAMS[system] = jax.make_jaxpr(system.f)(system.params, system.x)
    return _PROGRAMS[system]


def _followed(jaxpr: Any, inputs: list[Kinks | None]) -> list[Kinks | None]:
    """For each output, the kinks on the way to it from the parameters; None where it does not depend on them."""
    held: dict[Any, Kinks | None] = dict(zip(jaxpr.invars, inputs, strict=True))
    absolute: dict[Any, Kinks | None] = {}  # log|x| is as smooth as log x

    def read(var: Any) -> Kinks | None:
        return None if isinstance(var, jex_core.Literal) else held.get(var)

    for equation in jaxpr.eqns:
        name = equation.primitive.name
        own = [read(var) for var in equation.invars]
        outs = _through(equation, name, own)
        if name == "abs":
            absolute[equation.outvars[0]] = own[0]
        elif name == "log" and not isinstance(equation.invars[0], jex_core.Literal):
            outs = [absolute.get(equation.invars[0], outs[0])]
        held.update(zip(equation.outvars, outs, strict=True))
    return [read(var) for var in jaxpr.outvars]


def _through(equation: Any, name: str, own: list[Kinks | None]) -> list[Kinks | None]:
    """What one operation makes of the kinks of its inputs."""
    count = len(equation.outvars)
    reached = [kinks for kinks in own if kinks is not None]
    if not reached or name in _GUARDS:
        return [None] * count
    together: Kinks = _NO_KINKS.union(*reached)
    if name in _ORDERS:
        return [together | {"a choice by order"}] * count
    if name in _KINKED:
        return [together | {name}] * count
    if name == "convert_element_type" and _rounds(equation):
        return [together | {"a rounding to integers"}] * count
    bodies = list(bodies_of(equation))
    if not bodies or (name == "custom_jvp_call" and written_as(bodies[0]) in SMOOTH_RULES):
        return [together] * count
    return _through_bodies(equation, name, bodies, own)


def _through_bodies(equation: Any, name: str, bodies: list[Any], own: list[Kinks | None]) -> list[Kinks | None]:
    params, count = equation.params, len(equation.outvars)
    if name == "scan":
        first, last = params["num_consts"], params["num_consts"] + params["num_carry"]
        return _settled(bodies[0], own[:first], own[first:last], own[last:])
    if name == "while":
        first, last = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
        carry = _settled(params["body_jaxpr"].jaxpr, own[first:last], own[last:], [])
        (goes_on,) = _followed(params["cond_jaxpr"].jaxpr, [*own[:first], *carry])
        return [_merged(goes_on, kinks) for kinks in carry]
    if name == "cond":
        branches = [_followed(body, own[1:]) for body in bodies]
        return [_merged(own[0], *outs) for outs in zip(*branches, strict=True)]
    if len(bodies) == 1 and len(bodies[0].invars) == len(own) and len(bodies[0].outvars) == count:
        return _followed(bodies[0], own)
    together = _merged(*own)
    outs = (out for body in bodies for out in _followed(body, [together] * len(body.invars)))
    return [_merged(together, *outs)] * count  # everything may reach everything


def _settled(
    body: Any, constants: list[Kinks | None], carry: list[Kinks | None], rest: list[Kinks | None]
) -> list[Kinks | None]:
    """The outputs of a loop's body, whose first ones are its carry, once another turn brings nothing new."""
    while True:
        outs = _followed(body, [*constants, *carry, *rest])
        after = [_merged(*pair) for pair in zip(carry, outs[: len(carry)], strict=True)]
        if after == carry:
            return [*carry, *outs[len(carry) :]]
        carry = after


def _merged(*kinks: Kinks | None) -> Kinks | None:
    reached = [k for k in kinks if k is not None]
    return _NO_KINKS.union(*reached) if reached else None


def _rounds(equation: Any) -> bool:
    before, after = equation.invars[0].aval.dtype, equation.outvars[0].aval.dtype
    return bool(jnp.issubdtype(before, jnp.inexact) and jnp.issubdtype(after, jnp.integer))


def written_as(body: Any) -> str:
    """The name of the function that a body was traced from; empty where JAX does not tell."""
    return getattr(getattr(body, "debug_info", None), "func_name", "")
