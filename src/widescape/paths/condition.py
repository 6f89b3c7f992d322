"""The feature condition: can half of a network's features, at every layer, be read by half-size networks?"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from widescape.core import checks
from widescape.core.chart import Chart, Marker, Series
from widescape.core.errors import NonFiniteError, ShapeError
from widescape.core.evidence import EXACT, Evidence, bound
from widescape.core.progress import track
from widescape.core.result import Result, quantity
from widescape.paths.annexes import Judged, judged, member, stacked
from widescape.paths.draws import AnnexMode, Draws
from widescape.paths.layered import Layered, Pairs
from widescape.paths.objective import Objective, TotalLoss, as_objective, outputs_of

Select = Literal["loss", "error"]
_REACHED = Evidence("exact", note="of the annexes at hand, in float64; better ones may exist")


class ConditionReport(Result):
    """Losses of annexes on frozen features of every layer, with the annexes, of which `connect` makes a path.

    Layers are counted as in the theorem: annex l reads the features F_l of layer l, where F_0 is the input, and has the
    L - l layers that follow.
    """

    source = "nguyen2021connectivity"
    subsets: tuple[np.ndarray, ...] = quantity(EXACT, "units I_l of each hidden layer that are read, l = 1 ... L-1")
    widths: tuple[int, ...] = quantity(EXACT, "hidden widths m_l of the annexes, l = 1 ... L-1")
    annexes: tuple[Any, ...] = quantity(EXACT, "pairs (weight, bias or None) of annex l, l = 0 ... L-1")
    losses: np.ndarray = quantity(_REACHED, "loss of annex l on all data, l = 0 ... L-1")
    errors: np.ndarray | None = quantity(_REACHED, "share of its wrong answers; None where targets are no labels")
    net_loss: float = quantity(EXACT, "loss of the network itself")
    net_error: float | None = quantity(EXACT, "share of its wrong answers")
    bound: float = quantity(
        bound("upper", "of the least epsilon for which the condition holds"),
        "max of the losses, the network's included",
    )
    draw_losses: tuple[np.ndarray, ...] = quantity(EXACT, "loss of every draw, for each layer (K,)")
    draw_errors: tuple[np.ndarray, ...] | None = quantity(EXACT, "share of wrong answers of every draw (K,)")

    def holds(self, eps: float) -> bool:
        """Whether the condition C(eps) was shown: every annex and the network itself have a loss of at most `eps`."""
        return self.bound <= checks.number(eps, "eps", "ConditionReport")

    def per_layer(self) -> list[dict[str, Any]]:
        """A row for each layer: how many draws, and the least and median loss and error among them."""
        rows = []
        for layer, losses in enumerate(self.draw_losses):
            row = {"layer": layer, "draws": len(losses), "least": losses.min(), "median": np.median(losses)}
            if self.draw_errors is not None:
                errors = self.draw_errors[layer]
                row |= {"least_error": errors.min(), "median_error": np.median(errors)}
            rows.append(row)
        return rows

    def charts(self) -> tuple[Chart, ...]:
        """Losses of the annexes against the layer that they read."""
        return (condition_chart({"annexes": self}, self.net_loss),)


def condition_chart(reports: dict[str, ConditionReport], net_loss: float) -> Chart:
    """Losses of annexes against the layer that they read, with the range of all draws, and the network's own."""
    series = [
        Series(
            np.arange(len(report.losses)),
            report.losses,
            name,
            low=np.array([one.min() for one in report.draw_losses]),
            high=np.array([one.max() for one in report.draw_losses]),
            style="both",
        )
        for name, report in reports.items()
    ]
    positive = net_loss > 0 and all((s.y > 0).all() and s.low is not None and (s.low > 0).all() for s in series)
    return Chart(
        name="feature-condition",
        title="Loss of networks on half of the features",
        x_label="layer whose features are read (0: the input)",
        y_label="loss",
        series=tuple(series),
        markers=(Marker(net_loss, "network"),),
        y_scale="log" if positive else "linear",
        caption="Points: the chosen draw. Bands: from the least to the greatest loss among the draws.",
    )


