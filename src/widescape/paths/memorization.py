"""How wide a small network must be to memorize labels from given features."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import jax
import numpy as np

from widescape import arch
from widescape.core import checks
from widescape.core.chart import Chart, Marker, Series
from widescape.core.errors import ShapeError
from widescape.core.evidence import EXACT, Evidence, bound
from widescape.core.progress import track
from widescape.core.random import named_generator
from widescape.core.result import Result, quantity
from widescape.paths.annexes import he_uniform, trained
from widescape.paths.layered import Function, Layered
from widescape.paths.objective import Objective, as_objective

_BEST = Evidence("exact", note="of the best draw, in float64; longer training may do better")


class MemorizationProbe(Result):
    """What small networks of several widths reach when they are trained to fit labels from given features."""

    source = "nguyen2021connectivity"
    widths: np.ndarray = quantity(EXACT, "units of each hidden layer, in rising order (W,)")
    losses: np.ndarray = quantity(
        _BEST, "loss of the chosen draw: the one of least error, and among these of least loss (W,)"
    )
    errors: np.ndarray | None = quantity(_BEST, "share of wrong answers there (W,); None where targets are no labels")
    smallest: int | None = quantity(
        bound("upper", "of the least width that can fit, since training may miss a fit"),
        "the first width that fits all examples: no error, or for numbers a loss of at most tol; None for none",
    )
    parameters: np.ndarray = quantity(EXACT, "weights and biases of each network (W,)")
    num_examples: int = quantity(EXACT, "examples to fit")
    draws: int = quantity(EXACT, "networks of each width that were trained")

    def charts(self) -> tuple[Chart, ...]:
        """Errors, or losses where there are none, against the width."""
        kind, values = ("loss", self.losses) if self.errors is None else ("share of wrong answers", self.errors)
        markers = () if self.smallest is None else (Marker(float(self.smallest), "fits all", axis="x"),)
        return (
            Chart(
                name="memorization",
                title="What small networks memorize of the features",
                x_label="units of each hidden layer",
                y_label=kind,
                series=(Series(self.widths, values, "best draw", style="both"),),
                x_scale="log",
                markers=markers,
                caption=f"{self.num_examples:,} examples, {self.draws} networks of each width.",
            ),
        )


def memorization_probe(
    F: Any,  # noqa: N803  the features of the theorem
    y: Any,
    widths: Sequence[int],
    *,
    hidden_layers: int = 1,
    activation: Function | arch.Layer = jax.nn.relu,
    draws: int = 2,
    steps: int = 2000,
    lr: float = 1e-3,
    batch: int = 100,
    tol: float = 1e-3,
    stop_at_first: bool = False,
    key: jax.Array | None = None,
    progress: bool | None = None,
) -> MemorizationProbe:
    """The least width, of those given, at which a small network fits all labels from features.

    The harder half of the feature condition: an annex that reads features which are not linearly separable must
    memorize, and how wide it must be for that measures how good the features are.

    Args:
        F: features (n, ...); every example is made one vector and the whole is divided by its root mean square.
        y: labels (n,), fitted under cross entropy; or numbers (n, c), under the mean of half the squared distance.
        widths: units of each hidden layer that are tried.
        hidden_layers: of the small network.
        activation: of its hidden layers.
        draws: networks of each width.
        steps: of Adam.
        lr: of Adam.
        batch: examples of a step.
        tol: loss up to which numbers count as fitted.
        stop_at_first: try no width above the first that fits.
        key: of starts and batches; `jax.random.key(0)` if None.
        progress: show a progress bar; None shows it on a terminal.

    Returns:
        a `MemorizationProbe`. That a width fits is a fact; that it does not may be the fault of training.

    Raises:
        ShapeError, TypeError, ValueError: arguments that do not fit.

    Cost: for each width draws x steps x batch passes of the network forwards and backwards.

    Example:
        >>> corners = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
        >>> memorization_probe(corners, np.array([0, 1, 1, 0]), [1, 8], lr=1e-2).smallest
        8
    """
    for value, name in ((hidden_layers, "hidden_layers"), (draws, "draws"), (steps, "steps"), (batch, "batch")):
        checks.count(value, name, "memorization_probe")
    for number, name in ((lr, "lr"), (tol, "tol")):
        checks.positive(checks.number(number, name, "memorization_probe"), name, "memorization_probe")
    sizes = _checked_widths(widths)
    features = checks.real_array(F, "F")
    if features.ndim < 2 or not features.size:
        raise ShapeError(f"`F` has shape {features.shape}; give features (n, ...) of at least one example.")
    features = features.reshape(len(features), -1).astype(np.float64)
    checks.all_finite(features, "F")
    features = features / (np.sqrt(np.mean(features**2)) or 1.0)
    targets, labels = _targets(y, len(features))
    outputs = max(2, int(targets.max()) + 1) if labels else targets.shape[1]
    losses, errors, tried, counts = [], [], [], []
    for width in track(sizes, "widths", show=progress):
        net, objective = _network(features, targets, (width,) * hidden_layers, outputs, activation, labels)
        best = _best(net, objective, draws, steps, lr, batch, named_generator(key, "memorization", width))
        tried.append(width)
        losses.append(best[0])
        errors.append(best[1])
        counts.append(sum(leaf.size for leaf in jax.tree.leaves(net)))
        if stop_at_first and _fits(best, tol):
            break
    outcomes = list(zip(losses, errors, strict=True))
    fitting = [width for width, outcome in zip(tried, outcomes, strict=True) if _fits(outcome, tol)]
    return MemorizationProbe(
        widths=np.array(tried),
        losses=np.array(losses),
        errors=np.array(errors, np.float64) if labels else None,
        smallest=fitting[0] if fitting else None,
        parameters=np.array(counts),
        num_examples=len(features),
        draws=draws,
    )


def _network(
    features: np.ndarray,
    targets: np.ndarray,
    hidden: tuple[int, ...],
    outputs: int,
    activation: Function | arch.Layer,
    labels: bool,
) -> tuple[Layered, Objective]:
    widths = (features.shape[1], *hidden, outputs)
    pairs = [(np.zeros((a, b), np.float32), np.zeros(b, np.float32)) for a, b in pairwise(widths)]
    return as_objective(Layered(pairs, activation), features, targets, "cross_entropy" if labels else "square")


def _best(
    net: Layered,
    objective: Objective,
    draws: int,
    steps: int,
    lr: float,
    batch: int,
    generator: np.random.Generator,
) -> tuple[float, float | None]:
    """Loss and error of the draw of least error, and among these of least loss."""
    start = he_uniform(net, 0, net.widths[:-1], draws, generator)
    _, reached = trained(
        net, 0, start, None, objective, steps=steps, lr=lr, batch=batch, generator=generator, progress=False
    )
    if reached.errors is None:
        return float(reached.losses.min()), None
    k = int(np.lexsort((reached.losses, reached.errors))[0])
    return float(reached.losses[k]), float(reached.errors[k])


def _targets(y: Any, num_examples: int) -> tuple[np.ndarray, bool]:
    """Labels (n,), or numbers (n, c), and whether they are labels."""
    given = np.asarray(y)
    if given.ndim == 0 or len(given) != num_examples or not given.size:
        raise ShapeError(
            f"`y` has shape {given.shape}, but `F` has {num_examples} examples; give labels ({num_examples},) or "
            f"numbers ({num_examples}, c)."
        )
    if given.ndim > 1 or given.dtype.kind not in "iub":
        return checks.real_array(given, "y").reshape(num_examples, -1), False
    if given.min() < 0:
        raise ValueError(f"`y` holds the label {int(given.min())}; labels are counted from 0.")
    return given, True


def _fits(outcome: tuple[float, float | None], tol: float) -> bool:
    loss, error = outcome
    return loss <= tol if error is None else error == 0


def _checked_widths(widths: Sequence[int]) -> tuple[int, ...]:
    for width in widths:
        checks.count(width, "widths", "memorization_probe")
    if not len(widths):
        raise ShapeError("`widths` is empty; give the widths to try.")
    return tuple(sorted({int(width) for width in widths}))
