"""The kinks of a function: how near a point is to one, and which points lie between the same kinks.

Both are read off the numbers that its program compares.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex_core

from widescape.core.errors import NonFiniteError
from widescape.core.precision import double_scope
from widescape.curvature.inspection import SMOOTH_RULES, written_as
from widescape.curvature.operators import Operators
from widescape.curvature.program import evaluated
from widescape.curvature.system import System

_COMPARED = frozenset(("max", "min", "gt", "ge", "lt", "le", "clamp", "abs", "sign"))
_STOPPED = frozenset(("stop_gradient", "is_finite", "eq", "ne"))


def kink_margin(system: System, params: Any = None) -> float:
    """The smallest |a - b| of two numbers that the function compares at a point, if parameters reach them.

    A comparison is an elementwise maximum, minimum or clamp, an absolute value or sign (with zero), or an order
    (a > b): so for a ReLU network it is the smallest size of a pre-activation on the data. Infinite where nothing is
    compared. All turns of a loop of known length and the branch that is taken are looked at; loops that run until a
    condition holds, maxima over axes, sorting and rounding are not.

    Args:
        system: a function and its data.
        params: where, as a PyTree or flat; None for the system's own parameters.

    Raises:
        ShapeError, DtypeError, ValueError: parameters that do not fit.
        NonFiniteError: NaN is compared.

    Cost: one forward pass.

    Example:
        >>> relu = System(lambda w, x: jnp.maximum(x * w, 0.0), np.array(2.0), np.array([0.25, -1.0]))
        >>> kink_margin(relu)
        0.5
    """
    point = system.vector(params)
    with double_scope(system.double):
        margin = float(_smallest(system.operators, point, system.arrays[0]))
    if np.isnan(margin):
        raise NonFiniteError("the function compares NaN at this point; scale the parameters or data.")
    return margin


def on_same_piece(system: System, points: Any) -> np.ndarray:
    """Whether the function compares as at its own parameters, for each of the flat `points` (n, p): booleans (n,).

    That is, whether no comparison that `kink_margin` looks at changes its outcome (greater, equal, less) and every
    branch taken is the same. Then the point lies on the same smooth piece of the function, or one decided alike; the
    way there may still cross kinks and return. Outcomes are compared by a fingerprint of 32 bits.

    Args:
        system: a function and its data.
        points: flat parameters.

    Cost: n + 1 forward passes.

    Example:
        >>> relu = System(lambda w, x: jnp.maximum(x * w, 0.0), np.array(2.0), np.array([0.25, -1.0]))
        >>> on_same_piece(relu, np.array([[0.1], [-0.1]])).tolist()
        [True, False]
    """
    every = np.concatenate([system.flat[None], np.asarray(points, system.flat.dtype)])
    with double_scope(system.double):
        found = np.asarray(_fingerprints(system.operators, every, system.arrays[0]))
    return np.asarray(found[1:] == found[0])


class _Reading(NamedTuple):
    """What is noted of comparisons: one number of each, made one number of many."""

    of: Callable[[Any, Any], jax.Array]
    joined: Callable[[Any], jax.Array]


def _distance(a: Any, b: Any) -> jax.Array:
    return jnp.min(jnp.abs(a - b)).astype(jnp.result_type(float))


def _least(distances: Any) -> jax.Array:
    return jnp.min(distances, initial=jnp.inf)


def _outcome(a: Any, b: Any) -> jax.Array:
    a, b = jnp.broadcast_arrays(a, b)
    return _mixed((a > b).astype(jnp.uint32) + 2 * (a < b).astype(jnp.uint32))


def _mixed(numbers: Any) -> jax.Array:
    """A sum with scattered weights, modulo 2^32: of other numbers another sum, but for one in four billion."""
    places = jnp.arange(1, numbers.size + 1, dtype=jnp.uint32) * jnp.uint32(2654435761)
    weights = (places ^ (places >> 15)) * jnp.uint32(2246822519)
    weights = (weights ^ (weights >> 13)) * jnp.uint32(3266489917)
    return jnp.sum((weights ^ (weights >> 16)) * jnp.reshape(numbers, -1), dtype=jnp.uint32)


_MARGIN = _Reading(_distance, _least)
_PATTERN = _Reading(_outcome, _mixed)


@partial(jax.jit, static_argnums=0)
def _smallest(operators: Operators, w: Any, x: Any) -> jax.Array:
    return _read(_MARGIN, operators, w, x)


@partial(jax.jit, static_argnums=0)
def _fingerprints(operators: Operators, points: Any, x: Any) -> jax.Array:
    return jax.lax.map(lambda w: _read(_PATTERN, operators, w, x), points)


def _read(reading: _Reading, operators: Operators, w: Any, x: Any) -> jax.Array:
    params = operators.unravel(w)
    program = jax.make_jaxpr(operators.f)(params, x)
    leaves = jax.tree.leaves(params)
    values = [*leaves, *jax.tree.leaves(x)]
    reached = [True] * len(leaves) + [False] * (len(values) - len(leaves))
    notes = _Notes(reading)
    _walk(program.jaxpr, program.consts, values, reached, notes)
    return notes.joined()


class _Notes:
    """What was read of the comparisons so far."""

    def __init__(self, reading: _Reading) -> None:
        self.reading = reading
        self.read: list[jax.Array] = []

    def joined(self) -> jax.Array:
        empty = jnp.zeros(0, jnp.uint32 if self.reading is _PATTERN else jnp.result_type(float))
        return self.reading.joined(jnp.stack(self.read) if self.read else empty)


def _walk(
    jaxpr: Any, consts: Any, values: list[Any], reached: list[bool], notes: _Notes
) -> tuple[list[Any], list[bool]]:
    """Values of the outputs, and whether parameters reach them; what is compared on the way is appended."""
    held: dict[Any, tuple[Any, bool]] = {v: (c, False) for v, c in zip(jaxpr.constvars, consts, strict=True)}
    held.update({v: pair for v, *pair in zip(jaxpr.invars, values, reached, strict=True)})
    smooth = _smooth_uses(jaxpr)

    def look(atom: Any) -> tuple[Any, bool]:
        return (atom.val, False) if isinstance(atom, jex_core.Literal) else held[atom]

    for equation in jaxpr.eqns:
        pairs = [look(atom) for atom in equation.invars]
        inputs, own = [value for value, _ in pairs], [flag for _, flag in pairs]
        name = equation.primitive.name
        if any(own) and name in _COMPARED and equation.outvars[0] not in smooth:
            _note(name, inputs, notes)
        outs, flags = _through(equation, inputs, own, notes)
        held.update(zip(equation.outvars, zip(outs, flags, strict=True), strict=True))
    ends = [look(atom) for atom in jaxpr.outvars]
    return [value for value, _ in ends], [flag for _, flag in ends]


def _smooth_uses(jaxpr: Any) -> set[Any]:
    """What is computed and never used, or used by logarithms alone: log|x| is as smooth as log x."""
    made = {out for equation in jaxpr.eqns for out in equation.outvars}
    for equation in jaxpr.eqns:
        made -= {
            atom
            for atom in equation.invars
            if not isinstance(atom, jex_core.Literal) and equation.primitive.name != "log"
        }
    return made - {atom for atom in jaxpr.outvars if not isinstance(atom, jex_core.Literal)}


def _through(equation: Any, inputs: list[Any], own: list[bool], notes: _Notes) -> tuple[list[Any], list[bool]]:
    """The outputs of an operation, and whether parameters reach them; comparisons inside it are appended."""
    name, count = equation.primitive.name, len(equation.outvars)
    if any(own) and name == "scan":
        outs, inside = _scanned(equation.params, inputs, notes.reading)
    elif any(own) and name == "cond":
        outs, inside = _branched(equation.params["branches"], inputs, notes.reading)
    else:
        body = _body(equation) if any(own) else None
        if body is not None:
            return _walk(body.jaxpr, body.consts, inputs, own, notes)
        return evaluated(equation, inputs), [any(own) and name not in _STOPPED] * count
    notes.read.append(inside)
    return outs, [True] * count


def _read_inside(body: Any, inputs: list[Any], reading: _Reading) -> tuple[list[Any], jax.Array]:
    """The outputs of a program that parameters reach, and what is read of its comparisons."""
    notes = _Notes(reading)
    outs, _ = _walk(body.jaxpr, body.consts, inputs, [True] * len(inputs), notes)
    return outs, notes.joined()


def _scanned(params: Any, inputs: list[Any], reading: _Reading) -> tuple[list[Any], jax.Array]:
    first, last = params["num_consts"], params["num_consts"] + params["num_carry"]

    def turn(carry: list[Any], row: list[Any]) -> tuple[list[Any], Any]:
        outs, inside = _read_inside(params["jaxpr"], [*inputs[:first], *carry, *row], reading)
        return outs[: last - first], (outs[last - first :], inside)

    ends, (rows, inside) = jax.lax.scan(
        turn, inputs[first:last], inputs[last:], length=params["length"], reverse=params["reverse"]
    )
    return [*ends, *rows], reading.joined(inside)


def _branched(branches: Any, inputs: list[Any], reading: _Reading) -> tuple[list[Any], jax.Array]:
    taken = jnp.clip(jnp.asarray(inputs[0], jnp.int32), 0, len(branches) - 1)
    ways = [partial(_listed, body, reading) for body in branches]
    outs, inside = jax.lax.switch(taken, ways, inputs[1:])
    if reading is _PATTERN:
        inside = _mixed(jnp.stack([inside, taken.astype(jnp.uint32)]))
    return outs, inside


def _listed(body: Any, reading: _Reading, inputs: list[Any]) -> tuple[list[Any], jax.Array]:
    outs, inside = _read_inside(body, list(inputs), reading)
    return list(outs), inside


def _note(name: str, inputs: list[Any], notes: _Notes) -> None:
    """Read what is compared, unless it is whole numbers."""
    if not (jnp.issubdtype(jnp.result_type(inputs[0]), jnp.floating) and np.size(inputs[0])):
        return
    pairs = {"clamp": [(1, 0), (1, 2)]}.get(name, [(0, 1)] if len(inputs) > 1 else [])
    numbers = [(inputs[i], inputs[j]) for i, j in pairs] or [(inputs[0], jnp.zeros_like(inputs[0]))]
    notes.read += [notes.reading.of(a, b) for a, b in numbers]


def _body(equation: Any) -> Any:
    """The program inside an operation that runs it once as it is; None for any other."""
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        body = equation.params.get(name)
        if body is None or equation.primitive.name == "while":
            continue
        closed = body if hasattr(body, "consts") else jex_core.ClosedJaxpr(body, ())
        if written_as(closed.jaxpr) in SMOOTH_RULES:
            continue
        if len(closed.jaxpr.invars) == len(equation.invars):
            return closed
    return None
