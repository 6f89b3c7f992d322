"""The loss along a line and over a plane of parameters."""

from typing import Any

import jax
import numpy as np

from widescape.core import checks
from widescape.core.chart import Chart, Drawable, Marker, Scale, Series, Spot, Surface, Trace
from widescape.core.errors import ShapeError
from widescape.core.evidence import EXACT
from widescape.core.result import Result, quantity
from widescape.curvature import System
from widescape.curvature.product import norm_of
from widescape.curvature.segment import as_system, losses_on_plane
from widescape.landscape.directions import flat_vector, projected

_DECADES = 1e3  # losses that span more are drawn on a logarithmic axis


class Profile(Result):
    """A loss along a line through a point of parameters; as an array it is its losses (T,)."""

    source = "li2018visualizing, section 4"
    ts: np.ndarray = quantity(EXACT, "positions t along the line, rising, (T,)")
    loss: np.ndarray = quantity(EXACT, "L(w + t d), (T,)")
    center: float = quantity(EXACT, "L(w)")
    curvature: float = quantity(EXACT, "d^T H d, the second derivative in t at the center")
    length: float = quantity(EXACT, "|d|: a unit of t is so long")
    note: str | None = quantity(EXACT, "what the direction is, in the words of the caller", default=None)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.loss, dtype=dtype, copy=copy)

    def charts(self) -> tuple[Chart, ...]:
        """Loss against position."""
        return (
            Chart(
                name="profile",
                title="The loss along a line of parameters",
                x_label="t",
                y_label="loss",
                series=(Series(self.ts, self.loss, "L(w + t d)"),),
                y_scale=_scale(self.loss),
                markers=(Marker(0.0, "center", axis="x"),) if self.ts[0] <= 0 <= self.ts[-1] else (),
                caption=f"{_sentence(self.note)}|d| = {self.length:.3g}. At t = 0 the loss is {self.center:.4g} and "
                f"its second derivative in t {self.curvature:.4g}.",
            ),
        )


class LossSurface(Result):
    """A loss over a plane through a point of parameters; as an array it is its losses (X, Y)."""

    source = "li2018visualizing, section 4"
    xs: np.ndarray = quantity(EXACT, "positions along d1, rising, (X,)")
    ys: np.ndarray = quantity(EXACT, "positions along d2, rising, (Y,)")
    loss: np.ndarray = quantity(EXACT, "L(w + x d1 + y d2), (X, Y)")
    center: float = quantity(EXACT, "L(w)")
    lowest: float = quantity(EXACT, "lowest loss on the grid")
    lowest_at: np.ndarray = quantity(EXACT, "the (x, y) where it is, the first such, (2,)")
    lengths: np.ndarray = quantity(EXACT, "|d1| and |d2|: units of x and y are so long, (2,)")
    cosine: float = quantity(EXACT, "of the angle between d1 and d2")
    trajectory: np.ndarray | None = quantity(EXACT, "a trajectory projected to the plane, (T, 2)", default=None)
    explained: float | None = quantity(EXACT, "share of its sum_t |w_t - w|^2 that lies in the plane", default=None)
    note: str | None = quantity(EXACT, "what the directions are, in the words of the caller", default=None)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.loss, dtype=dtype, copy=copy)

    def charts(self) -> tuple[Drawable, ...]:
        """The loss over the plane, with the projected trajectory."""
        within = self.xs[0] <= 0 <= self.xs[-1] and self.ys[0] <= 0 <= self.ys[-1]
        path = None if self.trajectory is None else _trace(self.trajectory)
        return (
            Surface(
                name="loss_surface",
                title="The loss over a plane of parameters",
                x_label="x, along d1",
                y_label="y, along d2",
                z_label="loss",
                x=self.xs,
                y=self.ys,
                z=self.loss,
                z_scale=_scale(self.loss),
                path=path,
                points=(Spot(0.0, 0.0, "center"),) if within else (),
                caption=self._caption(),
            ),
        )

    def _caption(self) -> str:
        first, second = self.lengths
        text = (
            f"{_sentence(self.note)}The loss at w + x d1 + y d2, with |d1| = {first:.3g}, |d2| = {second:.3g} and "
            f"cosine {round(self.cosine, 6):.2g} between them. At the center it is {self.center:.4g}."
        )
        if self.explained is None:
            return text
        return (
            f"{text} The line is the nearest point of the plane to each point of a trajectory; {self.explained:.1%} of "
            "its squared distances from the center lie in the plane. Heights along it are those of the plane."
        )


def surface_1d(
    loss: Any, params: Any, d: Any, ts: Any = None, *, note: str | None = None, progress: bool | None = None
) -> Profile:
    """A loss along a line of parameters: L(w + t d), and its curvature d^T H d at w.

    Args:
        loss: a `System`, or a function of the parameters that returns one number.
        params: w, as a PyTree or flat; None for the parameters of a system.
        d: the direction, as a PyTree like the parameters or flat, for instance of `random_direction`.
        ts: positions, rising; None for 51 points of [-1, 1], as li2018visualizing takes them.
        note: what the direction is, for the caption of the figure.
        progress: show a progress bar; None shows it on a terminal.

    Returns:
        a `Profile`, computed in the precision of the system. At kinks, as of ReLU, the curvature is that of the Hessian
        that exists almost everywhere.

    Raises:
        ShapeError, DtypeError, TypeError, ValueError: arguments that do not fit; the direction is zero.
        NonFiniteError: the loss at a point is NaN or infinite; names the first.

    Cost: a forward pass for each point, and six for the curvature.

    Example:
        >>> profile = surface_1d(
        ...     lambda w: (w**2).sum(), np.array([1.0, 0.0]), np.array([0.0, 2.0]), np.array([0.0, 1.0])
        ... )
        >>> profile.loss.tolist(), profile.curvature
        ([1.0, 5.0], 8.0)
    """
    system = as_system(loss, params)
    w, direction = system.vector(params), _direction(system, d, "d")
    places = _grid(ts, "ts")
    values = losses_on_plane(system, w, direction[None], np.append(places, 0.0)[:, None], progress=progress)
    curved = system.hvp(direction, w).astype(np.float64)
    return Profile(
        ts=places,
        loss=values[:-1],
        center=float(values[-1]),
        curvature=float(direction.astype(np.float64) @ curved),
        length=norm_of(direction.astype(np.float64)),
        note=note,
    )


