"""Small problems on which the critical points are known: bad minima, degenerate saddles, and no minimum at all.

Each is a function of parameters, data and a loss of one example, whose objective is the mean over examples. Everything
is in float64. What is known at a point is in its facts:

    loss            the objective there
    critical        whether the gradient is 0
    gradient_square |grad|^2, where it is not
    eigenvalues     of the Hessian, all of them, ascending
    index           how many of them are negative
    lambda_min, lambda_max, rank    the smallest and largest of them, and how many are not 0
    minimum         "global", "local" (and not global), or "none": what kind of minimum the point is
    gap             objective minus the optimal value of the convex problem on the perturbable gradient basis
    escape_value    infimum of the objective once an exponential neuron is added and nothing else moves
    attained        False where the objective has no minimum
    linear, joint   smallest values of functions linear in the inputs, and in inputs and features
"""

from functools import cache
from itertools import combinations
from typing import Any

import numpy as np

from widescape.core import checks
from widescape.landscape.minima.losses import as_loss
from widescape.landscape.problem import (
    Problem,
    affine,
    chain,
    cubic,
    decayed_error,
    fixed_array,
    known_points,
    linear_network,
    logits,
    output_itself,
    quartic_value,
    relu_network,
    residual_block,
    squared_error,
    trap_with_neuron,
)

_TRAP = {"w": (1.0, -1.0), "beta": (2.0, 2.0), "v": (0.75, 0.25), "c": -1.0}
_GLOBAL = {"w": (1.0, -1.0), "beta": (-0.5, -0.5), "v": (4.0, 2.0), "c": 0.0}


@cache
def scalar_cubic() -> Problem:
    """One parameter, f = w^3/3 - w with target -2, whose gradient basis vanishes at both bad critical points.

    Under the squared error w = 1 is a bad local minimum of value 16/9 and curvature 16/3, and w = -1 a maximum of value
    64/9 and curvature -32/3. Both are critical because f' = 0 there, so the outputs lie outside of the (empty) basis.
    """
    root = float(min(np.roots([1.0, 0.0, -3.0, 6.0]).real))
    return Problem(
        "scalar_cubic()",
        cubic,
        squared_error,
        fixed_array([[1.0]]),
        fixed_array([[-2.0]]),
        known_points(
            minimum=([1.0], _critical(16 / 9, eigenvalues=(16 / 3,), minimum="local")),
            maximum=([-1.0], _critical(64 / 9, eigenvalues=(-32 / 3,), minimum="none")),
            optimum=([root], _critical(0.0, index=0, minimum="global")),
        ),
    )


@cache
def dead_region() -> Problem:
    """Two ReLU units that are zero on all three data: a bad minimum of value 2/3, flat in six of seven directions.

    f(x) = sum_j v_j relu(w_j x + beta_j) + c on x = (-1, 0, 1), y = (1, 0, 2), with the mean squared error.
    """
    dead = {"w": (1.0, -1.0), "beta": (-3.0, -3.0), "v": (1.0, 1.0), "c": 1.0}
    spectrum = (0.0,) * 6 + (2.0,)
    facts = _critical(2 / 3, eigenvalues=spectrum, rank=1, minimum="local", gap=0.0, escape_value=1 / 3)
    return _three_points(
        "dead_region()", dead=(dead, facts), optimum=(_GLOBAL, _critical(0.0, index=0, minimum="global"))
    )


@cache
def affine_trap() -> Problem:
    """Two ReLU units that are affine on all three data, at the best affine fit: a bad minimum of value 1/2.

    f(x) = sum_j v_j relu(w_j x + beta_j) + c on x = (-1, 0, 1), y = (1, 0, 2), with the mean squared error; the
    residuals are (-1/2, 1, -1/2). The value 0 is reached with the kinks between the data. An exponential neuron added
    brings the objective down to 5/12, only as its weight diverges.

    Example:
        >>> problem = affine_trap()
        >>> problem.value("trap"), problem.value("optimum"), problem.facts("trap")["rank"]
        (0.5, 0.0, 2)
    """
    facts = _critical(
        0.5,
        eigenvalues=(0.0,) * 5 + (3.5, 19.25),
        rank=2,
        minimum="local",
        gap=0.0,
        escape_value=5 / 12,
    )
    return _three_points(
        "affine_trap()", trap=(_TRAP, facts), optimum=(_GLOBAL, _critical(0.0, index=0, minimum="global"))
    )


