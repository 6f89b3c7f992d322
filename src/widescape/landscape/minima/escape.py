"""The escape value: how far an exponential neuron without penalty lowers a loss whose model stays as it is."""

from typing import Any

import jax
import numpy as np
from scipy.optimize import nnls

from widescape.core import checks
from widescape.core.errors import NonFiniteError, ShapeError
from widescape.core.evidence import EXACT, bound
from widescape.core.precision import call_in_float64
from widescape.core.random import named_generator
from widescape.core.result import Result, quantity
from widescape.landscape.minima.escape_search import Data, Loss, least
from widescape.landscape.minima.losses import (
    ExampleLoss,
    as_loss,
    groups_of,
    mean_loss,
    numbers,
    output_gradients,
    outputs_of,
    targets_like,
)

_SCALES = (0.1, 1.0, 5.0, 20.0)  # of Gaussian directions, for inputs of unit standard deviation
_GAPS = (1.0, 5.0, 800.0)  # between an exposed point's exponent and all others; at the last one e^-gap is 0 in float64
_AT_INFINITY = 30.0
_NOISE = 1e-14  # of the loss, below which a drop is rounding


class EscapeReport(Result):
    """The least loss that outputs F(x) + c exp(W x) reach, with the F of a model at fixed parameters."""

    source = "kawaguchi2019elimination"
    value: float = quantity(bound("upper", "a search; evaluated at c and W"), "escape value E, mean over examples")
    loss: float = quantity(EXACT, "loss L without the neuron, mean over examples")
    drop: float = quantity(bound("lower", "a search; evaluated at c and W"), "L - E")
    at_infinity: bool = quantity(EXACT, "some |w_k| times spread is above 30: the infimum seems to lie at infinity")
    c: np.ndarray = quantity(EXACT, "amplitudes (c,): the neuron adds c_k exp(w_k . x - shift_k) to output k")
    W: np.ndarray = quantity(EXACT, "directions w_k, rows (c, d)")
    shift: np.ndarray = quantity(EXACT, "the largest w_k . x of the data, subtracted from the exponents (c,)")
    spread: float = quantity(EXACT, "largest distance of an input from the mean input")
    num_starts: int = quantity(EXACT, "directions from which the search for each output started")


def escape_value(
    F: Any,  # noqa: N803
    X: Any,  # noqa: N803
    y: Any,
    loss: ExampleLoss,
    *,
    restarts: int = 200,
    key: jax.Array | None = None,
) -> EscapeReport:
    """The escape value E = inf over c and W of (1/m) sum_i l(F_i + c * exp(W x_i), y_i), for fixed outputs F.

    It is the infimum of the modified loss over an added exponential neuron whose amplitude alone is penalized, for the
    penalty vanishes as its bias goes to infinity. It is below the loss wherever a group residual is not zero, and then
    no minimum is attained (T3). Under ``"square"`` and one output E = L - sup_w (r.e_w)^2 / |e_w|^2 / (2m).

    Output by output the neuron starts from w = 0, from Gaussian w at four scales, and from w that separate a point
    from all others; for each w the best c is found by Newton's method, and the best starts are refined by damped
    Newton steps in w. For outputs that the loss couples (all but ``"square"``) a search in all w jointly follows.
    Separating w are those of largest margin, by least squares with signs, for the `restarts` distinct inputs with the
    largest |group residual|^2 / group size; scaled until exp underflows they give the limit w -> infinity exactly,
    which for one output and ``"square"`` is L - max (group residual)^2 / (2 m group size) over exposed points.

    Args:
        F: outputs of the model (m, c), or (m,) for one output.
        X: inputs (m, ...), or the features that the neuron sees.
        y: targets, one for each example.
        loss: of one example, convex in its outputs: a function of (outputs (c,), target), or a name.
        restarts: Gaussian starts for each output, and the most points that are tried to separate.
        key: of the Gaussian starts; None for ``jax.random.key(0)``.

    Returns:
        an `EscapeReport`. Its value is the loss at its c and W, so an upper bound of E, and it is at most L; where no
        drop above rounding (1e-14 of L) is found, c and W are zero.

    Raises:
        ShapeError, DtypeError, ValueError, TypeError: arguments that do not fit, or are not finite.
        NonFiniteError: the loss at F is NaN or infinite.

    Cost: some thousand evaluations of the loss and its second derivatives, and `restarts` small least-squares
    problems. The program is compiled once for each loss and shape.

    Example:
        >>> report = escape_value([1.0, 1.0, 1.0], [[-1.0], [0.0], [1.0]], [1.0, 0.0, 2.0], "square")
        >>> round(report.loss, 8), round(report.value, 8), report.at_infinity
        (0.33333333, 0.16666667, True)
    """
    outputs, inputs, targets = _checked(F, X, y, loss)
    checks.count(restarts, "restarts", "escape_value")
    own = as_loss(loss)
    start = float(call_in_float64(mean_loss, own, outputs, targets))
    if not np.isfinite(start):
        raise NonFiniteError(f"the loss at `F` is {start}; scale the outputs or targets.")
    deviation = inputs.std(axis=0)
    unit = np.where(deviation > 0, deviation, 1.0)
    places, axes = _coordinates((inputs - inputs.mean(axis=0)) / unit)
    data = Data(places, targets, np.float64(_NOISE * abs(start)))
    starts = _starts(data.X, _urgency(own, outputs, inputs, targets), restarts, key)
    search = _one_by_one if loss == "square" or outputs.shape[1] == 1 else _coupled
    c, w = search(own, outputs, data, starts)
    return _report(own, outputs, inputs, targets, c, w @ axes / unit, start, sum(map(len, starts)))


