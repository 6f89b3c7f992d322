"""Normalization of signals: over the channels of an example, or by statistics that were stored."""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from widescape.arch.base import Layer, Params
from widescape.arch.covariance import Covariance
from widescape.arch.spec import Signal, scale
from widescape.core import checks
from widescape.core.errors import NonGaussianInputError, NotTractableError, ShapeError

Over = Literal["channels", "example"]


@dataclass(frozen=True)
class LayerNorm(Layer):
    """Subtracts the mean of an example's channels and divides by their standard deviation; nothing is trained.

    In the limit the covariance is divided by sqrt((q + epsilon)(q' + epsilon)), with q the variance at each position,
    or its mean over positions.

    Args:
        over: ``"channels"`` at each position; ``"example"`` for all channels and positions of an example together.
        epsilon: added to the variance.
    """

    pair_flops = 8
    needs_mean = True

    over: Over = "channels"
    epsilon: float = scale(1e-12)

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.choice(self.over, "over", Over)
        checks.not_negative(self.epsilon, "epsilon", "LayerNorm")

    def out(self, signal: Signal) -> Signal:
        return signal

    def forward(self, params: Params, h: jax.Array, signal: Signal) -> jax.Array:
        axes = -1 if self.over == "channels" else tuple(range(1, h.ndim))
        centered = h - h.mean(axes, keepdims=True)
        return centered * jax.lax.rsqrt((centered**2).mean(axes, keepdims=True) + self.epsilon)

    def plane_axes(self, signal: Signal) -> tuple[str, ...] | None:
        # A mean over positions is not found from a part of them.
        kind = "any" if self.over == "channels" else "circular"
        return (kind,) * (len(signal.shape) - 1)

    def limit(self, cov: Covariance) -> Covariance:
        if cov.mean_zero is False:
            raise NonGaussianInputError(
                "layer normalization needs input of mean zero, but raw inputs, the output of a nonlinearity or a sum "
                "with either reach it. Put it behind a Dense or Conv layer."
            )
        size1, size2 = (self._size(var, cov) for var in (cov.var1, cov.var2))
        factor1, factor2 = (jnp.where(q > 0, jax.lax.rsqrt(jnp.where(q > 0, q, 1)), 0) for q in (size1, size2))
        factor = cov.first(factor1) * cov.second(factor2)
        return cov.replace(
            nngp=cov.nngp * factor,
            complement=cov.complement * factor,
            var1=cov.var1 * factor1**2,
            var2=cov.var2 * factor2**2,
            ntk=None if cov.ntk is None else cov.ntk * factor,
        )

    def _size(self, var: jax.Array, cov: Covariance) -> jax.Array:
        if self.over == "example" and cov.layout.axes:
            axes = tuple(range(cov.layout.axes))
            var = jnp.broadcast_to(var.mean(axes, keepdims=True), var.shape)
        return var + self.epsilon


@dataclass(frozen=True)
class BatchNorm(Layer):
    """Batch normalization in evaluation mode, for finite networks: stored statistics, a trained scale and offset.

    Parameters hold ``mean`` and ``variance`` (constants, no gradient passes), ``scale`` and ``offset``, one number for
    each channel, so that networks trained elsewhere can be measured. New ones start at mean 0 and variance 1.

    Args:
        epsilon: added to the variance.
    """

    epsilon: float = scale(1e-5)

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.not_negative(self.epsilon, "epsilon", "BatchNorm")

    def out(self, signal: Signal) -> Signal:
        return signal

    def parameters(self, key: jax.Array, signal: Signal, dtype: Any) -> Params:
        ones, zeros = jnp.ones(signal.shape[-1:], dtype), jnp.zeros(signal.shape[-1:], dtype)
        return {"mean": zeros, "variance": ones, "scale": ones, "offset": zeros}

    def spreads(self, signal: Signal) -> Any:
        return dict.fromkeys(("mean", "variance", "scale", "offset"), 0.0)

    def forward(self, params: Params, h: jax.Array, signal: Signal) -> jax.Array:
        if h.shape[-1:] != params["mean"].shape:
            raise ShapeError(
                f"BatchNorm holds {params['mean'].size} channels, but examples of shape {h.shape[1:]} reach it."
            )
        mean, variance = (jax.lax.stop_gradient(params[name]) for name in ("mean", "variance"))
        ahead = (None,) * (h.ndim - 1)
        factor = params["scale"] * jax.lax.rsqrt(variance + self.epsilon)
        return (h - mean[ahead]) * factor[ahead] + params["offset"][ahead]

    def limit(self, cov: Covariance) -> Covariance:
        raise NotTractableError(
            "batch normalization mixes the examples of a batch and has no infinite-width limit. Take LayerNorm, or "
            "sample the kernel of finite networks of this description with widescape.kernels.monte_carlo."
        )
