"""What a curve is trained on: a system as it is, or batches in turn."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from widescape.core.errors import ShapeError
from widescape.core.precision import has_float64
from widescape.curvature.request import hashable
from widescape.curvature.system import System
from widescape.paths.polyline import require_alike

PIECE = 256  # steps of one call of the compiled program
_REPORTED = 32  # last batches of an iterator over which the reported loss is averaged


class Still:
    """A system whose data are the same at each step."""

    room = PIECE
    known = True

    def __init__(self, system: System) -> None:
        self.system = system

    def take(self, step: int) -> Any:
        """The inputs of a step."""
        return self.system.arrays[0]

    def reported(self) -> System:
        """What the losses along the curve are."""
        return self.system


class Batches:
    """Batches in turn, and the system that a batch makes: with the batch as its only example."""

    room = 1

    def __init__(self, loss: Any, a: Any, b: Any, batches: Iterable[Any]) -> None:
        if isinstance(loss, System) or not callable(loss):
            raise TypeError(f"`loss` is {loss!r}; with `batches`, give a function of the parameters and a batch.")
        require_alike(a, b, "`a`", "`b`")
        self._all = tuple(batches) if isinstance(batches, list | tuple) else None
        self.known = self._all is not None
        self._source = _repeated(batches if self._all is None else self._all)
        self._next = next(self._source, None)
        if self._next is None:
            raise ValueError("`batches` is empty; give at least one.")
        self._recent: deque[Any] = deque([self._next], maxlen=_REPORTED)
        none = np.zeros(1, np.float32)
        system = System(_OfBatches(hashable(loss)), a, _stacked([self._next]), none, loss=_itself, reduction="mean")
        self.system = system.as_float64() if has_float64(b) else system

    def take(self, step: int) -> Any:
        """The arrays of the batch of a step, in the precision of the system; inside of its scope."""
        if step > 0:
            self._next = next(self._source, None)
            if self._next is None:
                raise ValueError(f"`batches` ended after {step} steps; give as many as steps, or a list of them.")
            self._recent.append(self._next)

        def converted(leaf: Any) -> jax.Array:
            array = np.asarray(leaf)
            real = jnp.issubdtype(array.dtype, jnp.floating)
            return jnp.asarray(array, jnp.float64 if real and self.system.double else None)[None]

        return jax.tree.map(converted, self._next)

    def reported(self) -> System:
        """The mean over all batches, where they are known, else over the last ones."""
        used = list(self._recent if self._all is None else self._all)
        whole = self.system.on(_stacked(used), np.zeros(len(used), np.float32))
        return whole.as_float64() if self.system.double else whole


@dataclass(frozen=True)
class _OfBatches:
    """A loss of parameters and a batch, of each batch along the first axis."""

    loss: Callable[[Any, Any], Any]

    def __call__(self, params: Any, batches: Any) -> jax.Array:
        def one(batch: Any) -> jax.Array:
            value = jnp.asarray(self.loss(params, batch))
            if value.size != 1:
                raise TypeError(f"`loss` returns an array of shape {value.shape}; it must return one number.")
            return jnp.reshape(value, ())

        return jax.lax.map(one, batches)


def _itself(output: jax.Array, y: jax.Array) -> jax.Array:
    return output


def _repeated(batches: Iterable[Any]) -> Iterator[Any]:
    """Each batch in turn, from the start again where that is possible."""
    while True:
        empty = True
        for batch in batches:
            empty = False
            yield batch
        if empty or iter(batches) is batches:
            return


def _stacked(batches: list[Any]) -> Any:
    """Batches along a new first axis."""
    shapes = {str(jax.tree.map(np.shape, batch)) for batch in batches}
    if len(shapes) > 1:
        raise ShapeError(
            f"`batches` have shapes {' and '.join(sorted(shapes))}, so their mean is not one program; make them equal, "
            "or give `report`."
        )
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *batches)
