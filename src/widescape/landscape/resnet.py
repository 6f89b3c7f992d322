"""A residual block and a linear layer: the loss against the best linear predictors, and ways out of saddles."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from widescape.core import checks
from widescape.core.chart import Chart, Marker, Series
from widescape.core.errors import AssumptionWarning, PrecisionError, ShapeError
from widescape.core.evidence import EXACT, bound, sampled
from widescape.core.precision import call_in_float64
from widescape.core.result import Result, quantity
from widescape.core.status import Status
from widescape.landscape.convex_fit import ConvexFit, best_linear_fit, expanded, value_of
from widescape.landscape.minima.losses import ExampleLoss, targets_like

_RANK = 1e-8  # singular values of W below this share of the largest count as zero
_MOVE = 1e-2  # of R in an escape, in units of 1 + |R|
_STRICT = 1e-14  # a decrease by less than this share of the loss, here or at zero outputs, may be rounding
_LENGTHS = 2.0 ** np.arange(20, -40, -1)

_ATTAINED = bound("upper", "a minimum of a convex function, found by least squares or by Newton's method")
_GAP = bound("lower", "less an upper bound of a convex minimum")


class ResNetStatus(Status):
    """Whether the convex optima with which the loss is compared exist."""

    OK = "Both convex optima are attained."
    CAPPED = "A convex optimum is not attained within the norm cap; its value is the smallest one under the cap."


class ResNetVerdict(Status):
    """What the comparison says about the point."""

    JOINT_OPTIMUM = "The loss is the joint convex optimum: no choice of W and R does better with these features."
    ESCAPABLE = "W is rank-deficient and a move that keeps all outputs opens a descent: this is no local minimum."
    UNATTAINED = "The joint convex optimum is not attained within the norm cap: larger weights lower the loss further."
    NOT_STATIONARY = "The loss is above the joint convex optimum and a gradient in W or R is not zero."

    @property
    def ok(self) -> bool:
        """Whether the point is as good as the theorem says that local minima are."""
        return self is ResNetVerdict.JOINT_OPTIMUM


class ResNetReport(Result):
    """The loss of W (x + R z) against the best functions A x and A x + B z of the same inputs and features."""

    source = "kawaguchi2018resnets"
    status: ResNetStatus = quantity(EXACT, "whether both convex optima are attained")
    verdict: ResNetVerdict = quantity(EXACT, "what the comparison says")
    rank: int = quantity(EXACT, "of W, with singular values relative to the largest")
    L: float = quantity(EXACT, "mean loss at the point")
    L_linear: float = quantity(_ATTAINED, "smallest mean loss of functions A x")
    L_joint: float = quantity(_ATTAINED, "smallest mean loss of functions A x + B z")
    gap_joint: float = quantity(_GAP, "L - L_joint, zero at every local minimum")
    gap_linear: float = quantity(_GAP, "L - L_linear, not positive at any local minimum")
    grad_norm: float = quantity(
        EXACT, "norm of the gradient in W and R together; that in the features' own is not in it"
    )
    feature_residual: float = quantity(EXACT, "|(1/m) sum_i G_i z_i^T|, zero at every local minimum")
    input_residual: float = quantity(EXACT, "|(1/m) sum_i G_i x_i^T|, zero at every local minimum")
    cap: float = quantity(
        EXACT, "largest root mean square of outputs in the convex fits, where some loss is unattained"
    )
    escape_residual: np.ndarray | None = quantity(
        EXACT, "change of R that keeps all outputs (dx, dz); None without an escape"
    )
    escape_weights: np.ndarray | None = quantity(EXACT, "change of W that follows, a gradient step (dy, dx)")
    escape_value: float | None = quantity(
        sampled("least over step lengths"), "mean loss after both changes, less than L"
    )

    @property
    def escape_direction(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The changes of W and of R that lower the loss, or None."""
        return (
            None
            if self.escape_weights is None or self.escape_residual is None
            else (self.escape_weights, self.escape_residual)
        )

    def charts(self) -> tuple[Chart, ...]:
        """The loss beside the two optima."""
        return (
            Chart(
                name="resnet",
                title="Loss of a residual network and of the best linear predictors",
                x_label="1 of the inputs, 2 of inputs and features",
                y_label="mean loss",
                series=(
                    Series(
                        np.array([1.0, 2.0]), np.array([self.L_linear, self.L_joint]), "convex optimum", style="both"
                    ),
                ),
                markers=(Marker(self.L, "loss"),),
                caption=f"{self.verdict} {self.status}",
            ),
        )


