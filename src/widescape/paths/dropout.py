"""Dropout stability: the loss that is left when half of the units are dropped, from each layer on."""

from typing import Any, Literal

import jax
import numpy as np

from widescape.core import checks
from widescape.core.chart import Chart
from widescape.core.errors import NonFiniteError
from widescape.core.evidence import EXACT, Evidence, bound
from widescape.core.progress import track
from widescape.core.random import named_generator
from widescape.core.result import Result, quantity
from widescape.paths.annexes import Judged, judged, member, restricted, scaled
from widescape.paths.condition import ConditionReport, assembled, best_draw, condition_chart, own_loss
from widescape.paths.draws import random_subsets
from widescape.paths.layered import Layered, Pairs
from widescape.paths.objective import Objective, TotalLoss, as_objective

Rescale = Literal["none", "scalar", "inverse_keep"]
_OF_DRAWS = Evidence("exact", note="of the masks that were drawn; others may do better")


class DropoutReport(Result):
    """Losses of a network with units dropped in layers l ... L-1, the best of many random masks for each l."""

    source = "kuditipudi2019explaining"
    losses: np.ndarray = quantity(_OF_DRAWS, "least loss with units dropped from layer l on, l = 1 ... L-1")
    errors: np.ndarray | None = quantity(_OF_DRAWS, "share of wrong answers there; None where targets are no labels")
    bound: float = quantity(
        bound(
            "upper", "of the least one over all masks; less the network's own loss it bounds the epsilon of stability"
        ),
        "max of the losses over layers; with one layer the network's own loss",
    )
    masks: tuple[tuple[np.ndarray, ...], ...] = quantity(
        EXACT, "kept units of layers l ... L-1, for each l = 1 ... L-1"
    )
    scales: np.ndarray = quantity(EXACT, "factor of the outputs for each l = 1 ... L-1")
    kept: tuple[int, ...] = quantity(EXACT, "kept units of each hidden layer, l = 1 ... L-1")
    net_loss: float = quantity(EXACT, "loss of the whole network")
    net_error: float | None = quantity(EXACT, "share of its wrong answers")
    draw_losses: tuple[np.ndarray, ...] = quantity(EXACT, "loss of every draw, for each l = 1 ... L-1 (K,)")
    condition: ConditionReport | None = quantity(
        EXACT, "the same networks as annexes; None where more than half of a layer is kept"
    )

    def as_condition(self) -> ConditionReport:
        """The surviving networks as annexes, from which `connect` makes the path of dropout stability.

        Raises:
            ValueError: more than half of a layer is kept, so that two such networks do not fit side by side.
        """
        if self.condition is None:
            raise ValueError(
                f"the masks keep {self.kept} units, more than half of a layer, so the networks of two ends do not fit "
                "side by side; take keep=0.5 or less."
            )
        return self.condition

    def charts(self) -> tuple[Chart, ...]:
        """Losses with dropped units against the first layer that is dropped from."""
        return () if self.condition is None else (condition_chart({"dropout": self.condition}, self.net_loss),)


