"""The fully connected layer in its three parameterizations."""

from dataclasses import dataclass, replace
from typing import Any

import jax

from widescape.arch.affine import Affine, Parameterization
from widescape.arch.base import Layer, Params
from widescape.arch.covariance import Covariance
from widescape.arch.spec import Signal, finite_only, scale
from widescape.core.errors import ShapeError


@dataclass(frozen=True)
class Dense(Affine):
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

    def with_hidden_width(self, width: int, *, is_last: bool = True) -> Layer:
        return self if is_last else replace(self, width=width)

    def out(self, signal: Signal) -> Signal:
        if len(signal.shape) != 1:
            raise ShapeError(
                f"Dense works on vectors, but examples of shape {signal.shape} reach it; put Flatten() or "
                "GlobalAvgPool() before it."
            )
        self.check_base(signal)
        return Signal((self.width,), self.base_width)

    def parameters(self, key: jax.Array, signal: Signal, dtype: Any) -> Params:
        return self.drawn_weights(key, signal, (signal.size, self.width), (self.width,), dtype)

    def forward(self, params: Params, h: jax.Array, signal: Signal) -> jax.Array:
        w = params["w"]
        if h.ndim != 2 or h.shape[-1] != w.shape[0]:
            raise ShapeError(
                f"Dense holds weights for {w.shape[0]} features, but examples of shape {h.shape[1:]} reach it."
            )
        return self.scaled(h @ w, params, w.shape[0], signal)

    def limit(self, cov: Covariance) -> Covariance:
        return self.weighted(cov).replace(signal=Signal((1,), self.base_width))