@dataclass(frozen=True)
class ResidualModel:
    """f(x) = W (x + R z(u, x)): one residual block of any features, and a linear output layer.

    Parameters are a dictionary of ``"W"`` (dy, dx), ``"R"`` (dx, dz) and ``"u"``, those of the features.

    Attributes:
        z: maps (u, X) to features (m, dz), X being (m, dx). Must be differentiable by JAX.
        dx, dz, dy: numbers of inputs, features and outputs; dy must not exceed dx.

    Example:
        >>> model = ResidualModel(lambda u, x: jnp.tanh(x @ u), dx=2, dz=3, dy=1)
        >>> params = model.init(jax.random.key(0), np.ones((2, 3)))
        >>> model.apply(params, np.ones((5, 2))).shape
        (5, 1)
    """

    z: Callable[[Any, Any], jax.Array]
    dx: int
    dz: int
    dy: int

    def __post_init__(self) -> None:
        for name in ("dx", "dz", "dy"):
            checks.count(getattr(self, name), name, "ResidualModel")
        _check_sizes(self.dx, self.dz, self.dy)

    def init(self, key: jax.Array, u: Any) -> dict[str, Any]:
        """Gaussian W and R in float64, of variances 1/dx and 1/dz, beside the parameters `u` of the features."""
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        own = rng.standard_normal((self.dy, self.dx)) / self.dx**0.5
        return {"W": own, "R": rng.standard_normal((self.dx, self.dz)) / self.dz**0.5, "u": u}

    def apply(self, params: Any, x: Any) -> jax.Array:
        """Outputs (m, dy) for inputs (m, dx)."""
        hidden = jnp.asarray(x) + self.z(params["u"], x) @ params["R"].T
        return hidden @ params["W"].T

    def certificate(
        self,
        params: Any,
        X: Any,  # noqa: N803
        Y: Any,  # noqa: N803
        loss: ExampleLoss = "square",
        *,
        tol: float = 1e-6,
        max_norm: float = 20.0,
        allow_float32: bool = False,
    ) -> ResNetReport:
        """The `resnet_certificate` of this model, whose features z(u, X) are computed in float64 too.

        Args:
            params: ``"W"``, ``"R"`` and ``"u"``.
            X: inputs (m, dx).
            Y: targets, examples first.
            loss: of one example, convex in its outputs, or a name.
            tol: as for `resnet_certificate`, and so the next two.
            max_norm: cap on the outputs in the convex fits.
            allow_float32: accept arrays of less than double precision.

        Raises:
            PrecisionError: parameters or inputs of less than double precision, unless they are allowed; or features
                that compute in it.
            ShapeError, DtypeError, TypeError, ValueError: as for `resnet_certificate`.
        """
        inputs = _numbers(X, "X")
        _require_double([inputs, *jax.tree.leaves(params["u"])], allow_float32)
        own = jax.tree.map(_doubled, params["u"])
        z = call_in_float64(self.z, own, inputs.astype(np.float64))
        return resnet_certificate(
            params["W"], params["R"], z, inputs, Y, loss, tol=tol, max_norm=max_norm, allow_float32=allow_float32
        )


