"""Points of a run: parameters one after the other, with the steps at which they were reached."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from widescape.core import checks
from widescape.core.errors import ShapeError
from widescape.curvature import System


def points_of(system: System, sequence: Any, steps: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """Flat parameters (S, p), in float64, and their steps (S,) of a run with snapshots, an array, or a list of points.

    `steps` given take the place of those of the run, or of 0, 1, 2, ...

    Raises:
        ShapeError: no points, points that are not like the system's parameters, or another number of steps.
        TypeError: something that holds no points.
    """
    points, own = listed(sequence, "params_seq", lambda point, name: system.vector(point))
    if points.shape[1] != system.num_params:
        raise ShapeError(
            f"`params_seq` has shape {points.shape}; give flat parameters (S, {system.num_params}), one row a point."
        )
    places = own if steps is None else np.asarray(steps)
    if places.shape != (len(points),):
        raise ShapeError(f"`steps` has shape {places.shape}; give one for each of the {len(points)} points.")
    checks.all_finite(checks.real_array(points, "params_seq"), "params_seq")
    return points.astype(np.float64, copy=False), places


def listed(sequence: Any, name: str, flatten: Callable[[Any, str], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Points as rows (S, p), and their steps; `flatten` makes a row of each point of a list."""
    if hasattr(sequence, "snapshots"):
        if sequence.snapshots is None:
            raise ShapeError("this run kept no snapshots; train it with `keep_every`.")
        return np.asarray(sequence.snapshots), np.asarray(sequence.snapshot_steps)
    if hasattr(sequence, "__array__"):
        points = np.asarray(sequence)
    elif isinstance(sequence, Sequence) and not isinstance(sequence, str):
        rows = [flatten(point, f"{name}[{i}]") for i, point in enumerate(sequence)]
        sizes = sorted({row.size for row in rows})
        if len(sizes) > 1:
            raise ShapeError(
                f"the points of `{name}` have between {sizes[0]} and {sizes[-1]} entries; give equal ones."
            )
        points = np.stack(rows) if rows else np.empty((0, 0))
    else:
        raise TypeError(
            f"`{name}` is a {type(sequence).__name__}; give points (S, p), a list of parameters, or a run that kept "
            "some."
        )
    if points.ndim != 2 or 0 in points.shape:
        raise ShapeError(f"`{name}` has shape {points.shape}; give flat parameters (S, p), one row a point.")
    return points, np.arange(len(points))