def linear_chain(depth: int = 3) -> Problem:
    """(w_1 ... w_depth - 1)^2: at the origin a saddle without negative curvature where the depth is at least three.

    At depth 2 the Hessian there has eigenvalues -2 and 2, at greater depth it is zero. The gap is 1 at all depths.
    The point ``"optimum"`` is w = (1, ..., 1), where the only eigenvalue that is not 0 is 2 depth.

    Args:
        depth: number of factors, at least 2.
    """
    checks.count(depth, "depth", "linear_chain", minimum=2)
    return _linear_chain(int(depth))


@cache
def _linear_chain(depth: int) -> Problem:
    at_zero = (-2.0, 2.0) if depth == 2 else (0.0,) * depth
    top = (0.0,) * (depth - 1) + (2.0 * depth,)
    return Problem(
        f"linear_chain(depth={depth})",
        chain,
        squared_error,
        fixed_array([[1.0]]),
        fixed_array([[1.0]]),
        known_points(
            origin=(np.zeros(depth), _critical(1.0, eigenvalues=at_zero, minimum="none", gap=1.0)),
            optimum=(np.ones(depth), _critical(0.0, eigenvalues=top, minimum="global", gap=0.0)),
        ),
    )


@cache
def linear_product() -> Problem:
    """|W_2 W_1 - diag(3, 2, 1)|^2 / 2 with inner width 2: balanced critical points, one for each set of directions.

    At the set S the product is the diagonal matrix restricted to S, and the value is half the sum of the other squares.
    The saddles {1,3} and {2,3} have full rank, so that only the Hessian sees them: their gap is 0. The others but the
    optimum {1,2} have a gap as well. As a mean over three examples, the inputs and targets are multiplied by sqrt(3).
    """
    known: dict[tuple[int, ...], tuple[float, int, float]] = {
        (): (7.0, 6, 7.0),
        (1,): (2.5, 2, 2.5),
        (2,): (5.0, 3, 5.0),
        (3,): (6.5, 4, 6.5),
        (1, 2): (0.5, 0, 0.0),
        (1, 3): (2.0, 1, 0.0),
        (2, 3): (4.5, 2, 0.0),
    }
    smallest: dict[tuple[int, ...], dict[str, float]] = {(1, 3): {"lambda_min": -1.0}, (2, 3): {"lambda_min": -2.0}}
    points = {}
    for kept, (loss, index, gap) in known.items():
        kind = "global" if kept == (1, 2) else "none"
        facts = _critical(loss, index=index, gap=gap, minimum=kind, **smallest.get(kept, {}))
        first = _selection(kept, 2, 3) * np.sqrt([3.0, 2.0, 1.0])
        points[_set_name(kept)] = ({"W1": first, "W2": first.T}, facts)
    inputs, targets = np.sqrt(3.0) * np.eye(3), np.sqrt(3.0) * np.diag([3.0, 2.0, 1.0])
    half = as_loss("square")
    return Problem(
        "linear_product()", linear_network, half, fixed_array(inputs), fixed_array(targets), known_points(**points)
    )


@cache
def linear_regression() -> Problem:
    """An affine fit w_0 + w_1 x to x = (0, 1/2, 1), y = (0, 2, 5), mean squared error: one minimum, of value 1/18.

    The residuals there, (-1, 2, -1)/6, are orthogonal to every affine function and not zero: the problem is convex,
    and still no local minimum is left when an exponential neuron is added.
    """
    return Problem(
        "linear_regression()",
        affine,
        squared_error,
        fixed_array([[0.0], [0.5], [1.0]]),
        fixed_array([[0.0], [2.0], [5.0]]),
        known_points(minimum=([-1 / 6, 5.0], _critical(1 / 18, index=0, rank=2, minimum="global", gap=0.0))),
    )


@cache
def decayed_affine_trap() -> Problem:
    """The trap of `affine_trap` with an exponential neuron whose weights decay: the decay restores the bad minimum.

    The objective is the mean squared error of f(x) + a exp(w x + b), plus 0.01 a^2 + 0.001 (w^2 + b^2). All is one
    example whose six outputs are the three fits and a, b, w; its loss is the objective, and convex in them. Parameters
    are those of the trap under ``"theta"``, and ``"a"`` (1,), ``"b"`` (1,), ``"W"`` (1, 1).

    At ``"trap"`` a, b and w are zero; no decrease was found within radius 0.01. The basin is small: ``"lower"``, with
    a = 0.02, w = 0.03, c = -1.02, lies 8.603e-7 lower.
    """
    still = {"a": [0.0], "b": [0.0], "W": [[0.0]]}
    moved = {"a": [0.02], "b": [0.0], "W": [[0.03]]}
    return Problem(
        "decayed_affine_trap()",
        trap_with_neuron,
        decayed_error,
        fixed_array([[-1.0, 0.0, 1.0]]),
        fixed_array([[1.0, 0.0, 2.0]]),
        known_points(
            trap=({"theta": _TRAP, **still}, _critical(0.5, index=0, minimum="local", gap=0.0)),
            lower=({"theta": {**_TRAP, "c": -1.02}, **moved}, {"loss": 0.5 - 8.603e-7, "critical": False}),
        ),
    )


