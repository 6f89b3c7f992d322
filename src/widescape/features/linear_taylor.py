"""The linear Taylor model of a wide two-layer network on any representation: ridge regression on tangent features."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import jax
import numpy as np
from scipy import linalg
from scipy.sparse.linalg import LinearOperator, cg

from widescape import arch, predict
from widescape.arch.base import Layer
from widescape.core import checks
from widescape.core.blas import threads_for
from widescape.core.errors import IllConditionedError, NonFiniteError, ShapeError
from widescape.core.evidence import EXACT, sampled
from widescape.core.random import named_generator
from widescape.core.result import Result, quantity
from widescape.core.status import Status
from widescape.curvature.request import hashable
from widescape.features.expansions import activation_of
from widescape.features.quadratic_objective import signs_of
from widescape.features.random_layers import as_matrix, elementwise
from widescape.predict.modes import targets as targets_of

Solver = Literal["auto", "dual", "primal", "cg"]
_DENSE_UP_TO = 4000  # order of the matrices that are factorized unasked, if the smaller side is longer
_REGS = np.logspace(-8, 1, 37)


def taylor_weights(
    m: int, k: int, *, mean_square: float | None = None, symmetric: bool = False, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Hidden weights and signs at the start of a two-layer network: rows N(0, I/mean_square), half of the signs +1.

    Args:
        m: neurons, even.
        k: width of the representation.
        mean_square: E|h|^2, for pre-activations of unit variance; None for k.
        symmetric: whether the second half repeats the first with the other sign, so that the network starts at zero.
            Taylor terms of order one and higher do not need it; independent rows have more gates.
        seed: an integer from 0 to 2^32 - 1.

    Returns:
        W0 (m, k) and a (m,), first the +1.

    Raises:
        TypeError, ValueError: an odd number of neurons, or numbers out of range.
    """
    owner = "taylor_weights"
    checks.count(m, "m", owner)
    checks.count(k, "k", owner)
    checks.seed(seed, owner)
    if m % 2:
        raise ValueError(f"{owner}: the width is {m}; it must be even, since half of the output weights are +1.")
    mean_square = float(k) if mean_square is None else checks.number(mean_square, "mean_square", owner)
    checks.positive(mean_square, "mean_square", owner)
    rows = named_generator(jax.random.key(seed), owner).standard_normal((m // 2 if symmetric else m, k))
    weights = (np.concatenate([rows, rows]) if symmetric else rows) / mean_square**0.5
    return weights, np.repeat([1.0, -1.0], m // 2)


def linear_taylor_kernel(H1: Any, H2: Any, W0: Any, activation: Any = "relu") -> np.ndarray:
    """The tangent kernel of the hidden weights: (1/m) sum_r phi'(w0_r . h) phi'(w0_r . h') times h . h' / k.

    Args:
        H1: representations, (n1, k).
        H2: others, (n2, k).
        W0: hidden weights, (m, k).
        activation: as in `two_layer_terms`.

    Returns:
        (n1, n2), float64.

    Cost: 2 n1 n2 (m + k) flops.
    """
    h1, h2, w0 = as_matrix(H1, "H1"), as_matrix(H2, "H2"), as_matrix(W0, "W0")
    s1 = _slopes(h1, w0, activation)
    s2 = s1 if h2 is h1 else _slopes(h2, w0, activation)
    kernel: np.ndarray = (s1 @ s2.T / len(w0)) * (h1 @ h2.T / w0.shape[1])
    return kernel


def infinite_linear_taylor(activation: Any = "relu", mean_square_over_k: float = 1.0) -> Layer:
    """The network whose tangent kernel is the limit of `linear_taylor_kernel` for m -> infinity.

    One trained dense layer, the nonlinearity, and a frozen read-out. The tangent kernel is that of `taylor_weights`
    with `mean_square` k times `mean_square_over_k`, divided by `mean_square_over_k`.

    Args:
        activation: ``"relu"``, ``"relu3"``, ``"square"`` or a nonlinearity of `widescape.arch`, in closed form where
            that has one; an elementwise function of JAX by quadrature.
        mean_square_over_k: E|h|^2 / k.

    Raises:
        ValueError, TypeError: as `activation_of`.
    """
    phi = activation_of(activation, "infinite_linear_taylor")
    named: dict[str, tuple[Layer, float]] = {
        "relu": (arch.Relu(), 1.0),
        "relu3": (arch.RectifiedPower(3), 1 / 6),
        "square": (arch.Polynomial((0.0, 0.0, 0.5)), 1.0),
    }
    if isinstance(activation, str):
        layer, size = named[activation]
    else:
        layer, size = (activation if isinstance(activation, Layer) else arch.Activation(hashable(phi))), 1.0
    w_std = checks.number(mean_square_over_k, "mean_square_over_k", "infinite_linear_taylor") ** -0.5
    return arch.Sequential(arch.Dense(512, w_std=w_std), layer, arch.Frozen(arch.Dense(1, w_std=size)))


class LinearTaylorStatus(Status):
    """How the weights were found."""

    SOLVED = "by a direct factorization"
    CONVERGED = "by conjugate gradients, to the tolerance"
    MAX_STEPS = "conjugate gradients ran out of steps before the tolerance"


class LinearTaylorFit(Result):
    """The linear Taylor model f(h) = m^(-1/2) sum_r a_r phi'(w0_r . h) (w_r . h) with the least penalized loss."""

    source = "chen2020hierarchical, the linear model"
    W: np.ndarray = quantity(EXACT, "displacement of the hidden weights, (m, k) or (c, m, k)")
    reg: float = quantity(EXACT, "regularizer, in units of the mean of the kernel's diagonal")
    loo_mse: float | None = quantity(EXACT, "leave-one-out squared loss, mean over points and outputs, if computed")
    at_edge: bool = quantity(EXACT, "whether the regularizer was chosen at an end of the values that were tried")
    solver: str = quantity(EXACT, "dual (n by n), primal (m k by m k), or conjugate gradients")
    status: LinearTaylorStatus = quantity(EXACT, "how the weights were found")
    residual: float = quantity(
        sampled("measured after the solution"), "relative residual of the linear system that was solved"
    )


class _Tangents:
    """Tangent features a_r phi'(w0_r . h) h / sqrt(m k) (n, m k), formed only where asked."""

    def __init__(self, h: np.ndarray, w0: np.ndarray, signs: np.ndarray, activation: Any) -> None:
        self.h, self.slopes = h, _slopes(h, w0, activation)
        self.scaled = self.slopes * (signs / w0.size**0.5)
        self.shape = len(h), w0.size

    @cached_property
    def kernel(self) -> np.ndarray:
        return (self.slopes @ self.slopes.T / self.slopes.shape[1]) * (self.h @ self.h.T / self.h.shape[1])

    @cached_property
    def dense(self) -> np.ndarray:
        return (self.scaled[:, :, None] * self.h[:, None, :]).reshape(self.shape)

    @cached_property
    def mean_diagonal(self) -> float:
        with np.errstate(over="ignore", invalid="ignore"):
            squares = np.square(self.scaled).sum(axis=1) * np.square(self.h).sum(axis=1)
            return float(squares.mean())

    def times(self, theta: np.ndarray) -> np.ndarray:
        """Outputs (n, c) of weights (m k, c)."""
        parts = theta.T.reshape(theta.shape[1], *self._cells)
        return np.stack([np.einsum("nr,nr->n", self.scaled, self.h @ part.T) for part in parts], axis=1)

    def transposed(self, v: np.ndarray) -> np.ndarray:
        """Weights (m k, c) of outputs (n, c)."""
        return np.stack([((self.scaled * column[:, None]).T @ self.h).ravel() for column in v.T], axis=1)

    @property
    def _cells(self) -> tuple[int, int]:
        return self.slopes.shape[1], self.h.shape[1]


def fit_linear_taylor(
    H: Any,
    y: Any,
    W0: Any,
    a: Any,
    *,
    activation: Any = "relu",
    reg: float | Literal["loo"] | Sequence[float] = "loo",
    solver: Solver = "auto",
    tol: float = 1e-8,
    max_steps: int = 1000,
) -> LinearTaylorFit:
    """Fit the linear Taylor model by ridge regression, which is kernel regression with its tangent kernel.

    Minimizes |f(H) - y|^2 + reg mean(diag K) |theta|^2 with theta = sqrt(k) W and K of `linear_taylor_kernel`.

    Args:
        H: representations of the training inputs, (n, k).
        y: targets (n,) or (n, c); integers, as counts or labels -1 and 1, count as numbers.
        W0: hidden weights of `taylor_weights`, (m, k).
        a: its signs, +1 or -1, (m,).
        activation: as in `two_layer_terms`; its first derivative must not vanish.
        reg: a number; ``"loo"`` for the one with the least leave-one-out squared loss between 1e-8 and 10; or several
            numbers to choose from by that loss, which is infinite for 0 where the matrix to be factorized is singular.
        solver: ``"dual"`` factorizes a matrix (n, n), ``"primal"`` one (m k, m k), ``"cg"`` takes conjugate gradients
            on products with the features alone; ``"auto"`` the smaller of the first two, or the last where both are
            larger than 4,000 and `reg` is a number.
        tol: relative residual at which conjugate gradients stop.
        max_steps: of conjugate gradients.

    Raises:
        ShapeError, DtypeError, TypeError, ValueError: arguments that do not fit, or tangent features that vanish.
        IllConditionedError: a regularizer that leaves the matrix singular.
        NonFiniteError: the first derivative of the activation is NaN or infinite at an example, or squares overflow.

    Cost: dual, n^2 (m + k) + n^3/3 flops, and 9 n^3 for leave-one-out; primal, n (m k)^2 + (m k)^3/3; conjugate
    gradients, 4 n m k a step.

    Example:
        >>> h = np.random.default_rng(0).normal(size=(30, 4))
        >>> w0, a = taylor_weights(40, 4)
        >>> fit = fit_linear_taylor(h, h[:, 0], w0, a, reg=1e-6)
        >>> bool(np.allclose(linear_taylor_outputs(h, w0, a, fit.W), h[:, 0], atol=1e-3))
        True
    """
    h, targets, tangents = _prepared(H, y, W0, a, activation)
    columns = targets if targets.ndim == 2 else targets[:, None]
    n, p = tangents.shape
    regs = _regularizers(reg)
    direct: Solver = "dual" if n <= p else "primal"
    if solver == "auto":
        solver = "cg" if min(n, p) > _DENSE_UP_TO and regs is not None and len(regs) == 1 else direct
    checks.choice(solver, "solver", Solver)
    if solver == "cg" and (regs is None or len(regs) > 1):
        raise ValueError("`solver` is 'cg', which computes no leave-one-out loss; give `reg` as one number.")
    chosen, loo, edge = _chosen(tangents, columns, regs, solver)
    if solver == "cg":
        theta, residual, status = _by_cg(tangents, columns, chosen, tol=tol, max_steps=max_steps)
    else:
        theta, residual, status = (_dual if solver == "dual" else _primal)(tangents, columns, chosen)
    w = theta.T.reshape(-1, *np.shape(W0)) / h.shape[1] ** 0.5
    return LinearTaylorFit(
        W=w if targets.ndim == 2 else w[0],
        reg=chosen,
        loo_mse=loo,
        at_edge=edge,
        solver=solver,
        status=status,
        residual=residual,
    )


def linear_taylor_outputs(
    H: Any,
    W0: Any,
    a: Any,
    W: Any,
    activation: Any = "relu",
) -> np.ndarray:
    """Outputs m^(-1/2) sum_r a_r phi'(w0_r . h) (w_r . h) at representations (n, k).

    Args:
        H: representations, (n, k).
        W0: hidden weights of `taylor_weights`, (m, k).
        a: its signs, +1 or -1, (m,).
        W: displacements, (m, k), or (c, m, k) for several outputs.
        activation: as in `two_layer_terms`.

    Returns:
        (n,), or (n, c).

    Cost: 4 n m k flops for one output.
    """
    h, w0, w = as_matrix(H, "H"), as_matrix(W0, "W0"), np.asarray(W, dtype=np.float64)
    if w.ndim not in (2, 3) or w.shape[-2:] != w0.shape or (h.shape[1], *np.shape(a)) != w0.shape[::-1]:
        raise ShapeError(f"`H` {h.shape}, `W0` {w0.shape}, `a` {np.shape(a)} and `W` {w.shape} do not fit.")
    tangents = _Tangents(h, w0, signs_of(a), activation)
    outputs = tangents.times(w.reshape(-1, w0.size).T * h.shape[1] ** 0.5)
    return outputs if w.ndim == 3 else outputs[:, 0]


def _slopes(h: np.ndarray, w0: np.ndarray, activation: Any) -> np.ndarray:
    """phi'(h . w0_r), (n, m)."""
    slopes = elementwise(activation_of(activation, "linear Taylor model"), h @ w0.T, order=1)
    if not np.isfinite(slopes).all():
        raise NonFiniteError(
            "the first derivative of `activation` is NaN or infinite at a pre-activation, an inner product of rows of "
            "the representations and of `W0`; give a smoother activation, or smaller numbers."
        )
    return slopes


def _prepared(H: Any, y: Any, W0: Any, a: Any, activation: Any) -> tuple[np.ndarray, np.ndarray, _Tangents]:
    """Checked representations, targets and tangent features."""
    h, w0 = as_matrix(H, "H"), as_matrix(W0, "W0")
    if h.shape[1] != w0.shape[1] or np.shape(a) != w0.shape[:1]:
        raise ShapeError(
            f"`H` {h.shape}, `W0` {w0.shape} and `a` {np.shape(a)} do not fit; (n, k), (m, k) and (m,) do."
        )
    tangents = _Tangents(h, w0, signs_of(a), activation)
    if not np.isfinite(tangents.mean_diagonal):
        raise NonFiniteError("the squares of the tangent features overflow; scale `H` down.")
    if tangents.mean_diagonal == 0 and (tangents.scaled.any(axis=1) & h.any(axis=1)).any():
        raise ValueError("the tangent features are so small that their squares underflow to zero; scale `H` up.")
    if tangents.mean_diagonal == 0:
        raise ValueError(
            "the tangent features are zero at every example: the first derivative of `activation` vanishes, or `H` is "
            "zero. Choose an activation that is not constant, such as 'relu'."
        )
    numbers = np.asarray(y)
    return h, targets_of(numbers.astype(np.float64) if numbers.dtype.kind in "iu" else y, len(h)), tangents


def _regularizers(reg: Any) -> tuple[float, ...] | None:
    """Those to choose from; None for the usual ones."""
    if isinstance(reg, str):
        if reg != "loo":
            raise ValueError(f"`reg` is {reg!r}; give a number, several, or 'loo'.")
        return None
    values = tuple(np.ravel(reg).tolist())
    if not values:
        raise ValueError("`reg` is empty; give a number, several, or 'loo'.")
    for value in values:
        checks.not_negative(checks.number(value, "reg", "fit_linear_taylor"), "reg", "fit_linear_taylor")
    return values


def _chosen(
    tangents: _Tangents, y: np.ndarray, regs: tuple[float, ...] | None, solver: Solver
) -> tuple[float, float | None, bool]:
    """The regularizer, its leave-one-out loss, and whether it lies at an end of the range."""
    if regs is not None and len(regs) == 1:
        return regs[0], None, False
    tried = sorted(_REGS if regs is None else regs)
    losses = _leave_one_out(tangents, y, tried, solver)
    best = int(np.argmin(losses))
    return float(tried[best]), float(losses[best]), best in {0, len(tried) - 1}


def _leave_one_out(tangents: _Tangents, y: np.ndarray, regs: Sequence[float], solver: Solver) -> list[float]:
    """The leave-one-out squared loss at each regularizer, from one eigendecomposition of the smaller matrix."""
    n, p = tangents.shape
    with threads_for(min(n, p)):
        if solver == "dual":
            values, U = linalg.eigh(tangents.kernel, driver="evd", check_finite=False)
            values = values.clip(min=0)
            singular = values[0] <= n * np.finfo(np.float64).eps * values[-1]
        else:
            values, V = linalg.eigh(tangents.dense.T @ tangents.dense, driver="evd", check_finite=False)
            live = values > p * np.finfo(np.float64).eps * values[-1]
            values, singular = values[live], not live.all()
            U = tangents.dense @ (V[:, live] / np.sqrt(values))
    inner, squares = U.T @ y, np.square(U)
    outside, free = y - U @ inner, 1 - squares.sum(axis=1)
    losses = []
    for reg in regs:
        if reg == 0 and singular:  # the fit without a regularizer is not defined
            losses.append(np.inf)
            continue
        ridge = reg * tangents.mean_diagonal
        shares = 1 / (values + ridge)
        if len(values) == n:  # U is orthogonal: (G^-1 y)_i / (G^-1)_ii, in which nothing cancels as the ridge vanishes
            residual, spared, least = U @ (shares[:, None] * inner), squares @ shares, 0.0
        else:
            residual, spared = outside + U @ (ridge * shares[:, None] * inner), free + squares @ (ridge * shares)
            # An example that alone decides its output spares nothing; the left singular vectors U have this rounding.
            least = n * np.finfo(np.float64).eps * float(values.max() / values.min()) ** 0.5
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            loss = float(np.mean(np.square(residual / spared[:, None])))
        losses.append(loss if np.isfinite(loss) and (spared > least).all() else np.inf)
    return losses


def _dual(tangents: _Tangents, y: np.ndarray, reg: float) -> tuple[np.ndarray, float, LinearTaylorStatus]:
    """Weights (m k, c) by way of the kernel matrix."""
    try:
        gp = predict.GP(tangents.kernel, y, reg=reg, kind="ntk")
    except IllConditionedError as error:
        raise _singular("dual", reg, error, error.suggested_reg) from None
    off = tangents.kernel @ gp.weights + gp.noise * gp.weights - y
    return tangents.transposed(gp.weights), _relative(off, y), LinearTaylorStatus.SOLVED


def _primal(tangents: _Tangents, y: np.ndarray, reg: float) -> tuple[np.ndarray, float, LinearTaylorStatus]:
    """Weights (m k, c) by the normal equations."""
    right = tangents.dense.T @ y
    matrix = tangents.dense.T @ tangents.dense
    try:
        gp = predict.GP(matrix, right, reg=reg * tangents.mean_diagonal, reg_scale="absolute", kind="ntk")
    except IllConditionedError as error:
        n, p = tangents.shape  # the mean of the diagonal of this matrix is n / p times that of the kernel
        raise _singular("primal", reg, error, error.suggested_reg * n / p) from None
    off = matrix @ gp.weights + gp.noise * gp.weights - right
    return gp.weights, _relative(off, right), LinearTaylorStatus.SOLVED


def _singular(solver: str, reg: float, error: IllConditionedError, suggested: float) -> IllConditionedError:
    """What to say of a regularizer that is too small."""
    which = {
        "dual": "kernel matrix of the examples (repeated ones, or more than their tangent features tell apart)",
        "primal": "matrix of products of the m k tangent features (some depend on others, or there are few examples)",
    }
    return IllConditionedError(
        f"fit_linear_taylor: with `reg` {reg:g} the {which[solver]} is not positive definite to working precision; its "
        f"smallest eigenvalue is {error.lambda_min:.3g}. Give `reg` of at least {suggested:.1e}.",
        lambda_min=error.lambda_min,
        suggested_reg=suggested,
    )


def _by_cg(
    tangents: _Tangents, y: np.ndarray, reg: float, *, tol: float, max_steps: int
) -> tuple[np.ndarray, float, LinearTaylorStatus]:
    """Weights (m k, c) by conjugate gradients on the normal equations, one output after the other."""
    ridge, p = reg * tangents.mean_diagonal, tangents.shape[1]
    matrix = LinearOperator(
        (p, p),
        matvec=lambda v: tangents.transposed(tangents.times(v.reshape(p, 1))).ravel() + ridge * v.ravel(),
        dtype=np.float64,
    )
    right = tangents.transposed(y)
    found = [cg(matrix, column, rtol=tol, atol=0.0, maxiter=max_steps) for column in right.T]
    theta = np.stack([solution for solution, _ in found], axis=1)
    off = np.stack([matrix @ column for column in theta.T], axis=1) - right
    finished = all(info == 0 for _, info in found)
    return theta, _relative(off, right), LinearTaylorStatus.CONVERGED if finished else LinearTaylorStatus.MAX_STEPS


def _relative(off: np.ndarray, size: np.ndarray) -> float:
    norm = float(np.linalg.norm(size))
    return float(np.linalg.norm(off)) / norm if norm > 0 else 0.0
