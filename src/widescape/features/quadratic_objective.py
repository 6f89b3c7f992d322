"""The quadratic Taylor model of a two-layer network and its regularized risk: value, gradient, Hessian."""

from functools import cached_property, partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from widescape.core import checks
from widescape.core.errors import NonFiniteError, ShapeError
from widescape.core.precision import call_in_float64, double_scope
from widescape.curvature.request import hashable
from widescape.features.expansions import Phi, activation_of
from widescape.features.output_losses import Loss, OutputLoss, loss_of
from widescape.features.random_layers import as_matrix, elementwise

Regularizer = Literal["l24", "nuclear"]
Precision = Literal["float32", "float64"]

_SAME = 1e-12  # relative spread below which second derivatives are one number
_ROWS = 2**27  # entries of (rows, m k) that a dense Hessian holds at once


def gates(H: Any, W0: Any, a: Any, activation: Any) -> np.ndarray:
    """Gates G_ir = a_r phi''(w0_r . h_i) / (2 sqrt m), with which f^Q(h_i) = sum_r G_ir (w_r . h_i)^2.

    Args:
        H: representations, (n, k).
        W0: hidden weights at which the network is expanded, (m, k).
        a: output weights, +1 or -1, (m,).
        activation: ``"relu3"`` (phi'' = max(t, 0)), ``"square"`` (t^2/2, phi'' = 1), a nonlinearity of
            `widescape.arch`, or an elementwise function of JAX.

    Returns:
        (n, m) in float64.

    Raises:
        ValueError: phi'' vanishes almost everywhere (ReLU, leaky ReLU, step), so that f^Q is zero.
        ShapeError, DtypeError: arguments that do not fit.
        NonFiniteError: phi'' is NaN or infinite at a pre-activation.

    Cost: 2 n m k flops.

    Example:
        >>> gates(np.array([[2.0]]), np.array([[1.0]]), np.array([-1.0]), "relu3").tolist()
        [[-1.0]]
    """
    inputs, w0, signs = _network(H, W0, a)
    phi = _curved(activation)
    second = elementwise(phi, inputs @ w0.T, 2)
    if not np.isfinite(second).all():
        raise NonFiniteError("phi'' is NaN or infinite at a pre-activation `H @ W0.T`; give a smoother activation.")
    return second * (signs / (2 * np.sqrt(len(signs))))


def constant_curvature(activation: Any) -> float | None:
    """The value of phi'' where it is one number everywhere, as for ``"square"``; None where it varies.

    Found by evaluation at some thousand points of all sizes.

    Raises:
        ValueError: phi'' vanishes almost everywhere.
    """
    second = _probed(_curved(activation))
    spread = float(second.max() - second.min())
    return float(second[0]) if spread <= _SAME * float(np.abs(second).max()) else None


def quadratic_outputs(H: Any, W: Any, W0: Any, a: Any, *, activation: Any) -> np.ndarray:
    """The quadratic Taylor model f^Q(h) = sum_r a_r phi''(w0_r . h) (w_r . h)^2 / (2 sqrt m) at rows of H, in float64.

    Args:
        H: representations, (n, k).
        W: displacement of the hidden weights, (m, k).
        W0: hidden weights at which the network is expanded, (m, k).
        a: output weights, +1 or -1, (m,).
        activation: as for `gates`.

    Returns:
        (n,).

    Cost: 4 n m k flops.

    Source: chen2020hierarchical, the quadratic model.

    Example:
        >>> quadratic_outputs(np.array([[2.0]]), np.array([[3.0]]), np.array([[1.0]]), np.ones(1), activation="square")
        array([18.])
    """
    scale = gates(H, W0, a, activation)
    weights = weights_like(W, np.shape(W0), "W")
    moved = np.asarray(H, dtype=np.float64) @ weights.T
    return np.einsum("ir,ir,ir->i", scale, moved, moved)


def l24_norm(W: Any) -> float:
    """The norm (sum_r |w_r|^4)^(1/4) of the rows of W.

    Example:
        >>> round(l24_norm([[3, 4], [0, 1]]), 6)  # 626^(1/4)
        5.001999
    """
    weights = np.asarray(W, dtype=np.float64)
    if weights.ndim != 2 or weights.size == 0:
        raise ShapeError(f"`W` has shape {weights.shape}; give one row for each neuron, (m, k).")
    checks.all_finite(weights, "W")
    scale = float(np.abs(weights).max())
    if scale == 0:
        return 0.0
    return scale * float(np.sum(np.sum((weights / scale) ** 2, axis=1) ** 2) ** 0.25)


