"""Choosing the weight of the regularizer of the quadratic Taylor model on a validation set."""

import warnings
from typing import Any

import numpy as np

from widescape.core import checks
from widescape.core.chart import Chart, Marker, Series
from widescape.core.errors import NonFiniteError, ShapeError
from widescape.core.evidence import EXACT
from widescape.core.precision import call_in_float64
from widescape.core.progress import track
from widescape.core.result import Result, quantity
from widescape.features.output_losses import Loss
from widescape.features.quadratic_fit import QuadraticFit, Solver, fit_problem, start_of, warn_if_constant, warn_if_few
from widescape.features.quadratic_objective import (
    Precision,
    QuadraticProblem,
    Regularizer,
    mean_of_loss,
    quadratic_outputs,
    targets_of,
)
from widescape.features.random_layers import as_matrix


class LamSelection(Result):
    """Fits of the quadratic Taylor model along a grid of regularizers, and the one that validation data prefer."""

    source = "chen2020hierarchical"
    lam: float = quantity(EXACT, "the chosen weight of the regularizer")
    fit: QuadraticFit = quantity(EXACT, "the fit there")
    at_edge: bool = quantity(EXACT, "whether it is an end of the grid, so that a better one may lie beyond")
    grid: np.ndarray = quantity(EXACT, "weights, rising, (g,)")
    validation: np.ndarray = quantity(
        EXACT, "mean loss on the validation data at each (g,); infinite beyond the range of numbers"
    )
    training: np.ndarray = quantity(EXACT, "mean loss on the training data at each, without the regularizer, (g,)")
    statuses: tuple[str, ...] = quantity(EXACT, "how each fit ended (g,)")

    def charts(self) -> tuple[Chart, ...]:
        """Both losses against the regularizer."""
        series = tuple(
            Series(self.grid, losses, label)
            for losses, label in ((self.validation, "validation"), (self.training, "training"))
        )
        return (
            Chart("lam-selection", "Loss of the quadratic Taylor model against its regularizer", "lam", "mean loss",
                  series, x_scale="log" if (self.grid > 0).all() else "linear",
                  markers=(Marker(self.lam, "chosen", "x"),)),
        )  # fmt: skip


