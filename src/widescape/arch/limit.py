"""Evaluating the infinite-width limit: one compiled program per structure, padded blocks, checked output."""

import dataclasses
import warnings
from math import prod
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from widescape.arch.covariance import FLAT, Covariance, InputBlock, Layout
from widescape.arch.fused_route import Route, route_of
from widescape.arch.layouts import LayoutChoice, check_end, layout_of, walk
from widescape.arch.outline import means_matter, state_behind
from widescape.arch.propagation import Propagation, lengthened
from widescape.arch.spec import Signal, split
from widescape.arch.vectors import input_block, traced_input_block, variances
from widescape.core import checks
from widescape.core.errors import MemoryBudgetError, NonFiniteError, NonSmoothWarning, QuadratureError, ShapeError
from widescape.core.evidence import EXACT, Evidence
from widescape.core.memory import available_bytes, human_bytes
from widescape.core.precision import call_in_float64, is_traced, require_traced_float64
from widescape.core.result import Result, quantity

if TYPE_CHECKING:
    from widescape.arch.base import Layer

Get = Literal["nngp", "ntk"]
Dtype = Literal["float64", "float32"]
FULL_BLOCK = 512
"""Rows up to which blocks are padded to a power of two."""
BLOCK_ARRAYS = 14
"""Arrays of pairs alive at once: products, gaps, masks, padded copies, outputs and their temporaries; measured."""
QUADRATURE_RTOL = {"float64": 1e-6, "float32": 1e-4}
"""Largest accepted error estimate of a numerical integral, relative, by precision."""


class Kernel(Result):
    """The NNGP and tangent kernels of an infinitely wide network between two batches.

    With f the network's output (one channel) over random parameters and over parameters theta,
    nngp = E[f(x) f(x')] and ntk = E[sum_theta df(x)/dtheta df(x')/dtheta].
    """

    source = "lee2020finite; jacot2018neural"
    nngp: Any = quantity(EXACT, "NNGP kernel E[f(x) f(x')], (n1, n2)", default=None)
    ntk: Any = quantity(EXACT, "neural tangent kernel, (n1, n2)", default=None)
    quadrature_error: Any = quantity(
        EXACT,
        "largest error estimate of a numerical integral on the way, relative; None with closed forms only",
        default=None,
    )
    var1: Any = quantity(EXACT, "output variance of the first batch, (n1,)")
    var2: Any = quantity(EXACT, "output variance of the second batch, (n2,)")


jax.tree_util.register_pytree_node(
    Kernel,
    lambda k: ((k.nngp, k.ntk, k.quadrature_error, k.var1, k.var2), None),
    lambda _, parts: Kernel(nngp=parts[0], ntk=parts[1], quadrature_error=parts[2], var1=parts[3], var2=parts[4]),
)


class Examples(NamedTuple):
    """A batch, and what its pairs need to know of each example: variances where no pair can tell them.

    Attributes:
        x: the batch (n, *shape).
        facts: arrays (n, ...): the variance of the input; or the variances after each pooling; or what the fused path
            reads of an example.
    """

    x: Any
    facts: tuple[Any, ...]

    def part(self, start: int, stop: int) -> "Examples":
        """Some of the examples."""
        return Examples(self.x[start:stop], tuple(fact[start:stop] for fact in self.facts))

    def padded(self, size: int) -> "Examples":
        """The last example repeated, up to this many."""
        return Examples(lengthened(self.x, size), tuple(lengthened(fact, size) for fact in self.facts))


