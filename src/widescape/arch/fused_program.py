"""The steps of a program for covariance planes, and what each example contributes to them: its tracks of variances."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from scipy import special

CONVOLVE, APPLY, PUSH, SWAP, ADD = range(5)
ABRELU, ERF, GELU, SINE, RBF = range(5)
KINDS = {"abrelu": ABRELU, "erf": ERF, "gelu": GELU, "sine": SINE, "rbf": RBF}
_NODES = 48  # of the quadrature that weighs gaps near rounding


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
    """The size of the images of a stage and how far its windows reach, as in ``fused_planes.Layout``."""

    height: int
    width: int
    low0: int
    high0: int
    low1: int
    high1: int

    @property
    def stride(self) -> int:
        """The entries of a row, borders included."""
        return self.width + 2 * (self.low1 + self.high1)

    @property
    def margin(self) -> int:
        """The spare entries before and behind all rows, where windows of the border rows reach."""
        return self.low1 + self.high1

    @property
    def track(self) -> int:
        """The entries of a track."""
        return (self.height + self.low0 + self.high0) * self.stride + 2 * self.margin

    @property
    def plane(self) -> int:
        """The entries of a plane."""
        return (self.height + 2 * (self.low0 + self.high0)) * self.stride + 2 * self.margin


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
    """The borders that the windows of a stage need."""
    windows = [step.window for step in steps if isinstance(step, Convolve)] or [(1, 1)]
    (low0, high0), (low1, high1) = (
        (max((w[k] - 1) // 2 for w in windows), max(w[k] - 1 - (w[k] - 1) // 2 for w in windows)) for k in range(2)
    )
    return Shape(*size, low0, high0, low1, high1)


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


@dataclass
class State:
    """The variances of the examples at one point of a stage, and the tracks made of them so far."""

    variance: np.ndarray
    signed: bool
    root: int = -1
    inverse: int = -1


@dataclass
class Stage:
    """A stage as the compiled planes read it: rows of integers and scalars, and tracks of shape (examples, entries)."""

    shape: Shape
    near: float
    tracks: list[np.ndarray] = field(default_factory=list)
    steps: list[list[int]] = field(default_factory=list)
    scalars: list[list[float]] = field(default_factory=list)
    channels: int = 0
    depth: int = 0

    def track(self, values: np.ndarray, *, wrap: tuple[bool, bool] | None = None) -> int:
        """Store images of shape (n, height, width) with zeros around them, or their neighbors on a circle."""
        shape, n = self.shape, len(values)
        for axis, reach in ((1, shape[2:4]), (2, shape[4:6])):
            pads = [reach if k == axis else (0, 0) for k in range(3)]
            values = np.pad(values, pads, mode="wrap") if wrap and wrap[axis - 1] else np.pad(values, pads)
        stored = np.zeros((n, shape.track))
        rows = stored[:, shape.margin : shape.track - shape.margin].reshape(n, -1, shape.stride)
        rows[:, :, : values.shape[2]] = values
        self.tracks.append(stored)
        return len(self.tracks) - 1

    def root(self, state: State) -> int:
        """The track of the roots of the variances."""
        if state.root < 0:
            state.root = self.track(np.sqrt(state.variance))
        return state.root

    def inverse(self, state: State) -> int:
        """The track of one over the roots, 0 where they vanish."""
        if state.inverse < 0:
            state.inverse = self.track(inverse_root(state.variance))
        return state.inverse

    def add(self, numbers: list[int], scalars: list[float]) -> None:
        """Note a step."""
        self.steps.append(numbers + [0] * (14 - len(numbers)))
        self.scalars.append(scalars + [0.0] * (4 - len(scalars)))

    def convolve(self, state: State, step: Convolve) -> State:
        """Note a convolution."""
        scale = step.weight / (step.window[0] * step.window[1])
        lows = [(k - 1) // 2 for k in step.window]
        inner = box(state.variance, 2, step.window[1], wrap=step.wrap[1])
        middle = State(inner, state.signed)
        out = State(scale * box(inner, 1, step.window[0], wrap=step.wrap[0]) + step.bias, state.signed)
        terms = self.track(np.sqrt(state.variance), wrap=(False, step.wrap[1])) if step.window[1] > 1 else 0
        sums = self.track(np.sqrt(inner), wrap=(step.wrap[0], False))
        inverse = self.inverse(middle) if step.window[1] > 1 else 0
        numbers = [CONVOLVE, int(state.signed), 0, terms, sums, inverse, self.root(out), self.inverse(out)]
        for k in range(2):
            numbers += [step.window[k], lows[k]]
        gain = step.gain / step.weight
        self.add(numbers + [int(w) for w in step.wrap], [scale, step.bias, gain, step.constant - gain * step.bias])
        return out

    def apply(self, state: State, step: Apply) -> State:
        """Note an activation."""
        kind = KINDS[step.kind]
        positive = kind == RBF or (kind == ABRELU and step.a * step.b <= 0)
        out = State(variance_out(step, state.variance), state.signed and not positive)
        numbers = [APPLY, int(state.signed), kind, self.root(state), self.inverse(state)]
        if kind == ABRELU:
            numbers += [0, 0]
        else:
            slope = 0 if kind == RBF else self.track(radial_slope(step, state.variance))
            numbers += [self.root(out), slope]
        self.add(numbers, [step.a, step.b, step.c, self.near])
        return out

    def join(self, state: State, other: State) -> State:
        """Note a sum of two branches."""
        out = State(state.variance + other.variance, state.signed or other.signed)
        numbers = [ADD, int(out.signed), int(state.signed), self.root(state), self.root(other)]
        self.add([*numbers, self.root(out), self.inverse(out), int(other.signed)], [])
        return out

    def take(self, state: State, steps: tuple[Step, ...]) -> State:
        """Note all steps; what the last one leaves."""
        stack: list[State] = []
        for step in steps:
            if isinstance(step, Convolve):
                state = self.convolve(state, step)
            elif isinstance(step, Apply):
                state = self.apply(state, step)
            elif isinstance(step, Branch) and step.kind == "push":
                self.add([PUSH], [])
                stack.append(State(state.variance, state.signed, state.root, state.inverse))
                self.depth = max(self.depth, len(stack))
            elif isinstance(step, Branch) and step.kind == "swap":
                self.add([SWAP], [])
                state, stack[-1] = stack[-1], state
            else:
                state = self.join(state, stack.pop())
        self.root(state)
        return state


def inverse_root(variance: np.ndarray) -> np.ndarray:
    """1/sqrt(variance), 0 where it vanishes."""
    return np.where(variance > 0, 1 / np.sqrt(np.where(variance > 0, variance, 1)), 0)


def box(values: np.ndarray, axis: int, size: int, *, wrap: bool) -> np.ndarray:
    """The sums over a window along one axis, zero outside or around a circle."""
    low = (size - 1) // 2
    pads = [(low, size - 1 - low) if k == axis else (0, 0) for k in range(values.ndim)]
    padded = np.pad(values, pads, mode="wrap") if wrap else np.pad(values, pads)
    return np.lib.stride_tricks.sliding_window_view(padded, size, axis).sum(-1)


def variance_out(step: Apply, q: np.ndarray) -> np.ndarray:
    """E[phi(u)^2] for a Gaussian u of variance q."""
    a, b, c = step.a, step.b, step.c
    if step.kind == "abrelu":
        return (a * a + b * b) / 2 * q
    if step.kind == "erf":
        return a * a * (2 / np.pi) * np.arctan2(2 * b * b * q, np.sqrt(1 + 4 * b * b * q)) + c * c
    if step.kind == "gelu":
        area, d2 = (1 + q) ** 2, 1 + 2 * q
        d = np.sqrt(d2)
        return q / 4 + ((q * q + q * q * d2) / (area * d) + q * np.arctan2(q, d)) / (2 * np.pi)
    if step.kind == "sine":
        far = np.exp(-2 * b * b * q)
        return a * a / 2 * (-np.expm1(-2 * b * b * q) + 2 * np.sin(c) ** 2 * far)
    return np.ones_like(q)


def radial_slope(step: Apply, q: np.ndarray) -> np.ndarray:
    """E[Z^2 phi'(sqrt(q) Z)^2] by Gauss-Hermite quadrature."""
    nodes, weights = special.roots_hermitenorm(_NODES)
    total = np.zeros_like(q)
    for z, weight in zip(nodes, weights / np.sqrt(2 * np.pi), strict=True):
        x = np.sqrt(q) * z
        if step.kind == "erf":
            slope = step.a * step.b * 2 / np.sqrt(np.pi) * np.exp(-((step.b * x) ** 2))
        elif step.kind == "gelu":
            slope = special.ndtr(x) + x * np.exp(-x * x / 2) / np.sqrt(2 * np.pi)
        else:
            slope = step.a * step.b * np.cos(step.b * x + step.c)
        total += weight * (z * slope) ** 2
    return total
