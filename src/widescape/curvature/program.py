"""Reading the program of a function: where its parameters enter, what it costs, and how to watch it run.

The one file that walks jaxprs. A parameter that meets the example in one matrix product or convolution, and
nowhere else, has a Jacobian of rank one per position: the outer product of what came in and of the
derivative in what goes out. `read` finds these meetings ("sites"); `run` evaluates the program with a
tangent added at each site and hands back what came in.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.extend import core as jex_core

_CALLS = ("jit", "pjit", "closed_call", "core_call")  # their bodies are read as if they were written out
_REARRANGE = ("reshape", "squeeze", "transpose", "rev", "copy", "broadcast_in_dim")


@dataclass(frozen=True)
class Site:
    """Where one parameter meets the example, and nothing else.

    Attributes:
        leaf: the parameter's place among the leaves.
        kind: matrix product or convolution.
        positions: S, the vectors of one example that the parameter acts on.
        inputs, outputs: k and n, the lengths of these vectors before and after.
        shape: of what goes out, for one example.
        features: the axes of `shape` that make up the n outputs.
        dtype: of what goes out.
    """

    leaf: int
    kind: Literal["product", "convolution"]
    positions: int
    inputs: int
    outputs: int
    shape: tuple[int, ...]
    features: tuple[int, ...]
    dtype: Any = None

    def vectors(self, outgoing: jax.Array) -> jax.Array:
        """An array shaped like what goes out, as (S, n)."""
        last = range(-len(self.features), 0)
        return jnp.moveaxis(outgoing, self.features, last).reshape(self.positions, self.outputs)


@dataclass(frozen=True)
class Uses:
    """How a function uses its parameters.

    Attributes:
        sites: by ordinal number of the meeting, for the parameters that only have this one.
        direct: leaves that are used in another way, or more than once.
        flops: of one evaluation, by a count of its operations.
        width: numbers that one evaluation writes.
        reverse_only: the operation that has a derivative in reverse mode only, or an empty name.
    """

    sites: dict[int, Site]
    direct: tuple[int, ...]
    flops: float
    width: float
    reverse_only: str = ""


@dataclass(frozen=True)
class _Weight:
    """Tag of a value that is a parameter up to a permutation, a factor and a shift."""

    leaf: int
    factor: Any = 1.0


_CONSTANT, _OTHER = "constant", "other"


class _Watch:
    """What is recorded while a program is walked; meetings are numbered in the order in which they come."""

    def __init__(self, taps: dict[int, Any] | None = None) -> None:
        self.taps = taps
        self.captured: dict[int, Any] = {}
        self.meetings: list[Site] = []
        self.direct: set[int] = set()


def trace(function: Callable[..., Any], *args: Any) -> Any:
    """The program of a function at these arguments (arrays, or shapes of them)."""
    return jax.make_jaxpr(function)(*args)


def read(program: Any, num_weights: int) -> Uses:
    """How a program uses the first `num_weights` of its inputs."""
    watch = _Watch()
    tags = [_Weight(i) if i < num_weights else _OTHER for i in range(len(program.jaxpr.invars))]
    for tag in _walk(program.jaxpr, [None] * len(program.consts), [None] * len(tags), tags, watch)[1]:
        _mark(tag, watch)
    count: dict[int, int] = {}
    for site in watch.meetings:
        count[site.leaf] = count.get(site.leaf, 0) + 1
    alone = {i: s for i, s in enumerate(watch.meetings) if count[s.leaf] == 1 and s.leaf not in watch.direct}
    direct = watch.direct | {leaf for leaf, number in count.items() if number > 1}
    flops, width = _cost(program.jaxpr)
    one_way = one_way_operation(program.jaxpr)
    return Uses(alone, tuple(sorted(direct)), flops, width, one_way)


def run(program: Any, num_weights: int, args: Sequence[Any], taps: dict[int, Any]) -> tuple[list[Any], dict[int, Any]]:
    """Evaluate a program with `taps` added to what goes out of the sites of these numbers.

    Returns:
        the outputs, and by number of the site what came in, (S, k), times the factor that the parameter carries.
    """
    watch = _Watch(taps)
    tags = [_Weight(i) if i < num_weights else _OTHER for i in range(len(args))]
    values, _ = _walk(program.jaxpr, program.consts, list(args), tags, watch)
    return values, watch.captured


def _walk(
    jaxpr: Any, consts: Sequence[Any], args: list[Any], tags: list[Any], watch: _Watch
) -> tuple[list[Any], list[Any]]:
    """Values and tags of the outputs; values are None throughout when the program is only read."""
    running = watch.taps is not None
    env: dict[Any, tuple[Any, Any]] = {v: (c, _CONSTANT) for v, c in zip(jaxpr.constvars, consts, strict=True)}
    env.update({v: (a, t) for v, a, t in zip(jaxpr.invars, args, tags, strict=True)})

    def look(atom: Any) -> tuple[Any, Any]:
        return (atom.val, _CONSTANT) if isinstance(atom, jex_core.Literal) else env[atom]

    for equation in jaxpr.eqns:
        read_values = [look(atom) for atom in equation.invars]
        values, seen = [v for v, _ in read_values], [t for _, t in read_values]
        weighted = any(isinstance(t, _Weight) for t in seen)
        if weighted and equation.primitive.name in _CALLS:
            inner = equation.params["jaxpr" if "jaxpr" in equation.params else "call_jaxpr"]
            results, outcome = _walk(inner.jaxpr, inner.consts, values, seen, watch)
        else:
            results = evaluated(equation, values) if running else [None] * len(equation.outvars)
            outcome = [_OTHER] * len(equation.outvars)
            if weighted and equation.outvars:  # one without outcome, as a callback for printing, has no derivative
                results[0], outcome[0] = _meet(equation, values, seen, results[0], watch)
            elif all(t is _CONSTANT for t in seen) or equation.primitive.name == "stop_gradient":
                outcome = [_CONSTANT] * len(equation.outvars)
        env.update(zip(equation.outvars, zip(results, outcome, strict=True), strict=True))
    ends = [look(atom) for atom in jaxpr.outvars]
    return [v for v, _ in ends], [t for _, t in ends]


def evaluated(equation: Any, values: list[Any]) -> list[Any]:
    """The outputs of one operation, as a list."""
    result = equation.primitive.bind(*values, **equation.primitive.get_bind_params(equation.params))
    return list(result) if equation.primitive.multiple_results else [result]


def _meet(equation: Any, values: list[Any], tags: list[Any], result: Any, watch: _Watch) -> tuple[Any, Any]:
    """The result and its tag where a parameter takes part."""
    name = equation.primitive.name
    if name == "stop_gradient":
        return result, _CONSTANT
    moved = _moved(equation, values, tags)
    if moved is not None:
        return result, moved
    site = _site(equation, tags)
    if site is None:
        for tag in tags:
            _mark(tag, watch)
        return result, _OTHER
    number = len(watch.meetings)
    watch.meetings.append(site)
    if watch.taps is not None and number in watch.taps:
        place = next(i for i, t in enumerate(tags) if isinstance(t, _Weight))
        watch.captured[number] = _incoming(equation, values, place) * tags[place].factor
        result = result + watch.taps[number]
    return result, _OTHER


def _mark(tag: Any, watch: _Watch) -> None:
    if isinstance(tag, _Weight):
        watch.direct.add(tag.leaf)


def _moved(equation: Any, values: list[Any], tags: list[Any]) -> _Weight | None:
    """The tag of the result if the equation only rearranges, scales or shifts one parameter."""
    name, source, target = equation.primitive.name, equation.invars[0].aval, equation.outvars[0].aval
    if len(equation.outvars) != 1 or target.size != max(atom.aval.size for atom in equation.invars):
        return None
    if name in _REARRANGE and len(tags) == 1:
        return tags[0]
    if name == "convert_element_type" and jnp.issubdtype(target.dtype, jnp.floating):
        return tags[0] if jnp.issubdtype(source.dtype, jnp.floating) else None
    if name == "neg":
        return _scaled(tags[0], -1.0)
    if len(tags) != 2:
        return None
    weights = [i for i, t in enumerate(tags) if isinstance(t, _Weight)]
    if len(weights) != 1 or tags[1 - weights[0]] is not _CONSTANT:
        return None
    own, other = weights[0], 1 - weights[0]
    if equation.invars[own].aval.size != target.size:
        return None
    if name in ("add", "sub"):
        return _scaled(tags[own], -1.0 if name == "sub" and own == 1 else 1.0)
    if equation.invars[other].aval.size != 1 or name not in ("mul", "div") or (name == "div" and own == 1):
        return None
    if values[other] is None:
        return tags[own]
    number = jnp.reshape(jnp.asarray(values[other]), ())
    return _scaled(tags[own], number if name == "mul" else 1 / number)


def _scaled(tag: _Weight, factor: Any) -> _Weight:
    return _Weight(tag.leaf, tag.factor * factor)


def _site(equation: Any, tags: list[Any]) -> Site | None:
    """The meeting that an equation is, or None if its Jacobian has no structure."""
    weights = [i for i, t in enumerate(tags) if isinstance(t, _Weight)]
    if len(weights) != 1:
        return None
    own, shape = weights[0], tuple(equation.outvars[0].aval.shape)
    leaf, dtype = tags[own].leaf, equation.outvars[0].aval.dtype
    size = equation.invars[own].aval.size
    if equation.primitive.name == "dot_general":
        contracted, batch = equation.params["dimension_numbers"]
        if batch[own]:
            return None
        own_shape = equation.invars[own].aval.shape
        inputs, free = prod(own_shape[i] for i in contracted[own]), len(own_shape) - len(contracted[own])
        features = range(free) if own == 0 else range(len(shape) - free, len(shape))
        outputs = size // inputs
        return Site(leaf, "product", prod(shape) // outputs, inputs, outputs, shape, tuple(features), dtype)
    if equation.primitive.name == "conv_general_dilated" and own == 1:
        if equation.params["feature_group_count"] != 1 or equation.params["batch_group_count"] != 1:
            return None
        numbers = equation.params["dimension_numbers"]
        outputs = equation.invars[1].aval.shape[numbers.rhs_spec[0]]
        positions = prod(shape) // outputs
        return Site(leaf, "convolution", positions, size // outputs, outputs, shape, (numbers.out_spec[1],), dtype)
    return None


def _incoming(equation: Any, values: list[Any], own: int) -> jax.Array:
    """What meets the parameter, (S, k)."""
    if equation.primitive.name == "dot_general":
        axes = equation.params["dimension_numbers"][0][1 - own]
        other = jnp.moveaxis(values[1 - own], axes, range(-len(axes), 0))
        return other.reshape(-1, prod(other.shape[other.ndim - len(axes) :]))
    numbers = equation.params["dimension_numbers"]
    kernel = values[1].shape
    patches = jax.lax.conv_general_dilated_patches(
        values[0],
        filter_shape=[kernel[i] for i in numbers.rhs_spec[2:]],
        window_strides=equation.params["window_strides"],
        padding=equation.params["padding"],
        lhs_dilation=equation.params["lhs_dilation"],
        rhs_dilation=equation.params["rhs_dilation"],
        dimension_numbers=numbers,
        precision=jax.lax.Precision.HIGHEST,
    )
    return jnp.moveaxis(patches, numbers.out_spec[1], -1).reshape(-1, patches.shape[numbers.out_spec[1]])


def constants(program: Any) -> Iterator[Any]:
    """The arrays that a program holds, those of inner programs included."""
    yield from program.consts
    for equation in equations(program.jaxpr):
        for value in equation.params.values():
            for entry in value if isinstance(value, tuple | list) else (value,):
                yield from getattr(entry, "consts", ())


def one_way_operation(jaxpr: Any) -> str:
    """The operation that has a derivative in reverse mode only; empty if there is none."""
    return next((e.primitive.name for e in equations(jaxpr) if "custom_vjp" in e.primitive.name), "")


def equations(jaxpr: Any) -> Iterator[Any]:
    """All operations of a program, those of programs inside it included."""
    for equation in jaxpr.eqns:
        yield equation
        for body in bodies_of(equation):
            yield from equations(body)


def bodies_of(equation: Any) -> Iterator[Any]:
    """The programs inside an operation."""
    for value in equation.params.values():
        for entry in value if isinstance(value, tuple | list) else (value,):
            body = getattr(entry, "jaxpr", entry)
            if hasattr(body, "eqns"):
                yield body


def _cost(jaxpr: Any) -> tuple[float, float]:
    """Floating-point operations, and numbers written."""
    flops = width = 0.0
    for equation in jaxpr.eqns:
        inner = [_cost(body) for body in bodies_of(equation)]
        if inner:
            times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
            flops += times * sum(f for f, _ in inner)
            width += times * sum(w for _, w in inner)
            continue
        out = sum(float(v.aval.size) for v in equation.outvars)
        width += out
        flops += out * _per_output(equation)
    return flops, width


def _per_output(equation: Any) -> float:
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return 2.0 * prod(equation.invars[0].aval.shape[i] for i in contracted)
    if equation.primitive.name == "conv_general_dilated":
        kernel, spec = equation.invars[1].aval, equation.params["dimension_numbers"].rhs_spec
        return 2.0 * kernel.size / kernel.shape[spec[0]]
    return 1.0
