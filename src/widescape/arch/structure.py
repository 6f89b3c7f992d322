"""How layers combine, and the layers without mathematics of their own."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass, replace
from itertools import islice, pairwise
from typing import Any

import jax
import jax.numpy as jnp

from widescape.arch.base import Layer, Params
from widescape.arch.covariance import Covariance, Level
from widescape.arch.fused_program import Step
from widescape.arch.layouts import walk
from widescape.arch.spec import Signal
from widescape.arch.windows import common_axes
from widescape.core import checks
from widescape.core.errors import NonGaussianInputError, NotTractableError, ShapeError
from widescape.core.random import named_key

_MOST_LAYERS = 100_000
"""Layers that a `Repeat` may stand for: each is visited one by one."""


@dataclass(frozen=True)
class Identity(Layer):
    """Returns its input."""

    def out(self, signal: Signal) -> Signal:
        return signal

    def forward(self, params: Params, h: jax.Array, signal: Signal) -> jax.Array:
        return h

    def carried(self, after: Level, signal: Signal) -> Level:
        return after

    def plane_axes(self, signal: Signal) -> tuple[str, ...] | None:
        return ("any",) * (len(signal.shape) - 1)

    def steps(self, signal: Signal, *, frozen: bool) -> tuple[Step, ...] | None:
        return ()

    def limit(self, cov: Covariance) -> Covariance:
        return cov


@dataclass(frozen=True)
class Frozen(Layer):
    """A layer, or a network, whose parameters are drawn and never trained.

    The finite network passes no gradient to them; the limit's tangent kernel leaves their contribution out.
    """

    layer: Layer

    def __post_init__(self) -> None:
        check_layer(self.layer, "Frozen")

    @property
    def takes_branches(self) -> bool:  # type: ignore[override]
        """As the layer inside."""
        return self.layer.takes_branches

    @property
    def alone(self) -> bool:  # type: ignore[override]
        """As the layer inside."""
        return self.layer.alone

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

    def carried(self, after: Level, signal: Signal) -> Level:
        return self.layer.carried(after, signal)

    def plane_axes(self, signal: Signal) -> tuple[str, ...] | None:
        return self.layer.plane_axes(signal)

    def steps(self, signal: Signal, *, frozen: bool) -> tuple[Step, ...] | None:
        return self.layer.steps(signal, frozen=True)

    def prepared(self, signal: Signal) -> Layer:
        return Frozen(self.layer.prepared(signal))

    def limit(self, cov: Covariance) -> Covariance:
        def frozen(state: Any, value: bool) -> Any:
            parts = isinstance(state, tuple)
            return tuple(own.replace(frozen=value) for own in state) if parts else state.replace(frozen=value)

        before = (cov[0] if isinstance(cov, tuple) else cov).frozen
        return frozen(self.layer.limit(frozen(cov, True)), before)


@dataclass(frozen=True, init=False)
class Sequential(Layer):
    """Layers one after the other. A `Sequential` inside another is spliced in, so `layers` is a flat list.

    Example:
        >>> from widescape.arch import Dense
        >>> net = Sequential(Dense(64), Sequential(Identity(), Dense(1)))
        >>> len(net.layers)
        3
    """

    is_chain = True
    layers: tuple[Layer, ...]

    def __init__(self, *layers: Layer) -> None:
        flat: list[Layer] = []
        for layer in layers:
            check_layer(layer, "Sequential")
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
            if layer.alone:
                parts.append([])
            for stage in inner:
                parts[-1].append(stage)
                if layer.ends_stage or layer.alone or len(inner) > 1:
                    parts.append([])
        return tuple(part[0] if len(part) == 1 else Sequential(*part) for part in parts if part)

    def with_hidden_width(self, width: int, *, is_last: bool = True) -> Layer:
        wide = [i for i, layer in enumerate(self.layers) if any(part.has_width for part in walk(layer))]
        last = wide[-1] if wide else -1
        return Sequential(
            *(layer.with_hidden_width(width, is_last=is_last and i == last) for i, layer in enumerate(self.layers))
        )

    def out(self, signal: Signal) -> Signal:
        for i, layer in enumerate(self.layers):
            with naming(i, layer):
                if not isinstance(signal, Signal) and not layer.takes_branches:
                    raise ShapeError("several branches reach it; bring them together by Sum(), Prod() or Concat().")
                signal = layer.out(signal)
        return signal

    def carried(self, after: Level, signal: Signal) -> Level:
        for layer, own in reversed(self._placed(signal)):
            after = layer.carried(after, own)
        return after

    def plane_axes(self, signal: Signal) -> tuple[str, ...] | None:
        return common_axes([layer.plane_axes(own) for layer, own in self._placed(signal)])

    def steps(self, signal: Signal, *, frozen: bool) -> tuple[Step, ...] | None:
        found: list[Step] = []
        for layer, own in self._placed(signal):
            steps = layer.steps(own, frozen=frozen)
            if steps is None:
                return None
            found.extend(steps)
        return tuple(found)

    def prepared(self, signal: Signal) -> Layer:
        return Sequential(*(layer.prepared(own) for layer, own in self._placed(signal)))

    def _placed(self, signal: Signal) -> list[tuple[Layer, Signal]]:
        """The layers, each with the signal before it."""
        found = [(self.layers[0], signal)]
        for i, (layer, following) in enumerate(pairwise(self.layers)):
            with naming(i, layer):
                signal = layer.out(signal)
            found.append((following, signal))
        return found

    def parameters(self, key: jax.Array, signal: Signal, dtype: Any) -> Params:
        placed = enumerate(self._placed(signal))
        return tuple(layer.parameters(named_key(key, i), own, dtype) for i, (layer, own) in placed)

    def spreads(self, signal: Signal) -> Any:
        return tuple(layer.spreads(own) for layer, own in self._placed(signal))

    def forward(self, params: Params, h: jax.Array, signal: Signal) -> jax.Array:
        if len(params) != len(self.layers):
            raise ShapeError(
                f"`params` has {len(params)} entries for {len(self.layers)} layers; use this network's init."
            )
        for i, (layer, own) in enumerate(zip(self.layers, params, strict=True)):
            with naming(i, layer):
                h = layer.forward(own, h, signal)
                signal = layer.out(signal)
        return h

    def limit(self, cov: Covariance) -> Covariance:
        for i, layer in enumerate(self.layers):
            with naming(i, layer):
                cov = layer.limit(cov)
        return cov


@dataclass(frozen=True)
class Repeat(Layer):
    """A layer, or a block, `n` times in a row, each time with parameters of its own.

    The layer must keep the shape of its input. Its parameters are stacked along a first axis, and the finite network
    runs over them in one loop: compiling takes as long as for one of them.

    Args:
        layer: what is repeated.
        n: how often. All layers that this makes, with those inside of them, are at most 100,000.
    """

    is_chain = True
    layer: Layer
    n: int

    def __post_init__(self) -> None:
        check_layer(self.layer, "Repeat")
        checks.count(self.n, "n", "Repeat")
        most = _MOST_LAYERS // self.n
        if sum(1 for _ in islice(walk(self.layer), most + 1)) > most:
            raise ValueError(
                f"Repeat: `n` is {self.n}, so that there would be more than {_MOST_LAYERS:,} layers, those inside of "
                "layers included; choose fewer."
            )

    def children(self) -> tuple[Layer, ...]:
        return (self.layer,) * self.n

    def stages(self) -> tuple[Layer, ...]:
        return self.layer.stages() * self.n

    def with_hidden_width(self, width: int, *, is_last: bool = True) -> Layer:
        return replace(self, layer=self.layer.with_hidden_width(width, is_last=is_last))

    def out(self, signal: Signal) -> Signal:
        after = self.layer.out(signal)
        if after.shape != signal.shape:
            raise ShapeError(
                f"Repeat needs a layer that keeps the shape of its input, but {signal.shape} becomes {after.shape}; "
                "put one layer that changes the shape before it."
            )
        if after.base not in (None, signal.base):
            raise ShapeError(f"Repeat needs a layer that keeps its base width, but {signal.base} becomes {after.base}.")
        return self.layer.out(after)

    def carried(self, after: Level, signal: Signal) -> Level:
        for _ in range(min(self.n, 2)):  # levels settle after one layer
            after = self.layer.carried(after, signal)
        return after

    def plane_axes(self, signal: Signal) -> tuple[str, ...] | None:
        return self.layer.plane_axes(signal)

    def steps(self, signal: Signal, *, frozen: bool) -> tuple[Step, ...] | None:
        steps = self.layer.steps(signal, frozen=frozen)
        return None if steps is None else steps * self.n

    def prepared(self, signal: Signal) -> Layer:
        return replace(self, layer=self.layer.prepared(signal))

    def parameters(self, key: jax.Array, signal: Signal, dtype: Any) -> Params:
        keys = jnp.stack([named_key(key, i) for i in range(self.n)])
        return jax.vmap(lambda own: self.layer.parameters(own, signal, dtype))(keys)

    def spreads(self, signal: Signal) -> Any:
        return self.layer.spreads(signal)

    def forward(self, params: Params, h: jax.Array, signal: Signal) -> jax.Array:
        def step(state: jax.Array, own: Params) -> tuple[jax.Array, None]:
            return self.layer.forward(own, state, signal), None

        dtype = jnp.result_type(h, *jax.tree.leaves(params))
        after, _ = jax.lax.scan(step, h.astype(dtype), params, length=self.n)
        return after

    def limit(self, cov: Covariance) -> Covariance:
        for _ in range(min(self.n, 2) if cov.abstract else self.n):  # what is known settles after one layer
            cov = self.layer.limit(cov)
        return cov


def check_layer(layer: Any, owner: str) -> None:
    """Refuse anything but a layer."""
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
def naming(index: int, layer: Layer, word: str = "layer") -> Iterator[None]:
    """Put the layer's place before the message of an error about it."""
    try:
        yield
    except (ShapeError, NonGaussianInputError, NotTractableError) as error:
        raise type(error)(f"{word} {index}, {type(layer).__name__}: {error}") from error