class QuadraticProblem:
    """The regularized risk R(W) of the quadratic Taylor model on given data, with exact derivatives.

    R(W) = (1/n) sum_i l(f^Q_W(h_i), y_i) + lam sum_r |w_r|^4 for ``reg="l24"``, or + lam m^(-1/2) sum_r |w_r|^2 for
    ``reg="nuclear"``, whose minimum over W of the same function h^T M h is 2 lam times the nuclear norm of M.

    Args:
        H: representations, (n, k).
        y: targets, (n,); labels -1 and +1 for ``loss="logistic"``.
        W0: hidden weights at which the network is expanded, (m, k).
        a: output weights, +1 or -1, (m,).
        activation: as for `gates`.
        reg: the regularizer.
        lam: its weight, at least 0.
        loss: ``"squared"``, without a factor 1/2, ``"huber"`` with threshold 1, ``"logistic"``, or a function
            l(yhat, y) of JAX, entry by entry. It is differentiated; whether it is convex is not tested.
        dtype: precision of the products with H. What is added to them, and what comes back, is float64.

    Attributes:
        shape: (m, k).

    Raises:
        ValueError: `lam` is negative, phi'' vanishes almost everywhere or at every pre-activation, labels other than
            -1 and +1.
        ShapeError, DtypeError: arrays that do not fit.

    Cost: n (k + 2 m) numbers; two matrix products of n m k per gradient, four per Hessian product.

    Example:
        >>> one = np.ones((1, 1))
        >>> problem = QuadraticProblem(one, np.zeros(1), one, np.ones(1), activation="square", lam=0.0)
        >>> problem.value(2 * one), problem.gradient(2 * one).tolist()  # (w^2 / 2)^2 = w^4 / 4
        (4.0, [[8.0]])
    """

    def __init__(
        self,
        H: Any,
        y: Any,
        W0: Any,
        a: Any,
        *,
        activation: Any = "relu3",
        reg: Regularizer = "l24",
        lam: float,
        loss: Loss = "squared",
        dtype: Precision = "float32",
    ) -> None:
        self.H, self.W0, self.a = _network(H, W0, a)
        self.y = targets_of(y, len(self.H))
        checks.choice(reg, "reg", Regularizer)
        checks.choice(dtype, "dtype", Precision)
        self.lam = checks.number(lam, "lam", "QuadraticProblem")
        checks.not_negative(self.lam, "lam", "QuadraticProblem")
        self.activation, self.reg, self.dtype = activation, reg, dtype
        self.loss = loss_of(loss)
        self.loss.check(self.y)
        self.gates = gates(self.H, self.W0, self.a, activation)
        if not self.gates.any():
            raise ValueError(
                "phi'' is zero at all pre-activations `H @ W0.T`, so the quadratic model is zero; draw `W0` anew, or "
                'take activation="square", whose second derivative is 1.'
            )
        self.shape = self.W0.shape

    def at(self, *, lam: float | None = None, dtype: Precision | None = None) -> "QuadraticProblem":
        """The same problem with another weight of the regularizer, or in another precision; data are shared."""
        other = object.__new__(QuadraticProblem)
        shared = {
            name: value for name, value in vars(self).items() if dtype in (None, self.dtype) or name != "on_device"
        }
        vars(other).update(shared)
        if lam is not None:
            other.lam = checks.number(lam, "lam", "QuadraticProblem")
            checks.not_negative(other.lam, "lam", "QuadraticProblem")
        if dtype is not None:
            other.dtype = dtype
        return other

    @cached_property
    def on_device(self) -> tuple[jax.Array, ...]:
        """H, y and gates in the problem's precision, where programs run."""
        with double_scope(self.dtype == "float64"):
            return tuple(jnp.asarray(np.asarray(part, self.dtype)) for part in (self.H, self.y, self.gates))

    def _run(self, program: Any, *weights: np.ndarray) -> Any:
        with double_scope(self.dtype == "float64"):
            cast = (np.asarray(part, self.dtype) for part in weights)
            return jax.tree.map(
                lambda part: np.asarray(part, dtype=np.float64), program(self.loss, *cast, *self.on_device)
            )

    def mean_loss(self, W: np.ndarray) -> float:
        """(1/n) sum_i l(f^Q_W(h_i), y_i)."""
        return float(self._run(_mean_loss, W))

    def penalty(self, W: np.ndarray) -> float:
        """The regularizer at W."""
        if self.reg == "l24":
            return self.lam * float(np.sum(np.sum(W**2, axis=1) ** 2))
        return self.lam * float(np.sum(W**2)) / len(W) ** 0.5

    def value(self, W: np.ndarray) -> float:
        """R(W)."""
        return self.mean_loss(W) + self.penalty(W)

    def value_and_gradient(self, W: np.ndarray) -> tuple[float, np.ndarray]:
        """R(W) and its gradient (m, k)."""
        mean_loss, gradient = self.loss_and_gradient(W)
        return mean_loss + self.penalty(W), gradient

    def loss_and_gradient(self, W: np.ndarray) -> tuple[float, np.ndarray]:
        """The mean loss, without the regularizer, and the gradient of R (m, k), with it."""
        value, gradient = self._run(_loss_and_gradient, W)
        if self.reg == "l24":
            pull = 4 * self.lam * np.sum(W**2, axis=1, keepdims=True) * W
        else:
            pull = 2 * self.lam / len(W) ** 0.5 * W
        return float(value), gradient + pull

    def gradient(self, W: np.ndarray) -> np.ndarray:
        """The gradient of R (m, k): (2/n) (l' o G o H W^T)^T H and that of the regularizer."""
        return self.value_and_gradient(W)[1]

    def product(self, W: np.ndarray, V: np.ndarray) -> np.ndarray:
        """The Hessian of R at W times V (m, k), exactly."""
        image: np.ndarray = self._run(_product, W, V)
        if self.reg == "l24":
            squared, inner = np.sum(W**2, axis=1, keepdims=True), np.sum(W * V, axis=1, keepdims=True)
            return image + 4 * self.lam * (squared * V + 2 * inner * W)
        return image + 2 * self.lam / len(W) ** 0.5 * V

    def hessian(self, W: np.ndarray) -> np.ndarray:
        """The Hessian (m k, m k) in float64, neurons outermost. Cost: 2 n (m k)^2 flops."""
        (m, k), n = self.shape, len(self.H)
        moved = self.H @ W.T
        slope, curvature = call_in_float64(
            loss_slopes, self.loss, np.einsum("ir,ir,ir->i", self.gates, moved, moved), self.y
        )
        hessian = np.zeros((m * k, m * k))
        for rows in np.array_split(np.arange(n), -(-n * m * k // _ROWS)):
            rates = ((self.gates * moved)[rows, :, None] * self.H[rows, None, :]).reshape(len(rows), m * k)
            hessian += 4 / n * rates.T @ (curvature[rows, None] * rates)
        squared = np.sum(W**2, axis=1)
        for r in range(m):
            block = 2 / n * self.H.T @ ((slope * self.gates[:, r])[:, None] * self.H)
            if self.reg == "l24":
                block += 4 * self.lam * (squared[r] * np.eye(k) + 2 * np.outer(W[r], W[r]))
            else:
                block += 2 * self.lam / m**0.5 * np.eye(k)
            hessian[r * k : (r + 1) * k, r * k : (r + 1) * k] += block
        return hessian


def weights_like(W: Any, shape: tuple[int, ...], name: str) -> np.ndarray:
    """Weights (m, k) as finite float64 numbers."""
    weights = np.asarray(W, dtype=np.float64)
    if weights.shape != tuple(shape):
        raise ShapeError(f"`{name}` has shape {weights.shape}; it must be that of `W0`, {tuple(shape)}.")
    checks.all_finite(weights, name)
    return weights


def targets_of(y: Any, n: int, name: str = "y") -> np.ndarray:
    """Targets (n,) in float64; integers, such as labels and counts, are converted."""
    targets = np.asarray(y)
    targets = targets.astype(np.float64) if targets.dtype.kind in "iu" else checks.real_array(targets, name)
    if targets.shape != (n,):
        raise ShapeError(
            f"`{name}` has shape {targets.shape}; give one target for each of {n} rows, ({n},). Several outputs are "
            "fitted one by one."
        )
    checks.all_finite(targets, name)
    return targets.astype(np.float64)


def signs_of(a: Any) -> np.ndarray:
    """Output weights (m,), +1 or -1."""
    signs = np.asarray(a, dtype=np.float64)
    if signs.ndim != 1 or not np.isin(signs, (-1.0, 1.0)).all():
        raise ValueError(f"`a` must be a vector of +1 and -1; it has shape {signs.shape} and other numbers or axes.")
    return signs


def _network(H: Any, W0: Any, a: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    inputs, w0, signs = as_matrix(H, "H"), as_matrix(W0, "W0"), signs_of(a)
    if w0.shape[1] != inputs.shape[1]:
        raise ShapeError(f"`W0` has shape {w0.shape}, but rows of `H` have {inputs.shape[1]} features; give as many.")
    if len(signs) != len(w0):
        raise ShapeError(f"`a` has {len(signs)} entries, but `W0` has {len(w0)} rows; give one for each neuron.")
    return inputs, w0, signs


def _curved(activation: Any) -> Phi:
    """The activation, refused where its second derivative vanishes almost everywhere."""
    phi = hashable(activation_of(activation, "the quadratic model"))
    if not _probed(phi).any():
        name = activation if isinstance(activation, str) else getattr(activation, "__name__", repr(activation))
        raise ValueError(
            f"the second derivative of `activation` {name!r} vanishes almost everywhere, so the quadratic model is "
            'zero. Take activation="relu3", whose second derivative is the ReLU, or "square", where it is 1.'
        )
    return phi


def _probed(phi: Phi) -> np.ndarray:
    """Phi'' at some thousand points of all sizes, of either sign."""
    generator = np.random.default_rng(0)
    points = generator.normal(size=(4, 512)) * np.array([[0.01], [0.3], [1.0], [10.0]])
    return elementwise(phi, points.ravel(), 2)


@partial(jax.jit, static_argnums=0)
def mean_of_loss(loss: OutputLoss, outputs: jax.Array, y: jax.Array) -> jax.Array:
    """The mean loss of outputs."""
    return jnp.mean(loss.value(outputs, y))


@partial(jax.jit, static_argnums=0)
def loss_slopes(loss: OutputLoss, outputs: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """First and second derivative of each loss in its output."""
    return loss.slope(outputs, y), loss.curvature(outputs, y)


def _forward(W: jax.Array, H: jax.Array, G: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Gates times H W^T (n, m), and the outputs (n,)."""
    moved = jnp.matmul(H, W.T, precision="highest")
    weighted = G * moved
    return weighted, jnp.sum(weighted * moved, axis=1)


@partial(jax.jit, static_argnums=0)
def _mean_loss(loss: OutputLoss, W: jax.Array, H: jax.Array, y: jax.Array, G: jax.Array) -> jax.Array:
    return jnp.mean(loss.value(_forward(W, H, G)[1], y))


@partial(jax.jit, static_argnums=0)
def _loss_and_gradient(
    loss: OutputLoss,
    W: jax.Array,
    H: jax.Array,
    y: jax.Array,
    G: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    return loss_and_gradient(loss, W, H, y, G)


def loss_and_gradient(
    loss: OutputLoss,
    W: jax.Array,
    H: jax.Array,
    y: jax.Array,
    G: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """The mean loss and its gradient in W, in two matrix products."""
    weighted, outputs = _forward(W, H, G)
    slope = loss.slope(outputs, y) * (2 / len(y))
    return jnp.mean(loss.value(outputs, y)), jnp.matmul((slope[:, None] * weighted).T, H, precision="highest")


@partial(jax.jit, static_argnums=0)
def _product(
    loss: OutputLoss,
    W: jax.Array,
    V: jax.Array,
    H: jax.Array,
    y: jax.Array,
    G: jax.Array,
) -> jax.Array:
    weighted, outputs = _forward(W, H, G)
    turned = jnp.matmul(H, V.T, precision="highest")
    rate = 2 * jnp.sum(weighted * turned, axis=1)
    mixed = (loss.curvature(outputs, y) * rate)[:, None] * weighted + loss.slope(outputs, y)[:, None] * (G * turned)
    return 2 / len(y) * jnp.matmul(mixed.T, H, precision="highest")
