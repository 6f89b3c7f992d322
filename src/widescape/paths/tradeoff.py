"""Feature quality against over-parameterization: how wide an annex must be, layer by layer, network by network."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from widescape.core.chart import Chart, Series
from widescape.core.evidence import EXACT, Evidence, bound
from widescape.core.progress import track
from widescape.core.random import named_generator
from widescape.core.result import Result, quantity
from widescape.paths.annexes import linear_readout
from widescape.paths.layered import Layered
from widescape.paths.memorization import memorization_probe
from widescape.paths.objective import Objective, TotalLoss, as_objective, outputs_of

_LINEAR = Evidence("exact", note="of the read-out that was fitted, in float64; at least the least one")


class FeatureTradeoff(Result):
    """For each network and layer: what a linear read-out of half of the units gets, and the width that memorizes."""

    source = "nguyen2021connectivity"
    names: tuple[str, ...] = quantity(EXACT, "the networks (M,)")
    layers: tuple[np.ndarray, ...] = quantity(
        EXACT, "layers whose features are read, 0 for the input; for each network"
    )
    linear_errors: tuple[np.ndarray, ...] = quantity(
        _LINEAR, "share of wrong answers of a linear read-out of half of the units; for each network and layer"
    )
    needed: tuple[np.ndarray, ...] = quantity(
        bound("upper", "of the least width, since training may miss a fit"),
        "least tried width of one hidden layer that fits all examples: 0 where the read-out does, infinite for none",
    )
    available: tuple[np.ndarray, ...] = quantity(
        EXACT, "half of the units of the next layer, the room for an annex; infinite for the last hidden layer"
    )

    def charts(self) -> tuple[Chart, ...]:
        """Needed widths and errors of linear read-outs against the layer, a line for each network."""
        needed = [
            Series(layers[np.isfinite(widths)], widths[np.isfinite(widths)], name, style="points")
            for name, layers, widths in zip(self.names, self.layers, self.needed, strict=True)
            if np.isfinite(widths).any()
        ]
        errors = [
            Series(layers, values, name, style="both")
            for name, layers, values in zip(self.names, self.layers, self.linear_errors, strict=True)
        ]
        x_label = "layer whose features are read (0: the input)"
        return (
            Chart(
                name="needed-width",
                title="How wide a network must be to memorize from half of the features",
                x_label=x_label,
                y_label="units of one hidden layer",
                series=tuple(needed),
                caption="0: a linear read-out fits. Points are missing where no width that was tried fits.",
            ),
            Chart(
                name="linear-read-out",
                title="What a linear read-out of half of the features gets wrong",
                x_label=x_label,
                y_label="share of wrong answers",
                series=tuple(errors),
            ),
        )


def feature_tradeoff(
    nets: Mapping[str, Any],
    X: Any,  # noqa: N803  the data matrix of the theorem
    y: Any,
    loss: TotalLoss = "cross_entropy",
    *,
    widths: tuple[int, ...] = (2, 4, 8, 16, 32, 64, 128),
    steps: int = 2000,
    lr: float = 1e-3,
    key: jax.Array | None = None,
    progress: bool | None = None,
) -> FeatureTradeoff:
    """The trade-off of feature quality and width, over layers and networks, for instance of several widths.

    Good features need no width: where a linear read-out of half of the units fits, the annexes of the feature condition
    can be as narrow as the number of classes. Poor ones, as the raw input, need an annex that memorizes.

    Args:
        nets: trained networks by name, as for `feature_condition`.
        X: inputs (n, ...).
        y: labels (n,).
        loss: of the read-out, as for `feature_condition`.
        widths: of one hidden layer, tried in rising order where the read-out makes errors.
        steps: of Adam for each width; see `memorization_probe`.
        lr: of Adam.
        key: draws the units and starts; `jax.random.key(0)` if None.
        progress: show a progress bar; None shows it on a terminal.

    Returns:
        a `FeatureTradeoff`.

    Raises:
        ShapeError, TypeError, ValueError: arguments that do not fit.

    Cost: for each network and layer a read-out, and the widths up to the first that fits.
    """
    if not nets:
        raise ValueError("`nets` is empty; give at least one network.")
    found: list[tuple[np.ndarray, ...]] = []
    for name in track(list(nets), "networks", show=progress):
        chain, objective = as_objective(nets[name], X, y, loss)
        if not objective.labels:
            raise ValueError("the trade-off counts wrong answers, so `y` must be labels (n,).")
        rows = [_of_layer(chain, objective, layer, tuple(widths), steps, lr, key) for layer in range(chain.num_layers)]
        errors, needed = (np.array(part, np.float64) for part in zip(*rows, strict=True))
        room = np.array([*(n // 2 for n in chain.widths[1:-1]), np.inf])
        found.append((np.arange(chain.num_layers), errors, needed, room))
    layers, errors_of, needed_of, room_of = zip(*found, strict=True)
    return FeatureTradeoff(
        names=tuple(nets), layers=layers, linear_errors=errors_of, needed=needed_of, available=room_of
    )


def _of_layer(
    chain: Layered,
    objective: Objective,
    layer: int,
    widths: tuple[int, ...],
    steps: int,
    lr: float,
    key: jax.Array | None,
) -> tuple[float, float]:
    """Error of a linear read-out of half of the units (all of the input), and the width that memorizes."""
    generator = named_generator(key, "tradeoff", layer)
    features = outputs_of(chain, objective.x, layer)
    if layer:
        units = chain.widths[layer]
        features = features[..., np.sort(generator.permutation(units)[: max(1, units // 2)])]
    flat = features.reshape(len(features), -1)
    flat = flat / (np.sqrt(np.mean(flat**2)) or 1.0)
    weight, bias = linear_readout(flat, objective, chain.widths[-1])
    error = float(objective.wrong(flat @ weight + bias).mean())
    if error == 0:
        return 0.0, 0.0
    probe = memorization_probe(
        flat, objective.y, widths, steps=steps, lr=lr, stop_at_first=True, key=key, progress=False
    )
    return error, np.inf if probe.smallest is None else float(probe.smallest)
