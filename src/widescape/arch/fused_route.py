"""Which networks take the fused path over positions, and where it hands over to the layers behind."""

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from widescape.arch import fused
from widescape.arch.covariance import Covariance, InputBlock, Layout
from widescape.arch.fused_program import Program, Step
from widescape.arch.images import image_block
from widescape.arch.spec import Signal, split
from widescape.arch.windows import two_axes
from widescape.core.precision import is_traced

if TYPE_CHECKING:
    from widescape.arch.base import Layer


class Route(NamedTuple):
    """A network cut where its positions end.

    Attributes:
        program: the layers up to there.
        tail: the layers behind.
        signal: what reaches them.
        gaussian, mean_zero: what is known of it, as in `Covariance`.
    """

    program: Program
    tail: tuple["Layer", ...]
    signal: Signal
    gaussian: bool
    mean_zero: bool | None

    def facts(self, x: np.ndarray) -> tuple[np.ndarray, ...]:
        """Of each example (n, ...): its variance behind the program, and those after each pooling inside."""
        variance, pooled = fused.own(self.program, _images(x))
        return (variance, *pooled)

    def state(
        self, x1: np.ndarray, x2: np.ndarray | None, facts1: tuple[Any, ...], facts2: tuple[Any, ...], *, ntk: bool
    ) -> Covariance:
        """The state behind the program; `x2` None stands for `x1`."""
        other = None if x2 is None else _images(x2)
        nngp, theta = fused.kernels(
            self.program, _images(x1), other, ntk=ntk, pooled1=list(facts1[1:]), pooled2=list(facts2[1:])
        )
        dtype = x1.dtype
        nngp, var1, var2 = (np.asarray(a, dtype) for a in (nngp, facts1[0], facts2[0]))
        product = np.sqrt(var1)[:, None] * np.sqrt(var2)[None, :]
        rest = product - np.abs(nngp)
        complement = np.where(rest > 8 * np.finfo(dtype).eps * product, rest, np.zeros((), dtype))
        cov = Covariance.of_input(InputBlock(nngp, complement, var1, var2), self.signal, ntk=False)
        return cov.replace(
            ntk=None if theta is None else np.asarray(theta, dtype), gaussian=self.gaussian, mean_zero=self.mean_zero
        )


def route_of(layer: "Layer", signal: Signal) -> Route | None:
    """The route of a network over images; None if the fused path, or numba, does not know a part of it."""
    start, size = signal, two_axes(signal.shape[:-1])
    if len(signal.shape) > 3 or not fused.available() or is_traced(split(layer)[1]):
        return None
    steps: list[Step] = []
    chain = layer.children() if layer.is_chain else (layer,)
    for i, part in enumerate(chain):
        if part.ends_program:
            program = Program(tuple(steps), part.ends_program)
            tail = chain[i + 1 :]
            # Behind a flattening, a nonlinearity would need the complement to more digits than a difference has.
            exact = part.ends_program == "mean" or not any(inside.ends_stage for inside in _parts(tail))
            if not (exact and fused.supports(program, size)):
                return None
            end = _abstract_end(tuple(chain[: i + 1]), start)
            return Route(program, tail, part.out(signal), end.gaussian, end.mean_zero)
        own = part.steps(signal, frozen=False)
        if own is None:
            return None
        steps.extend(own)
        signal = part.out(signal)
    return None


@lru_cache(maxsize=256)
def _abstract_end(layers: tuple["Layer", ...], signal: Signal) -> Covariance:
    """The state behind some layers, without numbers."""
    layout = Layout("full", len(signal.shape) - 1, each=True)

    def end(x: jax.Array) -> Any:
        cov: Any = Covariance.of_input(image_block(x, x, (), layout, signal), signal, ntk=False, layout=layout)
        for layer in layers:
            cov = layer.limit(cov)
        return cov

    with jax.enable_x64(True):
        found: Covariance = jax.eval_shape(end, jax.ShapeDtypeStruct((1, *signal.shape), np.float64))
    return found


def _parts(layers: tuple["Layer", ...]) -> list["Layer"]:
    return [inside for layer in layers for inside in (layer, *_parts(layer.children()))]


def _images(x: np.ndarray) -> np.ndarray:
    """Examples (n, height, width, c); of one axis of positions, of width 1."""
    return x if x.ndim == 4 else x[:, :, None]
