"""Two-layer ReLU networks whose first layer trains: descent, watched against the limit Gram matrix."""

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import linalg

from widescape.core import checks
from widescape.core.blas import threads_for
from widescape.core.chart import Chart, Marker, Series
from widescape.core.errors import NonFiniteError, ShapeError
from widescape.core.evidence import EXACT, Evidence
from widescape.core.precision import call_in_float64
from widescape.core.progress import track
from widescape.core.random import named_key
from widescape.core.result import Result, quantity
from widescape.core.status import Status
from widescape.landscape.relu_grams import active_units, gram_of_pattern, inputs_of, relu_gram

_ROUNDED = Evidence("exact", note="float64 eigenvalues, off by at most about eps lambda_max")


@dataclass(frozen=True)
class TwoLayerReLU:
    """The two-layer ReLU network f(x) = m^-1/2 sum_r a_r relu(w_r.x), in which only w trains.

    `apply` is a function of parameters and inputs, as `System` and `empirical_ntk` take them. The derivative of
    relu at 0 is 0.

    Args:
        trainable_output: let a train too. Otherwise `apply` stops its gradient: it stays among the parameters,
            with derivative 0.

    Example:
        >>> net = TwoLayerReLU()
        >>> params = {"w": np.array([[1.0, 0.0], [0.0, 1.0]]), "a": np.array([1.0, -1.0])}
        >>> (net.apply(params, np.array([[3.0, 1.0], [1.0, -1.0]])) * 2**0.5).round(5).tolist()
        [2.0, 1.0]
    """

    trainable_output: bool = False

    def init(self, key: jax.Array | None, d: int, m: int) -> dict[str, np.ndarray]:
        """Parameters in float64: w from N(0, 1), (m, d), and signs a, +1 or -1 with equal chance, (m,).

        Args:
            key: draws both; `jax.random.key(0)` if None.
            d: features of an input.
            m: neurons.

        Raises:
            TypeError, ValueError: `d` or `m` is no positive integer.
        """
        checks.count(d, "d", "TwoLayerReLU")
        checks.count(m, "m", "TwoLayerReLU")
        root = jax.random.key(0) if key is None else key
        with jax.enable_x64(True):
            weights = jax.random.normal(named_key(root, "w"), (m, d), dtype=jnp.float64)
            signs = jax.random.rademacher(named_key(root, "a"), (m,), dtype=jnp.float64)
        return {"w": np.array(weights), "a": np.array(signs)}

    def apply(self, params: Any, X: Any) -> jax.Array:  # noqa: N803
        """Outputs (n,) at inputs (n, d). Cost: 2 n m d flops."""
        signs = params["a"] if self.trainable_output else jax.lax.stop_gradient(params["a"])
        hidden = jax.nn.relu(jnp.matmul(X, params["w"].T, precision="highest"))
        return jnp.matmul(hidden, signs, precision="highest") / params["w"].shape[0] ** 0.5


class TwoLayerStatus(Status):
    """How descent on a two-layer network ended."""

    OK = "All steps were taken."
    DIVERGED = "Loss or weights left the range of doubles; the history ends before they did. Lower the learning rate."


