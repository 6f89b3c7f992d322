"""Linear and quadratic Taylor models of wide two-layer networks, on inputs or on any representation of them."""

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from scipy.special import expit, log_expit, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, validate_data

from widescape import kernels, predict
from widescape.core import checks
from widescape.estimators.base import ManyTargets, classes_of
from widescape.estimators.cache import kernel_cache
from widescape.estimators.representations import seed_of
from widescape.features import (
    LinearTaylorStatus,
    QuadraticFit,
    QuadraticProblem,
    QuadraticStatus,
    SecondOrderCertificate,
    fit_linear_taylor,
    fit_quadratic_taylor,
    infinite_linear_taylor,
    linear_taylor_outputs,
    quadratic_form,
    quadratic_outputs,
    select_lam,
    taylor_weights,
)
from widescape.features import second_order_certificate as certificate_at
from widescape.features.linear_taylor import Solver as LinearSolver
from widescape.features.output_losses import Loss, LossName
from widescape.features.quadratic_fit import Solver as QuadraticSolver
from widescape.features.quadratic_objective import Precision, Regularizer

Ridge = float | Literal["loo"] | Sequence[float]
Validation = float | tuple[Any, Any]
_LAMS = (1e-4, 1e-3, 1e-2, 1e-1)
_UNFINISHED = (QuadraticStatus.OUT_OF_STEPS, QuadraticStatus.SADDLE, QuadraticStatus.DIVERGED)


class _TaylorModel(BaseEstimator):
    """A representation (n, k), with a constant if asked for, and a two-layer network at its start."""

    intercept: bool
    random_state: int
    W0_: np.ndarray
    a_: np.ndarray

    def _table(self, x: np.ndarray) -> np.ndarray:
        return np.hstack([x, np.ones((len(x), 1))]) if self.intercept else x

    def _inputs(self, X: Any) -> np.ndarray:  # noqa: N803
        """Representations of new inputs."""
        check_is_fitted(self)
        return self._table(validate_data(self, X, dtype=np.float64, reset=False))

    def _start(self, h: np.ndarray, width: int, *, symmetric: bool) -> None:
        """Draw the network."""
        mean_square = float(np.mean(np.square(h).sum(axis=1)))
        if mean_square == 0:
            raise ValueError(f"{type(self).__name__}: all inputs are zero; there is nothing to learn from.")
        seed = seed_of(self.random_state, type(self).__name__)
        self.W0_, self.a_ = taylor_weights(width, h.shape[1], mean_square=mean_square, symmetric=symmetric, seed=seed)


