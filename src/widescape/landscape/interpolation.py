"""The loss on the straight line between two parameters: where it rises, and how far the outputs turn on the way."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy import integrate

from widescape.core import checks
from widescape.core.chart import Chart, Marker, Series
from widescape.core.errors import NonFiniteError, ShapeError
from widescape.core.evidence import EXACT, Evidence, bound, sampled
from widescape.core.precision import double_scope, has_float64
from widescape.core.progress import track
from widescape.core.result import Result, quantity
from widescape.curvature import System
from widescape.curvature.operators import Operators
from widescape.curvature.segment import as_system, losses_on_segment

RIGHT_ANGLE = float(np.pi / 2)
"""Outputs that turn by less than this approach their end monotonically."""

_VANISHING = 64  # tangents this many roundings below the longest one have no direction
_ON_GRID = Evidence("exact", note="of the given points; a lower bound for the curve between them")


class Interpolation(NamedTuple):
    """Losses on the line between two parameters, at equally spaced positions.

    Attributes:
        alphas: positions from 0 to 1, (n,).
        losses: the loss at (1 - alpha) params0 + alpha params1, (n,).
    """

    alphas: np.ndarray
    losses: np.ndarray


class MLIReport(Result):
    """Where the loss on a line rises: its height above the least loss before, and the bumps."""

    source = "lucas2021monotonic"
    monotonic: bool = quantity(_ON_GRID, "whether the loss rises nowhere above its least value before by more than tol")
    delta: float = quantity(_ON_GRID, "height: max over i < j of L_j - min_{k <= i} L_k, at least 0")
    rel_delta: float = quantity(_ON_GRID, "delta / |L_0|; infinite if the loss starts at 0 and rises")
    bumps: np.ndarray = quantity(_ON_GRID, "start, end and height of each rise above tol, (B, 3)")
    tol: float = quantity(EXACT, "height up to which a rise does not count, in units of the loss")
    alphas: np.ndarray = quantity(EXACT, "positions on the line (n,)")
    losses: np.ndarray = quantity(EXACT, "loss at the positions (n,)")

    def charts(self) -> tuple[Chart, ...]:
        """The loss along the line, with the points of the bumps."""
        inside = np.zeros(len(self.alphas), bool)
        for start, end, _ in self.bumps:
            inside |= (self.alphas > start) & (self.alphas <= end)
        above = inside & (self.losses > np.minimum.accumulate(self.losses))
        series = [Series(self.alphas, self.losses, "loss")]
        if above.any():
            series.append(Series(self.alphas[above], self.losses[above], "above the least before", style="points"))
        return (
            Chart(
                name="interpolation",
                title="Loss on the line between two parameters",
                x_label="position alpha",
                y_label="loss",
                series=tuple(series),
                y_scale="log" if (self.losses > 0).all() else "linear",
                caption=f"Points lie above the least loss before them, by up to {self.delta:.3g} "
                f"({self.rel_delta:.3g} of the first loss).",
            ),
        )


class GaussLength(Result):
    """How far the outputs of each example turn on the line between two parameters, in radians.

    `length` integrates the curvature, so it misses the jumps of the tangent at the kinks of piecewise linear
    activations and its reversals; `turning` adds the angles between tangents at neighboring positions, so it sees
    them, and is smaller than the whole turning by what the grid cuts off.
    """

    source = "lucas2021monotonic"
    length: np.ndarray = quantity(
        sampled("trapezoid rule; the error falls as n^-2 for smooth outputs"),
        "integral over [0, 1] of |d/dalpha (z' / |z'|)|, z the outputs of an example, (n_examples,)",
        unit="rad",
    )
    turning: np.ndarray = quantity(
        bound("lower", "of the total turning, kinks and reversals included"),
        "sum of the angles between tangents at neighboring positions (n_examples,)",
        unit="rad",
    )
    sign_changes: np.ndarray | None = quantity(
        bound("lower", "seen between neighboring positions"),
        "sign changes of z' of a scalar output, where it has no direction, (n_examples,); None for several outputs",
    )
    skipped: np.ndarray = quantity(EXACT, "positions at which z' vanishes, which contribute 0, (n_examples,)")
    mean: float = quantity(sampled("as for the lengths"), "mean of the lengths over examples", unit="rad")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The lengths (n_examples,)."""
        return np.array(self.length, dtype=dtype) if copy else np.asarray(self.length, dtype=dtype)

    @property
    def sufficient(self) -> bool:
        """Whether every example turns by less than a right angle, by `length` and by `turning`.

        Then, up to the grid, the squared error never rises on the line if the line ends at the targets: with
        z(1) = y, dL/dalpha = -int_alpha^1 <z'(s), z'(alpha)> ds, and tangents less than a right angle apart have a
        positive product.
        """
        return bool((np.maximum(self.length, self.turning) < RIGHT_ANGLE).all())

    def charts(self) -> tuple[Chart, ...]:
        """Lengths and turnings, each in rising order, and the right angle."""
        share = np.arange(1, len(self.length) + 1) / len(self.length)
        return (
            Chart(
                name="turning",
                title="How far outputs turn on the line between two parameters",
                x_label="share of examples",
                y_label="angle in rad",
                series=(
                    Series(share, np.sort(self.length), "Gauss length, without kinks"),
                    Series(share, np.sort(self.turning), "angles between neighboring tangents"),
                ),
                markers=(Marker(RIGHT_ANGLE, "right angle"),),
                caption="Examples in rising order, for each of the two by itself.",
            ),
        )