def resnet_certificate(
    W: Any,  # noqa: N803
    R: Any,  # noqa: N803
    z: Any,
    X: Any,  # noqa: N803
    Y: Any,  # noqa: N803
    loss: ExampleLoss = "square",
    *,
    tol: float = 1e-6,
    max_norm: float = 20.0,
    allow_float32: bool = False,
) -> ResNetReport:
    """Whether a residual network W (x + R z) is as good as any local minimum must be.

    With a loss convex in the outputs and dy <= min(dx, dz), at every local minimum in W, R and whatever makes z

        L = min over A, B of (1/m) sum_i loss(A x_i + B z_i, y_i)  <=  min over A of (1/m) sum_i loss(A x_i, y_i).

    The equality holds at every critical point where W has rank dy. Elsewhere there is p with W p = 0, so that moving R
    by eps p q^T keeps all outputs; with G_i the gradient of the i-th loss in its outputs, and q the top right-singular
    vector of sum_i G_i z_i^T, a gradient step in W then lowers the loss, unless that sum is zero.

    Args:
        W: weights of the output layer (dy, dx).
        R: weights of the residual branch (dx, dz).
        z: values of the last hidden representation on the data (m, dz), not a function.
        X: inputs, or fixed features of them, (m, dx).
        Y: targets, examples first.
        loss: of one example, convex in its outputs: a function of (outputs (dy,), target), or a name.
        tol: largest L - L_joint that counts as none, as a share of what the joint optimum takes off the loss at zero
            outputs.
        max_norm: cap on the root mean square of the outputs in both fits, where the loss of some example attains no
            minimum, as with cross entropy and labels. It is raised to that of the network, so that the network is among
            the functions that it is compared with.
        allow_float32: accept arrays of less than double precision.

    Returns:
        a `ResNetReport`. The comparison says nothing about the gradient in the parameters of the features. Its verdict
        is ``"joint_optimum"`` only if that optimum is attained within the cap and no escape was found; an optimum that
        is attained nowhere leaves no local minimum at all, and the verdict is ``"unattained"`` whatever the escape.

    Raises:
        ValueError: dy > dx, so that the theorem does not hold; or arguments that are not finite.
        ShapeError, DtypeError, TypeError: arrays that do not fit.
        PrecisionError: arrays of less than double precision, unless they are allowed.

    Warns:
        AssumptionWarning: dy > dz.

    Cost: two convex fits, O(m (dx + dz)^2) for the square loss and the same for each Newton step for others.

    Example:
        >>> x, y = np.array([[1.0], [-1.0]]), np.array([[2.0], [0.0]])
        >>> report = resnet_certificate(np.zeros((1, 1)), np.zeros((1, 1)), np.ones((2, 1)), x, y)
        >>> report.rank, report.L, round(report.L_linear, 12), round(report.L_joint, 12)
        (0, 1.0, 0.5, 0.0)
    """
    tolerance = checks.number(tol, "tol", "resnet_certificate")
    checks.positive(tolerance, "tol", "resnet_certificate")
    checks.positive(checks.number(max_norm, "max_norm", "resnet_certificate"), "max_norm", "resnet_certificate")
    weights, residual, features, inputs = _checked(W, R, z, X, allow_float32)
    hidden = inputs + features @ residual.T
    outputs = hidden @ weights.T
    targets = targets_like(Y, outputs, loss)
    value = value_of(outputs, targets, loss)
    at_zero = value_of(np.zeros_like(outputs), targets, loss)
    cap = max(float(max_norm), float(np.sqrt(np.sum(outputs**2) / len(outputs))))
    designs = inputs, np.concatenate([inputs, features], axis=1)
    linear, joint = (best_linear_fit(design, targets, loss, len(weights), cap) for design in designs)
    slopes = expanded(outputs, targets, loss)[0] / len(outputs)
    along, across = slopes.T @ features, slopes.T @ inputs
    by_weights, by_residual = slopes.T @ hidden, weights.T @ along
    rank = _rank(weights)
    least = _STRICT * max(abs(value), abs(at_zero))
    escape = _escape(weights, residual, features, inputs, along, targets, loss, least) if rank < len(weights) else None
    close = value - joint.value <= tolerance * (at_zero - joint.value) + least
    return ResNetReport(
        status=_status(linear, joint),
        verdict=_verdict(close, joint.capped, escape is not None),
        rank=rank,
        L=value,
        L_linear=linear.value,
        L_joint=joint.value,
        gap_joint=value - joint.value,
        gap_linear=value - linear.value,
        grad_norm=float(np.sqrt(np.sum(by_weights**2) + np.sum(by_residual**2))),
        feature_residual=float(np.linalg.norm(along)),
        input_residual=float(np.linalg.norm(across)),
        cap=cap,
        escape_weights=None if escape is None else escape[0],
        escape_residual=None if escape is None else escape[1],
        escape_value=None if escape is None else escape[2],
    )


def _rank(weights: np.ndarray) -> int:
    sizes = np.linalg.svd(weights, compute_uv=False)
    return int(np.sum(sizes > _RANK * sizes[0]))