def surface_2d(
    loss: Any,
    params: Any,
    d1: Any,
    d2: Any,
    xs: Any = None,
    ys: Any = None,
    *,
    trajectory: Any = None,
    note: str | None = None,
    progress: bool | None = None,
) -> LossSurface:
    """A loss over a plane of parameters: L(w + x d1 + y d2) on a grid.

    Args:
        loss: a `System`, or a function of the parameters that returns one number.
        params: w, as a PyTree or flat; None for the parameters of a system.
        d1: a direction, as a PyTree like the parameters or flat, for instance of `random_direction`.
        d2: another one; they need be neither orthogonal nor of unit length.
        xs: positions along d1, rising; None for 51 points of [-1, 1], as li2018visualizing takes them.
        ys: the same along d2.
        trajectory: points that are projected to the plane about w and drawn on it, as `project_trajectory` takes them.
        note: what the directions are, for the caption of the figure: "random, filter-normalized".
        progress: show a progress bar; None shows it on a terminal.

    Returns:
        a `LossSurface`, computed in the precision of the system.

    Raises:
        ShapeError, DtypeError, TypeError, ValueError: arguments that do not fit; a direction is zero, or both are
            collinear while there is a trajectory.
        NonFiniteError: the loss at a point is NaN or infinite; names the first.

    Cost: X Y forward passes.

    Example:
        >>> bowl = surface_2d(lambda w: (w**2).sum(), np.ones(2), np.array([1.0, 0.0]), np.array([0.0, 1.0]))
        >>> bowl.loss.shape, bowl.center, bowl.lowest, bowl.lowest_at.tolist()
        ((51, 51), 2.0, 0.0, [-1.0, -1.0])
    """
    system = as_system(loss, params)
    w = system.vector(params)
    plane = np.stack([_direction(system, d1, "d1"), _direction(system, d2, "d2")])
    across, along = _grid(xs, "xs"), _grid(ys, "ys")
    path = None if trajectory is None else projected(trajectory, plane[0], plane[1], w, "trajectory")
    points = np.stack(np.meshgrid(across, along, indexing="ij"), axis=-1).reshape(-1, 2)
    values = losses_on_plane(system, w, plane, np.append(points, np.zeros((1, 2)), axis=0), progress=progress)
    heights = values[:-1].reshape(len(across), len(along))
    i, j = np.unravel_index(np.argmin(heights), heights.shape)
    lengths = np.array([norm_of(d) for d in plane.astype(np.float64)])
    units = plane.astype(np.float64) / lengths[:, None]
    return LossSurface(
        xs=across,
        ys=along,
        loss=heights,
        center=float(values[-1]),
        lowest=float(heights[i, j]),
        lowest_at=np.array([across[i], along[j]]),
        lengths=lengths,
        cosine=float(np.clip(units[0] @ units[1], -1.0, 1.0)),
        trajectory=None if path is None else path.coordinates,
        explained=None if path is None else path.explained,
        note=note,
    )


def _direction(system: System, d: Any, name: str) -> np.ndarray:
    """A direction in the parameters of a system, flat and in its precision."""
    leaves, structure = jax.tree.flatten(d)
    shapes, own = tuple(np.shape(leaf) for leaf in leaves), system.operators
    if shapes != ((system.num_params,),) and (structure, shapes) != (own.structure, own.shapes):
        raise ShapeError(
            f"`{name}` holds arrays of shapes {shapes}; give a flat vector of {system.num_params} entries, or a PyTree "
            f"like the parameters, with shapes {own.shapes}."
        )
    vector = system.vector(flat_vector(d, name))
    if not vector.any():
        raise ValueError(f"`{name}` is zero, so the loss does not change along it; give another direction.")
    return vector


def _grid(positions: Any, name: str) -> np.ndarray:
    """Rising positions in float64; by default 51 points of [-1, 1]."""
    if positions is None:
        return np.linspace(-1.0, 1.0, 51)
    places = checks.real_array(positions, name).astype(np.float64)
    if places.ndim != 1 or places.size < 2:
        raise ShapeError(f"`{name}` has shape {places.shape}; give a vector of at least two positions.")
    checks.all_finite(places, name)
    if (np.diff(places) <= 0).any():
        raise ValueError(f"`{name}` does not rise everywhere; sort the positions and give each one once.")
    return places


def _trace(coordinates: np.ndarray) -> Trace:
    return Trace(coordinates[:, 0], coordinates[:, 1], "projected trajectory")


def _scale(losses: np.ndarray) -> Scale:
    """Logarithmic where losses are positive and span decades."""
    lowest = float(losses.min())
    return "log" if lowest > 0 and float(losses.max()) > _DECADES * lowest else "linear"


def _sentence(note: str | None) -> str:
    """The note as the beginning of a caption."""
    return f"Directions: {note}. " if note else ""