def interpolate(
    loss: System | Callable[[Any], Any],
    params0: Any,
    params1: Any,
    *,
    n: int = 50,
    refresh: Callable[[Any], Any] | None = None,
    progress: bool | None = None,
) -> Interpolation:
    """The loss L((1 - alpha) params0 + alpha params1) at n equally spaced alpha from 0 to 1.

    Args:
        loss: a `System`, or a function of the parameters that returns one number.
        params0: where the line starts: a PyTree, or for a system also a flat vector.
        params1: where it ends, likewise.
        n: positions, both ends included; the default is that of the paper's experiments.
        refresh: maps the parameters at a position, as a PyTree, to those at which the loss is taken there; for
            statistics of batch normalization, which are estimated anew at each position.
        progress: show a progress bar; None shows it on a terminal.

    Returns:
        an `Interpolation`, which unpacks into alphas and losses.

    Raises:
        ShapeError: the two have different structures or shapes; it is a ValueError.
        DtypeError, TypeError, ValueError: other arguments that do not fit.
        NonFiniteError: the loss is NaN or infinite at a position.

    Cost: n forward passes, in one compiled program unless `refresh` is given.

    Example:
        >>> alphas, losses = interpolate(lambda w: (w**2).sum(), np.array([2.0]), np.array([0.0]), n=3)
        >>> alphas.tolist(), losses.tolist()
        ([0.0, 0.5, 1.0], [4.0, 1.0, 0.0])
    """
    checks.count(n, "n", "interpolate", minimum=2)
    system = as_system(loss, params0)
    if has_float64(params0, params1):
        system = system.as_float64()
    system.require_targets()
    start, end = system.vector(params0), system.vector(params1)
    alphas = np.linspace(0.0, 1.0, n)
    if refresh is None:
        return Interpolation(alphas, losses_on_segment(system, start, end, alphas, progress=progress))
    losses = []
    for alpha in track(alphas, "losses", show=progress):
        point = system.unravel(start + alpha.astype(start.dtype) * (end - start))
        with double_scope(system.double):
            renewed = refresh(point)
        losses.append(system.value(system.vector(renewed)))
    return Interpolation(alphas, np.asarray(losses))


def mli_report(alphas: Any, losses: Any, tol: float = 0.0) -> MLIReport:
    """Whether losses on a line fall monotonically, and if not, by how much and where they rise.

    With M_i = min_{k <= i} L_k, the height is delta = max_{i < j} [L_j - M_i]_+, and rel_delta = delta / |L_0|. A bump
    is a longest run of points above the M of the point before it: it starts at that point, ends at the first point not
    above (or at the last one), and its height is counted from there. So a rise to the last point is a bump too.

    Args:
        alphas: positions (n,), increasing.
        losses: the losses there (n,).
        tol: height up to which a rise does not count, in units of the loss.

    Returns:
        an `MLIReport`, for these points: between them the loss may rise further. It is monotonic if and only if it
        has no bumps.

    Raises:
        ShapeError, DtypeError, TypeError, ValueError: arguments that do not fit.

    Example:
        >>> report = mli_report(np.arange(5) / 4, np.array([3.0, 2.0, 2.5, 1.0, 1.5]))
        >>> report.delta, report.bumps.tolist()
        (0.5, [[0.25, 0.75, 0.5], [0.75, 1.0, 0.5]])
    """
    places, values = _checked_curve(alphas, losses)
    limit = checks.number(tol, "tol", "mli_report")
    checks.not_negative(limit, "tol", "mli_report")
    heights = values - np.minimum.accumulate(values)
    delta, first = float(heights.max()), abs(float(values[0]))
    relative = 0.0 if delta == 0 else delta / first if first > 0 else float("inf")
    return MLIReport(
        monotonic=delta <= limit,
        delta=delta,
        rel_delta=relative,
        bumps=_bumps(places, heights, limit),
        tol=limit,
        alphas=places,
        losses=values,
    )