class _LinearTaylor(_TaylorModel):
    """Ridge regression on the tangent features of the hidden weights; see `LinearTaylorRegressor`."""

    W_: np.ndarray

    def __init__(
        self,
        width: int | None = 1000,
        activation: Any = "relu",
        ridge: Ridge = "loo",
        solver: LinearSolver = "auto",
        intercept: bool = False,
        symmetric: bool = False,
        tol: float = 1e-8,
        max_steps: int = 1000,
        random_state: int = 0,
    ) -> None:
        self.width = width
        self.activation = activation
        self.ridge = ridge
        self.solver = solver
        self.intercept = intercept
        self.symmetric = symmetric
        self.tol = tol
        self.max_steps = max_steps
        self.random_state = random_state

    def _fit(self, x: np.ndarray, targets: np.ndarray) -> None:
        """Fit targets (n, c)."""
        h = self._table(x)
        self._check_ridge()
        if self.width is None:
            self._fit_infinite(h, targets)
            return
        self._start(h, self.width, symmetric=self.symmetric)
        fit = fit_linear_taylor(
            h, targets, self.W0_, self.a_, activation=self.activation, reg=self.ridge, solver=self.solver, tol=self.tol,
            max_steps=self.max_steps,
        )  # fmt: skip
        self.W_, self.lam_, self.loo_mse_ = fit.W, fit.reg, fit.loo_mse
        self.status_, self.residual_, self.at_edge_ = fit.status, fit.residual, fit.at_edge
        if fit.status is LinearTaylorStatus.MAX_STEPS:
            warnings.warn(
                f"{type(self).__name__}: conjugate gradients ended at a relative residual of {fit.residual:.1e} above "
                "`tol`; raise `max_steps`, `ridge` or `tol`.",
                ConvergenceWarning,
                stacklevel=3,
            )

    def _check_ridge(self) -> None:
        owner = type(self).__name__
        if isinstance(self.ridge, str):
            if self.ridge != "loo":
                raise ValueError(f"{owner}: `ridge` is {self.ridge!r}; give a number, several or 'loo'.")
            return
        values = np.ravel(self.ridge)
        if not len(values):
            raise ValueError(f"{owner}: `ridge` is empty; give a number, several or 'loo'.")
        for value in values:
            checks.not_negative(checks.number(value, "ridge", owner), "ridge", owner)

    def _fit_infinite(self, h: np.ndarray, targets: np.ndarray) -> None:
        """Kernel regression with the limit of the tangent kernel."""
        scale = float(np.mean(np.square(h))) or 1.0
        self.net_ = infinite_linear_taylor(self.activation, scale)
        gram = kernels.gram(self.net_, h, get="ntk")
        self.lam_, self.loo_mse_ = self._infinite_ridge(gram, targets)
        self.X_fit_ = h
        self.dual_coef_ = predict.GP(gram, targets, reg=self.lam_, kind="ntk").weights

    def _infinite_ridge(self, gram: np.ndarray, targets: np.ndarray) -> tuple[float, float | None]:
        if isinstance(self.ridge, str):
            found = predict.loo_regularizer(gram, targets)
            return found.reg, found.mse
        regs = [float(value) for value in np.ravel(self.ridge)]
        if len(regs) == 1:
            return regs[0], None
        losses = [predict.GP(gram, targets, reg=reg, kind="ntk").loo().mse for reg in regs]
        return regs[int(np.argmin(losses))], float(min(losses))

    def _outputs(self, X: Any) -> np.ndarray:  # noqa: N803
        """Outputs (M, c)."""
        h = self._inputs(X)
        if self.width is None:
            cross: np.ndarray = kernel_cache.cross(self.net_, h, self.X_fit_, "ntk")
            return cross @ self.dual_coef_
        return linear_taylor_outputs(h, self.W0_, self.a_, self.W_, self.activation)


class LinearTaylorRegressor(ManyTargets, _LinearTaylor):
    """Regression with the linear Taylor model of a wide two-layer network in its hidden weights.

    f(h) = m^(-1/2) sum_r a_r phi'(w0_r . h) (w_r . h), by ridge regression: the NTK model of chen2020hierarchical. On
    inputs as they are it is NTK-Raw, behind a `NeuralRepresentation` in a pipeline NTK-Neural. (`NTKRegressor` is the
    infinitely wide network of which all layers train.)

    Args:
        width: neurons m, even; None for infinitely many, a kernel in closed form.
        activation: phi, ``"relu"``, ``"relu3"`` for max(t, 0)^3/6, ``"square"`` for t^2/2 (in a feature map it means
            t^2), a nonlinearity of `widescape.arch`, or an elementwise function of JAX.
        ridge: the regularizer in units of the mean of the kernel's diagonal; ``"loo"`` for the one with the least
            leave-one-out loss, or several numbers to choose from by it.
        solver: ``"dual"``, ``"primal"``, ``"cg"`` or ``"auto"``, as in `widescape.features.fit_linear_taylor`.
        intercept: whether a constant 1 is appended to the representation.
        symmetric: whether the second half of the neurons repeats the first with the other sign.
        tol: relative residual at which conjugate gradients stop.
        max_steps: the most steps of conjugate gradients.
        random_state: an integer seed of the hidden weights.

    Attributes:
        W_: displacements (m, k), or (c, m, k) for several targets; W0_, a_: hidden weights and signs at the start.
        lam_: the regularizer that was used; loo_mse_: its leave-one-out loss, if computed.
        status_, residual_: how the weights were found, and the relative residual of their linear system.
        at_edge_: whether the regularizer was chosen at an end of those that were tried.
        net_, X_fit_, dual_coef_: at infinite width the architecture, training inputs and dual weights.

    Warns:
        ConvergenceWarning: conjugate gradients ran out of steps.

    Cost: n^2 (m + k) + n^3/3 flops for n < m k, and 9 n^3 more for leave-one-out.

    Source: chen2020hierarchical.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(60, 2))
        >>> LinearTaylorRegressor(width=100).fit(x, x[:, 0]).score(x, x[:, 0]) > 0.99
        True
    """

    def fit(self, X: Any, y: Any) -> "LinearTaylorRegressor":  # noqa: N803
        """Fit to a representation (n, k) and targets (n,) or (n, c)."""
        x, y = validate_data(self, X, y, dtype=np.float64, multi_output=True, y_numeric=True, ensure_min_samples=2)
        self._vector = y.ndim == 1
        self._fit(x, y[:, None].astype(np.float64) if self._vector else y.astype(np.float64))
        if self._vector and self.width is not None:
            self.W_ = self.W_[0]
        return self

    def predict(self, X: Any) -> np.ndarray:  # noqa: N803
        """Predicted targets (M,) or (M, c)."""
        outputs = self._outputs(X)
        return outputs.reshape(len(outputs)) if self._vector else outputs