@cache
def quartic() -> Problem:
    """x^4/4 - 3 x^2 + 9 x + 0.9 y^4 + 5 y^2 + 40: one minimum, and two points where finders of zeros are trapped.

    The gradient at (sqrt(2), 0) and (-sqrt(2), 0) is not zero and lies in the kernel of the Hessian, diag(0, 10). The
    minimum is (-3, 0), of value 6.25. The one output is the value itself, and so is its loss. Parameters (2,).
    """
    root = np.sqrt(2.0)
    flat = {"critical": False, "eigenvalues": (0.0, 10.0), "index": 0, "minimum": "none"}
    right = {"loss": 35.0 + 9 * root, "gradient_square": (9 - 4 * root) ** 2, **flat}
    left = {"loss": 35.0 - 9 * root, "gradient_square": (9 + 4 * root) ** 2, **flat}
    return Problem(
        "quartic()",
        quartic_value,
        output_itself,
        fixed_array([[0.0]]),
        fixed_array([[0.0]]),
        known_points(
            minimum=([-3.0, 0.0], _critical(6.25, eigenvalues=(10.0, 21.0), minimum="global")),
            flat_right=([root, 0.0], right),
            flat_left=([-root, 0.0], left),
        ),
    )


def free_logits(hard: bool = False) -> Problem:
    """Three free logits for one example under cross entropy: a minimum that is attained, or none at all.

    The soft target (0.9, 0.05, 0.05) is met at its logarithms, at the entropy 0.39439769. The hard target, class 0, has
    the infimum 0, which the logits approach only as they diverge. ``"start"`` is zero logits, of value log 3.

    Args:
        hard: a label in place of a distribution.

    Raises:
        TypeError: neither True nor False.
    """
    if not isinstance(hard, bool | np.bool_):
        raise TypeError(f"`hard` is {hard!r}; it must be True or False.")
    return _free_logits(bool(hard))


@cache
def _free_logits(hard: bool) -> Problem:
    target = np.array([0.9, 0.05, 0.05])
    start = {"loss": float(np.log(3.0)), "critical": False, "attained": not hard}
    entropy = float(-np.sum(target * np.log(target)))
    facts = _critical(entropy, eigenvalues=(0.0, 0.05, 0.135), minimum="global")
    soft: dict[str, Any] = {} if hard else {"minimum": (np.log(target), {**facts, "attained": True})}
    return Problem(
        f"free_logits(hard={hard})",
        logits,
        as_loss("cross_entropy"),
        fixed_array([[0.0]]),
        np.zeros(1, np.int32) if hard else fixed_array(target[None]),
        known_points(**soft, start=(np.zeros(3), start)),
    )


def linear_autoencoder(dim: int = 6, hidden: int = 2) -> Problem:
    """tr(E C E^T) / dim with E = W_2 W_1 - 1 and C = diag(1, ..., dim): every critical value and index in closed form.

    A balanced critical point keeps a set S of at most `hidden` directions and drops the others. Its value is
    sum_{i not in S} i / dim and its index the number of pairs of a kept direction and a dropped larger one, plus
    (hidden - |S|)(dim - |S|). The mean is over the inputs sqrt(i) e_i, whose targets they are themselves. Parameters
    ``"W1"`` (hidden, dim) and ``"W2"`` (dim, hidden); points are named by their sets, as ``"{5,6}"``.

    Args:
        dim: number of inputs.
        hidden: inner width, less than `dim`. There is one point for each set: 22 for 6 and 2.

    Raises:
        TypeError, ValueError: no integers, or a width that is not less than `dim`.

    Example:
        >>> problem = linear_autoencoder()
        >>> len(problem.points), problem.facts("{}")["index"], problem.facts("{5,6}")["index"]
        (22, 12, 0)
    """
    checks.count(dim, "dim", "linear_autoencoder", minimum=2)
    checks.count(hidden, "hidden", "linear_autoencoder")
    if hidden >= dim:
        raise ValueError(f"`hidden` is {hidden}, but `dim` is {dim}; choose 1 <= hidden <= {dim - 1}.")
    return _linear_autoencoder(int(dim), int(hidden))