def gauss_length(
    f: System | Callable[[Any, Any], Any], params0: Any, params1: Any, x: Any = None, *, n: int = 200
) -> GaussLength:
    """The Gauss length of the outputs of each example on the line between two parameters.

    With z(alpha) = f((1 - alpha) params0 + alpha params1, x_i) it is the integral over [0, 1] of
    |d/dalpha (z' / |z'|)|, the part of z'' across z', over |z'|, by the trapezoid rule.
    In float64 if the parameters or `x` hold float64 arrays.

    Args:
        f: maps (params, x) to outputs (n_examples,) or (n_examples, c); or a `System`, of which the function and inputs
            are taken.
        params0: where the line starts: a PyTree like the parameters of `f`, or for a system also a flat vector.
        params1: where it ends, likewise.
        x: inputs, examples first; None with a system.
        n: positions, both ends included.

    Returns:
        a `GaussLength`. The length of a scalar output is 0, for its tangent only has signs: see `sign_changes`. Where
        |z'| is below 64 roundings of the longest tangent of all it counts as vanishing: it contributes 0, and is
        counted in `skipped`.

    Raises:
        ShapeError: the two have different structures or shapes; it is a ValueError.
        DtypeError, TypeError, ValueError: other arguments that do not fit.
        NonFiniteError: a derivative is NaN or infinite.

    Cost: about six forward passes at each position; memory for 2 n times the outputs.

    Example:
        >>> import jax.numpy as jnp
        >>> circle = lambda w, x: jnp.stack([jnp.cos(w * x), jnp.sin(w * x)], axis=1)
        >>> gauss_length(circle, np.array(0.0), np.array(1.0), np.array([0.5, 3.0])).length.round(6).tolist()
        [0.5, 3.0]
    """
    checks.count(n, "n", "gauss_length", minimum=2)
    system = _outputs_of(f, params0, params1, x)
    start, end = system.vector(params0), system.vector(params1)
    places = np.linspace(0.0, 1.0, n)
    with double_scope(system.double):
        found = _derivatives(system.operators, start, end - start, places.astype(start.dtype), system.arrays[0])
        speed, bend = (np.asarray(part, np.float64).reshape(n, system.num_examples, -1) for part in found)
    if not (np.isfinite(speed).all() and np.isfinite(bend).all()):
        raise NonFiniteError("a derivative of `f` on the line is NaN or infinite; scale the parameters or data.")
    still, units, rates = _unit_tangents(speed, bend, float(np.finfo(start.dtype).eps))
    length = integrate.trapezoid(rates, places, axis=0)
    angles = _angles(units, still)
    return GaussLength(
        length=length,
        turning=angles.sum(axis=0),
        sign_changes=(angles > RIGHT_ANGLE).sum(axis=0) if system.num_outputs == 1 else None,
        skipped=still.sum(axis=0),
        mean=float(length.mean()),
    )


def weight_distance(p0: Any, p1: Any, normalized: bool = True) -> float:
    """The distance |p1 - p0| between two parameters, over |p0| if normalized; Euclidean, all entries together.

    Args:
        p0: a PyTree of arrays.
        p1: another one of the same structure and shapes.
        normalized: divide by |p0|.

    Raises:
        ShapeError: different structures or shapes; it is a ValueError.
        DtypeError, ValueError: entries that are not real or not finite; or `p0` is zero, and has no scale.

    Example:
        >>> weight_distance({"w": np.array([3.0, 4.0])}, {"w": np.array([3.0, 14.0])})
        2.0
    """
    first, second = _flat(p0, "p0"), _flat(p1, "p1")
    own, other = ((jax.tree.structure(p), tuple(np.shape(leaf) for leaf in jax.tree.leaves(p))) for p in (p0, p1))
    if own != other:
        raise ShapeError(
            f"`p0` is {own[0]} with shapes {own[1]} and `p1` {other[0]} with shapes {other[1]}; give two of the same."
        )
    distance, size = float(np.linalg.norm(second - first)), float(np.linalg.norm(first))
    if normalized and size == 0:
        raise ValueError("`p0` is zero, so no distance is relative to it; use normalized=False.")
    return distance / size if normalized else distance


