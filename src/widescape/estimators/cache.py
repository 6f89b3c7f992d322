"""Kernel matrices that several fits share, as those of a grid search do."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from widescape.arch.base import Layer
from widescape.arch.limit import Get
from widescape.kernels import gram

DEFAULT_LIMIT = 512 * 2**20


@dataclass
class _Block:
    """The kernel matrix of all examples that one network has met.

    Attributes:
        places: of each example, by the digest of its bytes.
        x: the examples (n, ...).
        matrix: (n, n).
    """

    places: dict[bytes, int] = field(default_factory=dict)
    x: np.ndarray | None = None
    matrix: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))


class KernelCache:
    """Remembers kernel matrices by network and example, up to a limit of memory.

    The folds of a cross-validation overlap, and every regularizer is tried on the same fold: with this, a whole grid
    search computes each pair of examples once. A request that does not fit the limit is computed and forgotten.
    Entries are the same numbers as without the cache, to rounding.

    Args:
        limit_bytes: memory of all matrices and examples together.

    Attributes:
        computed_pairs: pairs of examples computed since the start or the last `clear`.
    """

    def __init__(self, limit_bytes: int = DEFAULT_LIMIT) -> None:
        self.limit_bytes = limit_bytes
        self.computed_pairs = 0
        self._blocks: OrderedDict[tuple[Layer, Get, tuple[int, ...]], _Block] = OrderedDict()
        self._lock = threading.RLock()

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._blocks.clear()
            self.computed_pairs = 0

    @property
    def num_bytes(self) -> int:
        """Memory that is held."""
        return sum(_bytes(len(b.places), b.x) for b in self._blocks.values())

    def train(self, net: Layer, x: np.ndarray, get: Get) -> np.ndarray:
        """The kernel matrix of `x` (m, m), a copy."""
        with self._lock:
            key = (net, get, x.shape[1:])
            digests = list(_digests(x))
            block = self._blocks.get(key, _Block())
            new = _first_places(digests, block.places)
            if block.places and _bytes(len(block.places) + len(new), x) > self.limit_bytes:
                block, new = _Block(), _first_places(digests, {})  # other data than those met so far
            if _bytes(len(block.places) + len(new), x) > self.limit_bytes:
                self.computed_pairs += len(x) * (len(x) + 1) // 2
                return np.array(gram(net, x, get=get))
            self._blocks[key] = block
            self._blocks.move_to_end(key)
            if new:
                self._extend(block, net, x[list(new.values())], list(new), get)
            while self.num_bytes > self.limit_bytes and len(self._blocks) > 1:
                self._blocks.popitem(last=False)
            return _taken(block.matrix, [block.places[d] for d in digests])

    def cross(self, net: Layer, x_test: np.ndarray, x: np.ndarray, get: Get) -> np.ndarray:
        """The kernel between `x_test` and `x`, (M, m). Test examples are looked up, and not remembered."""
        with self._lock:
            block = self._blocks.get((net, get, x.shape[1:]))
            if block is not None:
                rows = _looked_up(x_test, block.places)
                columns = None if rows is None else _looked_up(x, block.places)
                if rows is not None and columns is not None:
                    return block.matrix[np.ix_(rows, columns)]
            self.computed_pairs += len(x_test) * len(x)
        return np.asarray(gram(net, x_test, x, get=get))

    def _extend(self, block: _Block, net: Layer, x: np.ndarray, digests: list[bytes], get: Get) -> None:
        """Append new examples: only their pairs are computed."""
        old, new = len(block.places), len(x)
        matrix = np.empty((old + new, old + new))
        matrix[:old, :old] = block.matrix
        matrix[old:, old:] = gram(net, x, get=get)
        if block.x is not None:
            matrix[old:, :old] = gram(net, x, block.x, get=get)
            matrix[:old, old:] = matrix[old:, :old].T
        self.computed_pairs += new * (new + 1) // 2 + new * old
        block.matrix = matrix
        block.x = np.array(x) if block.x is None else np.concatenate([block.x, x])
        block.places.update({digest: old + i for i, digest in enumerate(digests)})


def _digests(x: np.ndarray) -> Iterator[bytes]:
    """A fingerprint of each example."""
    for row in x:
        yield hashlib.blake2b((row + 0.0).tobytes(), digest_size=16).digest()  # a negative zero is a zero


def _looked_up(x: np.ndarray, places: dict[bytes, int]) -> list[int] | None:
    """The place of each example; None as soon as one is not known."""
    found = []
    for digest in _digests(x):
        if digest not in places:
            return None
        found.append(places[digest])
    return found


def _first_places(digests: list[bytes], known: dict[bytes, int]) -> dict[bytes, int]:
    """Where each example that is not known occurs first."""
    places: dict[bytes, int] = {}
    for i, digest in enumerate(digests):
        if digest not in known:
            places.setdefault(digest, i)
    return places


def _taken(matrix: np.ndarray, places: list[int]) -> np.ndarray:
    """Rows and columns at `places`."""
    return np.array(matrix) if places == list(range(len(matrix))) else matrix[np.ix_(places, places)]


def _bytes(count: int, x: np.ndarray | None) -> int:
    return count * count * 8 + (0 if x is None else count * int(np.prod(x.shape[1:])) * 8)


kernel_cache = KernelCache()
"""The cache that all estimators of this process use."""
