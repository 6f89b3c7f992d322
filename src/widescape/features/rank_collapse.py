"""Ranks of features in training, a penalty on their extremes, and the ranks of repeated regression on own targets."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import linalg

from widescape.core import checks
from widescape.core.blas import threads_for
from widescape.core.chart import Chart, Series
from widescape.core.errors import DtypeError, NonFiniteError, ShapeError
from widescape.core.evidence import EXACT
from widescape.core.precision import double_scope
from widescape.core.progress import track
from widescape.core.result import Result, quantity
from widescape.features.centered import matrix
from widescape.features.matrix_ranks import RankReport, cumulative_rank, rank_report, share_left_out

_NORMAL = 1e-10  # of |S|^2: what S S^T and S^T S of a normal matrix may differ by


class RankTrace(Result):
    """Ranks of features at points of training, as they are and with columns centered."""

    source = "kumar2021implicit"
    steps: np.ndarray = quantity(EXACT, "points of training, rising, (T,)")
    srank: np.ndarray = quantity(EXACT, "fewest singular values with a share 1 - delta of their sum, (T,)")
    srank_centered: np.ndarray = quantity(EXACT, "the same, columns centered, (T,)")
    effective_rank: np.ndarray = quantity(EXACT, "exp of the entropy of sigma / sum sigma, (T,)")
    effective_rank_centered: np.ndarray = quantity(EXACT, "the same, columns centered, (T,)")
    stable_rank: np.ndarray = quantity(EXACT, "sum sigma^2 / max sigma^2, (T,)")
    stable_rank_centered: np.ndarray = quantity(EXACT, "the same, columns centered, (T,)")
    numerical_rank: np.ndarray = quantity(EXACT, "singular values above rounding, (T,)")
    numerical_rank_centered: np.ndarray = quantity(EXACT, "the same, columns centered, (T,)")
    penalty: np.ndarray = quantity(EXACT, "max sigma^2 - min sigma^2, not centered, (T,)")
    delta: float = quantity(EXACT, "share that srank leaves out")
    shape: tuple[int, int] = quantity(EXACT, "samples and features")

    def charts(self) -> tuple[Chart, ...]:
        """The ranks against the points of training."""
        kinds = {"srank": "srank", "effective_rank": "entropy", "stable_rank": "stable"}
        series = [
            Series(self.steps, getattr(self, f"{field}{suffix}"), f"{label}{note}", style="both")
            for field, label in kinds.items()
            for suffix, note in (("", ""), ("_centered", ", centered"))
        ]
        return (
            Chart(
                name="rank-trace",
                title="Ranks of features in training",
                x_label="step",
                y_label="rank",
                series=tuple(series),
                caption=f"{self.shape[1]} features of {self.shape[0]} samples; srank with delta = {self.delta:g}. "
                "Ranks depend on the number of samples.",
            ),
        )


class BootstrapRanks(Result):
    """The ranks of the matrices M_k = sum_{j < k} S^j, by which fitted values follow from rewards after k rounds."""

    source = "kumar2021implicit"
    rounds: np.ndarray = quantity(EXACT, "numbers of rounds k, as given, (R,)")
    srank: np.ndarray = quantity(EXACT, "fewest singular values of M_k with a share 1 - delta of their sum, (R,)")
    singular_values: np.ndarray = quantity(EXACT, "of M_k, falling, over the largest, (R, n)")
    delta: float = quantity(EXACT, "share that srank leaves out")
    spectral_radius: float = quantity(EXACT, "largest |eigenvalue| of S; M_k has a limit if it is below 1")
    is_psd: bool = quantity(
        EXACT, "whether S is symmetric with no eigenvalue below zero; then srank never rises with the rounds"
    )

    def charts(self) -> tuple[Chart, ...]:
        """The rank against the rounds."""
        order = np.argsort(self.rounds, kind="stable")
        return (
            Chart(
                name="bootstrap-rank",
                title="Rank after rounds of regression on own targets",
                x_label="rounds",
                y_label="srank",
                series=(Series(self.rounds[order], self.srank[order], f"srank, delta = {self.delta:g}", style="both"),),
                x_scale="log",
                caption=f"Exact, from the eigenvalues of S; spectral radius {self.spectral_radius:.6g}.",
            ),
        )


def rank_penalty(phi: Any) -> jax.Array:
    """The penalty sigma_max^2 - sigma_min^2 on features, differentiable in JAX.

    The gradient is 2 sigma_max u v^T - 2 sigma_min u' v'^T with the singular vectors of the two extremes, and so exact
    wherever these two are single, whatever repeats between them; at a repeated extreme it is one of the directions of a
    generalized gradient. sigma_min is the smallest of min(n, p) singular values.

    It is of degree two in the features: alone, it is least at zero features, and as a term of a loss it can drive them
    there: give it a small weight (0.001 and less are in use), and watch the ranks (`rank_trace`).

    Args:
        phi: features (n, p), floating point, also traced; one row per sample.

    Returns:
        a scalar of the dtype of `phi`, not negative.

    Raises:
        ShapeError, DtypeError, ValueError: no real matrix, or not finite as far as it is known.

    Cost: one singular value decomposition, about 6 n p min(n, p) flops with the vectors that the gradient needs, and
    products of 6 n p min(n, p) flops for it.

    Source: kumar2021implicit.

    Example:
        >>> phi = np.array([[3.0, 0.0], [0.0, 1.0]])
        >>> with jax.enable_x64(True):
        ...     float(rank_penalty(phi)), jax.grad(rank_penalty)(phi).round(12).tolist()
        (8.0, [[6.0, 0.0], [0.0, -2.0]])
    """
    if not isinstance(phi, jax.core.Tracer):
        phi = matrix(phi, "phi")
    if not jnp.issubdtype(phi.dtype, jnp.floating):
        raise DtypeError(f"`phi` has dtype {phi.dtype}; it must be an array of real floating-point numbers.")
    if phi.ndim != 2 or 0 in phi.shape:
        raise ShapeError(f"`phi` has shape {phi.shape}; give a matrix of samples by features (n, p).")
    with double_scope(phi.dtype == np.float64):
        values = jnp.linalg.svd(jnp.asarray(phi), compute_uv=False)  # alone, they have a derivative without divisions
        return values[0] ** 2 - values[-1] ** 2


def rank_trace(
    feature_fn: Callable[[Any, Any], Any],
    checkpoints: Sequence[Any] | Mapping[int, Any],
    x: Any,
    *,
    delta: float = 0.01,
    progress: bool | None = None,
) -> RankTrace:
    """The ranks of features at points of training, on the same samples each time.

    Args:
        feature_fn: a function of parameters and `x` that returns features (n, p), as those before the last layer.
        checkpoints: parameters in the order of training; or a mapping from steps, rising, to parameters.
        x: the samples, given to `feature_fn` as they are. Ranks depend on how many there are.
        delta: for `srank`.
        progress: show a progress bar; None shows it on a terminal.

    Returns:
        a `RankTrace`.

    Raises:
        ShapeError, DtypeError, TypeError, ValueError: arguments or features that do not fit, with the step.

    Warns:
        DegenerateWarning: features are zero or constant; their ranks are 0.

    Cost: for each checkpoint one call of `feature_fn` and two times the singular values of its features.

    Example:
        >>> trace = rank_trace(lambda w, x: x @ w, [np.eye(3), np.diag([1.0, 1.0, 0.0])], np.eye(3) + 1)
        >>> trace.srank.tolist(), trace.numerical_rank_centered.tolist()
        ([3, 2], [2, 2])
    """
    share_left_out(delta, "rank_trace")
    named = _named(checkpoints)
    reports: list[RankReport] = []
    for step, params in track(list(named.items()), "checkpoints", show=progress):
        features = feature_fn(params, x)
        try:
            report = rank_report(features, delta)
        except (DtypeError, ShapeError, ValueError) as error:
            raise type(error)(f"features at step {step}: {error}") from error
        if reports and report.shape != reports[0].shape:
            raise ShapeError(
                f"features at step {step} have shape {report.shape}, but {reports[0].shape} at the first; ranks "
                "compare on the same samples and features only."
            )
        reports.append(report)
    ranks = [f"{kind}_rank{suffix}" for kind in ("effective", "stable", "numerical") for suffix in ("", "_centered")]
    fields: dict[str, Any] = {
        name: np.array([getattr(r, name) for r in reports]) for name in ("srank", "srank_centered", *ranks)
    }
    ends = np.array([r.singular_values[[0, -1]] for r in reports])
    return RankTrace(
        steps=np.array(list(named)),
        **fields,
        penalty=ends[:, 0] ** 2 - ends[:, 1] ** 2,
        delta=float(delta),
        shape=reports[0].shape,
    )


def bootstrap_rank_theory(
    s: Any,
    rounds: Sequence[int],
    delta: float = 0.01,
) -> BootstrapRanks:
    """The ranks of M_k = sum_{j < k} S^j: how much of the rewards fitted values keep after k rounds on own targets.

    With a linear smoother A, transitions P and discount gamma, S = gamma P A (up to the order of the factors): the
    fitted values after k rounds are A M_k times the rewards. For a normal S with eigenvalues s_i the singular values of
    M_k are |1 - s_i^k| / |1 - s_i|, computed without cancellation for s_i near 1 (k at s_i = 1).

    If S is symmetric with no negative eigenvalue, `srank` never rises with k: the ratio of the singular values of
    M_{k+1} and M_k, 1 + 1 / sum_{1 <= i <= k} s^-i, is larger for larger s, so each leading share of the sum grows.

    Args:
        s: the matrix S (n, n), symmetric, or at least normal.
        rounds: numbers of rounds k, each at least 1.
        delta: for `srank`.

    Returns:
        `BootstrapRanks`.

    Raises:
        ShapeError, DtypeError, ValueError: arguments that do not fit; S is not normal, so that its eigenvalues do not
            give singular values (then take `srank` of the sum itself).
        NonFiniteError: M_k overflows.

    Cost: the eigenvalues, 4/3 n^3 flops for a symmetric and about 10 n^3 for a normal S; n for each number of rounds.

    Source: the setting of kumar2021implicit; the statement about symmetric S is proved here.

    Example:
        >>> found = bootstrap_rank_theory(np.diag([0.99] + 9 * [0.1]), [1, 20, 100, 1000], 0.1)
        >>> found.srank.tolist()
        [9, 8, 4, 1]
    """
    share = share_left_out(delta, "bootstrap_rank_theory")
    given = matrix(s, "s")
    if given.shape[0] != given.shape[1]:
        raise ShapeError(f"`s` has shape {given.shape}; it must be a square matrix.")
    numbers = list(rounds)
    for k in numbers:
        checks.count(k, "rounds", "bootstrap_rank_theory")
    if not numbers:
        raise ValueError("`rounds` is empty; give at least one number of rounds.")
    eigenvalues, symmetric = _eigenvalues(np.asarray(given, np.float64))
    sizes = np.array([np.sort(np.abs(_geometric_sum(eigenvalues, int(k))))[::-1] for k in numbers])
    if not np.isfinite(sizes).all():
        k = numbers[int(np.argmax(~np.isfinite(sizes).all(axis=1)))]
        radius = np.abs(eigenvalues).max()
        raise NonFiniteError(
            f"M_k overflows at k = {k}, for the spectral radius of S is {radius:.4g}; take fewer rounds."
        )
    rounding = len(given) * np.finfo(np.float64).eps * np.abs(eigenvalues).max()
    largest = sizes[:, :1]
    return BootstrapRanks(
        rounds=np.array(numbers),
        srank=np.array([cumulative_rank(values, share) for values in sizes]),
        singular_values=sizes / np.where(largest > 0, largest, 1.0),
        delta=share,
        spectral_radius=float(np.abs(eigenvalues).max()),
        is_psd=symmetric and bool(eigenvalues.real.min() >= -rounding),
    )


def _eigenvalues(s: np.ndarray) -> tuple[np.ndarray, bool]:
    """Eigenvalues of a normal matrix, complex, and whether it is symmetric."""
    scale = float(np.abs(s).max())
    with threads_for(len(s)):
        if np.abs(s - s.T).max() <= 1e-12 * scale:
            return linalg.eigvalsh((s + s.T) / 2, check_finite=False).astype(complex), True
        unit = s / scale
        away = float(np.linalg.norm(unit @ unit.T - unit.T @ unit))
        if away > _NORMAL * float(np.linalg.norm(unit)) ** 2:
            raise ValueError(
                f"`s` is not normal: |S S^T - S^T S| is {away / float(np.linalg.norm(unit)) ** 2:.2g} of |S|^2, so its "
                "eigenvalues do not give the singular values of sum_j S^j. Give a symmetric or normal matrix, or take "
                "`srank` of that sum."
            )
        return linalg.eigvals(s, check_finite=False), False


def _geometric_sum(s: np.ndarray, k: int) -> np.ndarray:
    """Sum of s^j for j < k, of complex numbers."""
    gap = s - 1  # exact near 1 on the real axis
    near = np.abs(gap) < 0.5
    inner = np.where(near, gap, 0.0)
    # log(1 + z) and exp(z) - 1 to full relative accuracy, which NumPy has for real numbers only
    log = 0.5 * np.log1p(inner.real * (2 + inner.real) + inner.imag**2) + 1j * np.arctan2(inner.imag, 1 + inner.real)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        growth, turn = np.expm1(k * log.real), k * log.imag
        half = np.sin(turn / 2)
        power = growth * np.cos(turn) - 2 * half**2 + 1j * (growth + 1) * np.sin(turn)
        away = (1 - np.where(near, 0.0, s) ** k) / np.where(near, 1.0, -gap)
        return np.where(near, np.where(inner == 0, float(k), power / np.where(inner == 0, 1.0, inner)), away)


def _named(checkpoints: Any) -> dict[Any, Any]:
    """Parameters by step."""
    if isinstance(checkpoints, Mapping):
        named = dict(checkpoints)
        for step in named:
            if not checks.is_concrete_number(step):
                raise TypeError(
                    f"`checkpoints` is a mapping with the key {step!r}; give a list of parameters, or a mapping from "
                    "the numbers of steps to parameters."
                )
        if (np.diff(list(named)) <= 0).any():
            raise ValueError(f"`checkpoints`: the steps {list(named)} do not rise; sort them.")
    else:
        named = dict(enumerate(checkpoints))
    if not named:
        raise ValueError("`checkpoints` is empty; give the parameters of at least one step.")
    return named