class TwoLayerRun(Result):
    """Descent on the first layer of a two-layer ReLU network, against its infinite-width limit.

    `loss` and `predicted_loss` have an entry for each step, the fields (R,) one for each of the recorded `steps`.
    """

    source = "du2018gradient, section 5"
    status: TwoLayerStatus = quantity(EXACT, "how descent ended")
    lr: float = quantity(EXACT, "learning rate, of the loss that sums over examples")
    loss: np.ndarray = quantity(EXACT, "L = sum_i (f(x_i) - y_i)^2 / 2 after 0 ... T steps, (T + 1,)")
    predicted_loss: np.ndarray = quantity(
        EXACT, "the same for the kernel frozen at H-infinity: sum_i (u_i.r_0)^2 (1 - lr lambda_i)^{2t} / 2, (T + 1,)"
    )
    steps: np.ndarray = quantity(EXACT, "recorded steps (R,)")
    flips: np.ndarray = quantity(EXACT, "share of the n m activations 1{w_r.x_i > 0} that differ from step 0, (R,)")
    max_move: np.ndarray = quantity(EXACT, "max_r |w_r - w_r(0)|_2 (R,)")
    lam_min: np.ndarray = quantity(_ROUNDED, "smallest eigenvalue of the empirical Gram matrix (R,)")
    lam_min_limit: float = quantity(_ROUNDED, "smallest eigenvalue of H-infinity")
    lam_max_limit: float = quantity(_ROUNDED, "largest eigenvalue of H-infinity")
    w: np.ndarray = quantity(EXACT, "weights of the first layer at the last recorded step (m, d)")
    a: np.ndarray = quantity(EXACT, "signs of the output layer, which do not train, (m,)")

    def charts(self) -> tuple[Chart, ...]:
        """Measured and predicted loss; flips and moves; the smallest eigenvalue."""
        steps = np.arange(len(self.loss))
        curves = {"measured": self.loss, "kernel frozen at its limit": self.predicted_loss}
        shown = {label: np.isfinite(y) & (y > 0) for label, y in curves.items()}
        return (
            Chart(
                name="loss",
                title="Loss while the first layer trains",
                x_label="step",
                y_label="loss",
                series=tuple(Series(steps[k], curves[label][k], label) for label, k in shown.items()),
                y_scale="log",
                caption="Half the sum of squared residuals. Losses of 0, and beyond the largest double, are left out.",
            ),
            Chart(
                name="movement",
                title="Activations that changed, and the farthest move of a neuron",
                x_label="step",
                y_label="share; distance",
                series=(
                    Series(self.steps, self.flips, "share of changed activations"),
                    Series(self.steps, self.max_move, "largest |w_r - w_r(0)|"),
                ),
                caption=f"{len(self.w)} neurons.",
            ),
            Chart(
                name="eigenvalue",
                title="Smallest eigenvalue of the Gram matrix",
                x_label="step",
                y_label="eigenvalue",
                series=(Series(self.steps, self.lam_min, "of the network"),),
                markers=(Marker(self.lam_min_limit, "of its limit"),),
                caption="Of the first layer's Gram matrix on the training inputs.",
            ),
        )


def train_two_layer(
    X: Any,  # noqa: N803
    y: Any,
    m: int,
    lr: float | None = None,
    steps: int = 100,
    key: jax.Array | None = None,
    *,
    record_every: int = 10,
    progress: bool | None = None,
) -> TwoLayerRun:
    """Train the first layer of a two-layer ReLU network by full-batch gradient descent, and watch its Gram matrix.

    f(x) = m^-1/2 sum_r a_r relu(w_r.x) from ``TwoLayerReLU().init(key, d, m)``; w <- w - lr dL/dw with
    L = sum_i (f(x_i) - y_i)^2 / 2. Where the Gram matrix stays at H-infinity, the residual is multiplied by
    I - lr H-infinity in each step.

    Args:
        X: inputs (n, d), floating point, no row 0; the theorems assume unit rows.
        y: targets (n,), floating point.
        m: neurons.
        lr: the learning rate; None for 1 / lambda_max(H-infinity).
        steps: how many to take.
        key: draws the network; `jax.random.key(0)` if None.
        record_every: steps between records of all but the loss; the first and the last step are recorded too.
        progress: show a progress bar; None shows it on a terminal.

    Returns:
        a `TwoLayerRun`, in float64. A run whose loss or weights leave the range of doubles ends with status DIVERGED.
        Descent pins some pre-activations to 0; `flips` counts them by the sign of what rounding leaves of them.

    Raises:
        ShapeError, DtypeError, TypeError, ValueError: arguments that do not fit; a row of `X` is zero.
        NonFiniteError: outputs at the start, or squared lengths, leave the range of doubles.

    Cost: 4 n m d flops per step; 2 n m d + 2 n^2 m + O(n^3) per record. Memory for a few arrays (n, m) and (m, d).

    Example:
        >>> run = train_two_layer(np.eye(3), np.ones(3), 2000, steps=40)
        >>> run.status.name, bool(run.loss[-1] < 1e-9 * run.loss[0]), round(run.lam_min_limit, 6)
        ('OK', True, 0.5)
    """
    inputs = inputs_of(X)
    targets = checks.real_array(y, "y").astype(np.float64)
    if targets.shape != inputs.shape[:1]:
        raise ShapeError(f"`y` has shape {targets.shape}; give one target for each of {len(inputs)} rows of `X`.")
    checks.all_finite(targets, "y")
    checks.count(m, "m", "train_two_layer")
    checks.count(steps, "steps", "train_two_layer")
    checks.count(record_every, "record_every", "train_two_layer")
    with threads_for(len(inputs)):
        values, vectors = linalg.eigh(relu_gram(inputs))
    rate = 1 / float(values[-1]) if lr is None else checks.number(lr, "lr", "train_two_layer")
    checks.positive(rate, "lr", "train_two_layer")
    params = TwoLayerReLU().init(key, inputs.shape[1], m)
    residual = call_in_float64(_outputs, params["w"], params["a"], inputs) - targets
    with np.errstate(over="ignore"):
        loss_at_start = residual @ residual / 2
    if not np.isfinite(loss_at_start):
        raise NonFiniteError("the loss at the start is beyond the largest double; scale `X` and `y` down.")
    grid = [*range(0, steps, record_every), steps]
    history = _descend(params, inputs, targets, rate, grid, progress)
    return TwoLayerRun(
        lr=rate,
        predicted_loss=_predicted(values, vectors.T @ residual, rate, len(history["loss"])),
        lam_min_limit=float(values[0]),
        lam_max_limit=float(values[-1]),
        a=params["a"],
        **history,
    )


