"""Whether training with added neurons succeeds, or follows them to infinity: what to look at."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from widescape.core import checks
from widescape.core.precision import call_in_float64
from widescape.landscape.minima.assumptions import assumptions_hold, scales_of
from widescape.landscape.minima.augmentation import AugmentedLoss, AugModel, augmented_loss, checked_data
from widescape.landscape.minima.losses import ExampleLoss, as_columns, groups_of
from widescape.landscape.minima.verdicts import SMALL_GRADIENT, Judge, Measured, MonitorRow, MonitorStatus, Rules

_FLOOR = 1e-3  # of the loss at constant outputs, which hidden loss must exceed

__all__ = ["EscapeMonitor", "MonitorRow", "MonitorStatus"]


class EscapeMonitor:
    """Watches training with added neurons and says whether it succeeds.

    A small `a` and a small gradient come with success and with failure alike, and so does an optimizer's report of
    convergence. What tells them apart is G = max |g_k(x_i)|, which vanishes on success only, the loss L(theta) of the
    model alone against the objective L~, and the largest group residual rho = max |R| / m of the model alone, where R
    sums the derivatives of the loss in the outputs over examples of equal input. The verdict:

    - vanished: G <= tol_g s and rho <= tol_r d / m, so that, up to these tolerances, theta is a global minimum by
      convexity;
    - escaping: L(theta) - L~ > 1e-3 v, G fell by less than 1 % since the start and the middle of a span, the longer of
      the window and the second half of the run, and either the difference is more than half of L(theta), or over that
      span max |a| did not rise while the largest of b_k and |w_k| grew by more than 1e-3. Found once, it holds while
      the difference and a quarter of G last. It needs a window of history;
    - stuck: |grad L~| <= 1e-5 v, G <= tol_g s and rho > tol_r d / m, a saddle of the objective, if gradient and
      (d / s) G are below 1e-3 rho as well, else the run still converges;
    - overflowed: a number is NaN or infinite;
    - running: otherwise.

    The sizes are those of the data: v is the mean loss and d the root mean square of its derivative in the outputs of
    an example, both at constant outputs: the mean target if targets are dy numbers each, else 0. s is the standard
    deviation of such targets (root mean square if that is 0), and 1 for labels. Convexity is looked at where the loss
    is no named one, by second derivatives at the model's and some random outputs.

    Args:
        model: made by `augment_exp`.
        loss: of one example, convex in its outputs.
        lam: weight of the penalty.
        tol_g: largest G over s that counts as gone.
        tol_r: largest norm of a group residual over d at which theta counts as optimal.
        window: steps of the updates, which count one each unless they say otherwise.

    Raises:
        TypeError, ValueError: arguments that do not fit.

    Example:
        >>> from widescape.landscape.minima.augmentation import augment_exp
        >>> model = augment_exp(lambda theta, x: x @ theta, dx=1, dy=1)
        >>> q, x, y = model.init(None, np.array([[2.0]])), np.array([[1.0], [2.0]]), np.array([[2.0], [4.0]])
        >>> EscapeMonitor(model, "square", 1e-2).update(q, x, y).status.name
        'VANISHED'
    """

    def __init__(
        self,
        model: AugModel,
        loss: ExampleLoss,
        lam: float,
        *,
        tol_g: float = 1e-6,
        tol_r: float = 1e-8,
        window: int = 200,
    ) -> None:
        self.objective = augmented_loss(model, loss, lam)
        self.tol_g, self.tol_r = (_tolerance(tol_g, "tol_g"), _tolerance(tol_r, "tol_r"))
        checks.count(window, "window", "EscapeMonitor")
        self.window = int(window)
        self._data: tuple[Any, Any, Any] | None = None
        self._rules: Rules | None = None
        self._judge: Judge | None = None
        self._last = -1

    def update(self, q: Any, x: Any, y: Any, *, step: int | None = None) -> MonitorRow:
        """Look at a point of training, and judge it in view of those before.

        Args:
            q: variables of the augmented model.
            x: all inputs, not a batch of them. Other data than before begin anew.
            y: all targets.
            step: how many steps came before, increasing; None for one more than at the last update.

        Returns:
            a `MonitorRow`. Infinite or NaN numbers have status OVERFLOWED, and are forgotten.

        Raises:
            ShapeError, TypeError, ValueError: data or variables that do not fit.

        Warns:
            AssumptionWarning: equal inputs have different targets, the loss of an example has no minimum in its
                outputs or is not convex, or something is computed in float32. Then no point is called vanished. Once
                for the same data.

        Cost: a gradient of the objective, and for the first of the same data a sort of the inputs.
        """
        data = self.prepared(q, x, y)
        if step is not None and step <= self._last:
            raise ValueError(f"`step` is {step}, but the last update was at {self._last}; steps must increase.")
        at = self._last + 1 if step is None else int(step)
        found: Measured = call_in_float64(measure, self.objective, _as_arrays(q), *data)
        if found.finite:
            self._last = at
        self._judge = self._judge or Judge(self.rules)
        return found.as_row(at, self._judge.next(at, found))

    @property
    def rules(self) -> Rules:
        """The thresholds for the present data.

        Raises:
            ValueError: there are none yet.
        """
        if self._rules is None:
            raise ValueError("there were no data yet; call `update` first.")
        return self._rules

    def prepared(self, q: Any, x: Any, y: Any) -> tuple[Any, Any, np.ndarray]:
        """Inputs, targets and the group of each example, checked once for the same data."""
        if self._data is None or not _same((x, y), self._data[0]):
            objective = self.objective
            inputs, targets = checked_data(objective.model, objective.loss, q, (x, y))
            groups = _groups(inputs)
            self._judge, self._last = None, -1
            scales = scales_of(objective.loss, targets, objective.model.dy)
            self._rules = Rules(
                contribution=self.tol_g * scales.outputs,
                # One misfit among m examples moves rho, a mean, by 1/m of what it moves its own residual; and a loss in
                # other units is the same problem.
                residual=self.tol_r * scales.derivative / len(targets),
                floor=_FLOOR * scales.level,
                window=self.window,
                certifies=assumptions_hold(objective, _as_arrays(q), inputs, targets, groups),
                still=SMALL_GRADIENT * scales.level,
                ratio=scales.outputs / scales.derivative,
                level=scales.level,
            )
            self._data = jax.tree.map(np.array, (x, y)), (inputs, targets), groups
        else:
            self.objective.model.checked(q)
        return (*self._data[1], self._data[2])


@partial(jax.jit, static_argnums=0)
def measure(objective: AugmentedLoss, q: Any, x: Any, y: Any, groups: Any) -> Measured:
    """The numbers of a row."""
    model = objective.model
    outputs, added = model.parts(q, x)
    (modified, loss), gradient = jax.value_and_grad(objective.both, has_aux=True)(q, x, y)
    derivatives = jax.grad(lambda f: _total(objective.loss, f, y))(outputs)
    sums = jax.ops.segment_sum(derivatives, groups, num_segments=len(outputs))
    a = model._amplitudes(q)
    along = a * gradient["a"] if model.coords == "raw" else jnp.zeros_like(a)  # in scaled coordinates b carries both
    leaves = jax.tree.leaves(gradient)
    return Measured(
        modified_loss=modified,
        loss=loss,
        contribution=jnp.max(jnp.abs(added)),
        a=a,
        b=q["b"],
        w_norms=jnp.linalg.norm(q["W"], axis=1),
        residual=jnp.max(jnp.linalg.norm(sums, axis=1)) / len(outputs),
        gradient_norm=jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in leaves)),
        identity_defect=jnp.max(jnp.abs(along - gradient["b"] - 2 * objective.lam * a**2)),
    )


def _total(loss: Any, outputs: jax.Array, y: Any) -> jax.Array:
    return jnp.sum(jax.vmap(loss)(as_columns(outputs), y))


def _groups(x: Any) -> np.ndarray:
    """The group of each example by its whole input."""
    leaves = [np.asarray(leaf).reshape(len(leaf), -1).astype(np.float64) for leaf in jax.tree.leaves(x)]
    return groups_of(np.concatenate(leaves, axis=1))


def _as_arrays(q: Any) -> Any:
    """Variables as doubles, finite or not."""
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), q)


def _same(data: Any, other: Any) -> bool:
    leaves, structure = jax.tree.flatten(data)
    others, theirs = jax.tree.flatten(other)
    alike: Any = structure
    return alike == theirs and all(np.array_equal(a, b) for a, b in zip(leaves, others, strict=True))


def _tolerance(value: Any, name: str) -> float:
    own: float = checks.number(value, name, "EscapeMonitor")
    checks.not_negative(own, name, "EscapeMonitor")
    return own