def _coordinates(centered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The inputs in the space that they span, (m, r), and its orthonormal axes (r, d); nothing else enters w . x."""
    _, values, axes = np.linalg.svd(centered, full_matrices=False)
    rank = max(1, int(np.sum(values > 1e-13 * values[0])))
    if rank == centered.shape[1]:
        return centered, np.eye(rank)
    return centered @ axes[:rank].T, axes[:rank]


def _checked(F: Any, X: Any, y: Any, loss: ExampleLoss) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # noqa: N803
    outputs, inputs = outputs_of(F), numbers(X, "X")
    if inputs.ndim == 0 or len(outputs) != len(inputs):
        raise ShapeError(f"`F` holds {len(outputs)} examples and `X` has shape {inputs.shape}; give one row for each.")
    return outputs, inputs.reshape(len(inputs), -1), targets_like(y, outputs, loss)


def _report(
    loss: Loss,
    outputs: np.ndarray,
    inputs: np.ndarray,
    y: np.ndarray,
    c: np.ndarray,
    W: np.ndarray,  # noqa: N803
    start: float,
    num_starts: int,
) -> EscapeReport:
    shift = (inputs @ W.T).max(axis=0)
    value = float(call_in_float64(mean_loss, loss, outputs + c[None] * np.exp(inputs @ W.T - shift[None]), y))
    if not value < start:
        c, W, shift, value = np.zeros_like(c), np.zeros_like(W), np.zeros_like(shift), start  # noqa: N806
    spread = float(np.linalg.norm(inputs - inputs.mean(axis=0), axis=1).max())
    return EscapeReport(
        value=value,
        loss=start,
        drop=start - value,
        at_infinity=bool((np.linalg.norm(W, axis=1) * spread > _AT_INFINITY).any()),
        c=c,
        W=W,
        shift=shift,
        spread=spread,
        num_starts=num_starts,
    )


def _urgency(loss: Loss, outputs: np.ndarray, inputs: np.ndarray, y: np.ndarray) -> np.ndarray:
    """What isolating an example's group would win, |group residual|^2 / size, at the first example of each; else -1."""
    labels = groups_of(inputs)
    sums = np.zeros((labels.max() + 1, outputs.shape[1]))
    np.add.at(sums, labels, output_gradients(loss, outputs, y))
    gain = np.full(len(inputs), -1.0)
    gain[np.unique(labels, return_index=True)[1]] = (sums**2).sum(axis=1) / np.bincount(labels)
    return gain


def _starts(X: np.ndarray, gain: np.ndarray, restarts: int, key: jax.Array | None) -> list[np.ndarray]:  # noqa: N803
    """Families of directions w (n, d), one for each scale; their lengths depend on m and `restarts` alone."""
    draws = named_generator(key, "escape_value")
    each = -(-restarts // len(_SCALES))
    gaussian = [scale * draws.normal(size=(each, X.shape[1])) for scale in _SCALES]
    normals = np.zeros((min(restarts, len(X)), X.shape[1]))
    places = np.flatnonzero(gain >= 0)
    distinct = X[places]
    order = np.argsort(-gain[places], kind="stable")[: len(normals)]
    found = [normal for i in order if (normal := separating(distinct, int(i))) is not None]
    normals[: len(found)] = np.reshape(found, (-1, X.shape[1]))
    return [np.zeros((1, X.shape[1])), *gaussian, *(gap * normals for gap in _GAPS)]


def separating(points: np.ndarray, i: int) -> np.ndarray | None:
    """The shortest u with u . (points[i] - points[j]) >= 1 for all other j; None if points[i] is not exposed.

    Lawson and Hanson's reduction of least distance with inequalities to least squares with signs.
    """
    apart = points[i] - np.delete(points, i, axis=0)
    if len(apart) == 0:
        return None
    rows, goal = np.vstack([apart.T, np.ones(len(apart))]), np.append(np.zeros(points.shape[1]), 1.0)
    try:
        weights, distance = nnls(rows, goal)
    except RuntimeError:  # its iterations ended
        return None
    rest = rows @ weights - goal
    if distance < 1e-7 or rest[-1] == 0:
        return None
    normal = -rest[:-1] / rest[-1]
    gap = float((apart @ normal).min())
    return normal / gap if gap > 0 else None


def _one_by_one(
    loss: Loss, outputs: np.ndarray, data: Data, families: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Amplitudes (c,) and directions (c, d) of a loss that is a sum over outputs and targets (m, c)."""
    found = [
        least(
            loss,
            outputs[:, k : k + 1],
            np.array([0]),
            data._replace(y=data.y[:, k : k + 1] if outputs.shape[1] > 1 else data.y),
            families,
        )
        for k in range(outputs.shape[1])
    ]
    return np.concatenate([c for _, c, _ in found]), np.concatenate([w for _, _, w in found])


def _coupled(loss: Loss, outputs: np.ndarray, data: Data, families: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Amplitudes (c,) and directions (c, d): one output after the other, then jointly from there and other starts."""
    base, w = outputs.copy(), np.zeros((outputs.shape[1], data.X.shape[1]))
    for k in range(len(w)):
        _, c, w[k : k + 1] = least(loss, base, np.array([k]), data, families)
        exponents = data.X @ w[k]
        base[:, k] += c[0] * np.exp(exponents - exponents.max())
    joint = [np.repeat(family[: -(-len(family) // 4), None], len(w), axis=1) for family in families]
    return least(loss, outputs, np.arange(len(w)), data, [w[None], *joint])[1:]