class LinearTaylorClassifier(ClassifierMixin, _LinearTaylor):
    """Classification with the linear Taylor model: ridge regression on centered one-hot targets.

    The parameters and attributes are those of `LinearTaylorRegressor`; `W_` has one displacement for each class, and
    `classes_` holds the labels.

    Source: chen2020hierarchical.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> x, y = load_iris(return_X_y=True)
        >>> LinearTaylorClassifier(width=200, intercept=True).fit(x - x.mean(0), y).score(x - x.mean(0), y) > 0.95
        True
    """

    def fit(self, X: Any, y: Any) -> "LinearTaylorClassifier":  # noqa: N803
        """Fit to a representation (n, k) and labels (n,)."""
        x, y = validate_data(self, X, y, dtype=np.float64, ensure_min_samples=2)
        self.classes_, labels = classes_of(self, y)
        self._fit(x, predict.one_hot(labels, len(self.classes_)))
        return self

    def decision_function(self, X: Any) -> np.ndarray:  # noqa: N803
        """Outputs (M, classes), trained towards 1 - 1/C and -1/C; for two classes their difference (M,)."""
        outputs = self._outputs(X)
        return outputs[:, 1] - outputs[:, 0] if len(self.classes_) == 2 else outputs

    def predict(self, X: Any) -> np.ndarray:  # noqa: N803
        """The class with the largest output (M,)."""
        best = self._outputs(X).argmax(axis=1)
        labels: np.ndarray = self.classes_[best]
        return labels


