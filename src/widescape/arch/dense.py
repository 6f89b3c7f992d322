"""The fully connected layer in its three parameterizations."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp

from widescape.arch.base import Layer, Params
from widescape.arch.covariance import Covariance
from widescape.arch.spec import Signal, finite_only, scale
from widescape.core import checks
from widescape.core.errors import NotTractableError, ShapeError

Parameterization = Literal["ntk", "standard"]


@dataclass(frozen=True)
class Dense(Layer):
    """A fully connected layer z = W h + b on vectors, with a bias or none.

    ======================= =========================== ============================ ==========================
    parameterization        W, b are drawn from         z                            tangent kernel of the limit
    ======================= =========================== ============================ ==========================
    ``"ntk"``               N(0, 1)                     w_std/sqrt(n) W h + b_std b  K' + w_std^2 Theta
    ``"standard"``          N(0, w_std^2/n), N(0,       W h + b                      none: grows with the width
                            b_std^2)
    ``"standard"`` with     N(0, w_std^2/N), N(0,       W h / sqrt(n/N) + b          N K + w_std^2 Theta + 1
    `base_width`            b_std^2)                                                 (the 1 only with a bias)
    ======================= =========================== ============================ ==========================

    with n the fan-in, N the base width of the layer below (the input dimension for the first layer), K and
    Theta the kernels that come in and K' = w_std^2 K + b_std^2 the NNGP kernel that goes out.

    Args:
        width: number of outputs; of the finite network only.
        w_std: standard deviation of the weights, positive.
        b_std: standard deviation of the bias; None for no bias, which differs from 0 in the standard
            parameterization, where a bias that starts at 0 still trains.
        param: the parameterization.
        base_width: the width of this layer that has the tangent kernel of the limit (`width` for a read-out),
            for the improved standard parameterization (sohl2020infinite); None for the naive one.
    """

    width: int = finite_only()
    w_std: float = scale(1.0)
    b_std: float | None = scale(None)
    param: Parameterization = "ntk"
    base_width: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.count(self.width, "width", "Dense")
        checks.positive(self.w_std, "w_std", "Dense")
        checks.not_negative(self.b_std, "b_std", "Dense")
        checks.choice(self.param, "param", Parameterization)
        if self.base_width is not None:
            checks.count(self.base_width, "base_width", "Dense")
            if self.param != "standard":
                raise ValueError("Dense: `base_width` belongs to param='standard'; the NTK parameterization has none.")

    def with_hidden_width(self, width: int, *, is_last: bool = True) -> Layer:
        return self if is_last else replace(self, width=width)

    def out(self, signal: Signal) -> Signal:
        if len(signal.shape) != 1:
            raise ShapeError(
                f"Dense works on vectors, but examples of shape {signal.shape} reach it; put Flatten() before it."
            )
        if self.base_width is not None and signal.base is None:
            raise ShapeError(
                "Dense has a `base_width`, but the layer below has none; give every Dense layer one, or no layer."
            )
        return Signal((self.width,), self.base_width)

    def parameters(self, key: jax.Array, signal: Signal, dtype: Any) -> Params:
        weight_key, bias_key = jax.random.split(key)
        fan_in = signal.size
        w = jax.random.normal(weight_key, (fan_in, self.width), dtype)
        if self.param == "standard":
            w = w * jnp.asarray(self.w_std / self._base(signal) ** 0.5, dtype)
        if self.b_std is None:
            return {"w": w}
        b = jax.random.normal(bias_key, (self.width,), dtype)
        return {"w": w, "b": b * jnp.asarray(self.b_std, dtype) if self.param == "standard" else b}

    def spreads(self, signal: Signal) -> Any:
        weight = 1.0 if self.param == "ntk" else self.w_std**2 / self._base(signal)
        if self.b_std is None:
            return {"w": weight}
        return {"w": weight, "b": 1.0 if self.param == "ntk" else self.b_std**2}

    def _base(self, signal: Signal) -> int:
        """The N of the standard parameterizations."""
        return signal.size if self.base_width is None or signal.base is None else signal.base

    def forward(self, params: Params, h: jax.Array, signal: Signal) -> jax.Array:
        w = params["w"]
        if h.ndim != 2 or h.shape[-1] != w.shape[0]:
            raise ShapeError(
                f"Dense holds weights for {w.shape[0]} features, but examples of shape {h.shape[1:]} reach it."
            )
        fan_in = w.shape[0]
        if self.param == "ntk":
            z = (h @ w) * (self.w_std / fan_in**0.5)
            return z if self.b_std is None else z + self.b_std * params["b"][None]
        z = h @ w
        if self.base_width is not None and signal.base is not None:
            z = z / (fan_in / signal.base) ** 0.5
        return z if self.b_std is None else z + params["b"][None]

    def limit(self, cov: Covariance) -> Covariance:
        w2 = self.w_std**2
        b2 = 0.0 if self.b_std is None else self.b_std**2
        pair = cov.pair.affine(w2, b2)
        return cov.replace(
            nngp=pair.q12,
            complement=pair.complement,
            var1=pair.q11[:, 0],
            var2=pair.q22[0],
            ntk=None if cov.ntk is None else w2 * cov.ntk + self._own_ntk(cov, pair.q12),
            signal=Signal((1,), self.base_width),
            gaussian=True,
        )

    def _own_ntk(self, cov: Covariance, nngp: jax.Array) -> jax.Array | float:
        """What this layer's own parameters add to the tangent kernel."""
        if cov.frozen:
            return 0.0
        if self.param == "ntk":
            return nngp
        if self.base_width is None or cov.signal.base is None:
            raise NotTractableError(
                "in the standard parameterization without `base_width` the tangent kernel grows with the width and "
                "has no limit. Give every Dense layer a `base_width`, use param='ntk', or ask for get='nngp' alone."
            )
        return cov.signal.base * cov.nngp + (self.b_std is not None)