@cache
def _linear_autoencoder(dim: int, hidden: int) -> Problem:
    data = np.diag(np.sqrt(np.arange(1.0, dim + 1)))
    points = {}
    for size in range(hidden + 1):
        for kept in combinations(range(1, dim + 1), size):
            dropped = sorted(set(range(1, dim + 1)) - set(kept))
            swaps = sum(j > i for i in kept for j in dropped)
            index = swaps + (hidden - size) * (dim - size)
            facts = _critical(sum(dropped) / dim, index=index, minimum="none" if index else "global")
            first = _selection(kept, hidden, dim)
            points[_set_name(kept)] = ({"W1": first, "W2": first.T}, facts)
    return Problem(
        f"linear_autoencoder(dim={dim}, hidden={hidden})",
        linear_network,
        squared_error,
        fixed_array(data),
        fixed_array(data),
        known_points(**points),
    )


def relu_teacher(seed: int = 0) -> Problem:
    """Regression on three ReLU units: 24 Gaussian inputs in the plane, standardized targets, a student of equal size.

    f(x) = sum_j v_j relu(w_j . x + beta_j) + c, with the mean squared error. The teacher's parameters are Gaussian; its
    own point, ``"teacher"``, has value 0, and most starts end elsewhere. About one seed in four makes a teacher that is
    easy to fit.

    Args:
        seed: of the teacher and its data, not negative. `Problem.starts` draws starts.
    """
    checks.count(seed, "seed", "relu_teacher", minimum=0)
    return _relu_teacher(int(seed))


@cache
def _relu_teacher(seed: int) -> Problem:
    rng = np.random.default_rng([seed, 24])
    inputs = rng.standard_normal((24, 2))
    teacher = {"w": rng.standard_normal((3, 2)), "beta": rng.standard_normal(3), "v": rng.standard_normal(3)}
    raw = np.maximum(inputs @ teacher["w"].T + teacher["beta"], 0.0) @ teacher["v"]
    own = {**teacher, "v": teacher["v"] / raw.std(), "c": -raw.mean() / raw.std()}
    return Problem(
        f"relu_teacher(seed={seed})",
        relu_network,
        squared_error,
        fixed_array(inputs),
        fixed_array(((raw - raw.mean()) / raw.std())[:, None]),
        known_points(teacher=(own, _critical(0.0, index=0, minimum="global"))),
    )


@cache
def degenerate_resnet() -> Problem:
    """A residual block W (x + R z(x)) at a critical point with W = 0, worse than the best linear function of x.

    z = tanh(U x), six examples, mean squared error, R = -(sum y_i x_i)(sum y_i z_i)^T / |sum y_i z_i|^2. The value is
    the mean of y^2, 1.7083333, where linear functions reach 1.1231231 and functions linear in x and z 0.1857689; the
    smallest eigenvalue of the Hessian is -1.1420791. Parameters ``"W"`` (1, 2), ``"R"`` (2, 3) and ``"U"`` (3, 2).
    """
    inputs = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 1.0], [2.0, -1.0], [0.5, 0.5], [-1.0, -1.0]])
    targets = np.array([1.0, -1.0, 2.0, 0.0, 0.5, -2.0])
    weights = np.array([[1.0, -1.0], [0.5, 1.0], [2.0, 0.3]])
    z = np.tanh(inputs @ weights.T)
    along = targets @ z
    residual = -np.outer(targets @ inputs, along) / (along @ along)
    facts = _critical(41 / 24, index=2, lambda_min=-1.1420791, minimum="none", linear=1.1231231, joint=0.1857689)
    return Problem(
        "degenerate_resnet()",
        residual_block,
        squared_error,
        fixed_array(inputs),
        fixed_array(targets[:, None]),
        known_points(degenerate=({"W": np.zeros((1, 2)), "R": residual, "U": weights}, facts)),
    )


def _critical(loss: float, **facts: Any) -> dict[str, Any]:
    """Facts of a critical point; a list of eigenvalues brings the index with it."""
    known = {"loss": float(loss), "critical": True, **facts}
    if "eigenvalues" in facts:
        known.setdefault("index", int(sum(value < -1e-12 for value in facts["eigenvalues"])))
    return known


def _three_points(name: str, **points: tuple[Any, dict[str, Any]]) -> Problem:
    """Two ReLU units on the three data that the examples share."""
    inputs, targets = fixed_array([[-1.0], [0.0], [1.0]]), fixed_array([[1.0], [0.0], [2.0]])
    return Problem(name, relu_network, squared_error, inputs, targets, known_points(**points))


def _selection(kept: tuple[int, ...], rows: int, columns: int) -> np.ndarray:
    """The matrix whose row k has a 1 at the k-th kept direction (from 1), and zero rows below."""
    matrix = np.zeros((rows, columns))
    matrix[range(len(kept)), [i - 1 for i in kept]] = 1.0
    return matrix


def _set_name(kept: tuple[int, ...]) -> str:
    return "{" + ",".join(map(str, kept)) + "}"