def select_lam(
    H: Any,
    y: Any,
    Hv: Any,
    yv: Any,
    grid: Any,
    *,
    W0: Any,
    a: Any,
    activation: Any = "relu3",
    reg: Regularizer = "l24",
    loss: Loss = "squared",
    solver: Solver = "lbfgs",
    max_iter: int = 150,
    tol: float = 1e-5,
    init_scale: float = 0.3,
    start: Any = None,
    seed: int = 0,
    dtype: Precision = "float32",
    warm_start: bool = False,
    progress: bool | None = None,
) -> LamSelection:
    """Fit the quadratic Taylor model at each weight of the regularizer; choose by the mean loss on validation data.

    Args:
        H: training representations, (n, k).
        y: their targets, (n,).
        Hv: validation representations.
        yv: their targets.
        grid: weights, at least one; not negative.
        W0: hidden weights at which the network is expanded, (m, k).
        a: output weights, +1 or -1, (m,).
        activation: as for `fit_quadratic_taylor`, and so are the next ones.
        reg: kind of regularizer.
        loss: loss, in the fits and on validation data.
        solver: how each fit is found.
        max_iter: most iterations of a fit.
        tol: where a fit stops.
        init_scale: size of the random start.
        start: W to begin at in its place.
        seed: of the start.
        dtype: precision of products with H.
        warm_start: go from the largest weight to the smallest and begin each fit where the last one ended. Otherwise
            every fit begins at the same start.
        progress: show a progress bar; None shows it on a terminal.

    Returns:
        a `LamSelection`.

    Raises:
        ValueError, ShapeError, DtypeError: as `fit_quadratic_taylor`; an empty grid; `warm_start` with the convex
            solver, which has no start.
        NonFiniteError: the validation loss of every weight is NaN or infinite.

    Warns:
        UserWarning: the chosen weight is an end of a grid of several; `y` is constant; the validation loss of some
            weights is NaN or infinite, so that they are not chosen.
        AssumptionWarning: fewer than 5 k rows, where interpolating noise costs no more norm than the signal and the
            choice of the weight says little.

    Cost: one fit for each weight; the gates are computed once.

    Source: chen2020hierarchical; each weight from the same start is the protocol of its experiment here.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> H, W0, a = rng.normal(size=(400, 3)), rng.normal(size=(8, 3)), np.repeat([1.0, -1.0], 4)
        >>> y = H[:, 0] * H[:, 1] + rng.normal(size=400)
        >>> found = select_lam(H[:20], y[:20], H[200:], y[200:], [1e-3, 0.1, 1.0], W0=W0, a=a, activation="square")
        >>> found.lam, found.at_edge
        (0.1, False)
    """
    weights = np.unique(np.asarray(grid, dtype=np.float64))
    if np.ndim(grid) != 1 or not len(weights):
        raise ShapeError(f"`grid` has shape {np.shape(grid)}; give a list of weights, at least one.")
    checks.choice(solver, "solver", Solver)
    if warm_start and solver == "convex":
        raise ValueError("`warm_start` has no meaning for the convex solver; leave it False.")
    problem = QuadraticProblem(
        H, y, W0, a, activation=activation, reg=reg, lam=float(weights[0]), loss=loss, dtype=dtype
    )
    inputs = as_matrix(Hv, "Hv")
    targets = targets_of(yv, len(inputs), "yv")
    problem.loss.check(targets)
    warn_if_constant(problem.y, stacklevel=3)
    warn_if_few(problem.H, stacklevel=3)
    begin = start_of(problem.shape, start, init_scale, seed)
    fits: list[QuadraticFit] = []
    for weight in track(weights[::-1], "choosing lam", show=progress):
        fit = fit_problem(
            problem.at(lam=float(weight)), begin, solver=solver, max_iter=max_iter, tol=tol, seed=seed,
            escape_saddles=False, certify=False, progress=False,
        )  # fmt: skip
        fits.insert(0, fit)
        begin = fit.W if warm_start else begin
    outputs = (quadratic_outputs(inputs, fit.W, problem.W0, problem.a, activation=activation) for fit in fits)
    validation = np.array([float(call_in_float64(mean_of_loss, problem.loss, out, targets)) for out in outputs])
    validation = _finite_or_infinite(validation, weights)
    best = int(np.argmin(validation))
    at_edge = len(weights) > 1 and best in (0, len(weights) - 1)
    if at_edge:
        warnings.warn(
            f"the chosen `lam` {weights[best]:g} is the {'smallest' if best == 0 else 'largest'} of the grid; a better "
            "one may lie beyond it. Extend the grid.",
            UserWarning,
            stacklevel=2,
        )
    return LamSelection(
        lam=float(weights[best]),
        fit=fits[best],
        at_edge=at_edge,
        grid=weights,
        validation=validation,
        training=np.array([fit.loss for fit in fits]),
        statuses=tuple(fit.status.name.lower() for fit in fits),
    )


def _finite_or_infinite(losses: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Validation losses with infinity for NaN, which is never chosen."""
    lost = ~np.isfinite(losses)
    if lost.all():
        raise NonFiniteError(
            "the validation loss is NaN or infinite at every `lam`; scale `Hv` and `yv` as `H` and `y`, or check "
            "`loss`."
        )
    if lost.any():
        warnings.warn(
            f"the validation loss is NaN or infinite at `lam` {', '.join(f'{lam:g}' for lam in weights[lost])}; none "
            "of these is chosen.",
            UserWarning,
            stacklevel=3,
        )
    return np.where(lost, np.inf, losses)