def feature_condition(
    net: Any,
    X: Any = None,  # noqa: N803  the data matrix of the theorem
    y: Any = None,
    loss: TotalLoss | None = None,
    *,
    keep: float = 0.5,
    widths: Sequence[int] | None = None,
    draws: int = 20,
    annex: AnnexMode = "train",
    annexes: Sequence[Any] | None = None,
    steps: int = 2000,
    lr: float = 1e-3,
    batch: int = 100,
    select: Select = "loss",
    subsets: Sequence[Any] | None = None,
    key: jax.Array | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> ConditionReport:
    """For which loss epsilon the feature condition holds: annexes trained on frozen features of every layer.

    For l = 0 ... L-1 an annex g_l with hidden widths m_{l+1} ... m_{L-1} reads the units I_l of layer l, and reaches
    the loss Phi_l. C(epsilon) says that Phi_l <= epsilon for all l. Two networks that meet it are joined by a path on
    which the loss stays below the greatest of all Phi_l and of their own losses (`connect`).

    Args:
        net: a `Layered`; or a `System` whose parameters are one, or whose function is a chain of `widescape.arch`.
        X: inputs (n, ...); None takes the system's.
        y: labels (n,) or numbers; None takes the system's.
        loss: maps (outputs (n, c), y) to one number, convex in the outputs; or ``"cross_entropy"`` or ``"square"``,
            means over examples, the latter of half the squared distance. None takes the system's.
        keep: share of the units that annexes read, rounded; their own widths are the rest. At most half of a layer can
            be annexes, so below 0.5 half of it is read all the same.
        widths: hidden widths m_1 ... m_{L-1} of the annexes, in place of those that follow from `keep`; the n_l - m_l
            others are read.
        draws: subsets of each layer that are tried, half of them with random weights and half with those of the network
            itself between randomly kept units, at the best output scale. The input has no subsets, so there are two at
            most.
        annex: ``"train"``; ``"linear_passthrough"`` for a linear read-out handed through c units a layer, exact on the
            data where the activation is the identity on positive numbers and there are biases; ``"user"`` for
            `annexes` as they are.
        annexes: for each l = 0 ... L-1 a `Layered` or its pairs: what is used, or where training starts.
        steps: of Adam for each deep annex. The read-out of the last layer is solved in closed form for square loss, and
            by at most 200 steps of L-BFGS else. 0 leaves the annexes as they start.
        lr: of Adam.
        batch: examples of a step.
        select: which draw is kept: the one of least loss, or of least error (and among these of least loss).
        subsets: the units I_1 ... I_{L-1}, in place of random ones.
        key: of all random draws; `jax.random.key(0)` if None.
        checkpoint: a folder in which every layer's annexes are kept once they are trained; a call with the same
            arguments takes those that are there. None keeps nothing.
        progress: show a progress bar; None shows it on a terminal.

    Returns:
        a `ConditionReport`. Losses are those of all data in float64, of the best of five looks at them while training,
        and never above those at the start.

    Raises:
        ShapeError: sizes that leave no room: names the layer and the sizes. It is a ValueError.
        NotImplementedError: a network that is no chain, or that has no place for a passthrough.
        NonFiniteError: the network's own loss is NaN or infinite. It is a FloatingPointError.
        CheckpointError: a file in the folder is damaged, or belongs to another call.
        TypeError, ValueError: other arguments that do not fit.

    Cost: for each layer draws x steps x batch passes of an annex forwards and backwards, and six passes over all data;
    memory for the features of one layer and the outputs of about 1.6e7 / (n c) draws.

    Example:
        >>> eye, relu = np.eye(2), jax.nn.relu
        >>> net = Layered([(np.hstack([eye, eye]), None), (np.array([[2.0], [-1.0], [-1.0], [3.0]]), None)], relu)
        >>> square = lambda out, y: ((out[:, 0] - y) ** 2).mean()
        >>> report = feature_condition(net, eye, np.array([1.0, 2.0]), square, subsets=[[0, 1]], draws=2)
        >>> report.net_loss, report.holds(1e-12)
        (0.0, True)
    """
    checks.choice(annex, "annex", AnnexMode)
    checks.choice(select, "select", Select)
    for value, name, least in ((draws, "draws", 1), (steps, "steps", 0), (batch, "batch", 1)):
        checks.count(value, name, "feature_condition", minimum=least)
    checks.positive(checks.number(lr, "lr", "feature_condition"), "lr", "feature_condition")
    chain, objective = as_objective(net, X, y, loss)
    if select == "error" and not objective.labels:
        raise ValueError("select='error' needs labels as targets; choose select='loss'.")
    own = own_loss(chain, objective)
    fixed = None if subsets is None else checked_subsets(chain, subsets)
    if annexes is not None and fixed is None and chain.num_layers > 1:
        raise TypeError("`annexes` need the `subsets` of units that they read; give both.")
    given = None if annexes is None else as_annexes(chain, annexes, fixed or ())
    sizes = _sizes(chain, keep, widths, given)
    if fixed is not None:
        require_room(chain, fixed, sizes)
    if annex == "user":
        if given is None:
            raise TypeError("annex='user' needs `annexes` and the `subsets` of units that they read.")
        return assembled(chain, objective, own, fixed or (), given, [None] * chain.num_layers)
    if annex == "linear_passthrough":
        _require_passthrough(chain, sizes)
    job = Draws(
        chain=chain,
        objective=objective,
        mode=annex,
        sizes=sizes,
        count=draws,
        fixed=fixed,
        given=given,
        steps=steps,
        lr=lr,
        batch=batch,
        key=key,
        folder=None if checkpoint is None else Path(checkpoint),
        progress=progress,
    )
    found = [job.of_layer(layer) for layer in track(range(chain.num_layers), "layers", show=progress)]
    chosen = [best_draw(outcome, select) for _, _, outcome in found]
    return assembled(
        chain,
        objective,
        own,
        tuple(np.asarray(rows)[k] for (rows, _, _), k in zip(found[1:], chosen[1:], strict=True)),
        tuple(member(stack, k) for (_, stack, _), k in zip(found, chosen, strict=True)),
        [outcome for _, _, outcome in found],
    )


def assembled(
    chain: Layered,
    objective: Objective,
    own: tuple[float, float | None],
    subsets: tuple[np.ndarray, ...],
    annexes: tuple[Pairs, ...],
    outcomes: Sequence[Judged | None],
) -> ConditionReport:
    """The report on annexes, one for each layer, with all draws of which they were chosen (None: themselves alone)."""
    widths = tuple(int(np.shape(w)[-1]) for w, _ in annexes[0][:-1])
    require_room(chain, subsets, widths)
    final = [
        judged(chain, layer, stacked([one]), subsets[layer - 1][None] if layer else None, objective)
        for layer, one in enumerate(annexes)
    ]
    pools = [last if pool is None else pool for pool, last in zip(outcomes, final, strict=True)]
    losses = np.array([float(one.losses[0]) for one in final])
    if not np.isfinite(losses).all():
        raise NonFiniteError(f"the annexes have losses {losses.tolist()}; lower `lr`, or scale what was given.")
    errors = [one.errors for one in final]
    draw_errors = [one.errors for one in pools]
    return ConditionReport(
        subsets=subsets,
        widths=widths,
        annexes=annexes,
        losses=losses,
        errors=None if not objective.labels else np.array([float(e[0]) for e in errors if e is not None]),
        net_loss=own[0],
        net_error=own[1],
        bound=max(own[0], float(losses.max())),
        draw_losses=tuple(one.losses for one in pools),
        draw_errors=tuple(e for e in draw_errors if e is not None) if objective.labels else None,
    )


def own_loss(chain: Layered, objective: Objective) -> tuple[float, float | None]:
    """Loss and error of the chain itself.

    Raises:
        NonFiniteError: the loss is NaN or infinite.
    """
    outputs = outputs_of(chain, objective.x)
    loss = objective.value(outputs)
    if not np.isfinite(loss):
        raise NonFiniteError(f"the loss of the network is {loss}; scale its weights or the data.")
    return loss, objective.error(outputs)


def require_room(chain: Layered, subsets: Sequence[np.ndarray], widths: Sequence[int]) -> None:
    """Refuse sizes for which the theorem has no path.

    Raises:
        ShapeError: names the layer and the sizes.
    """
    for layer, (rows, m) in enumerate(zip(subsets, widths, strict=True), 1):
        n = chain.widths[layer]
        if len(rows) + m > n:
            raise ShapeError(
                f"layer {layer} has {n} units, but {len(rows)} are read and the annexes need {m} more; read fewer, or "
                "take narrower annexes."
            )
        _require_half(layer, n, m)


def checked_subsets(chain: Layered, subsets: Sequence[Any]) -> tuple[np.ndarray, ...]:
    """Subsets of units, one for each hidden layer, sorted.

    Raises:
        ShapeError, ValueError: another number of them, or indices that are empty, repeated or out of range.
    """
    if len(subsets) != chain.num_layers - 1:
        raise ShapeError(f"`subsets` has {len(subsets)} entries; give one for each of {chain.num_layers - 1} layers.")
    checked = []
    for layer, given in enumerate(subsets, 1):
        rows, n = np.asarray(given), chain.widths[layer]
        if rows.ndim != 1 or not rows.size or rows.dtype.kind not in "iu":
            raise ValueError(f"the subset of layer {layer} is {given!r}; give at least one index of a unit.")
        if rows.min() < 0 or rows.max() >= n or len(np.unique(rows)) < rows.size:
            raise ValueError(
                f"the subset of layer {layer} is {rows.tolist()}; give different indices from 0 to {n - 1}."
            )
        checked.append(rows.astype(np.int64))
    return tuple(checked)


def as_annexes(chain: Layered, annexes: Sequence[Any], subsets: Sequence[np.ndarray]) -> tuple[Pairs, ...]:
    """Annexes as pairs of weights and biases in the chain's precision, one for each layer, that read these units.

    Raises:
        ShapeError, ValueError: another number of them, or one that does not fit behind its layer.
    """
    if len(annexes) != chain.num_layers:
        raise ShapeError(f"`annexes` has {len(annexes)} entries; give one for each of {chain.num_layers} layers.")
    found = []
    for start, given in enumerate(annexes):
        pairs = given.layers if isinstance(given, Layered) else given
        own = chain.layers[start:]
        if len(pairs) != len(own):
            raise ShapeError(f"annex {start} has {len(pairs)} layers; behind layer {start} there are {len(own)}.")
        tail = Layered(pairs, chain.activations[start:], chain.how[start:])
        for i, ((w, b), (like, bias)) in enumerate(zip(tail.layers, own, strict=True), start + 1):
            if w.ndim != like.ndim or w.shape[:-2] != like.shape[:-2] or (b is None) != (bias is None):
                raise ShapeError(
                    f"layer {i} of annex {start} has a weight of shape {w.shape} and {'no' if b is None else 'a'} "
                    f"bias; the network's has {like.shape} and {'no' if bias is None else 'a'} bias."
                )
        if tail.widths[-1] != chain.widths[-1]:
            raise ShapeError(f"annex {start} has {tail.widths[-1]} outputs; the network has {chain.widths[-1]}.")
        reads = len(subsets[start - 1]) if start else chain.widths[0]
        if tail.widths[0] != reads:
            raise ShapeError(f"annex {start} reads {tail.widths[0]} units, but layer {start} gives it {reads}.")
        found.append(
            tuple(
                (w.astype(like.dtype), None if b is None else b.astype(bias.dtype))
                for (w, b), (like, bias) in zip(tail.layers, own, strict=True)
            )
        )
    widths = [tuple(np.shape(w)[-1] for w, _ in one[:-1]) for one in found]
    for start, own_widths in enumerate(widths):
        if own_widths != widths[0][start:]:
            raise ShapeError(
                f"annex {start} has hidden widths {own_widths}; like annex 0 it needs {widths[0][start:]}."
            )
    return tuple(found)


def _sizes(
    chain: Layered, keep: float, widths: Sequence[int] | None, given: tuple[Pairs, ...] | None
) -> tuple[int, ...]:
    """Hidden widths m_1 ... m_{L-1} of the annexes."""
    hidden = chain.widths[1:-1]
    if given is not None:
        sizes = tuple(int(np.shape(w)[-1]) for w, _ in given[0][:-1])
    elif widths is not None:
        if len(widths) != len(hidden):
            raise ShapeError(f"`widths` has {len(widths)} entries; give one for each of {len(hidden)} hidden layers.")
        for m in widths:
            checks.count(m, "widths", "feature_condition")
        sizes = tuple(int(m) for m in widths)
    else:
        share = checks.number(keep, "keep", "feature_condition")
        if not 0 < share < 1:
            raise ValueError(f"`keep` is {share}; give a share of the units between 0 and 1.")
        sizes = tuple(max(1, min(int((1 - share) * n + 0.5), n // 2)) for n in hidden)
    for layer, (n, m) in enumerate(zip(hidden, sizes, strict=True), 1):
        _require_half(layer, n, m)
    return sizes


def _require_half(layer: int, n: int, m: int) -> None:
    if 2 * m > n:
        raise ShapeError(
            f"layer {layer} has {n} units, but annexes of width {m} of two networks need {2 * m}; take narrower ones."
        )


def _require_passthrough(chain: Layered, sizes: Sequence[int]) -> None:
    probe = np.concatenate([np.zeros(1), np.logspace(-6, 6, 49)]).astype(np.float32)[:, None]
    outputs = chain.widths[-1]
    for layer, (w, b) in enumerate(chain.layers, 1):
        if b is None:
            raise NotImplementedError(
                f"layer {layer} has no bias, which a passthrough needs to keep its units positive."
            )
        if w.ndim > 2 or (layer > 1 and chain.how[layer - 1].block > 1):
            raise NotImplementedError(f"layer {layer} reads images; a passthrough works between vectors.")
    for layer, (phi, m) in enumerate(zip(chain.activations, sizes, strict=True), 1):
        if not np.allclose(np.asarray(phi(jnp.asarray(probe))), probe, rtol=1e-6):
            raise NotImplementedError(f"the activation of layer {layer} is not the identity on positive numbers.")
        if chain.how[layer - 1].after is not None:
            raise NotImplementedError(f"a function acts after layer {layer}; a passthrough hands numbers on unchanged.")
        if m < outputs:
            raise ShapeError(
                f"layer {layer} gives annexes {m} units, but a passthrough of {outputs} outputs needs {outputs}."
            )


def best_draw(outcome: Judged, select: Select = "loss") -> int:
    """The draw of least loss, or of least error and among these of least loss; NaN comes last."""
    if select == "error" and outcome.errors is not None:
        return int(np.lexsort((outcome.losses, outcome.errors))[0])
    return int(np.argmin(np.where(np.isnan(outcome.losses), np.inf, outcome.losses)))
