"""How layers combine, and the layers without mathematics of their own."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass
from typing import Any

import jax

from widescape.arch.base import Layer, Params
from widescape.arch.covariance import Covariance
from widescape.arch.dense import Dense
from widescape.arch.limit import walk
from widescape.arch.spec import Signal
from widescape.core.errors import NonGaussianInputError, NotTractableError, ShapeError
from widescape.core.random import named_key


@dataclass(frozen=True)
class Identity(Layer):
    """Returns its input."""

    def out(self, signal: Signal) -> Signal:
        return signal

    def forward(self, params: Params, h: jax.Array, signal: Signal) -> jax.Array:
        return h

    def limit(self, cov: Covariance) -> Covariance:
        return cov


@dataclass(frozen=True)
class Flatten(Layer):
    """Makes one vector of each example: (n, ..., c) to (n, features)."""

    def out(self, signal: Signal) -> Signal:
        positions = signal.size // signal.shape[-1]
        return Signal((signal.size,), None if signal.base is None else signal.base * positions)

    def forward(self, params: Params, h: jax.Array, signal: Signal) -> jax.Array:
        return h.reshape(h.shape[0], -1)

    def limit(self, cov: Covariance) -> Covariance:
        return cov.replace(signal=self.out(cov.signal))


@dataclass(frozen=True)
class Frozen(Layer):
    """A layer, or a network, whose parameters are drawn and never trained.

    The finite network passes no gradient to them; the limit's tangent kernel leaves their contribution out.
    """

    layer: Layer

    def __post_init__(self) -> None:
        _check_layer(self.layer, "Frozen")

    def children(self) -> tuple[Layer, ...]:
        return (self.layer,)

    def stages(self) -> tuple[Layer, ...]:
        return tuple(Frozen(stage) for stage in self.layer.stages())

    def with_hidden_width(self, width: int, *, is_last: bool = True) -> Layer:
        return Frozen(self.layer.with_hidden_width(width, is_last=is_last))

    def out(self, signal: Signal) -> Signal:
        return self.layer.out(signal)

    def parameters(self, key: jax.Array, signal: Signal, dtype: Any) -> Params:
        return self.layer.parameters(key, signal, dtype)

    def spreads(self, signal: Signal) -> Any:
        return self.layer.spreads(signal)

    def forward(self, params: Params, h: jax.Array, signal: Signal) -> jax.Array:
        return self.layer.forward(jax.lax.stop_gradient(params), h, signal)

    def limit(self, cov: Covariance) -> Covariance:
        return self.layer.limit(cov.replace(frozen=True)).replace(frozen=cov.frozen)


@dataclass(frozen=True, init=False)
class Sequential(Layer):
    """Layers one after the other. A `Sequential` inside another is spliced in, so `layers` is a flat list.

    Example:
        >>> net = Sequential(Dense(64), Sequential(Identity(), Dense(1)))
        >>> len(net.layers)
        3
    """

    layers: tuple[Layer, ...]

    def __init__(self, *layers: Layer) -> None:
        flat: list[Layer] = []
        for layer in layers:
            _check_layer(layer, "Sequential")
            flat.extend(layer.layers if isinstance(layer, Sequential) else (layer,))
        if not flat:
            raise ValueError("Sequential has no layers; give at least one.")
        object.__setattr__(self, "layers", tuple(flat))

    def __repr__(self) -> str:
        return f"Sequential({', '.join(map(repr, self.layers))})"

    def __str__(self) -> str:
        return "\n".join(["Sequential(", *(f"  {layer}," for layer in self.layers), ")"])

    def children(self) -> tuple[Layer, ...]:
        return self.layers

    def stages(self) -> tuple[Layer, ...]:
        # One program for a deep chain would be fused into one loop that recomputes shared terms over and over: its
        # time grows much faster than its depth. One program per nonlinearity is also shared between depths.
        parts: list[list[Layer]] = [[]]
        for layer in self.layers:
            inner = layer.stages()
            for stage in inner:
                parts[-1].append(stage)
                if layer.ends_stage or len(inner) > 1:
                    parts.append([])
        return tuple(Sequential(*part) for part in parts if part)

    def with_hidden_width(self, width: int, *, is_last: bool = True) -> Layer:
        wide = [i for i, layer in enumerate(self.layers) if any(isinstance(part, Dense) for part in walk(layer))]
        last = wide[-1] if wide else -1
        return Sequential(
            *(layer.with_hidden_width(width, is_last=is_last and i == last) for i, layer in enumerate(self.layers))
        )

    def out(self, signal: Signal) -> Signal:
        for i, layer in enumerate(self.layers):
            with _naming(i, layer):
                signal = layer.out(signal)
        return signal

    def parameters(self, key: jax.Array, signal: Signal, dtype: Any) -> Params:
        params = []
        for i, layer in enumerate(self.layers):
            params.append(layer.parameters(named_key(key, i), signal, dtype))
            signal = layer.out(signal)
        return tuple(params)

    def spreads(self, signal: Signal) -> Any:
        variances = []
        for layer in self.layers:
            variances.append(layer.spreads(signal))
            signal = layer.out(signal)
        return tuple(variances)

    def forward(self, params: Params, h: jax.Array, signal: Signal) -> jax.Array:
        if len(params) != len(self.layers):
            raise ShapeError(
                f"`params` has {len(params)} entries for {len(self.layers)} layers; use this network's init."
            )
        for i, (layer, own) in enumerate(zip(self.layers, params, strict=True)):
            with _naming(i, layer):
                h = layer.forward(own, h, signal)
                signal = layer.out(signal)
        return h

    def limit(self, cov: Covariance) -> Covariance:
        for i, layer in enumerate(self.layers):
            with _naming(i, layer):
                cov = layer.limit(cov)
        return cov


def _check_layer(layer: Any, owner: str) -> None:
    if not isinstance(layer, Layer):
        hint = (
            f"write {layer.__name__}() with parentheses."
            if isinstance(layer, type)
            else "wrap functions in Activation."
        )
        raise TypeError(f"{owner} takes layers, but got {layer!r}; {hint}")
    if not is_dataclass(layer):
        raise TypeError(f"{owner}: {type(layer).__name__} must be decorated with @dataclass(frozen=True).")


@contextmanager
def _naming(index: int, layer: Layer) -> Iterator[None]:
    """Put the layer's place before the message of an error about it."""
    try:
        yield
    except (ShapeError, NonGaussianInputError, NotTractableError) as error:
        raise type(error)(f"layer {index}, {type(layer).__name__}: {error}") from error
