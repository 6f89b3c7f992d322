"""The steps of a program for covariance planes, its stages between poolings, and the shifts that they need."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

CONVOLVE, APPLY, PUSH, SWAP, ADD = range(5)
ABRELU, ERF, GELU, SINE, RBF = range(5)
KINDS = {"abrelu": ABRELU, "erf": ERF, "gelu": GELU, "sine": SINE, "rbf": RBF}


@dataclass(frozen=True)
class Convolve:
    """K' = weight A[K] + bias and Theta' = weight A[Theta] + gain A[K] + constant, with stride 1.

    A is the mean over the window, whose first entry lies (size - 1) // 2 before its position.

    Attributes:
        window: the sizes of the window along the two axes.
        wrap: whether an axis is a circle; otherwise what lies outside is zero, and counts in the mean.
        weight, bias: what scales the mean of K, and what is added; the weight is positive.
        gain: what scales the mean of K in Theta'.
        constant: what is added to Theta'.
    """

    window: tuple[int, int]
    wrap: tuple[bool, bool]
    weight: float
    bias: float
    gain: float
    constant: float


@dataclass(frozen=True)
class Apply:
    """K' = E[phi(u) phi(v)] and Theta' = Theta E[phi'(u) phi'(v)].

    Attributes:
        kind: phi, as the functions of these names in ``duals.closed_form`` define it.
        a, b, c: its scalars: abrelu(a, b), erf(a, b, c), gelu(), sine(a, b, c), rbf(a).
    """

    kind: Literal["abrelu", "erf", "gelu", "sine", "rbf"]
    a: float = 0.0
    b: float = 0.0
    c: float = 0.0


@dataclass(frozen=True)
class Pool:
    """The mean over windows that do not overlap, in both arguments, times a scale.

    Attributes:
        window: the sizes of the window along the two axes; they divide those of the image.
        scale: what the mean is multiplied by.
    """

    window: tuple[int, int]
    scale: float = 1.0


@dataclass(frozen=True)
class Branch:
    """A fork or a join of independent branches.

    Attributes:
        kind: "push" copies the state on a stack, "swap" exchanges it with the top, "add" adds the top to it.
    """

    kind: Literal["push", "swap", "add"]


Step = Convolve | Apply | Pool | Branch


@dataclass(frozen=True)
class Program:
    """Steps on the covariance of two images, and how positions are averaged in the end.

    Attributes:
        steps: from the pixels on.
        end: "mean" over all pairs of positions, or "diagonal", over pairs of equal positions.
    """

    steps: tuple[Step, ...]
    end: Literal["mean", "diagonal"]


class Shape(NamedTuple):
    """Where positions lie in a plane and in a track; all numbers count entries, rows or columns.

    Attributes:
        height, width: the size of the images.
        low0, high0, low1, high1: how far windows reach before and behind a position, along the two axes.
        stride: a row of a plane or a track, borders included.
        margin: the spare entries before and behind all rows, where windows of the border rows reach.
        track, plane: all entries of a track and of a plane.
    """

    height: int
    width: int
    low0: int
    high0: int
    low1: int
    high1: int
    stride: int
    margin: int
    track: int
    plane: int


def split(program: Program) -> Iterator[tuple[tuple[Step, ...], Pool | None]]:
    """The stages of a program: the steps between two poolings, and the pooling that follows."""
    steps: list[Step] = []
    for step in program.steps:
        if isinstance(step, Pool):
            yield tuple(steps), step
            steps = []
        else:
            steps.append(step)
    yield tuple(steps), None


def shape_of(steps: tuple[Step, ...], size: tuple[int, int]) -> Shape:
    """The shape of a stage, with the borders that its windows need."""
    windows = [step.window for step in steps if isinstance(step, Convolve)] or [(1, 1)]
    (low0, high0), (low1, high1) = (
        (max((w[k] - 1) // 2 for w in windows), max(w[k] - 1 - (w[k] - 1) // 2 for w in windows)) for k in range(2)
    )
    (height, width), rows, margin = size, low0 + high0, low1 + high1
    stride = width + 2 * margin
    track, plane = ((height + border) * stride + 2 * margin for border in (rows, 2 * rows))
    return Shape(height, width, low0, high0, low1, high1, stride, margin, track, plane)


def shifts_of(program: Program, size: tuple[int, int]) -> list[np.ndarray]:
    """The shifts of planes that each stage has to compute, sorted by columns and then rows."""
    pools = [pool for _, pool in split(program) if pool is not None]
    sizes = [size]
    for pool in pools:
        sizes.append((sizes[-1][0] // pool.window[0], sizes[-1][1] // pool.window[1]))
    needed = {(0, 0)} if program.end == "diagonal" else set(np.ndindex(*sizes[-1]))
    result = [needed]
    for pool, (height, width) in zip(pools[::-1], sizes[-2::-1], strict=True):
        p0, p1 = pool.window
        near = [(e, f) for e in range(1 - p0, p0) for f in range(1 - p1, p1)]
        needed = {((p0 * d + e) % height, (p1 * c + f) % width) for d, c in needed for e, f in near}
        result.append(needed)
    return [np.array(sorted(shifts, key=lambda d: d[::-1]), np.int64) for shifts in result[::-1]]
