"""What a network carries and costs at infinite width, layer by layer, before anything is computed."""

from collections.abc import Iterator
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from widescape.arch.covariance import Layout
from widescape.arch.layouts import LayoutChoice, check_end, layout_of, no_positions
from widescape.arch.limit import pair_bytes
from widescape.arch.spec import Signal
from widescape.core.evidence import EXACT, bound
from widescape.core.memory import human_bytes
from widescape.core.result import Result, quantity
from widescape.core.table import Table

if TYPE_CHECKING:
    from widescape.arch.base import Layer

_MOST_LINES = 14
_CARRIED = {
    "flat": "one number",
    "positions": "equal positions",
    "planes": "all pairs of positions, shift by shift",
    "full": "all pairs of positions",
}


class NetworkPlan(Result):
    """The layers of a network, what its limit carries between them, and what a pair of examples costs."""

    source = "novak2019bayesian; lee2020finite"
    input_shape: tuple[int, ...] = quantity(EXACT, "shape of one example")
    layers: tuple[str, ...] = quantity(EXACT, "layers in the order in which they act")
    shapes: tuple[tuple[int, ...], ...] = quantity(EXACT, "shape of one example after each layer")
    carried: tuple[str, ...] = quantity(EXACT, "which pairs of positions the limit carries after each layer")
    entries: np.ndarray = quantity(EXACT, "entries per pair of examples after each layer")
    flops: np.ndarray = quantity(
        bound("upper", "a count of the formulas, not a measurement"), "operations per pair of examples in each layer"
    )
    total_flops: float = quantity(
        bound("upper", "a count of the formulas, not a measurement"), "operations per pair of examples"
    )
    pair_bytes: int = quantity(
        bound("upper", "a model of the temporaries, not a measurement"), "memory held per pair of examples", unit="B"
    )

    def layer_table(self) -> Table:
        """One row for each layer."""
        rows = zip(self.layers, self.shapes, self.carried, self.entries, self.flops, strict=True)
        return Table(
            name="layers",
            title="What the limit carries",
            columns=("layer", "shape", "carried", "entries per pair", "flops per pair"),
            rows=tuple(
                (name, " x ".join(map(str, shape)), carried, int(count), float(flops))
                for name, shape, carried, count, flops in rows
            ),
            caption="Per pair of examples; kernels of n examples take n (n + 1) / 2 pairs.",
        )

    def __str__(self) -> str:
        table = self.layer_table()
        cells = [[*map(str, row[:3]), f"{row[3]:,}", f"{row[4]:.2g}"] for row in table.rows]
        wide = [max(len(row[i]) for row in (list(table.columns), *cells)) for i in range(len(table.columns))]
        hidden = len(cells) - _MOST_LINES
        if hidden > 1:
            cells = [*cells[: _MOST_LINES // 2], None, *cells[-_MOST_LINES // 2 :]]  # type: ignore[list-item]
        lines = [f"NetworkPlan  [{self.source}]"]
        for row in (list(table.columns), *cells):
            if row is None:
                lines.append(f"... and {hidden} more layers; see .layer_table()")
            else:
                lines.append("  ".join(cell.ljust(width) for cell, width in zip(row, wide, strict=True)).rstrip())
        total = f"{self.total_flops:.2g} operations and {human_bytes(self.pair_bytes)} per pair of examples"
        return "\n".join([*lines, total])

    __repr__ = __str__


def describe(layer: "Layer", input_shape: tuple[int, ...], layout: LayoutChoice = "auto") -> NetworkPlan:
    """The plan behind `Layer.describe`."""
    signal = Signal.of_input(input_shape)
    check_end(layer, signal)
    chosen = layout_of(layer, signal, layout)
    rows = list(_rows(layer, signal, chosen))
    flops = np.array([row[4] for row in rows])
    return NetworkPlan(
        input_shape=tuple(input_shape),
        layers=tuple(row[0] for row in rows),
        shapes=tuple(row[1] for row in rows),
        carried=tuple(row[2] for row in rows),
        entries=np.array([row[3] for row in rows]),
        flops=flops,
        total_flops=float(flops.sum()),
        pair_bytes=pair_bytes(layer, signal, chosen, "float64"),
        provenance={"architecture": repr(layer)},
    )


def flops_per_pair(layer: "Layer", signal: Signal, layout: Layout) -> float:
    """Operations of the limit for a pair of examples, by a count of the formulas."""
    return 2.0 * signal.size * (_entries(signal, layout) if layout.kind != "flat" else 1) / prod(
        signal.shape[:-1]
    ) + sum(row[4] for row in _rows(layer, signal, layout))


def _rows(layer: "Layer", signal: Signal, layout: Layout) -> Iterator[tuple[str, Any, str, int, float]]:
    """Name, shape, what is carried, entries and flops of each layer of the main chain."""
    chain = layer.children() if layer.is_chain else (layer,)
    for part in chain:
        flops = _flops(part, signal, layout)
        signal = part.out(signal)
        single = signal if isinstance(signal, Signal) else signal[0]
        kind = "flat" if no_positions(single) else layout.kind
        yield part.label, single.shape, _CARRIED[kind], _entries(single, layout), flops


def _entries(signal: Signal, layout: Layout) -> int:
    positions = prod(signal.shape[:-1])
    return {"flat": 1, "positions": positions}.get(layout.kind, positions**2)


def _flops(layer: "Layer", signal: Any, layout: Layout) -> float:
    """Operations of a layer with everything inside it."""
    inside = layer.children()
    if not inside:
        return layer.pair_flops * _entries(signal, layout) if isinstance(signal, Signal) else 0.0
    total = 0.0
    chained = layer.is_chain
    for i, part in enumerate(inside):
        own = signal if chained or isinstance(signal, Signal) else signal[i]
        total += _flops(part, own, layout)
        if chained:
            signal = part.out(signal)
    return total
