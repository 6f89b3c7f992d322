"""Nonlinearities without a closed form: any function by quadrature, and a layer that has no limit at all."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from widescape import duals
from widescape.arch.base import Layer
from widescape.arch.covariance import Covariance
from widescape.arch.elementwise import Elementwise
from widescape.arch.spec import Signal
from widescape.core import checks
from widescape.core.errors import NotTractableError
from widescape.duals import Dual, Pair


@dataclass(frozen=True)
class Activation(Elementwise):
    """Any elementwise function of JAX, with its Gaussian integrals by quadrature or by a formula of the user.

    A smooth `fn` is expanded in `deg` Hermite polynomials: fast, and always a positive semidefinite
    kernel. A function with `kinks` (points where it or its derivative jumps) goes through polar quadrature,
    which is exact to many digits and costs thousands of evaluations per pair. In both cases an error above
    1e-6 is refused.

    Args:
        fn: elementwise, made of JAX operations. Define it at module level if the network is to be pickled.
        dual: T(q11, q12, q22) = E[phi(u) phi(v)] in JAX operations, if known; its slope in q12 comes from
            automatic differentiation.
        deg: terms of the Hermite series, at most 300.
        kinks: where the function or its derivative jumps.
    """

    fn: Callable[[jax.Array], jax.Array]
    dual: Callable[[jax.Array, jax.Array, jax.Array], jax.Array] | None = None
    deg: int = 128
    kinks: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not callable(self.fn):
            raise TypeError(f"Activation: `fn` is {self.fn!r}; it must be callable.")
        checks.count(self.deg, "deg", "Activation", minimum=2)
        if self.deg > duals.MAX_TERMS:
            raise ValueError(f"Activation: `deg` is {self.deg}; choose at most {duals.MAX_TERMS}.")
        object.__setattr__(self, "kinks", tuple(float(k) for k in self.kinks))

    @property
    def label(self) -> str:
        """With the name of the function, where it has one."""
        return f"Activation({getattr(self.fn, '__name__', self.fn)})"

    @property
    def kinked(self) -> bool:  # type: ignore[override]
        """Whether kinks were named."""
        return bool(self.kinks)

    @property
    def pair_flops(self) -> int:  # type: ignore[override]
        """Of the series, or of the polar rule; a user's formula counts like a closed form."""
        if self.dual is not None:
            return Elementwise.pair_flops
        return duals.polar_flops(self.kinks) if self.kinks else 4 * self.deg

    @property
    def pair_arrays(self) -> int:  # type: ignore[override]
        """Flattened moments of the polar rule, or the running sums of the series."""
        return 0 if self.dual is not None else 12 if self.kinks else 6

    def phi(self, x: jax.Array) -> jax.Array:
        return self.fn(x)

    def dual_of(self, pair: Pair) -> Dual:
        if self.dual is not None:
            return _user_dual(pair, self.dual)
        if self.kinks:
            return duals.polar(pair, self.fn, self.kinks)
        return duals.hermite_series(pair, self.fn, self.deg)


def _user_dual(pair: Pair, function: Callable[..., jax.Array]) -> Dual:
    def t(q12: jax.Array) -> jax.Array:
        return jnp.broadcast_to(function(pair.q11, q12, pair.q22), q12.shape)

    value, slope = jax.jvp(t, (pair.q12,), (jnp.ones_like(pair.q12),))
    return Dual(value, slope)


class _Smooth(Elementwise):
    """Smooth functions without a closed form, by Hermite series."""

    pair_arrays = 6
    deg: int

    @property
    def pair_flops(self) -> int:  # type: ignore[override]
        """Two Horner schemes."""
        return 4 * self.deg

    def __post_init__(self) -> None:
        checks.count(self.deg, "deg", type(self).__name__, minimum=2)
        if self.deg > duals.MAX_TERMS:
            raise ValueError(f"{type(self).__name__}: `deg` is {self.deg}; choose at most {duals.MAX_TERMS}.")

    def dual_of(self, pair: Pair) -> Dual:
        return duals.hermite_series(pair, self.phi, self.deg)


@dataclass(frozen=True)
class Tanh(_Smooth):
    """tanh(x); `deg` terms of a Hermite series."""

    deg: int = 256
    odd = True

    def phi(self, x: jax.Array) -> jax.Array:
        return jnp.tanh(x)


@dataclass(frozen=True)
class Sigmoid(_Smooth):
    """1 / (1 + exp(-x)); `deg` terms of a Hermite series."""

    deg: int = 128

    def phi(self, x: jax.Array) -> jax.Array:
        return jax.nn.sigmoid(x)


@dataclass(frozen=True)
class Softplus(_Smooth):
    """log(1 + exp(x)); `deg` terms of a Hermite series."""

    deg: int = 128

    def phi(self, x: jax.Array) -> jax.Array:
        return jax.nn.softplus(x)


@dataclass(frozen=True)
class Silu(_Smooth):
    """x / (1 + exp(-x)); `deg` terms of a Hermite series."""

    deg: int = 128

    def phi(self, x: jax.Array) -> jax.Array:
        return jax.nn.silu(x)


@dataclass(frozen=True)
class Softmax(Layer):
    """Softmax over the last axis, for finite networks; it mixes channels, so no kernel limit exists."""

    def out(self, signal: Signal) -> Signal:
        return signal

    def forward(self, params: Any, h: jax.Array, signal: Signal) -> jax.Array:
        return jax.nn.softmax(h, axis=-1)

    def limit(self, cov: Covariance) -> Covariance:
        raise NotTractableError(
            "softmax mixes the channels, so its output is not Gaussian and has no closed-form limit. Take the "
            "kernel of the network without it, or sample kernels of finite networks."
        )
