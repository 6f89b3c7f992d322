"""What the layers with random weights share: the three parameterizations."""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from widescape.arch.base import Layer, Params
from widescape.arch.covariance import Covariance
from widescape.arch.spec import Signal
from widescape.core import checks
from widescape.core.errors import NotTractableError, ShapeError

Parameterization = Literal["ntk", "standard"]


class Affine(Layer):
    """Base of the layers z = W h + b: a subclass has the fields below, and says which inputs meet a weight."""

    has_width = True

    width: int
    w_std: float
    b_std: float | None
    param: Parameterization
    base_width: int | None

    def __post_init__(self) -> None:
        super().__post_init__()
        name = type(self).__name__
        checks.count(self.width, "width", name)
        checks.positive(self.w_std, "w_std", name)
        checks.not_negative(self.b_std, "b_std", name)
        checks.choice(self.param, "param", Parameterization)
        if self.base_width is not None:
            checks.count(self.base_width, "base_width", name)
            if self.param != "standard":
                raise ValueError(
                    f"{name}: `base_width` belongs to param='standard'; the NTK parameterization has none."
                )

    @property
    def window_size(self) -> int:
        """Positions that meet a weight."""
        return 1

    def fan_in(self, channels: int) -> int:
        """Inputs of one output."""
        return channels * self.window_size

    def check_base(self, signal: Signal) -> None:
        """Refuse a base width on top of a layer without one."""
        if self.base_width is not None and signal.base is None:
            raise ShapeError(
                f"{type(self).__name__} has a `base_width`, but the layer below has none; give every layer with "
                "weights one, or none of them."
            )

    def drawn_weights(
        self, key: jax.Array, signal: Signal, shape: tuple[int, ...], bias_shape: tuple[int, ...], dtype: Any
    ) -> Params:
        """Random weights of this shape, and biases where the layer has some."""
        weight_key, bias_key = jax.random.split(key)
        w = jax.random.normal(weight_key, shape, dtype)
        if self.param == "standard":
            w = w * jnp.asarray(self.w_std / self._base(signal) ** 0.5, dtype)
        if self.b_std is None:
            return {"w": w}
        b = jax.random.normal(bias_key, bias_shape, dtype)
        return {"w": w, "b": b * jnp.asarray(self.b_std, dtype) if self.param == "standard" else b}

    def spreads(self, signal: Signal) -> Any:
        weight = 1.0 if self.param == "ntk" else self.w_std**2 / self._base(signal)
        if self.b_std is None:
            return {"w": weight}
        return {"w": weight, "b": 1.0 if self.param == "ntk" else self.b_std**2}

    def scaled(self, z: jax.Array, params: Params, channels: int, signal: Signal) -> jax.Array:
        """The output from products `z` of inputs and raw weights: scales, and the bias."""
        bias = None if self.b_std is None else jnp.expand_dims(params["b"], tuple(range(z.ndim - params["b"].ndim)))
        if self.param == "ntk":
            z = z * (self.w_std / self.fan_in(channels) ** 0.5)
            return z if self.b_std is None or bias is None else z + self.b_std * bias
        if self.base_width is not None and signal.base is not None:
            z = z / (channels / signal.base) ** 0.5
        return z if bias is None else z + bias

    def weighted(self, mean: Covariance) -> Covariance:
        """The limit, from the state whose moments are means over what meets a weight."""
        w2 = self.w_std**2
        b2 = 0.0 if self.b_std is None else self.b_std**2
        after = mean.affine(w2, b2)
        ntk = None if mean.ntk is None else w2 * mean.ntk + self._own_ntk(mean, after.nngp)
        return after.drawn(ntk=ntk)

    def _base(self, signal: Signal) -> int:
        """The N of the standard parameterizations."""
        channels = signal.base if self.base_width is not None and signal.base is not None else signal.shape[-1]
        return self.fan_in(channels)

    def own_gain(self, signal: Signal) -> tuple[float, float]:
        """The factor of the kernel that comes in, and the constant, that own parameters add to the tangent kernel."""
        if self.param == "ntk":
            return self.w_std**2, 0.0 if self.b_std is None else self.b_std**2
        if self.base_width is None or signal.base is None:
            return 0.0, 0.0  # the tangent kernel has no limit and is not asked for
        return float(self.fan_in(signal.base)), float(self.b_std is not None)

    def _own_ntk(self, mean: Covariance, nngp: jax.Array) -> jax.Array | float:
        """What this layer's own parameters add to the tangent kernel."""
        if mean.frozen:
            return 0.0
        if self.param == "ntk":
            return nngp
        if self.base_width is None or mean.signal.base is None:
            raise NotTractableError(
                "in the standard parameterization without `base_width` the tangent kernel grows with the width and "
                "has no limit. Give every layer with weights a `base_width`, use param='ntk', or ask for get='nngp' "
                "alone."
            )
        return self.fan_in(mean.signal.base) * mean.nngp + (self.b_std is not None)