def dropout_stability(
    net: Any,
    X: Any = None,  # noqa: N803  the data matrix of the theorem
    y: Any = None,
    loss: TotalLoss | None = None,
    *,
    keep: float = 0.5,
    draws: int = 200,
    rescale: Rescale = "scalar",
    key: jax.Array | None = None,
    progress: bool | None = None,
) -> DropoutReport:
    """The least loss found when a share of the units of layers l ... L-1 is kept, for each l, and the rest dropped.

    Kept units keep their biases. The network's score is the greatest of these losses over l.

    Args:
        net: a `Layered`, or a `System` of one, as for `feature_condition`.
        X: inputs (n, ...); None takes the system's.
        y: labels (n,) or numbers; None takes the system's.
        loss: as for `feature_condition`; None takes the system's.
        keep: share of the units that are kept, rounded to the nearest number of them, halves down.
        draws: random masks for each l.
        rescale: ``"scalar"`` multiplies the outputs by the r >= 0 of least loss; ``"inverse_keep"`` the features of
            every layer that drops units by units / kept; ``"none"`` nothing.
        key: draws the masks; `jax.random.key(0)` if None.
        progress: show a progress bar; None shows it on a terminal.

    Returns:
        a `DropoutReport`.

    Raises:
        ValueError, TypeError, NotImplementedError, NonFiniteError: as for `feature_condition`.

    Cost: draws x (L-1) passes of about a quarter of the network over all data, in float64; with ``"scalar"`` about 90
    losses of each. Memory for the kept weights of all draws of one layer, about draws x |params| / 4.

    Example:
        >>> from widescape.paths.layered import Layered
        >>> eye, relu = np.eye(2), jax.nn.relu
        >>> net = Layered([(np.hstack([eye, eye]), None), (np.array([[2.0], [-1.0], [-1.0], [3.0]]), None)], relu)
        >>> square = lambda out, y: ((out[:, 0] - y) ** 2).mean()
        >>> report = dropout_stability(net, eye, np.array([1.0, 2.0]), square)
        >>> round(report.bound * 26, 9), report.masks[0][0].tolist(), round(float(report.scales[0]) * 13, 6)
        (1.0, [0, 3], 8.0)
    """
    checks.choice(rescale, "rescale", Rescale)
    checks.count(draws, "draws", "dropout_stability")
    share = checks.number(keep, "keep", "dropout_stability")
    if not 0 < share <= 1:
        raise ValueError(f"`keep` is {share}; give a share of the units above 0 and at most 1.")
    chain, objective = as_objective(net, X, y, loss)
    own = own_loss(chain, objective)
    hidden = chain.widths[1:-1]
    kept = tuple(max(1, int(np.ceil(share * n - 0.5))) for n in hidden)
    found = [
        _of_layer(chain, objective, layer, kept, draws, rescale, key)
        for layer in track(range(1, chain.num_layers), "dropout", show=progress)
    ]
    best = [best_draw(outcome) for _, _, outcome in found]
    losses = np.array([float(outcome.losses[k]) for (_, _, outcome), k in zip(found, best, strict=True)])
    if not np.isfinite(losses).all():
        raise NonFiniteError(f"dropping units leaves losses {losses.tolist()}; scale the network or the data.")
    masks = tuple(tuple(part[k] for part in own_masks) for (own_masks, _, _), k in zip(found, best, strict=True))
    annexes = tuple(member(stack, k) for (_, stack, _), k in zip(found, best, strict=True))
    outcomes = [outcome for _, _, outcome in found]
    return DropoutReport(
        losses=losses,
        errors=None
        if not objective.labels
        else np.array([float(one.errors[k]) for one, k in zip(outcomes, best, strict=True) if one.errors is not None]),
        bound=float(losses.max()) if len(losses) else own[0],
        masks=masks,
        scales=np.array([float(one.scales[k]) for one, k in zip(outcomes, best, strict=True)]),
        kept=kept,
        net_loss=own[0],
        net_error=own[1],
        draw_losses=tuple(one.losses for one in outcomes),
        condition=_as_condition(chain, objective, own, masks, annexes, outcomes, kept),
    )


def _of_layer(
    chain: Layered,
    objective: Objective,
    layer: int,
    kept: tuple[int, ...],
    draws: int,
    rescale: Rescale,
    key: jax.Array | None,
) -> tuple[list[np.ndarray], Pairs, Judged]:
    """Masks of the layers from `layer` on, the surviving networks at their scale, and what they reach."""
    generator = named_generator(key, "masks", layer)
    hidden = list(zip(chain.widths[layer:-1], kept[layer - 1 :], strict=True))
    masks = [random_subsets(n, m, draws, generator) for n, m in hidden]
    stack = restricted(chain, layer, masks, draws)
    if rescale == "inverse_keep":  # a feature's factor is its reader's: the activation need not be homogeneous
        stack = tuple((w * np.asarray(n / m, w.dtype), b) for (w, b), (n, m) in zip(stack, hidden, strict=True))
    outcome = judged(chain, layer, stack, masks[0], objective, rescale=rescale == "scalar")
    return masks, scaled(stack, outcome.scales), outcome


def _as_condition(
    chain: Layered,
    objective: Objective,
    own: tuple[float, float | None],
    masks: tuple[tuple[np.ndarray, ...], ...],
    annexes: tuple[Pairs, ...],
    outcomes: list[Judged],
    kept: tuple[int, ...],
) -> ConditionReport | None:
    """The networks as annexes; that of layer 1 also serves for the input, with the first layer's kept units."""
    if any(2 * m > n for n, m in zip(chain.widths[1:-1], kept, strict=True)):
        return None
    if chain.num_layers == 1:
        return assembled(chain, objective, own, (), (chain.layers,), [None])
    first = restricted(chain, 0, [None, *(part[None] for part in masks[0])], 1)
    ((weight, bias), *_), rest = member(first, 0), annexes[0]
    whole = ((weight, bias), *rest)
    subsets = tuple(own_masks[0] for own_masks in masks)
    return assembled(chain, objective, own, subsets, (whole, *annexes), [outcomes[0], *outcomes])
