"""What is measured of the layers of one network: ranks, alignment with the targets, and read-outs."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from widescape import arch, features, predict
from widescape.arch.elementwise import Elementwise
from widescape.core.chart import Chart, Marker, Series
from widescape.core.evidence import EXACT, estimate
from widescape.core.result import Result, quantity
from widescape.features.layers import Positions

NEIGHBORS = 5
_SAMPLING = "over held-out examples, drawn independently"
_REPEATING = (arch.Flatten, arch.Identity)  # layers that have the activations of the one before


class LayerFeatures(Result):
    """Ranks, alignment with the targets and read-outs of the activations of each layer, on held-out examples."""

    source = "roy2007effective; kumar2021implicit; cristianini2001kernel; alain2016understanding"
    layers: tuple[str, ...] = quantity(EXACT, "the layers (L,)")
    num_features: np.ndarray = quantity(EXACT, "numbers that each layer has for an example (L,)")
    num_samples: int = quantity(EXACT, "held-out examples n")
    srank: np.ndarray = quantity(EXACT, "fewest singular values with 99 % of their sum, not centered (L,)")
    srank_centered: np.ndarray = quantity(EXACT, "the same, columns centered (L,)")
    effective_rank: np.ndarray = quantity(EXACT, "exp of the entropy of sigma / sum sigma, not centered (L,)")
    effective_rank_centered: np.ndarray = quantity(EXACT, "the same, columns centered (L,)")
    stable_rank: np.ndarray = quantity(EXACT, "sum sigma^2 / max sigma^2, not centered (L,)")
    stable_rank_centered: np.ndarray = quantity(EXACT, "the same, columns centered (L,)")
    alignment_before: np.ndarray = quantity(EXACT, "centered kernel-target alignment at random parameters (L,)")
    alignment: np.ndarray = quantity(EXACT, "centered kernel-target alignment after training (L,)")
    score: str = quantity(EXACT, "what the read-outs are scored by: accuracy or R^2")
    linear: np.ndarray = quantity(
        estimate("linear_stderr", _SAMPLING), "score of ridge regression from the inputs and each layer (1 + L,)"
    )
    linear_stderr: np.ndarray = quantity(EXACT, "standard errors (1 + L,)")
    neighbors: np.ndarray = quantity(
        estimate("neighbors_stderr", _SAMPLING), "score of the nearest training examples, by inputs and layer (1 + L,)"
    )
    neighbors_stderr: np.ndarray = quantity(EXACT, "standard errors (1 + L,)")
    network: float = quantity(estimate("network_stderr", _SAMPLING), "score of the network itself")
    network_stderr: float = quantity(EXACT, "its standard error")

    def charts(self) -> tuple[Chart, ...]:
        """Read-outs and ranks by layer."""
        places = np.arange(len(self.layers) + 1)
        axis = "layer (0 is the inputs)"
        read = [
            Series(places, values, label, values - errors, values + errors, "both")
            for values, errors, label in (
                (self.linear, self.linear_stderr, "linear (ridge)"),
                (self.neighbors, self.neighbors_stderr, "nearest neighbors"),
            )
        ]
        ranks = [
            Series(places[1:], getattr(self, name), label, style="both")
            for name, label in (
                ("effective_rank_centered", "effective rank, centered"),
                ("effective_rank", "effective rank"),
                ("stable_rank_centered", "stable rank, centered"),
                ("stable_rank", "stable rank"),
                ("srank_centered", "srank, centered"),
                ("srank", "srank"),
            )
        ]
        return (
            Chart(
                name="read-outs",
                title="What can be read off each layer",
                x_label=axis,
                y_label=f"{self.score} on held-out examples",
                series=tuple(read),
                markers=(Marker(self.network, "the network itself"),),
                caption="Bars: one standard error over held-out examples; all read-outs are of the same examples.",
            ),
            Chart(
                name="ranks",
                title="How many directions each layer uses",
                x_label="layer",
                y_label="rank",
                series=tuple(ranks),
                y_scale="log",
                caption=f"Of the activations of {self.num_samples:,} held-out examples, which the ranks depend on.",
            ),
        )


def layer_names(net: arch.Sequential) -> dict[str, str]:
    """Of the names that `features.layer_activations` gives, those that count as a layer, and what they are called.

    An elementwise nonlinearity and what it is applied to are one layer; flattening is none.

    Example:
        >>> list(layer_names(arch.fc(1, 8, 3, activation=arch.Relu())).values())
        ['1 Dense + Relu', '2 Dense']
    """
    kinds = [type(layer).__name__ for layer in net.layers]
    names: dict[str, str] = {}
    for i, layer in enumerate(net.layers):
        applied = i + 1 < len(net.layers) and isinstance(net.layers[i + 1], Elementwise)
        if applied or isinstance(layer, _REPEATING):
            continue
        joined = isinstance(layer, Elementwise) and i > 0 and not isinstance(net.layers[i - 1], _REPEATING)
        kind = f"{kinds[i - 1]} + {kinds[i]}" if joined else kinds[i]
        names[f"{i + 1} {kinds[i]}"] = f"{len(names) + 1} {kind}"
    return names


def activations(
    net: arch.Layer, params: Any, x: np.ndarray, positions: Positions, names: Mapping[str, str]
) -> dict[str, np.ndarray]:
    """Activations of the layers that count, by what they are called."""
    every = features.layer_activations(net, params, x, positions=positions)
    return {called: every[name] for name, called in names.items() if name in every}


def layer_features(
    train: Mapping[str, np.ndarray],
    y: np.ndarray,
    test: Mapping[str, np.ndarray],
    y_test: np.ndarray,
    start: Mapping[str, np.ndarray],
    ends: tuple[np.ndarray, np.ndarray, np.ndarray],
    num_classes: int | None,
) -> LayerFeatures:
    """Ranks, alignment and read-outs of each layer.

    Args:
        train: activations of the training examples, by layer.
        y: their labels or numbers.
        test: activations of the held-out examples.
        y_test: their labels or numbers.
        start: activations of the held-out examples at random parameters.
        ends: inputs of training, held-out inputs, and the outputs there.
        num_classes: how many labels there are; None for numbers.
    """
    x, x_test, outputs = ends
    targets = y_test.reshape(len(y_test), -1) if num_classes is None else predict.one_hot(y_test, num_classes)
    ranks = [features.rank_report(h) for h in test.values()]
    by_rank: dict[str, Any] = {
        name + suffix: np.array([getattr(report, name + suffix) for report in ranks])
        for name in ("srank", "effective_rank", "stable_rank")
        for suffix in ("", "_centered")
    }
    pairs = [(x.reshape(len(x), -1), x_test.reshape(len(x_test), -1)), *zip(train.values(), test.values(), strict=True)]
    linear = [features.linear_readout(own, y, held, y_test) for own, held in pairs]
    k = min(NEIGHBORS, len(x))
    near = [features.nearest_neighbors_readout(own, y, held, y_test, k=k, metric="euclidean") for own, held in pairs]
    score, error = _own_score(outputs, y_test, targets, num_classes)
    return LayerFeatures(
        layers=tuple(test),
        num_features=np.array([h.shape[1] for h in test.values()]),
        num_samples=len(x_test),
        **by_rank,
        alignment_before=_alignments(start, targets),
        alignment=_alignments(test, targets),
        score="R^2" if num_classes is None else "accuracy",
        linear=np.array([float(own) for own in linear]),
        linear_stderr=np.array([_error(own) for own in linear]),
        neighbors=np.array([float(own) for own in near]),
        neighbors_stderr=np.array([_error(own) for own in near]),
        network=score,
        network_stderr=error,
    )


def _alignments(acts: Mapping[str, np.ndarray], targets: np.ndarray) -> np.ndarray:
    rows = [h.astype(np.float64) for h in acts.values()]
    return np.array([features.kta(h @ h.T, targets, centered=True) for h in rows])


def _error(readout: features.LinearReadout | features.NeighborsReadout) -> float:
    error = readout.r2_stderr if readout.accuracy is None else readout.accuracy_stderr
    return math.nan if error is None else error


def _own_score(
    outputs: np.ndarray, y_test: np.ndarray, targets: np.ndarray, num_classes: int | None
) -> tuple[float, float]:
    if num_classes is None:
        numbers = predict.regression_score(outputs, targets)
        return numbers.r2, numbers.r2_stderr
    classes = predict.classification_score(outputs, y_test)
    return classes.accuracy, classes.accuracy_stderr