@dataclasses.dataclass(frozen=True)
class Limit:
    """A network's infinite-width limit, checked against an input shape and ready for blocks of pairs.

    Attributes:
        layer: the architecture.
        signal: its input.
        get: which kernels are wanted.
        dtype: in which precision they are computed.
        layout: which pairs of positions are carried, from the input on.
        route: how the fused path over positions takes the network; None if it does not.
    """

    layer: "Layer"
    signal: Signal
    get: tuple[Get, ...]
    dtype: Dtype = "float64"
    layout: Layout = FLAT
    route: Route | None = None

    @classmethod
    def of(
        cls, layer: "Layer", shape: tuple[int, ...], get: Any, dtype: Any = "float64", layout: LayoutChoice = "auto"
    ) -> "Limit":
        """Check `get`, `dtype`, `layout`, and that the layers fit an example of this shape."""
        wanted = (get,) if isinstance(get, str) else tuple(get)
        if not wanted:
            raise ValueError("`get` is empty; choose 'nngp', 'ntk' or both.")
        for name in wanted:
            checks.choice(name, "get", Get)
        checks.choice(layout, "layout", LayoutChoice)
        signal = Signal.of_input(shape)
        check_end(layer, signal)
        layer = layer.prepared(signal)
        chosen = layout_of(layer, signal, layout)
        state_behind((layer,), signal, chosen, ntk="ntk" in wanted, concrete=means_matter(layer))
        if "ntk" in wanted:
            for part in walk(layer):
                if part.ntk_caution:
                    warnings.warn(f"{part!r}: {part.ntk_caution}.", NonSmoothWarning, stacklevel=4)
        route = route_of(layer, signal) if layout == "auto" and chosen.kind != "flat" else None
        return cls(layer, signal, wanted, dtype, chosen, route)

    def examples(self, x: np.ndarray) -> Examples:
        """A batch with what its pairs need to know of each example.

        Cost: for networks with pooling, as much as the pairs of each example with itself.

        Raises:
            NonFiniteError: a product of variances would overflow.
        """
        var = variances(x)  # also where none is needed: refuses what would overflow
        if self.layout.kind == "flat":
            return Examples(x, (var,))
        if self.route is not None:
            return Examples(x, self.route.facts(x))
        if not any(part.mixes_positions for part in walk(self.layer)):
            return Examples(x, ())
        return Examples(x, call_in_float64(self._propagation.own_variances, x))

    def block(self, one: Examples, two: Examples | None, pad: tuple[int, int]) -> Kernel:
        """Kernels of a block of concrete inputs, computed at the size `pad` so that blocks share a program.

        Raises:
            QuadratureError: a numerical integral is too coarse for these variances.
            NonFiniteError: the kernel overflows.
        """
        n1, n2 = len(one.x), len(one.x if two is None else two.x)
        if self.layout.kind == "flat":
            other = one if two is None else two
            block = input_block(one.x, None if two is None else two.x, one.facts[0], other.facts[0])
            end = call_in_float64(self._propagation.of_block, _padded(block, pad))
        elif self.route is not None:
            end = call_in_float64(self._from_route, one, two)
        else:
            end = call_in_float64(self._from_examples, one.padded(pad[0]), (two or one).padded(pad[1]))
        out1, out2 = end.var1, end.var2
        self._check(end, out1, out2)
        parts = {name: getattr(end, name)[:n1, :n2] for name in self.get}
        if two is None:
            parts = {name: _mirrored(part) for name, part in parts.items()}
        error = max(map(float, end.errors)) if end.errors else None
        kernel = with_error(Kernel(**parts, var1=out1[:n1], var2=out2[:n2]), error)
        for name in self.get:
            if not np.isfinite(getattr(kernel, name)).all():
                raise NonFiniteError(_OVERFLOW.format(name=name, dtype=self.dtype))
        return kernel

    def check_memory(self, n1: int, n2: int) -> None:
        """Refuse a block of n1 by n2 pairs that takes more than half of the free memory.

        Raises:
            MemoryBudgetError: says how much is needed.
        """
        needed, budget = self.pair_bytes * n1 * n2, available_bytes() // 2
        if needed > budget:
            raise MemoryBudgetError(
                f"a kernel of {n1} by {n2} examples needs {human_bytes(needed)} at once, but only "
                f"{human_bytes(budget)} are to be had. Take widescape.kernels.gram, which works tile by tile, or fewer "
                "examples."
            )

    @property
    def entries(self) -> int:
        """Pairs of positions held at once for a pair of examples."""
        return entries_of(self.signal, self.layout)

    @property
    def pair_bytes(self) -> int:
        """Memory for a pair of examples while a block is computed, by a count of the arrays."""
        return pair_bytes(self.layer, self.signal, FLAT if self.route is not None else self.layout, self.dtype)

    @property
    def example_bytes(self) -> int:
        """Memory for a row and a column of a block: normalized copies of examples, and variances at every layer."""
        own = 4 * self.signal.size * np.dtype(self.dtype).itemsize
        if self.route is not None:
            own += 6 * len(self.route.program.steps) * prod(self.signal.shape[:-1]) * 8
        return own

    def traced(self, x1: Any, x2: Any) -> Kernel:
        """Kernels as JAX operations, for derivatives in inputs and scales."""
        for s in split(self.layer)[1]:
            require_traced_float64(s, "a scale of the network")
        run = self._propagation
        if self.layout.kind != "flat":
            one, two = (jnp.asarray(x) for x in (x1, x1 if x2 is None else x2))
            own1, own2 = (run.own_variances(x, whole=True) for x in (one, two))
            end = run.of_examples(one, two, own1, own2, whole=True)
        elif is_traced(x1, x2):
            end = run.of_block(traced_input_block(jnp.asarray(x1), None if x2 is None else jnp.asarray(x2)))
        else:
            var1 = variances(x1)
            end = run.of_block(input_block(x1, x2, var1, var1 if x2 is None else variances(x2)))
        parts = {name: getattr(end, name) for name in self.get}
        error = jnp.max(jnp.stack(end.errors)) if end.errors else None
        return Kernel(**parts, quadrature_error=error, var1=end.var1, var2=end.var2)

    @property
    def _propagation(self) -> Propagation:
        return Propagation(self.layer, self.signal, self.layout, self.dtype, "ntk" in self.get)

    def _from_route(self, one: Examples, two: Examples | None) -> Covariance:
        route: Any = self.route
        other, images = (one, None) if two is None else (two, two.x)
        state = route.state(one.x, images, one.facts, other.facts, ntk="ntk" in self.get)
        end: Covariance = self._propagation.through(route.tail, state)
        return end

    def _from_examples(self, one: Examples, two: Examples) -> Covariance:
        return self._propagation.of_examples(one.x, two.x, one.facts, two.facts)

    def _check(self, end: Covariance, *outputs: Any) -> None:
        if not all(np.isfinite(v).all() for v in outputs):
            raise NonFiniteError(_OVERFLOW.format(name="output variance", dtype=self.dtype))
        rtol = QUADRATURE_RTOL[self.dtype]
        for source, error in zip(end.sources, end.errors, strict=True):
            if not error <= rtol:
                raise QuadratureError(
                    f"{source}: its Gaussian integral is off by up to {float(error):.1e} relative at the variances "
                    f"that reach it, more than {rtol:.0e}. Raise `deg`, give the `kinks` of the function, "
                    "give its `dual`, or lower `w_std` before it."
                )


