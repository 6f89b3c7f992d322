"""A piecewise linear path between parameters."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from widescape.core import checks
from widescape.core.errors import DtypeError, ShapeError


@dataclass(frozen=True, eq=False)
class PiecewiseLinearPath:
    """Parameters joined by straight segments, in the order of the points.

    The points are PyTrees of one structure with floating-point leaves. At the points the path is exactly what was given
    there, and arrays that several points have in common are kept once.

    Args:
        points: two or more PyTrees.
        kinds: what each segment is, in one word; None for ``"line"`` throughout.

    Attributes:
        num_segments: one less than the points.
        length: the sum of the Euclidean lengths of the segments.

    Raises:
        ShapeError: fewer than two points, points that are not alike, or another number of kinds.
        DtypeError: a leaf is not real floating point.

    Example:
        >>> path = PiecewiseLinearPath([np.zeros(2), np.array([3.0, 4.0]), np.array([3.0, 0.0])])
        >>> path.length, path(0.75).tolist(), path.segment(0, 0.5).tolist()
        (9.0, [3.0, 2.0], [1.5, 2.0])
    """

    points: tuple[Any, ...]
    kinds: tuple[str, ...]

    def __init__(self, points: Any, kinds: Any = None) -> None:
        points = tuple(points)
        if len(points) < 2:
            raise ShapeError(f"`points` has {len(points)} entries; a path needs at least 2.")
        words = ("line",) * (len(points) - 1) if kinds is None else tuple(kinds)
        if len(words) != len(points) - 1:
            raise ShapeError(f"`kinds` has {len(words)} entries for {len(points) - 1} segments; give one for each.")
        for i, point in enumerate(points):
            require_alike(points[0], point, "points[0]", f"points[{i}]")
        object.__setattr__(self, "points", points)
        object.__setattr__(self, "kinds", words)

    @property
    def num_segments(self) -> int:
        return len(self.kinds)

    @property
    def lengths(self) -> np.ndarray:
        """The Euclidean length of each segment."""
        return np.array([distance(a, b) for a, b in zip(self.points[:-1], self.points[1:], strict=True)])

    @property
    def length(self) -> float:
        return float(self.lengths.sum())

    def __call__(self, s: float) -> Any:
        """The parameters at position `s` from 0 to 1, of which each segment takes an equal part."""
        s = checks.number(s, "s", "PiecewiseLinearPath")
        if not 0 <= s <= 1:
            raise ValueError(f"`s` is {s}; positions on a path are from 0 to 1.")
        i = min(int(s * self.num_segments), self.num_segments - 1)
        return self.segment(i, s * self.num_segments - i)

    def segment(self, i: int, t: float) -> Any:
        """The parameters at `t` from 0 to 1 on segment `i`; exactly its ends at 0 and 1."""
        if not 0 <= i < self.num_segments:
            raise ValueError(f"`i` is {i}, but the path has {self.num_segments} segments; choose 0 <= i < that.")
        return between(self.points[i], self.points[i + 1], t)

    def reverse(self) -> "PiecewiseLinearPath":
        """The same path from its end to its start."""
        return PiecewiseLinearPath(self.points[::-1], self.kinds[::-1])

    def concat(self, other: "PiecewiseLinearPath") -> "PiecewiseLinearPath":
        """This path and then `other`, which must start where this one ends.

        Raises:
            ValueError: it starts elsewhere, or its points are not like these.
        """
        require_alike(self.points[-1], other.points[0], "the end", "the start of `other`")
        if distance(self.points[-1], other.points[0]) > 0:
            raise ValueError("`other` does not start where this path ends; put the segment between them in a path.")
        return PiecewiseLinearPath((*self.points, *other.points[1:]), (*self.kinds, *other.kinds))

    def map(self, change: Callable[[Any], Any]) -> "PiecewiseLinearPath":
        """The path through the changed points; the same path only if `change` is affine."""
        return PiecewiseLinearPath(tuple(change(point) for point in self.points), self.kinds)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.points)

    def __repr__(self) -> str:
        size = sum(np.size(leaf) for leaf in jax.tree.leaves(self.points[0]))
        return f"PiecewiseLinearPath({self.num_segments} segments between {size:,} parameters)"


def between(a: Any, b: Any, t: float) -> Any:
    """A + t (b - a), leaf by leaf; a itself at 0 and b itself at 1.

    Entries that are equal in a and b stay exactly so, and between finite ends all is finite, also where b - a
    overflows.
    """
    if t == 0:
        return a
    if t == 1:
        return b
    return jax.tree.map(lambda x, y: _combined(x, y, np.asarray(t, _dtype(x))), a, b)


def _combined(x: Any, y: Any, share: np.ndarray) -> Any:
    with np.errstate(over="ignore"):
        difference = y - x
    if np.isfinite(difference).all():
        return x + share * difference
    half = share * (y / 2 - x / 2)
    return x + half + half


def distance(a: Any, b: Any) -> float:
    """The Euclidean distance of two PyTrees, in float64."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    parts = [np.linalg.norm(np.asarray(y, np.float64) - np.asarray(x, np.float64)) for x, y in pairs if x is not y]
    return float(np.linalg.norm(parts))


def require_alike(a: Any, b: Any, name_a: str, name_b: str) -> None:
    """Refuse PyTrees between which there is no straight line.

    Raises:
        ShapeError: different structures or shapes.
        DtypeError: a leaf is not real floating point.
    """
    own, structure = _named_leaves(a)
    other, second = _named_leaves(b)
    if structure != second:
        raise ShapeError(f"{name_a} is {structure} and {name_b} is {second}; give two of the same structure.")
    for (path, x), (_, y) in zip(own, other, strict=True):
        where = jax.tree_util.keystr(path)
        if np.shape(x) != np.shape(y):
            raise ShapeError(
                f"leaf {where!r} has shape {np.shape(x)} in {name_a} and {np.shape(y)} in {name_b}; they must be equal."
            )
        for leaf, name in ((x, name_a), (y, name_b)):
            kind = _dtype(leaf)
            if not jax.numpy.issubdtype(kind, jax.numpy.floating):
                raise DtypeError(
                    f"leaf {where!r} of {name} is {kind}; only real floating-point numbers can be interpolated. Take "
                    "counters and labels out of the parameters."
                )


def _dtype(leaf: Any) -> Any:
    return np.asarray(leaf).dtype


def _named_leaves(tree: Any) -> tuple[list[tuple[Any, Any]], Any]:
    """The leaves with their paths, and the structure."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    return leaves, structure
