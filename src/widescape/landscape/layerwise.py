"""What each layer, or each unit, contributes to the value of the square loss at a critical point."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from widescape.core import checks
from widescape.core.blas import threads_for
from widescape.core.chart import Chart, Marker, Series
from widescape.core.errors import AssumptionWarning, DtypeError, MemoryBudgetError, NonDifferentiableWarning, ShapeError
from widescape.core.evidence import EXACT
from widescape.core.memory import available_bytes, human_bytes
from widescape.core.result import Result, quantity
from widescape.core.status import Status
from widescape.curvature import System
from widescape.curvature.margins import kink_margin
from widescape.landscape.minima.in_float64 import loss_in_float64

Blocks = Mapping[str, Any]

_CRITICAL = 1e-6  # the gradient norm above which a point does not count as critical
_SPANNED = 1e-6  # the relative distance of the outputs from the range of the Jacobian above which they lie outside
_TINY = 1e-300
_COPIES = 5  # of the Jacobian: itself, its blocks, all of them again for the norm, and the work of decompositions
_KINK = 1e-9  # the distance to a kink below which the derivative says nothing


class ContributionStatus(Status):
    """Whether the decomposition of the loss holds at the point."""

    OK = "The point is critical and its outputs lie in the range of the Jacobian: the contributions add up to the loss."
    NOT_CRITICAL = "The gradient is not zero: contributions predict the loss of a critical point, not of this one."
    OUTSIDE = "The outputs leave the range of the Jacobian, as without a linear output layer: they do not add up."


class LayerContributions(Result):
    """The loss at a critical point as the loss of the zero function, less a contribution of each block."""

    source = "kawaguchi2018depth"
    status: ContributionStatus = quantity(EXACT, "whether the contributions add up to the loss")
    names: tuple[str, ...] = quantity(EXACT, "blocks in their order")
    values: np.ndarray = quantity(EXACT, "contribution of each, sum of squares / 2, not negative (q,)")
    ranks: np.ndarray = quantity(EXACT, "directions that each adds to those before it (q,)")
    running: np.ndarray = quantity(EXACT, "|y|^2 / 2 less the contributions so far (q + 1,)")
    predicted: float = quantity(EXACT, "|y - P_J y|^2 / 2, the last of these")
    actual: float = quantity(EXACT, "the loss |f - y|^2 / 2")
    defect: float = quantity(EXACT, "|actual - predicted|")
    rank: int = quantity(EXACT, "rank of the Jacobian, with singular values relative to its norm")
    grad_norm: float = quantity(EXACT, "|grad| of |f - y|^2 / 2")
    outside: float = quantity(EXACT, "|f - P_J f| / |f|, zero where outputs lie in the range of the Jacobian")

    def charts(self) -> tuple[Chart, ...]:
        """The loss that is left after each block."""
        listed = ", ".join(f"{i} {name}" for i, name in enumerate(self.names, 1))
        return (
            Chart(
                name="contributions",
                title="Loss that is left after each block",
                x_label="blocks",
                y_label="sum of squares / 2",
                series=(Series(np.arange(len(self.running)), self.running, "predicted", style="both"),),
                markers=(Marker(self.actual, "loss"),),
                caption=f"Blocks: {listed if len(listed) < 400 else f'{len(self.names)}'}. {self.status}",
            ),
        )


def layer_contributions(
    f: System | Callable[[Any, Any], Any],
    params: Any = None,
    X: Any = None,  # noqa: N803
    Y: Any = None,  # noqa: N803
    order: Sequence[str] | None = None,
    *,
    blocks: Blocks | None = None,
    rtol: float = 1e-10,
    allow_float32: bool = False,
) -> LayerContributions:
    """What each block of parameters takes off the square loss at a critical point.

    With the loss |f - y|^2 / 2, a sum over all outputs, J = df/dw = [B_1, ..., B_q] in blocks and N_j the projector
    off the range of the blocks before the j-th, at a differentiable critical point of a network with a linear output
    layer

        L = |y|^2 / 2 - sum_j |P[N_j B_j] y|^2 / 2 = |(1 - P_J) y|^2 / 2.

    The sum does not depend on the order of the blocks, its terms do: with the output layer first, all later ones
    vanish, for the outputs are the projection of y on its range already.

    Args:
        f: maps (params, X) to outputs (n,) or (n, c), or a `System` in place of the first four arguments. Of a system
            the function, the parameters and the data are taken; its own loss and reduction do not enter.
        params: a PyTree of arrays in float64.
        X: inputs, examples first.
        Y: targets, shaped like the outputs.
        order: names of all blocks; None for the order of the leaves, which is from input to output for a list of
            layers. Dictionaries are sorted by their keys.
        blocks: for each name either paths of leaves, or of what holds several (as ``"0"`` for ``"0/w"`` and
            ``"0/b"``), or flat coordinates, as `unit_blocks` makes them. Every parameter in one block; None for the
            leaves.
        rtol: singular values of what a block adds count above this share of the largest one of the whole Jacobian.
        allow_float32: accept parameters of less than double precision.

    Returns:
        a `LayerContributions`; its status says whether the identity holds.

    Raises:
        PrecisionError: parameters of less than double precision, unless they are allowed.
        ShapeError, TypeError, ValueError: arguments that do not fit, targets that are not shaped like the outputs (as
            labels), blocks that overlap or leave parameters out.
        MemoryBudgetError: the Jacobian does not fit; says how much it needs.

    Warns:
        AssumptionWarning: the gradient norm exceeds 1e-6.
        NonDifferentiableWarning: the point lies within 1e-9 of a kink.

    Cost: a Jacobian (N, p), and O(N^2 p).

    Example:
        >>> X, Y = np.array([[1.0], [-1.0]]), np.array([2.0, 0.0])
        >>> report = layer_contributions(lambda w, x: x[:, 0] * w[0], np.array([1.0]), X, Y)
        >>> round(report.predicted, 12), report.actual, report.rank
        (1.0, 1.0, 1)
    """
    tolerance = checks.number(rtol, "rtol", "layer_contributions")
    checks.positive(tolerance, "rtol", "layer_contributions")
    system = _square_system(f, params, X, Y, allow_float32)
    named = _columns(system, blocks)
    names = _ordered(named, order)
    _require_memory(system)
    jacobian, outputs = system.jacobian(), np.ravel(system.F())
    targets = np.ravel(np.asarray(system.y, np.float64))
    basis, ranks = range_of_blocks([jacobian[:, named[name]] for name in names], tolerance)
    seen = (basis.T @ targets) ** 2 / 2
    values = np.array([part.sum() for part in np.split(seen, np.cumsum(ranks)[:-1])])
    predicted = float(np.sum((targets - basis @ (basis.T @ targets)) ** 2) / 2)
    running = np.append(predicted + np.cumsum(values[::-1])[::-1], predicted)
    actual = float(np.sum((outputs - targets) ** 2) / 2)
    slope = float(np.linalg.norm(jacobian.T @ (outputs - targets)))
    outside = float(np.linalg.norm(_off(outputs[:, None], basis))) / max(float(np.linalg.norm(outputs)), _TINY)
    return LayerContributions(
        status=_status(system, slope, outside),
        names=names,
        values=values,
        ranks=np.array(ranks),
        running=running,
        predicted=predicted,
        actual=actual,
        defect=abs(actual - predicted),
        rank=sum(ranks),
        grad_norm=slope,
        outside=outside,
    )


def unit_blocks(params: Any, axes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Blocks of flat coordinates, one for each hidden unit of a layer and one for the rest.

    Args:
        params: a PyTree of arrays.
        axes: for the path of each leaf that belongs to the units, the axis along which they lie. All are equally long.

    Returns:
        coordinates for the names ``"unit 0"``, ``"unit 1"``, ... and, if any parameter is left, ``"rest"``.

    Raises:
        ValueError: no such leaf or axis, or axes of different lengths.

    Example:
        >>> {n: c.tolist() for n, c in unit_blocks({"c": np.zeros(1), "v": np.zeros(2)}, {"v": 0}).items()}
        {'unit 0': [1], 'unit 1': [2], 'rest': [0]}
    """
    places = _places(params)
    for path, axis in axes.items():
        checks.choice(path, "axes", tuple(places))
        if not -places[path].ndim <= axis < places[path].ndim:
            raise ValueError(f"`axes` gives axis {axis} for {path!r}, which has {places[path].ndim} axes.")
    sizes = {places[path].shape[axis] for path, axis in axes.items()}
    if len(sizes) != 1:
        raise ValueError(f"`axes` names axes of lengths {sorted(sizes)}; units lie along axes of one length.")
    made = {
        f"unit {i}": np.concatenate([np.ravel(np.take(places[path], i, axis)) for path, axis in axes.items()])
        for i in range(sizes.pop())
    }
    total = sum(place.size for place in places.values())
    rest = np.setdiff1d(np.arange(total), np.concatenate(list(made.values())))
    return {**made, "rest": rest} if rest.size else made