_OVERFLOW = (
    "the {name} of this network is infinite or NaN in {dtype} although the inputs are finite: variances overflow. "
    "Lower `w_std` or the depth, or scale the inputs."
)


def pair_bytes(layer: "Layer", signal: Signal, layout: Layout, dtype: Dtype) -> int:
    """Memory for a pair of examples while a block is computed, by a count of the arrays."""
    arrays = BLOCK_ARRAYS + max(part.pair_arrays for part in walk(layer))
    return arrays * entries_of(signal, layout) * np.dtype(dtype).itemsize


def entries_of(signal: Signal, layout: Layout) -> int:
    """Pairs of positions held at once for a pair of examples: of planes, one."""
    positions = prod(signal.shape[:-1])
    return {"flat": 1, "full": positions**2}.get(layout.kind, positions)


def kernel(layer: "Layer", x1: Any, x2: Any, get: Any, dtype: Any, layout: Any = "auto") -> Kernel:
    """Kernels of `layer` between two batches; the work behind `Layer.kernel`."""
    dtype = precision_name(dtype)
    x1 = checks.batch(x1, "x1", dtype=dtype)
    if x2 is not None:
        x2 = checks.batch(x2, "x2", dtype=dtype)
        same_features(x1, x2)
    limit = Limit.of(layer, x1.shape[1:], get, dtype, layout)
    if is_traced(x1, x2, split(layer)[1]):
        return limit.traced(x1, x2)
    pad = (bucket(len(x1)), bucket(len(x1 if x2 is None else x2)))
    limit.check_memory(*pad)
    return limit.block(limit.examples(x1), None if x2 is None else limit.examples(x2), pad)


def precision_name(dtype: Any) -> Dtype:
    """The name of a dtype, however it is given; refuses all but the two precisions of kernels."""
    name: Any = dtype if isinstance(dtype, str) else np.dtype(dtype).name
    checks.choice(name, "dtype", Dtype)
    checked: Dtype = name
    return checked


def with_error(kernel: Kernel, error: float | None) -> Kernel:
    """The kernel with the error of its numerical integrals, if there were any, behind its entries."""
    if error is None:
        return kernel
    stands = dict.fromkeys(("nngp", "ntk"), Evidence("exact", note=f"by quadrature, relative error about {error:.0e}"))
    return dataclasses.replace(kernel, quadrature_error=error, stands=stands)


def same_features(x1: Any, x2: Any) -> None:
    """Refuse batches whose examples differ in shape."""
    if x1.shape[1:] != x2.shape[1:]:
        raise ShapeError(
            f"examples of `x1` have shape {x1.shape[1:]} and those of `x2` {x2.shape[1:]}; give the same features."
        )


def bucket(n: int) -> int:
    """The size at which a block of `n` rows is computed, so that few programs are compiled.

    Up to 512 the next power of two, because compiling takes longer than the wasted pairs; beyond, at most an
    eighth more.

    Example:
        >>> bucket(5), bucket(300), bucket(1000)
        (8, 512, 1024)
    """
    exponent = (n - 1).bit_length()
    if n <= FULL_BLOCK:
        return 1 << exponent
    step = 1 << (exponent - 4)
    return -(-n // step) * step


def _mirrored(matrix: np.ndarray) -> np.ndarray:
    """The upper half copied below: entries and their mirror images may differ in the last bit."""
    upper = np.triu(matrix)
    upper += np.triu(matrix, 1).T
    return upper


def _padded(block: InputBlock, pad: tuple[int, int]) -> InputBlock:
    rows, columns = pad[0] - len(block.var1), pad[1] - len(block.var2)
    if rows == 0 and columns == 0:
        return block
    both = ((0, rows), (0, columns))
    return InputBlock(
        np.pad(block.nngp, both, mode="edge"),
        np.pad(block.complement, both, mode="edge"),
        np.pad(block.var1, (0, rows), mode="edge"),
        np.pad(block.var2, (0, columns), mode="edge"),
    )