class _QuadraticTaylor(_TaylorModel):
    """The quadratic Taylor model, one after the other for several outputs; see `QuadraticTaylorRegressor`."""

    _usual_loss: ClassVar[LossName] = "squared"

    def __init__(
        self,
        width: int = 64,
        activation: Any = "relu3",
        reg: Regularizer = "l24",
        lam: float | Sequence[float] = _LAMS,
        loss: Loss | None = None,
        solver: QuadraticSolver = "auto",
        max_iter: int = 500,
        tol: float = 1e-5,
        init_scale: float = 0.3,
        validation: Validation = 0.2,
        warm_start: bool = False,
        intercept: bool = False,
        certify: bool = True,
        dtype: Precision = "float32",
        random_state: int = 0,
    ) -> None:
        self.width = width
        self.activation = activation
        self.reg = reg
        self.lam = lam
        self.loss = loss
        self.solver = solver
        self.max_iter = max_iter
        self.tol = tol
        self.init_scale = init_scale
        self.validation = validation
        self.warm_start = warm_start
        self.intercept = intercept
        self.certify = certify
        self.dtype = dtype
        self.random_state = random_state

    def _fit(self, x: np.ndarray, targets: np.ndarray, split: tuple[Any, Any] | None) -> None:
        """Fit targets (n, c), with validation data (X, targets) where several regularizers are to choose from."""
        h = self._table(x)
        self._start(h, self.width, symmetric=False)
        fits = [self._one(h, column, None if split is None else (split[0], split[1][:, i]))
                for i, column in enumerate(targets.T)]  # fmt: skip
        self.W_ = np.stack([fit.W for fit in fits])
        self.lams_ = np.array([fit.lam for fit in fits])
        self.n_iter_ = max(fit.iterations for fit in fits)
        self.statuses_ = tuple(fit.status for fit in fits)
        unfinished = [fit for fit in fits if fit.status in _UNFINISHED]
        if unfinished:
            warnings.warn(
                f"{type(self).__name__}: {len(unfinished)} of {len(fits)} fits ended with a gradient of up to "
                f"{max(fit.grad_norm for fit in unfinished):.1e}, above `tol`. {unfinished[0].status.value}",
                ConvergenceWarning,
                stacklevel=3,
            )
        self._certificates = [self._certified(h, column, fit) for column, fit in zip(targets.T, fits, strict=True)]

    def _one(self, h: np.ndarray, y: np.ndarray, split: tuple[Any, Any] | None) -> QuadraticFit:
        if split is None:
            return fit_quadratic_taylor(h, y, self.W0_, self.a_, lam=float(np.ravel(self.lam)[0]), **self._how())
        held, targets = self._table(split[0]), split[1]
        options = {"W0": self.W0_, "a": self.a_, "warm_start": self.warm_start, **self._how()}
        return select_lam(h, y, held, targets, list(np.ravel(self.lam)), **options).fit

    @property
    def _loss(self) -> Loss:
        return self._usual_loss if self.loss is None else self.loss

    def _how(self) -> dict[str, Any]:
        return {
            "activation": self.activation,
            "reg": self.reg,
            "loss": self._loss,
            "solver": self.solver,
            "max_iter": self.max_iter,
            "tol": self.tol,
            "init_scale": self.init_scale,
            "seed": int(self.random_state),
            "dtype": self.dtype,
        }

    def _certified(self, h: np.ndarray, y: np.ndarray, fit: QuadraticFit) -> SecondOrderCertificate | None:
        return certificate_at(self._problem(h, y, fit.lam), fit.W) if self.certify else None

    def _problem(self, h: np.ndarray, y: np.ndarray, lam: float) -> QuadraticProblem:
        return QuadraticProblem(
            h, y, self.W0_, self.a_, activation=self.activation, reg=self.reg, lam=lam, loss=self._loss, dtype="float64"
        )

    def _several(self) -> bool:
        """Whether there are several regularizers to choose from, of which none may be negative."""
        lams = np.ravel(self.lam)
        if not len(lams):
            raise ValueError(f"{type(self).__name__}: `lam` is empty; give a number, or several to choose from.")
        for lam in lams:
            checks.not_negative(checks.number(lam, "lam", type(self).__name__), "lam", type(self).__name__)
        return len(lams) > 1

    def _weights(self) -> np.ndarray:
        """Displacements (c, m, k)."""
        return self.W_.reshape(-1, *self.W0_.shape)

    def _outputs(self, X: Any) -> np.ndarray:  # noqa: N803
        """Outputs (M, c)."""
        h = self._inputs(X)
        columns = [quadratic_outputs(h, w, self.W0_, self.a_, activation=self.activation) for w in self._weights()]
        return np.stack(columns, axis=1)

    def quadratic_form(self) -> np.ndarray:
        """The matrix M (k, k), or (c, k, k), with outputs h^T M h; only where phi'' is constant, as for ``"square"``.

        Raises:
            ValueError: phi'' is not constant.
        """
        check_is_fitted(self)
        forms = np.stack([quadratic_form(w, self.a_, self.activation) for w in self._weights()])
        return forms if self.W_.ndim == 3 else forms[0]