def _escape(
    weights: np.ndarray,
    residual: np.ndarray,
    features: np.ndarray,
    inputs: np.ndarray,
    along: np.ndarray,
    targets: np.ndarray,
    loss: ExampleLoss,
    least: float,
) -> tuple[np.ndarray, np.ndarray, float] | None:
    """Changes of W and R and the loss after them, or None where no step length lowers it by more than `least`."""
    kernel = np.linalg.svd(weights)[2][-1]
    top = np.linalg.svd(along)[2][0]
    moved = _MOVE * (1 + np.linalg.norm(residual)) * np.outer(kernel, top)
    hidden = inputs + features @ (residual + moved).T
    outputs = (inputs + features @ residual.T) @ weights.T
    value = value_of(outputs, targets, loss)
    slope = expanded(outputs, targets, loss)[0].T @ hidden / len(inputs)
    best, lowest = None, value - least
    for length in _LENGTHS:
        after = value_of(hidden @ (weights - length * slope).T, targets, loss)
        if after < lowest:
            best, lowest = -length * slope, after
    return None if best is None else (best, moved, lowest)


def _status(linear: ConvexFit, joint: ConvexFit) -> ResNetStatus:
    return ResNetStatus.CAPPED if linear.capped or joint.capped else ResNetStatus.OK


def _verdict(close: bool, capped: bool, escapes: bool) -> ResNetVerdict:
    if capped:
        return ResNetVerdict.UNATTAINED
    if escapes:
        return ResNetVerdict.ESCAPABLE
    return ResNetVerdict.JOINT_OPTIMUM if close else ResNetVerdict.NOT_STATIONARY


def _check_sizes(dx: int, dz: int, dy: int) -> None:
    if dy > dx:
        raise ValueError(
            f"there are {dy} outputs and {dx} inputs; the theorem needs dy <= dx: give more input features."
        )
    if dy > dz:
        warnings.warn(
            f"there are {dy} outputs and {dz} features; the theorem assumes dy <= dz.", AssumptionWarning, stacklevel=4
        )


def _require_double(leaves: list[Any], allow_float32: bool) -> None:
    low = [np.asarray(leaf).dtype for leaf in leaves if _is_low(leaf)]
    if low and not allow_float32:
        raise PrecisionError(
            f"a certificate works in float64, but `X` or a parameter of the features is {low[0]}; convert it, or pass "
            "`allow_float32=True` to start from these rounded values."
        )


def _is_low(leaf: Any) -> bool:
    dtype = np.asarray(leaf).dtype
    return bool(jnp.issubdtype(dtype, jnp.floating)) and dtype.itemsize < 8


def _doubled(leaf: Any) -> np.ndarray:
    own = np.asarray(leaf)
    return own.astype(np.float64) if _is_low(own) else own


def _numbers(array: Any, name: str) -> np.ndarray:
    """A real array, of which whole numbers become doubles."""
    given = np.asarray(array)
    return given.astype(np.float64) if given.dtype.kind in "iu" else checks.real_array(given, name)


def _checked(*arrays: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """W, R, z and X in float64."""
    *given, allow_float32 = arrays
    named = [(name, _numbers(array, name)) for name, array in zip(("W", "R", "z", "X"), given, strict=True)]
    for name, array in named:
        if array.ndim != 2 or array.size == 0:
            raise ShapeError(f"`{name}` has shape {array.shape}; it must be a matrix that is not empty.")
        checks.all_finite(array, name)
        if array.dtype.itemsize < 8 and not allow_float32:
            raise PrecisionError(
                f"resnet_certificate works in float64, but `{name}` is {array.dtype}; convert it, or pass "
                "`allow_float32=True` to start from these rounded values."
            )
    weights, residual, features, inputs = (array.astype(np.float64) for _, array in named)
    (dy, dx), (m, dz) = weights.shape, features.shape
    if residual.shape != (dx, dz) or inputs.shape != (m, dx):
        raise ShapeError(
            f"`W` is {weights.shape}, `R` {residual.shape}, `z` {features.shape} and `X` {inputs.shape}; they must be "
            "(dy, dx), (dx, dz), (m, dz) and (m, dx)."
        )
    _check_sizes(dx, dz, dy)
    return weights, residual, features, inputs
