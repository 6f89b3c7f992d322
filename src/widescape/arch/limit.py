"""Evaluating the infinite-width limit: one compiled program per structure, padded blocks, checked output."""

import dataclasses
import warnings
from collections.abc import Iterator
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from widescape.arch.covariance import (
    Covariance,
    InputBlock,
    input_block,
    traced_input_block,
    variances,
)
from widescape.arch.spec import Signal, merge, split, split_slots
from widescape.core import checks
from widescape.core.errors import NonFiniteError, NonSmoothWarning, QuadratureError, ShapeError
from widescape.core.evidence import EXACT, Evidence
from widescape.core.precision import call_in_float64, is_traced, require_traced_float64
from widescape.core.result import Result, quantity

if TYPE_CHECKING:
    from widescape.arch.base import Layer

Get = Literal["nngp", "ntk"]
Dtype = Literal["float64", "float32"]
FULL_BLOCK = 512
"""Rows up to which blocks are padded to a power of two."""
QUADRATURE_RTOL = {"float64": 1e-6, "float32": 1e-4}
"""Largest accepted error estimate of a numerical integral, relative, by precision."""
Array = TypeVar("Array")


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


@dataclasses.dataclass(frozen=True)
class Limit:
    """A network's infinite-width limit, checked against an input shape and ready for blocks of pairs.

    Attributes:
        layer: the architecture.
        signal: its input.
        get: which kernels are wanted.
        dtype: in which precision they are computed.
    """

    layer: "Layer"
    signal: Signal
    get: tuple[Get, ...]
    dtype: Dtype = "float64"

    @classmethod
    def of(cls, layer: "Layer", shape: tuple[int, ...], get: Any, dtype: Any = "float64") -> "Limit":
        """Check `get`, `dtype`, and that the layers fit an example of this shape."""
        wanted = (get,) if isinstance(get, str) else tuple(get)
        if not wanted:
            raise ValueError("`get` is empty; choose 'nngp', 'ntk' or both.")
        for name in wanted:
            checks.choice(name, "get", Get)
        signal = Signal.of_input(shape)
        layer.out(signal)
        _check_tractable(split(layer)[0], signal, "ntk" in wanted)
        if "ntk" in wanted:
            for part in walk(layer):
                if part.ntk_caution:
                    warnings.warn(f"{part!r}: {part.ntk_caution}.", NonSmoothWarning, stacklevel=4)
        return cls(layer, signal, wanted, dtype)

    def block(
        self, x1: np.ndarray, x2: np.ndarray | None, var1: np.ndarray, var2: np.ndarray, pad: tuple[int, int]
    ) -> Kernel:
        """Kernels of a block of concrete inputs, computed at the size `pad` so that blocks share a program.

        Raises:
            QuadratureError: a numerical integral is too coarse for these variances.
            NonFiniteError: the kernel overflows.
        """
        size = (len(x1), len(x1) if x2 is None else len(x2))
        inputs = _padded(input_block(x1, x2, var1, var2), pad)
        end = call_in_float64(self._propagate, inputs)
        out1, out2 = end.var1, end.var2
        self._check(end, out1, out2)
        n1, n2 = size
        parts = {name: getattr(end, name)[:n1, :n2] for name in self.get}
        if x2 is None:
            parts = {name: _mirrored(part) for name, part in parts.items()}
        error = max(map(float, end.errors)) if end.errors else None
        kernel = with_error(Kernel(**parts, var1=out1[:n1], var2=out2[:n2]), error)
        for name in self.get:
            if not np.isfinite(getattr(kernel, name)).all():
                raise NonFiniteError(_OVERFLOW.format(name=name, dtype=self.dtype))
        return kernel

    def traced(self, x1: Any, x2: Any) -> Kernel:
        """Kernels as JAX operations, for derivatives in inputs and scales."""
        for s in split(self.layer)[1]:
            require_traced_float64(s, "a scale of the network")
        if is_traced(x1, x2):
            inputs = traced_input_block(jnp.asarray(x1), None if x2 is None else jnp.asarray(x2))
        else:
            var1 = variances(x1)
            inputs = input_block(x1, x2, var1, var1 if x2 is None else variances(x2))
        end = self._propagate(inputs)
        parts = {name: getattr(end, name) for name in self.get}
        error = jnp.max(jnp.stack(end.errors)) if end.errors else None
        return Kernel(**parts, quadrature_error=error, var1=end.var1, var2=end.var2)

    def _propagate(self, inputs: InputBlock) -> Covariance:
        cov = Covariance.of_input(inputs, self.signal, ntk="ntk" in self.get)
        for stage in self.layer.stages():
            structure, scales = split(stage)
            cov = _run_stage([jnp.asarray(s, self.dtype) for s in scales], cov, structure=structure)
        return cov

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


def kernel(layer: "Layer", x1: Any, x2: Any, get: Any, dtype: Any) -> Kernel:
    """Kernels of `layer` between two batches; the work behind `Layer.kernel`."""
    dtype = precision_name(dtype)
    x1 = checks.batch(x1, "x1", dtype=dtype)
    if x2 is not None:
        x2 = checks.batch(x2, "x2", dtype=dtype)
        same_features(x1, x2)
    limit = Limit.of(layer, x1.shape[1:], get, dtype)
    if is_traced(x1, x2, split(layer)[1]):
        return limit.traced(x1, x2)
    var1 = variances(x1)
    var2 = var1 if x2 is None else variances(x2)
    return limit.block(x1, x2, var1, var2, pad=(bucket(len(var1)), bucket(len(var2))))


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


def walk(layer: "Layer") -> Iterator["Layer"]:
    """A layer and all layers inside it, in the order in which they act."""
    yield layer
    for child in layer.children():
        yield from walk(child)


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


@partial(jax.jit, static_argnames=("structure",))
def _run_stage(scales: list[Any], cov: Covariance, *, structure: Any) -> Covariance:
    result: Covariance = merge(structure, scales).limit(cov)
    return result


@lru_cache(maxsize=256)
def _check_tractable(structure: Any, signal: Signal, ntk: bool) -> None:
    """Raise, with the layer's place, if the limit does not exist; nothing is computed."""
    count = len(split_slots(structure))
    with jax.enable_x64(True):
        number = jax.ShapeDtypeStruct((), np.float64)
        vector, matrix = jax.ShapeDtypeStruct((1,), np.float64), jax.ShapeDtypeStruct((1, 1), np.float64)
        inputs = InputBlock(matrix, matrix, vector, vector)
        jax.eval_shape(
            lambda scales, block: merge(structure, scales).limit(Covariance.of_input(block, signal, ntk=ntk)),
            [number] * count,
            inputs,
        )