class QuadraticTaylorRegressor(ManyTargets, _QuadraticTaylor):
    """Regression with the quadratic Taylor model of a wide two-layer network in its hidden weights.

    f(h) = sum_r a_r phi''(w0_r . h) (w_r . h)^2 / (2 sqrt m), fitted by the loss plus lam sum_r |w_r|^4. On inputs as
    they are (with ``"relu3"``) it is the Quad-Raw of chen2020hierarchical; behind a `NeuralRepresentation` (with
    ``"square"``) Quad-Neural, which learns polynomials of low rank from fewer samples than any linear model.

    Args:
        width: neurons m, even.
        activation: phi, ``"relu3"`` for max(t, 0)^3/6, ``"square"`` for t^2/2 (in a feature map it means t^2), a
            nonlinearity of `widescape.arch`, or an elementwise function of JAX, with a second derivative.
        reg: ``"l24"``, or ``"nuclear"`` for lam m^(-1/2) sum_r |w_r|^2.
        lam: the regularizer, which is then fitted on all rows; or several numbers, chosen from on `validation`.
        loss: ``"squared"`` (the mean of squares, without 1/2), ``"huber"``, ``"logistic"``, or a convex function
            l(yhat, y) of JAX; None for squared, or logistic in a classifier.
        solver: ``"lbfgs"``, ``"adam"``, ``"convex"`` (the global optimum, for constant phi''), or ``"auto"``.
        max_iter: the most iterations of L-BFGS, or epochs of Adam. (The experiments of `four_learners` take 150.)
        tol: norm of the gradient at which to stop.
        init_scale: the start is N(0, init_scale^2 I/k); never zero, which is a saddle.
        validation: the share of rows held out to choose among several `lam`, or data (X, y) for it. Inside of a
            pipeline such data are representations already.
        warm_start: whether each `lam` starts from the solution at the next larger one.
        intercept: whether a constant 1 is appended to the representation, which adds linear and constant terms.
        certify: whether `fit` makes `certificate_`.
        dtype: precision of products with the representation.
        random_state: an integer seed of the hidden weights, the start and the held-out rows.

    Attributes:
        W_: displacements (m, k), or (c, m, k) for several targets; W0_, a_: hidden weights and signs at the start.
        lam_: the regularizer that was used; one for each of several targets.
        certificate_: gradient norm, smallest Hessian eigenvalue, loss and norm at the end, on the rows of the fit;
            None without `certify`.
        lams_, statuses_: the regularizer, and how the fit ended, of each target; n_iter_: the most iterations.

    Raises (by `fit`):
        ValueError: phi'' vanishes almost everywhere (plain ReLU), or is not constant with the convex solver; odd width;
            negative `lam`.

    Warns:
        ConvergenceWarning: the steps ran out before `tol`.
        UserWarning: constant targets; `lam` chosen at an end of those given.
        AssumptionWarning: fewer than five rows for each feature.

    Cost: 4 n m k multiply-adds an iteration.

    Source: chen2020hierarchical.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(200, 3))
        >>> model = QuadraticTaylorRegressor(width=8, activation="square", lam=1e-4).fit(x, x[:, 0] * x[:, 1])
        >>> model.quadratic_form().round(1).tolist()[0][1]
        0.5
    """

    def fit(self, X: Any, y: Any) -> "QuadraticTaylorRegressor":  # noqa: N803
        """Fit to a representation (n, k) and targets (n,) or (n, c)."""
        x, y = validate_data(self, X, y, dtype=np.float64, multi_output=True, y_numeric=True, ensure_min_samples=2)
        vector = y.ndim == 1
        y = np.asarray(y, dtype=np.float64).reshape(len(y), -1)
        split = None
        if self._several():
            if isinstance(self.validation, tuple):
                held, targets = self.validation
                split = np.asarray(held, np.float64), np.asarray(targets, np.float64).reshape(len(held), -1)
            else:
                x, held, y, targets = train_test_split(
                    x, y, test_size=self.validation, random_state=seed_of(self.random_state, type(self).__name__)
                )
                split = held, targets
        self._fit(x, y, split)
        self.certificate_ = self._certificates[0] if vector else tuple(self._certificates)
        self.lam_ = float(self.lams_[0]) if vector else self.lams_
        self._vector = vector
        if vector:
            self.W_ = self.W_[0]
        return self

    def predict(self, X: Any) -> np.ndarray:  # noqa: N803
        """Predicted targets (M,) or (M, c)."""
        outputs = self._outputs(X)
        return outputs[:, 0] if self._vector else outputs


def _is_logistic(model: "QuadraticTaylorClassifier") -> bool:
    """Whether outputs are log odds."""
    return model.loss in (None, "logistic")


