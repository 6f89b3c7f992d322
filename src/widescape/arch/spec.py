"""Layers as data: which fields are scales, and how a layer is taken apart for compilation.

A layer is a frozen dataclass. A field made with `scale` is a number that may change without a new
compilation and may be differentiated; a field made with `finite_only` does not enter the
infinite-width limit; every other field is structure. `split` takes a layer apart into a hashable
structure and a list of scales, `merge` puts it together again, possibly with traced scales.
"""

import dataclasses
from math import prod
from typing import Any, NamedTuple, Self


class Signal(NamedTuple):
    """What flows between layers, as far as it is known before any number is.

    Attributes:
        shape: of one example, channels last.
        base: the base width of the channels for the improved standard parameterization
            (for an input, its number of channels); None after a layer that has none.
    """

    shape: tuple[int, ...]
    base: int | None

    @classmethod
    def of_input(cls, shape: tuple[int, ...]) -> Self:
        """The signal of raw input with this shape of one example."""
        return cls(tuple(shape), shape[-1])

    @property
    def size(self) -> int:
        """Entries of one example."""
        return prod(self.shape)


class _Slot:
    """Stands in a structure where a scale, or a field that the limit ignores, was."""

    def __repr__(self) -> str:
        return "_"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Slot)

    def __hash__(self) -> int:
        return 7


SLOT = _Slot()


def scale(default: Any = dataclasses.MISSING) -> Any:
    """A field with a number, a tuple of numbers, or None: an input of compiled programs, not part of their key."""
    return dataclasses.field(default=default, metadata={"scale": True})


def finite_only(default: Any = dataclasses.MISSING) -> Any:
    """A field on which only the finite network depends."""
    return dataclasses.field(default=default, metadata={"finite_only": True})


def scales_of(layer: Any) -> dict[str, Any]:
    """The scales of one layer by name; those that may be None and are so are left out."""
    fields = [f for f in dataclasses.fields(layer) if f.metadata.get("scale")]
    held = {f.name: (getattr(layer, f.name), f.default) for f in fields}
    return {name: value for name, (value, default) in held.items() if value is not None or default is not None}


def split(layer: Any) -> tuple[Any, list[Any]]:
    """The structure of a layer, hashable, and its scales in a fixed order."""
    scales: list[Any] = []
    return _strip(layer, scales), scales


def split_slots(structure: Any) -> list[Any]:
    """A placeholder for each scale that `merge` needs for this structure."""
    return split(structure)[1]


def merge(structure: Any, scales: list[Any]) -> Any:
    """The layer with this structure and these scales; nothing is checked again."""
    return _fill(structure, iter(scales))


def _strip(value: Any, scales: list[Any]) -> Any:
    if isinstance(value, tuple):
        return tuple(_strip(v, scales) for v in value)
    if not _is_layer(value):
        return value
    changed: dict[str, Any] = {}
    for f in dataclasses.fields(value):
        held = getattr(value, f.name)
        if f.metadata.get("finite_only"):
            changed[f.name] = SLOT
        elif f.metadata.get("scale") and held is not None:
            numbers = held if isinstance(held, tuple) else (held,)
            scales.extend(numbers)
            changed[f.name] = (SLOT,) * len(numbers) if isinstance(held, tuple) else SLOT
        else:
            changed[f.name] = _strip(held, scales)
    return rebuild(value, changed)


def _fill(value: Any, scales: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_fill(v, scales) for v in value)
    if not _is_layer(value):
        return value
    changed = {}
    for f in dataclasses.fields(value):
        held = getattr(value, f.name)
        if f.metadata.get("scale") and held is not None:
            changed[f.name] = tuple(next(scales) for _ in held) if isinstance(held, tuple) else next(scales)
        else:
            changed[f.name] = _fill(held, scales)
    return rebuild(value, changed)


def _is_layer(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type) and hasattr(value, "limit")


def rebuild(layer: Any, changed: dict[str, Any]) -> Any:
    """A copy of a frozen dataclass with some fields changed, without running its checks."""
    copy = object.__new__(type(layer))
    for f in dataclasses.fields(layer):
        object.__setattr__(copy, f.name, changed.get(f.name, getattr(layer, f.name)))
    return copy