def range_of_blocks(parts: Iterable[np.ndarray], rtol: float = 1e-10) -> tuple[np.ndarray, list[int]]:
    """An orthonormal basis of the range of [B_1, ..., B_q], block after block, and the directions that each adds.

    Singular values of what a block adds count above `rtol` times the norm of the whole matrix: relative to what is
    left of the block, rounding errors of a block that adds nothing would count as directions.
    """
    matrices = list(parts)
    whole = np.concatenate(matrices, axis=1)
    basis, ranks = np.zeros((len(whole), 0)), []
    with threads_for(min(whole.shape)):
        norm = float(np.linalg.norm(whole, 2))
        for block in matrices:
            left = _off(_off(block, basis), basis)
            vectors, sizes, _ = np.linalg.svd(left, full_matrices=False)
            new = _off(vectors[:, sizes > rtol * norm], basis)
            basis = np.concatenate([basis, np.linalg.qr(new)[0]], axis=1)
            ranks.append(new.shape[1])
    return basis, ranks


def _off(matrix: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """The part of each column that is orthogonal to an orthonormal basis."""
    return np.asarray(matrix - basis @ (basis.T @ matrix))


def _square_system(f: Any, params: Any, x: Any, y: Any, allow_float32: bool) -> System:
    if isinstance(f, System):
        if any(argument is not None for argument in (params, x, y)):
            raise TypeError("`f` is a System, which has parameters and data; leave out `params`, `X` and `Y`.")
        f.require_targets()
        system = f if f.loss == "square" else _with_square_loss(f)
    elif not callable(f):
        raise TypeError(f"`f` is {f!r}; give a function of (params, X), or a System.")
    else:
        system = System(f, params, x, y)
    system.require_targets()
    return loss_in_float64(system, None, "layer_contributions", allow_float32=allow_float32)


def _with_square_loss(system: System) -> System:
    try:
        return System(
            system.f, system.params, system.x, system.y, chunk=system.chunk, mixes_examples=system.mixes_examples
        )
    except (ShapeError, DtypeError) as error:
        raise ValueError(
            f"contributions belong to the square loss of targets that are shaped like the outputs: {error}"
        ) from None


def _require_memory(system: System) -> None:
    rows, budget = system.num_examples * system.num_outputs, available_bytes() // 2
    needed = 8 * rows * (_COPIES * system.num_params + 2 * min(rows, system.num_params))
    if needed > budget:
        raise MemoryBudgetError(
            f"layer_contributions needs {human_bytes(needed)} for a Jacobian of {rows} by {system.num_params} entries "
            f"and its blocks, more than the budget of {human_bytes(budget)}; give fewer examples."
        )


def _places(params: Any) -> dict[str, np.ndarray]:
    """For the path of each leaf, the flat coordinates of its entries, shaped like it."""
    places, start = {}, 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = jax.tree_util.keystr(path, simple=True, separator="/") or "params"
        places[name] = start + np.arange(np.size(leaf)).reshape(np.shape(leaf))
        start += np.size(leaf)
    return places


def _columns(system: System, blocks: Blocks | None) -> dict[str, np.ndarray]:
    """The flat coordinates of each block, after their check."""
    places = _places(system.params)
    if blocks is None:
        return {name: place.ravel() for name, place in places.items()}
    named = {name: _coordinates(name, block, places) for name, block in blocks.items()}
    times = np.zeros(system.num_params, int)
    for name, columns in named.items():
        if columns.size == 0 or columns.min() < 0 or columns.max() >= system.num_params:
            raise ValueError(f"block {name!r} must hold coordinates in 0 ... {system.num_params - 1}, at least one.")
        np.add.at(times, columns, 1)
    if (times != 1).any():
        raise ValueError(
            f"`blocks` leave out {int((times == 0).sum())} parameters and hold {int((times > 1).sum())} twice or more; "
            "put every parameter in one block."
        )
    return named


def _coordinates(name: str, block: Any, places: dict[str, np.ndarray]) -> np.ndarray:
    if isinstance(block, np.ndarray) and block.dtype.kind in "iu":
        return block.ravel()
    found = []
    for path in (block,) if isinstance(block, str) else tuple(block):
        held = [place.ravel() for leaf, place in places.items() if leaf == path or leaf.startswith(f"{path}/")]
        if not held:
            raise ValueError(f"block {name!r} names {path!r}; the leaves are {', '.join(places)}.")
        found += held
    return np.concatenate(found) if found else np.zeros(0, int)


def _ordered(named: Mapping[str, Any], order: Sequence[str] | None) -> tuple[str, ...]:
    names = tuple(named) if order is None else tuple(order)
    if sorted(names) != sorted(named):
        raise ValueError(f"`order` is {names}; name each block once: {', '.join(named)}.")
    return names


def _status(system: System, slope: float, outside: float) -> ContributionStatus:
    margin = kink_margin(system)
    if margin < _KINK:
        warnings.warn(
            f"the point lies {margin:.2g} from a kink, where the Jacobian is one of several; move it off the kink.",
            NonDifferentiableWarning,
            stacklevel=3,
        )
    if slope > _CRITICAL:
        warnings.warn(
            f"|grad| is {slope:.3g}, above {_CRITICAL:g}: the identity of loss and contributions holds at critical "
            "points only; train further.",
            AssumptionWarning,
            stacklevel=3,
        )
        return ContributionStatus.NOT_CRITICAL
    return ContributionStatus.OUTSIDE if outside > _SPANNED else ContributionStatus.OK