class QuadraticTaylorClassifier(ClassifierMixin, _QuadraticTaylor):
    """Classification with the quadratic Taylor model: the logistic loss, one model for each class against the others.

    The parameters and attributes are those of `QuadraticTaylorRegressor`; two classes take one model. `classes_` holds
    the labels.

    Source: chen2020hierarchical.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(300, 2))
        >>> inside = (x**2).sum(axis=1) < 1
        >>> model = QuadraticTaylorClassifier(width=8, activation="square", lam=1e-4, intercept=True)
        >>> model.fit(x, inside).score(x, inside) > 0.95
        True
    """

    _usual_loss = "logistic"

    def fit(self, X: Any, y: Any) -> "QuadraticTaylorClassifier":  # noqa: N803
        """Fit to a representation (n, k) and labels (n,)."""
        x, y = validate_data(self, X, y, dtype=np.float64, ensure_min_samples=2)
        self.classes_, labels = classes_of(self, y)
        split = None
        if self._several():
            if isinstance(self.validation, tuple):
                held, own = self.validation
                split = np.asarray(held, np.float64), self._signs(self._indices(own, "validation"))
            else:
                counts = np.bincount(labels)
                seed = seed_of(self.random_state, type(self).__name__)
                enough = counts.min() >= 2 and self.validation * len(x) >= len(counts)
                x, held, labels, own = train_test_split(
                    x, labels, test_size=self.validation, random_state=seed, stratify=labels if enough else None
                )
                split = held, self._signs(own)
        self._fit(x, self._signs(labels), split)
        binary = len(self.classes_) == 2
        self.certificate_ = self._certificates[0] if binary else tuple(self._certificates)
        self.lam_ = float(self.lams_[0]) if binary else self.lams_
        if binary:
            self.W_ = self.W_[0]
        return self

    def _indices(self, labels: Any, name: str) -> np.ndarray:
        """The place of each label among the classes.

        Raises:
            ValueError: a label that `fit` did not see.
        """
        known = {label: i for i, label in enumerate(self.classes_.tolist())}
        unknown = [label for label in np.asarray(labels).tolist() if label not in known]
        if unknown:
            raise ValueError(
                f"{type(self).__name__}: `{name}` has the label {unknown[0]!r}, which is not among those of `fit`."
            )
        return np.array([known[label] for label in np.asarray(labels).tolist()])

    def _signs(self, labels: np.ndarray) -> np.ndarray:
        """+1 for the class and -1 for the others, (n, C); (n, 1) for two classes."""
        classes = np.array([1]) if len(self.classes_) == 2 else np.arange(len(self.classes_))
        return np.where(labels[:, None] == classes, 1.0, -1.0)

    def decision_function(self, X: Any) -> np.ndarray:  # noqa: N803
        """Outputs (M, classes), positive for the class; for two classes those of the second (M,)."""
        outputs = self._outputs(X)
        return outputs[:, 0] if len(self.classes_) == 2 else outputs

    def predict(self, X: Any) -> np.ndarray:  # noqa: N803
        """The class with the largest output (M,)."""
        outputs = self._outputs(X)
        best = (outputs[:, 0] > 0).astype(int) if len(self.classes_) == 2 else outputs.argmax(axis=1)
        labels: np.ndarray = self.classes_[best]
        return labels

    @available_if(_is_logistic)  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Any) -> np.ndarray:  # noqa: N803
        """Probabilities (M, classes): the logistic function of the outputs, over its sum for more than two classes."""
        outputs = self._outputs(X)
        if len(self.classes_) == 2:
            return np.hstack([expit(-outputs), expit(outputs)])
        return softmax(log_expit(outputs), axis=1)


def second_order_certificate(model: _QuadraticTaylor, X: Any, y: Any) -> Any:  # noqa: N803
    """Gradient norm and smallest Hessian eigenvalue of a fitted quadratic model on data of your choice.

    Args:
        model: a fitted `QuadraticTaylorRegressor` or `QuadraticTaylorClassifier`.
        X: a representation (n, k).
        y: targets, or labels.

    Returns:
        a `widescape.features.SecondOrderCertificate`, or a tuple of them for several outputs.

    Cost: an eigenvalue of the Hessian, as in `widescape.features.second_order_certificate`.
    """
    h = model._inputs(X)
    if isinstance(model, QuadraticTaylorClassifier):
        targets = model._signs(model._indices(y, "y"))
    else:
        targets = np.asarray(y, dtype=np.float64).reshape(len(h), -1)
    found = tuple(
        certificate_at(model._problem(h, column, float(lam)), w)
        for column, lam, w in zip(targets.T, model.lams_, model._weights(), strict=True)
    )
    return found[0] if model.W_.ndim == 2 else found
