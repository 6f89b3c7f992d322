"""Which pairs of positions a network carries, read from its layers."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from widescape.arch.covariance import FLAT, Layout, Level
from widescape.arch.spec import Signal
from widescape.arch.windows import common_axes
from widescape.core.errors import ShapeError

if TYPE_CHECKING:
    from widescape.arch.base import Layer

LayoutChoice = Literal["auto", "planes", "full"]


def no_positions(signal: Signal) -> bool:
    """Whether examples are vectors."""
    return len(signal.shape) == 1


def check_end(layer: "Layer", signal: Signal) -> None:
    """Refuse a network from which several signals come out; raises what a layer raises that does not fit."""
    if not isinstance(layer.out(signal), Signal):
        raise ShapeError("the network ends in several branches; bring them together by Sum(), Prod() or Concat().")


def walk(layer: "Layer") -> Iterator["Layer"]:
    """A layer and all layers inside it, in the order in which they act."""
    yield layer
    for child in layer.children():
        yield from walk(child)


def layout_of(layer: "Layer", signal: Signal, choice: LayoutChoice) -> Layout:
    """Which pairs of positions the limit of a network carries from its input on.

    Raises:
        ValueError: planes were asked for, and the network mixes positions in another way.
    """
    axes = len(signal.shape) - 1
    level = layer.carried(Level.FLAT, signal) if axes else Level.FLAT
    linear = _linear_axes(layer, signal) if level is Level.FULL and choice != "full" else None
    if linear is not None:
        return Layout("planes", axes, linear)
    if choice == "planes" and axes:
        raise ValueError(
            "layout='planes' is for networks of stride 1 whose first pooling is a global one in the main chain, "
            "without circular and shrinking convolutions along one axis; take layout='auto'."
        )
    if axes and (level is Level.FULL or (choice == "full" and level is not Level.FLAT)):
        return Layout("full", axes)
    return FLAT if level is Level.FLAT else Layout("positions", axes)


def _linear_axes(layer: "Layer", signal: Signal) -> tuple[bool, ...] | None:
    """Along which axes shifts have no end to wrap around, if the network can be computed shift by shift."""
    kinds: list[tuple[str, ...] | None] = [("any",) * (len(signal.shape) - 1)]
    for stage in layer.stages():
        if pool_of(stage) is not None:
            common = common_axes(kinds)
            return None if common is None else tuple(kind.endswith("linear") for kind in common)
        if any(part.mixes_positions for part in walk(stage)) or not isinstance(signal, Signal):
            return None
        kinds.append(stage.plane_axes(signal))
        signal = stage.out(signal)
    return None


def pool_of(stage: "Layer") -> Any:
    """The global pool that a stage consists of; None if it does not."""
    if stage.alone:
        return stage
    inside = stage.children()
    return pool_of(inside[0]) if len(inside) == 1 else None


def lengths_at(stages: Sequence["Layer"], signal: Signal) -> tuple[int, ...]:
    """The positions along each axis behind some layers."""
    for stage in stages:
        signal = stage.out(signal)
    return signal.shape[:-1]