@partial(jax.jit, static_argnums=(0,))
def _derivatives(operators: Operators, start: Any, direction: Any, places: Any, x: Any) -> tuple[jax.Array, jax.Array]:
    """First and second derivative of the outputs in alpha, at each position."""

    def at(alpha: Any) -> tuple[jax.Array, jax.Array]:
        w = start + alpha * direction
        return operators.jvp(w, x, None, direction), operators.second_derivative(w, x, None, direction, direction)

    first, second = jax.lax.map(at, places)
    return first, second


def _unit_tangents(speed: np.ndarray, bend: np.ndarray, rounding: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where z' vanishes (T, n), z' / |z'| (T, n, c), and the norm of its derivative, 0 where z' vanishes."""
    norms = np.linalg.norm(speed, axis=2)
    still = norms <= _VANISHING * rounding * norms.max()
    norms = np.where(still, 1.0, norms)
    units = speed / norms[:, :, None]
    across = bend - (bend * units).sum(axis=2, keepdims=True) * units
    return still, units, np.where(still, 0.0, np.linalg.norm(across, axis=2) / norms)


def _angles(units: np.ndarray, still: np.ndarray) -> np.ndarray:
    """The angle between each tangent (T, n, c) and the last one before it that did not vanish, (T - 1, n)."""
    at = np.where(still, -1, np.arange(len(units))[:, None])
    before = np.maximum.accumulate(at, axis=0)[:-1]
    earlier = np.take_along_axis(units, np.maximum(before, 0)[:, :, None], axis=0)
    apart, together = (np.linalg.norm(v, axis=2) for v in (units[1:] - earlier, units[1:] + earlier))
    angles: np.ndarray = np.where(still[1:] | (before < 0), 0.0, 2 * np.arctan2(apart, together))
    return angles


def _bumps(places: np.ndarray, heights: np.ndarray, tol: float) -> np.ndarray:
    """Start, end and height of each run of positive heights that exceeds `tol`, (B, 3)."""
    edges = np.diff(np.append(heights > 0, False).astype(int))
    starts, stops = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1) + 1
    ends = places[np.minimum(stops, len(places) - 1)]
    tops = [heights[i:j].max() for i, j in zip(starts, stops, strict=True)]
    rows = np.column_stack([places[starts], ends, np.asarray(tops, np.float64)])
    found: np.ndarray = rows[rows[:, 2] > tol]
    return found


def _outputs_of(f: Any, params0: Any, params1: Any, x: Any) -> System:
    """The function and inputs as a system, in the precision that was asked for."""
    if isinstance(f, System):
        if x is not None:
            raise TypeError("`f` is a System, which has its own inputs; leave out `x`, or give the function alone.")
        system = f
    elif x is None:
        raise TypeError("`f` is a function of (params, x), so `x` is needed.")
    elif not callable(f):
        raise TypeError(f"`f` is {f!r}; give a System or a function of (params, x).")
    else:
        system = System(f, params0, x)
    return system.as_float64() if has_float64(params0, params1) else system


def _checked_curve(alphas: Any, losses: Any) -> tuple[np.ndarray, np.ndarray]:
    """Positions and losses in float64."""
    places, values = checks.real_array(alphas, "alphas"), checks.real_array(losses, "losses")
    if places.ndim != 1 or places.shape != values.shape or len(places) < 2:
        raise ShapeError(
            f"`alphas` has shape {places.shape} and `losses` {values.shape}; give two vectors of the same length, at "
            "least 2."
        )
    checks.all_finite(places, "alphas")
    checks.all_finite(values, "losses")
    if (np.diff(places) <= 0).any():
        raise ValueError("`alphas` do not increase; sort them, with their losses, and drop duplicates.")
    return places.astype(np.float64), values.astype(np.float64)


def _flat(params: Any, name: str) -> np.ndarray:
    leaves = [checks.real_array(leaf, name) for leaf in jax.tree.leaves(params)]
    if not leaves:
        raise ShapeError(f"`{name}` has no arrays; give at least one parameter.")
    vector = np.concatenate([leaf.astype(np.float64).reshape(-1) for leaf in leaves])
    checks.all_finite(vector, name)
    return vector