def _outputs(w: Any, a: Any, inputs: Any) -> jax.Array:
    return TwoLayerReLU().apply({"w": w, "a": a}, inputs)


@partial(jax.jit, static_argnums=0)
def _advance(count: int, moved: Any, params: Any, inputs: Any, targets: Any, rate: Any) -> tuple[jax.Array, jax.Array]:
    """Moves w - w(0) after `count` more steps, and the loss before each of them and after the last, (count + 1,).

    Moves are carried in place of weights: late steps are shorter than the rounding of a weight, and would be lost.
    """

    def loss(moved: jax.Array) -> jax.Array:
        return jnp.sum((_outputs(params["w"] + moved, params["a"], inputs) - targets) ** 2) / 2

    def step(moved: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        value, gradient = jax.value_and_grad(loss)(moved)
        return moved - rate * gradient, value

    moved, losses = jax.lax.scan(step, moved, length=count)
    return moved, jnp.append(losses, loss(moved))


def _descend(
    params: dict[str, np.ndarray],
    inputs: np.ndarray,
    targets: np.ndarray,
    rate: float,
    grid: list[int],
    show: bool | None,
) -> dict[str, Any]:
    """The history of a run, from one recorded step to the next."""
    moved, at_start = np.zeros_like(params["w"]), active_units(params["w"], inputs)
    records = [_measure(params["w"], moved, at_start, inputs)]
    losses, status = [np.empty(0)], TwoLayerStatus.OK
    for first, last in track(list(pairwise(grid)), "descending", show=show):
        after, loss = call_in_float64(_advance, last - first, moved, params, inputs, targets, rate)
        record = _measure(params["w"], after, at_start, inputs)
        finite = np.isfinite(loss)
        finite[-1] &= bool(np.isfinite(record).all())
        if not finite.all():
            losses.append(loss[: int(np.argmin(finite))])
            status = TwoLayerStatus.DIVERGED
            break
        moved = after
        records.append(record)
        losses.append(loss if last == grid[-1] else loss[:-1])
    flips, moves, smallest = np.array(records).T
    return {
        "status": status,
        "loss": np.concatenate(losses),
        "steps": np.array(grid[: len(records)]),
        "flips": flips,
        "max_move": moves,
        "lam_min": smallest,
        "w": params["w"] + moved,
    }


def _measure(
    start: np.ndarray, moved: np.ndarray, at_start: np.ndarray, inputs: np.ndarray
) -> tuple[float, float, float]:
    """Share of flipped activations, longest move of a neuron, smallest eigenvalue of the Gram matrix."""
    with np.errstate(over="ignore", invalid="ignore"):
        active = active_units(start + moved, inputs)
        farthest = np.linalg.norm(moved, axis=1).max()
    with threads_for(len(inputs)):
        smallest = linalg.eigvalsh(gram_of_pattern(active, inputs), subset_by_index=(0, 0))[0]
    return float(np.mean(active != at_start)), float(farthest), float(smallest)


def _predicted(values: np.ndarray, coefficients: np.ndarray, rate: float, count: int) -> np.ndarray:
    """Loss of descent with a frozen kernel; infinite where it exceeds the largest double."""
    moving = coefficients != 0
    with np.errstate(over="ignore"):
        factors = ((1 - rate * values[moving]) ** 2) ** np.arange(count)[:, None]
        curve: np.ndarray = factors @ coefficients[moving] ** 2 / 2
    return curve
