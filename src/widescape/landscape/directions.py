"""Directions in the space of parameters, for pictures of a loss: random, of a trajectory, of the Hessian."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from widescape.arch import network_of
from widescape.core import checks
from widescape.core.chart import Chart, Series
from widescape.core.errors import ShapeError
from widescape.core.evidence import EXACT, Evidence, bound
from widescape.core.precision import call_in_float64
from widescape.core.random import named_key
from widescape.core.result import Result, quantity
from widescape.curvature import System
from widescape.curvature.krylov import TopEigsStatus, top_eigs
from widescape.curvature.segment import as_system
from widescape.landscape.sequence import listed

Norm = Literal["filter", "layer"]
FilterAxis = int | Callable[[str, Any], int]

_COLLINEAR = 100.0  # sines of the angle between two directions below so many roundings count as zero
_ROUNDED = Evidence("exact", note="off by at most about eps times the largest")


class TrajectoryDirections(Result):
    """The plane in which a trajectory moves most: its two leading principal directions about a point."""

    source = "li2018visualizing, section 7.2"
    directions: np.ndarray = quantity(EXACT, "unit vectors, orthogonal, in rows (2, p)")
    explained: np.ndarray = quantity(EXACT, "share of sum_t |w_t - origin|^2 along each of the two, (2,)")
    shares: np.ndarray = quantity(_ROUNDED, "the same along each principal direction, falling, (min(T, p),)")

    def charts(self) -> tuple[Chart, ...]:
        """The share of each principal direction."""
        return (
            Chart(
                name="principal_directions",
                title="How much of a trajectory lies along each principal direction",
                x_label="principal direction",
                y_label="share of the squared distances",
                series=(Series(np.arange(1, len(self.shares) + 1), self.shares, "share", style="both"),),
                caption=f"The leading two hold {self.explained.sum():.1%} of the squared distances from the origin.",
            ),
        )


class HessianDirections(Result):
    """Eigenvectors of the Hessian of a loss that belong to its algebraically largest eigenvalues."""

    source = "li2018visualizing; wu2000thick"
    status: TopEigsStatus = quantity(EXACT, "how the search for eigenvalues ended")
    directions: np.ndarray = quantity(EXACT, "orthonormal Ritz vectors in rows (k, p)")
    eigs: np.ndarray = quantity(
        bound("lower", "interlacing: the i-th is at most the i-th largest"), "Ritz values d^T H d, falling, (k,)"
    )
    resid: np.ndarray = quantity(EXACT, "|H d - theta d|: an eigenvalue lies within it, (k,)")


class ProjectedTrajectory(Result):
    """A trajectory seen in the plane of two directions: the nearest points of that plane."""

    source = "li2018visualizing, section 7.2"
    coordinates: np.ndarray = quantity(EXACT, "(a, b) that minimize |w_t - origin - a d1 - b d2|, (T, 2)")
    explained: float = quantity(EXACT, "share of sum_t |w_t - origin|^2 that lies in the plane; 1 if nothing moves")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.coordinates, dtype=dtype, copy=copy)

    def charts(self) -> tuple[Chart, ...]:
        """The trajectory in the plane."""
        return (
            Chart(
                name="projected_trajectory",
                title="A trajectory projected to a plane",
                x_label="along d1",
                y_label="along d2",
                series=(Series(self.coordinates[:, 0], self.coordinates[:, 1], "trajectory", style="both"),),
                caption=f"{self.explained:.1%} of the squared distances from the origin lie in the plane.",
            ),
        )


def random_direction(
    params: Any,
    norm: Norm | None = "filter",
    filter_axis: FilterAxis | None = None,
    ignore_1d: bool = True,
    *,
    key: jax.Array | None = None,
) -> Any:
    """A Gaussian direction, each part of which is scaled to the length of the parameters that it belongs to.

    With ``"filter"`` d_j <- d_j |w_j| / |d_j| for each filter w_j, a slice of an array at one index of `filter_axis`.
    With ``"layer"`` the same for each array as a whole, with None nothing is scaled. A filter of length 0 gets
    direction 0. Functions that do not change when layers are rescaled against each other, such as bias-free ReLU
    networks, then have surfaces that do not change either.

    Args:
        params: a PyTree of floating-point arrays, or a `System`.
        norm: what is scaled.
        filter_axis: the axis that counts neurons or channels of the output. 0 is that of PyTorch's arrays; weights
            (fan_in, fan_out), as those of `widescape.arch`, need -1. A function gets the path of an array and the
            array, so that each may have its own. None is -1 for a `System` of such a network, and else 0.
        ignore_1d: arrays with fewer than two axes (biases, normalization) get direction 0, whatever `norm`. Otherwise
            each of their entries is a filter.
        key: of the draw; `jax.random.key(0)` if None. The same key draws the same Gaussian numbers for any `norm`.

    Returns:
        a PyTree like `params`, of NumPy arrays of the same precision.

    Raises:
        ShapeError, DtypeError, TypeError, ValueError: arguments that do not fit; or no array has two axes,
            so that the direction would be 0.

    Source: li2018visualizing, section 4.

    Example:
        >>> d = random_direction({"w": np.array([[3.0, 4.0], [0.0, 0.0]]), "b": np.ones(2)})
        >>> np.linalg.norm(d["w"], axis=1).round(12).tolist(), d["b"].tolist()
        ([5.0, 0.0], [0.0, 0.0])
    """
    if norm is not None:
        checks.choice(norm, "norm", Norm)
    tree = params.params if isinstance(params, System) else params
    if filter_axis is None:
        filter_axis = -1 if isinstance(params, System) and network_of(params.f) is not None else 0
    found, structure = jax.tree_util.tree_flatten_with_path(tree)
    weights = {jax.tree_util.keystr(path): leaf for path, leaf in found}
    arrays = {path: _finite(leaf, f"params{path}") for path, leaf in weights.items()}
    if ignore_1d and all(array.ndim < 2 for array in arrays.values()):
        raise ValueError(
            "no array of `params` has two axes, so the direction would be 0; set `ignore_1d=False`, or give "
            "the PyTree instead of a flat vector."
        )
    root = jax.random.key(0) if key is None else key
    parts = []
    for path, array in arrays.items():
        draw = np.zeros_like(array)
        if array.ndim >= 2 or not ignore_1d:
            draw = np.asarray(
                call_in_float64(jax.random.normal, named_key(root, "direction", path), array.shape, jnp.float64)
            )
            if norm is not None:
                axis = _axis(filter_axis, path, weights[path], array.ndim) if norm == "filter" else None
                draw = _rescaled(draw, array.astype(np.float64), axis)
        parts.append(draw.astype(array.dtype))
    return jax.tree.unflatten(structure, parts)


def trajectory_directions(seq: Any, *, origin: Any = None) -> TrajectoryDirections:
    """The two leading principal directions of a trajectory about a point: right singular vectors of w_t - origin.

    The squares of the singular values, divided by their sum, are the shares. Points are not centered, because the
    plane is to pass through the origin. Signs are such that the largest coordinate of the trajectory is positive.

    Args:
        seq: points (T, p), a list of T PyTrees or flat vectors, or a `Descent` with snapshots.
        origin: a point like these; None for the last of them.

    Returns:
        a `TrajectoryDirections`, in float64.

    Raises:
        ShapeError, DtypeError, TypeError: points that do not fit.
        ValueError: points that are not finite, or lie on one line to the rounding of their entries.

    Cost: 4 T p min(T, p) flops, and three copies of the points.

    Example:
        >>> found = trajectory_directions(np.array([[3.0, 4.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]))
        >>> found.directions.round(12).tolist()
        [[0.6, 0.8, 0.0], [0.0, 0.0, 1.0]]
        >>> found.explained.round(6).tolist()
        [0.961538, 0.038462]
    """
    points, center, eps = checked_points(seq, origin, "seq")
    moves, scale = _scaled(points - center)
    rounding = eps * (np.linalg.norm(points / scale) + len(points) ** 0.5 * np.linalg.norm(center / scale))
    squares, first = _leading(moves)
    along = moves @ first
    rest = moves - along[:, None] * first
    if np.linalg.norm(rest) <= rounding:
        raise ValueError(
            "the points of `seq` lie on one line through the origin, so there is no second principal direction; "
            "take another one, for instance of `random_direction`."
        )
    second = _leading(rest)[1]
    second -= (second @ first) * first  # what rounding leaves, where the second is far shorter than the first
    second /= np.linalg.norm(second)
    across = rest @ second
    total = float(np.sum(moves**2))
    return TrajectoryDirections(
        directions=np.stack([_oriented(first, along), _oriented(second, across)]),
        explained=np.array([along @ along, across @ across]) / total,
        shares=squares / total,
    )


def hessian_directions(
    system: Any, params: Any = None, k: int = 2, *, key: jax.Array | None = None
) -> HessianDirections:
    """The k directions in which a loss is curved most: top eigenvectors of its Hessian H, computed in float64.

    Largest in the algebraic sense: directions of negative curvature are not among them unless k is large.

    Args:
        system: a `System`, or a function of the parameters that returns one number.
        params: where, as a PyTree or flat; None for the system's own parameters.
        k: how many.
        key: of the start of Lanczos' method; `jax.random.key(0)` if None.

    Returns:
        a `HessianDirections`; what did not converge says so in its status and residuals. At kinks, as of ReLU, H is
        the Hessian that exists almost everywhere.

    Raises:
        ShapeError, DtypeError, TypeError, ValueError: arguments that do not fit.

    Cost: some tens to hundreds of products with H, about six forward passes each.

    Example:
        >>> system = System(lambda w, x: x @ w, np.zeros(3), np.diag([1.0, 3.0, 2.0]), np.zeros(3))
        >>> found = hessian_directions(system)
        >>> found.eigs.tolist(), np.abs(found.directions).tolist()
        ([9.0, 4.0], [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    """
    double = as_system(system, params).as_float64()
    w = double.vector(params)
    found = top_eigs(lambda v: double.hvp(v, w), double.num_params, k, which="LA", key=key)
    return HessianDirections(
        status=found.status,
        directions=np.asarray(found.vectors),
        eigs=found.eigs,
        resid=found.resid,
        stands={"eigs": found.evidence("eigs")},
    )


def project_trajectory(seq: Any, d1: Any, d2: Any, *, origin: Any = None) -> ProjectedTrajectory:
    """Coordinates of a trajectory in the plane origin + a d1 + b d2, by least squares.

    Args:
        seq: points (T, p), a list of T PyTrees or flat vectors, or a `Descent` with snapshots.
        d1: a direction, as a PyTree or a flat vector.
        d2: another one; they need be neither orthogonal nor of unit length.
        origin: a point of the plane, like those of `seq`; None for the last of them.

    Returns:
        a `ProjectedTrajectory`, in float64; as an array it is its coordinates (T, 2).

    Raises:
        ShapeError, DtypeError, TypeError: points or directions that do not fit.
        ValueError: directions that are zero or collinear, or numbers that are not finite.

    Cost: 6 T p flops, and two copies of the points.

    Example:
        >>> points = np.array([[2.0, 3.0, 0.0], [0.0, 0.0, 0.0]])
        >>> found = project_trajectory(points, np.array([1.0, 0.0, 0.0]), np.array([1.0, 1.0, 0.0]))
        >>> found.coordinates[0].round(12).tolist(), round(found.explained, 12)
        ([-1.0, 3.0], 1.0)
    """
    return projected(seq, d1, d2, origin, "seq")


def projected(seq: Any, d1: Any, d2: Any, origin: Any, name: str) -> ProjectedTrajectory:
    """`project_trajectory` of points that the caller knows as `name`."""
    points, center, _ = checked_points(seq, origin, name)
    given = [flat_vector(d, label) for d, label in ((d1, "d1"), (d2, "d2"))]
    for d, label in zip(given, ("d1", "d2"), strict=True):
        if d.shape != center.shape:
            raise ShapeError(f"`{label}` has {d.size} entries, but the points of `{name}` have {center.size}.")
        if not d.any():
            raise ValueError(f"`{label}` is zero; a plane needs two directions.")
    scales = np.array([np.max(np.abs(d.astype(np.float64))) for d in given])
    plane = np.stack([d / scale for d, scale in zip(given, scales, strict=True)], axis=1).astype(np.float64)
    basis, triangle = np.linalg.qr(plane)
    eps = max(float(jnp.finfo(d.dtype).eps) for d in given)
    if abs(triangle[1, 1]) <= _COLLINEAR * eps * np.linalg.norm(plane[:, 1]):
        raise ValueError("`d1` and `d2` are collinear, so they span no plane; give two different directions.")
    moves, scale = _scaled(points - center)
    inside = moves @ basis
    total = float(np.sum(moves**2))
    return ProjectedTrajectory(
        coordinates=np.linalg.solve(triangle, inside.T).T * (scale / scales)[None],
        explained=min(1.0, float(np.sum(inside**2)) / total) if total > 0 else 1.0,
    )


def flat_vector(tree: Any, name: str) -> np.ndarray:
    """All entries of a PyTree of finite arrays in one vector (p,), as a `System` orders them."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    if not leaves:
        raise ShapeError(f"`{name}` has no arrays; give a PyTree like the parameters, or a flat vector.")
    arrays = [_finite(leaf, f"{name}{jax.tree_util.keystr(path)}") for path, leaf in leaves]
    common = np.result_type(*(array.dtype for array in arrays))
    return np.concatenate([array.reshape(-1).astype(common) for array in arrays])


def checked_points(seq: Any, origin: Any, name: str) -> tuple[np.ndarray, np.ndarray, float]:
    """Points (T, p) and the origin (p,) in float64, and the relative rounding with which the points were given."""
    points = _finite(listed(seq, name, flat_vector)[0], name)
    center = points[-1] if origin is None else flat_vector(origin, "origin")
    if center.shape != points.shape[1:]:
        raise ShapeError(f"`origin` has {center.size} entries, but the points of `{name}` have {points.shape[1]}.")
    return points.astype(np.float64), center.astype(np.float64), float(jnp.finfo(points.dtype).eps)


def _finite(array: Any, name: str) -> np.ndarray:
    values = checks.real_array(array, name)
    checks.all_finite(values, name)
    return values


def _scaled(moves: np.ndarray) -> tuple[np.ndarray, float]:
    """Moves of largest entry 1, whose squares neither overflow nor vanish, and the factor; zero stays zero."""
    scale = float(np.max(np.abs(moves))) or 1.0
    return moves / scale, scale


def _axis(filter_axis: FilterAxis, path: str, leaf: Any, ndim: int) -> int:
    """The axis of filters of one array."""
    if ndim < 2:
        return 0
    axis = filter_axis(path, leaf) if callable(filter_axis) else filter_axis
    if isinstance(axis, bool) or not isinstance(axis, int | np.integer):
        raise TypeError(f"`filter_axis` is {axis!r} for params{path}; it must be an integer, or a function to one.")
    if not -ndim <= axis < ndim:
        raise ValueError(f"`filter_axis` is {axis}, but params{path} has {ndim} axes; choose one of them.")
    return int(axis) % ndim


def _rescaled(draw: np.ndarray, weights: np.ndarray, axis: int | None) -> np.ndarray:
    """The draw with the lengths of the weights, for each index of `axis`, or for the whole array."""
    over = tuple(i for i in range(draw.ndim) if i != axis)
    scaled: np.ndarray = draw / _lengths(draw, over) * _lengths(weights, over)
    return scaled


def _lengths(array: np.ndarray, over: tuple[int, ...]) -> np.ndarray:
    """Euclidean lengths over some axes, which stay with one entry, without overflow or underflow of squares."""
    largest = np.max(np.abs(array), axis=over, keepdims=True, initial=0.0)
    units = array / np.where(largest > 0, largest, 1.0)
    lengths: np.ndarray = largest * np.sqrt(np.sum(units**2, axis=over, keepdims=True))
    return lengths


def _leading(moves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Squared singular values, falling, and the first right singular vector, from the smaller Gram matrix."""
    rows, columns = moves.shape
    values, vectors = np.linalg.eigh(moves @ moves.T if rows <= columns else moves.T @ moves)
    leading = moves.T @ vectors[:, -1] if rows <= columns else vectors[:, -1]
    length = np.linalg.norm(leading)
    return np.maximum(values[::-1], 0.0), leading / (length if length > 0 else 1.0)


def _oriented(direction: np.ndarray, coordinates: np.ndarray) -> np.ndarray:
    """The direction, or its opposite, so that the largest coordinate is positive."""
    return direction if coordinates[np.argmax(np.abs(coordinates))] > 0 else -direction
