"""Which networks take the fused path over positions, and where it hands over to the layers behind."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from widescape.arch import fused
from widescape.arch.covariance import Covariance, InputBlock, Layout, difference
from widescape.arch.fused_program import Program, Step
from widescape.arch.layouts import walk
from widescape.arch.outline import means_matter, state_behind
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
        """Of each example (n, ...): its variance behind the program, and its tracks if they are few enough to hold."""
        variance, tracks = fused.own(self.program, _images(x))
        return (variance, *tracks)

    def held_bytes(self, x: np.ndarray, dtype: Any) -> int:
        """What `facts` of a batch holds in a precision."""
        return fused.held_bytes(self.program, _images(x).shape, np.dtype(dtype))

    def state(
        self, x1: np.ndarray, x2: np.ndarray | None, facts1: tuple[Any, ...], facts2: tuple[Any, ...], *, ntk: bool
    ) -> Covariance:
        """The state behind the program; `x2` None stands for `x1`."""
        other = None if x2 is None else _images(x2)
        nngp, theta = fused.kernels(
            self.program, _images(x1), other, ntk=ntk, tracks1=list(facts1[1:]), tracks2=list(facts2[1:])
        )
        dtype = x1.dtype
        nngp, var1, var2 = (np.asarray(a, dtype) for a in (nngp, facts1[0], facts2[0]))
        product = np.sqrt(var1)[:, None] * np.sqrt(var2)[None, :]
        cov = Covariance.of_input(InputBlock(nngp, difference(product, nngp), var1, var2), self.signal, ntk=False)
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
            exact = part.ends_program == "mean" or not any(inside.ends_stage for own in tail for inside in walk(own))
            if not (exact and fused.supports(program, size)):
                return None
            held = Layout("full", len(start.shape) - 1)
            end = state_behind(chain[: i + 1], start, held, ntk=False, concrete=means_matter(layer))
            return Route(program, tail, part.out(signal), end.gaussian, end.mean_zero)
        own = part.steps(signal, frozen=False)
        if own is None:
            return None
        steps.extend(own)
        signal = part.out(signal)
    return None


def _images(x: np.ndarray) -> np.ndarray:
    """Examples (n, height, width, c); of one axis of positions, of width 1."""
    return x if x.ndim == 4 else x[:, :, None]
