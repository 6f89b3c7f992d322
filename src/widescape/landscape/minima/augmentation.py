"""A model with one exponential neuron added to each output, and the objective that penalizes its amplitude alone."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from widescape.core import checks
from widescape.core.errors import NonFiniteError, ShapeError
from widescape.core.precision import call_in_float64, is_traced
from widescape.core.random import named_key
from widescape.curvature import System
from widescape.curvature.request import count_examples, hashable
from widescape.landscape.minima.losses import ExampleLoss, as_columns, as_loss, mean_loss, targets_like
from widescape.landscape.minima.variables import data_pair, doubled, positive_weight, real_parameters, require_array

Coordinates = Literal["raw", "scaled"]


@dataclass(frozen=True)
class AugModel:
    """A model f(theta, x) in R^dy with an exponential neuron added to each output; made by `augment_exp`.

    With features u of an input (dx,), f~_k = f_k + g_k and g_k = a_k exp(w_k.u + b_k). The variables are a dictionary:
    ``theta``, ``b`` (dy,), ``W`` (dy, dx), whose rows are w_k, and the amplitudes ``a`` (dy,) in raw coordinates or
    ``c`` (dy,) in scaled ones, where a_k = c_k exp(-b_k). Methods compute in float64, return NumPy arrays and raise
    NonFiniteError where they overflow; traced values are computed in their own precision.

    Attributes:
        f: the model, which takes (theta, x) to (m, dy), or (m,) for one output.
        dx, dy: numbers of features and outputs.
        feature_map: takes x to features (m, dx); None flattens.
        coords: raw or scaled.
        w_scale: standard deviation of the entries of W at the start.
        mean, std: what features are centered by and divided by, as tuples; None for neither.
        clip: the largest exponent that is evaluated; None for no limit.
    """

    f: Callable[[Any, Any], Any]
    dx: int
    dy: int
    feature_map: Callable[[Any], Any] | None = None
    coords: Coordinates = "raw"
    w_scale: float = 0.1
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    clip: float | None = None

    @property
    def amplitude_name(self) -> str:
        """The name of the amplitudes among the variables."""
        return "a" if self.coords == "raw" else "c"

    def init(self, key: jax.Array | None, theta: Any) -> dict[str, Any]:
        """Variables to start from, in float64: zero amplitudes, b = 0, and W drawn from N(0, w_scale^2).

        W is never zero: where the residuals are orthogonal to 1 and u, that would be a critical point.

        Args:
            key: of the draw; None for ``jax.random.key(0)``.
            theta: the parameters of f.

        Raises:
            DtypeError: parameters that are no real numbers.
            ValueError: parameters that are not finite.
        """
        root = named_key(jax.random.key(0) if key is None else key, "added neurons")
        draw = call_in_float64(lambda: jax.random.normal(root, (self.dy, self.dx), np.float64))
        zeros = np.zeros(self.dy)
        own = real_parameters(theta, "theta")
        return {"theta": own, self.amplitude_name: zeros, "b": zeros.copy(), "W": self.w_scale * draw}

    def apply(self, q: Any, x: Any) -> Any:
        """The outputs f~ of the augmented model, (m, dy)."""
        return _evaluated(self, "_outputs", q, x)

    def contribution(self, q: Any, x: Any) -> Any:
        """The added term g, (m, dy)."""
        return _evaluated(self, "_added", q, x)

    def strip(self, q: Any) -> Any:
        """The parameters theta of the model without added neurons."""
        return self.checked(q)["theta"]

    def amplitudes(self, q: Any) -> Any:
        """The amplitudes a (dy,), which are penalized; in scaled coordinates c exp(-b)."""
        return _evaluated(self, "_amplitudes", q)

    def clipped(self, q: Any, x: Any) -> int:
        """How many of the m dy exponents were lowered to `clip`; 0 without it."""
        if self.clip is None:
            return 0
        return int(np.sum(_evaluated(self, "_exponents", q, x) > self.clip))

    def parts(self, q: Any, x: Any) -> tuple[jax.Array, jax.Array]:
        """The outputs of f and the added term, each (m, dy); traceable.

        Raises:
            ShapeError: `f` does not return one row of dy outputs for each example.
        """
        added = self._added(q, x)
        outputs = as_columns(self.f(q["theta"], x))
        if outputs.shape != added.shape:
            raise ShapeError(
                f"`f` returns {outputs.shape} where the added neurons have {added.shape}; make the model with "
                "`dy` equal to the number of outputs, examples first."
            )
        return outputs, added

    def checked(self, q: Any) -> Any:
        """The variables, if they are those of this model.

        Raises:
            TypeError, ShapeError: other names or shapes.
        """
        names = {"theta", self.amplitude_name, "b", "W"}
        if not isinstance(q, dict) or set(q) != names:
            found = sorted(map(str, q)) if isinstance(q, dict) else type(q).__name__
            raise TypeError(f"`q` holds {found}; give a dictionary of {sorted(names)}, as `init` returns it.")
        for name, shape in ((self.amplitude_name, (self.dy,)), ("b", (self.dy,)), ("W", (self.dy, self.dx))):
            if np.shape(q[name]) != shape:
                raise ShapeError(f"`q[{name!r}]` has shape {np.shape(q[name])}; this model needs {shape}.")
        return q

    def features(self, x: Any) -> jax.Array:
        """The features that the added neurons see, centered if that was asked for, (m, dx); traceable."""
        found = _flat(x) if self.feature_map is None else self.feature_map(x)
        if found.ndim != 2 or found.shape[1] != self.dx:
            raise ShapeError(f"features have shape {found.shape}; this model needs (m, {self.dx}): see `dx`.")
        if self.mean is None or self.std is None:
            return found
        return (found - jnp.asarray(self.mean, found.dtype)[None]) / jnp.asarray(self.std, found.dtype)[None]

    def _outputs(self, q: Any, x: Any) -> jax.Array:
        outputs, added = self.parts(q, x)
        return outputs + added

    def _exponents(self, q: Any, x: Any) -> jax.Array:
        own = self.checked(q)
        exponents = jnp.matmul(self.features(x), own["W"].T, precision="highest")
        return exponents + own["b"][None] if self.coords == "raw" else exponents

    def _added(self, q: Any, x: Any) -> jax.Array:
        exponents = self._exponents(q, x)
        if self.clip is not None:
            exponents = jnp.minimum(exponents, self.clip)
        return q[self.amplitude_name][None] * jnp.exp(exponents)

    def _amplitudes(self, q: Any) -> jax.Array:
        own = self.checked(q)
        return own["a"] if self.coords == "raw" else own["c"] * jnp.exp(-own["b"])


@dataclass(frozen=True)
class AugmentedLoss:
    """The objective of an augmented model, a function of (q, x, y); made by `augmented_loss`."""

    model: AugModel
    loss: Callable[[Any, Any], Any]
    lam: float

    def __call__(self, q: Any, x: Any, y: Any) -> Any:
        """The objective; a float where nothing is traced."""
        if is_traced(q, x, y):
            return self.both(q, x, y)[0]
        inputs, targets = checked_data(self.model, self.loss, q, (x, y))
        return float(_evaluated(self, "both", q, inputs, targets)[0])

    def both(self, q: Any, x: Any, y: Any) -> tuple[jax.Array, jax.Array]:
        """The objective, and the loss L(theta) of the model without added neurons; traceable."""
        outputs, added = self.model.parts(q, x)
        if self.loss == as_loss("square") and np.shape(y) not in _fitting(outputs.shape):
            raise ShapeError(f"`y` has shape {np.shape(y)}, but the outputs have shape {outputs.shape}.")
        penalty = self.lam * jnp.sum(self.model._amplitudes(q) ** 2)
        return mean_loss(self.loss, outputs + added, y) + penalty, mean_loss(self.loss, outputs, y)


def augment_exp(
    f: Any,
    *,
    dx: int | None = None,
    dy: int | None = None,
    feature_map: Callable[[Any], Any] | None = None,
    coords: Coordinates = "raw",
    w_scale: float = 0.1,
    center: Any = None,
    clip: float | None = None,
) -> AugModel:
    """A model with an exponential neuron added to each output: f~_k(x) = f_k(x; theta) + a_k exp(w_k.u + b_k).

    u are the features of x. With the objective of `augmented_loss`, at every local minimum a = 0 and theta minimizes
    the unmodified loss L, even over all functions of x, if the loss is convex and differentiable in the outputs and
    equal inputs have equal targets. Where no theta reaches that, there is no local minimum at all: descent follows
    b or W to infinity while a goes to 0, so a small `a` says nothing. `EscapeMonitor` tells the two apart.

    Scaled coordinates c = a exp(b) are a smooth change of variables with the same critical points, in which nothing
    overflows as b grows. So is centering. Clipping is not: where it is active the theorem fails, and
    ``AugModel.clipped`` counts where.

    Args:
        f: takes (theta, x) to outputs (m, dy), or (m,); or a `System`, whose `dx` and `dy` are taken.
        dx: number of features; None for those of the system, or of `center`.
        dy: number of outputs; None for those of the system.
        feature_map: takes x to features (m, dx), of which the theorem needs that they tell different inputs apart;
            None flattens x.
        coords: ``"raw"`` for (a, b, W), ``"scaled"`` for (c, b, W).
        w_scale: standard deviation of the entries of W at the start; positive.
        center: inputs whose features' mean is subtracted, and by whose standard deviation features are divided (1
            where it is 0).
        clip: the largest exponent that is evaluated, of w.u + b in raw and of w.u in scaled coordinates.

    Raises:
        TypeError, ValueError: arguments that do not fit, or are missing.
        ShapeError: features of `center`, or a system, with another number of features or outputs.

    Cost: of the added neurons, 2 m dx dy flops more than f.

    Source: kawaguchi2019elimination; with ``loss="poly_hinge"`` liang2018adding.

    Example:
        >>> model = augment_exp(lambda theta, x: x @ theta, dx=2, dy=1)
        >>> q = model.init(None, np.zeros((2, 1))) | {"a": np.array([3.0]), "W": np.array([[0.0, 1.0]])}
        >>> model.apply(q, np.array([[1.0, 0.0]])).tolist()
        [[3.0]]
    """
    checks.choice(coords, "coords", Coordinates)
    scale = checks.number(w_scale, "w_scale", "augment_exp")
    checks.positive(scale, "w_scale", "augment_exp")
    limit = None if clip is None else checks.number(clip, "clip", "augment_exp")
    mean, std = (None, None) if center is None else _moments(center, feature_map)
    outputs, features = dy, None if mean is None else len(mean)
    if isinstance(f, System):
        outputs = _agreeing(dy, f.num_outputs, "dy", "the system")
        own = jax.eval_shape(_flat if feature_map is None else feature_map, f.x)
        features = _agreeing(features, own.shape[1], "center", "the system")
        f = f.operators.f
    if not callable(f):
        raise TypeError(f"`f` is {f!r}; give a System, or a function of (theta, x).")
    inputs = dx if features is None else _agreeing(dx, features, "dx", "the features")
    checks.count(inputs, "dx", "augment_exp")
    checks.count(outputs, "dy", "augment_exp")
    if inputs is None or outputs is None:
        raise AssertionError  # refused above
    own_map = None if feature_map is None else hashable(feature_map)
    return AugModel(hashable(f), int(inputs), int(outputs), own_map, coords, scale, mean, std, limit)


def augmented_loss(model: AugModel, loss: ExampleLoss, lam: float = 1e-2) -> AugmentedLoss:
    """The objective of an augmented model: the mean over examples of loss(f~(x_i), y_i) plus lam |a|^2.

    At every point a_k dL~/da_k - dL~/db_k = 2 lam a_k^2, so that |grad L~| >= 2 lam a_k^2 / sqrt(1 + a_k^2). Only `a`
    is penalized; a penalty on b or W brings bad minima back, and one on |a| in the first power does too.

    With ``loss="poly_hinge"`` and targets -1 or 1 this is the objective of liang2018adding divided by m: that paper
    has the sum over m examples plus lam' a^2 / 2, so lam' = 2 m lam.

    Args:
        model: made by `augment_exp`.
        loss: of one example, convex in its outputs: a function of (outputs (dy,), target), or a name.
        lam: positive.

    Returns:
        a function of (q, x, y), traceable and hashable. Called with arrays it checks them and returns a float.

    Raises:
        TypeError, ValueError: arguments that do not fit. The function raises ShapeError and ValueError for data that
            do not fit, are empty or not finite, and TypeError for a loss of one example that is not one number.

    Cost: a forward pass.

    Example:
        >>> model = augment_exp(lambda theta, x: x @ theta, dx=1, dy=1)
        >>> q = model.init(None, np.array([[1.0]])) | {"a": np.array([2.0]), "W": np.array([[0.0]])}
        >>> augmented_loss(model, "square", 0.5)(q, np.array([[1.0]]), np.array([[0.0]]))
        6.5
    """
    if not isinstance(model, AugModel):
        raise TypeError(f"`model` is {model!r}; make it with `augment_exp`.")
    return AugmentedLoss(model, as_loss(loss), positive_weight(lam, "augmented_loss"))


def checked_data(model: AugModel, loss: ExampleLoss, q: Any, data: Any) -> tuple[Any, np.ndarray]:
    """Inputs and targets in float64 that fit the model: a pair (x, y), or a `System` with targets.

    Raises:
        ShapeError, ValueError: data that do not fit, are empty or not finite; another number of outputs than dy.
        TypeError: neither of the two, or inputs that are no array although the model has no `feature_map`.
    """
    inputs, targets = data_pair(data)
    if model.feature_map is None:
        require_array(inputs)
    x = doubled(inputs, "x")
    m = count_examples(x, "x")
    with jax.enable_x64(True):
        shape = jax.eval_shape(model.parts, jax.tree.map(np.asarray, model.checked(q)), x)[0].shape
    if shape[0] != m:
        raise ShapeError(f"`f` returns {shape} for {m} examples; it must return one row for each.")
    return x, targets_like(targets, np.empty(shape), "square" if loss == as_loss("square") else loss)


def _fitting(shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """The shapes of targets of the square loss that fit outputs (m, dy)."""
    return (shape, shape[:1]) if shape[1] == 1 else (shape,)


def _evaluated(owner: AugModel | AugmentedLoss, method: str, q: Any, *data: Any) -> Any:
    """A method at concrete variables and data in float64; at traced ones as they are."""
    if is_traced(q, *data):
        return getattr(owner, method)(q, *data)
    own = (doubled(q, "q"), *(doubled(part, name) for part, name in zip(data, ("x", "y"), strict=False)))
    found = call_in_float64(_compiled, owner, method, *own)
    if not all(np.isfinite(part).all() for part in jax.tree.leaves(found)):
        raise NonFiniteError(
            "the model with added neurons overflows at `q`; make it with coords='scaled', in which b may be large, or "
            "center its features."
        )
    return found


@partial(jax.jit, static_argnums=(0, 1))
def _compiled(owner: AugModel | AugmentedLoss, method: str, *args: Any) -> Any:
    return getattr(owner, method)(*args)


def _moments(center: Any, feature_map: Callable[[Any], Any] | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    inputs = doubled(center, "center")
    count_examples(inputs, "center")
    found = np.asarray(call_in_float64(_flat if feature_map is None else feature_map, inputs), np.float64)
    if found.ndim != 2:
        raise ShapeError(f"features of `center` have shape {found.shape}; they must be (m, dx).")
    std = found.std(axis=0)
    return tuple(found.mean(axis=0).tolist()), tuple(np.where(std > 0, std, 1.0).tolist())


def _flat(x: Any) -> Any:
    require_array(x)
    return jnp.reshape(x, (len(x), -1))


def _agreeing(given: int | None, own: int, name: str, whose: str) -> int:
    if given is not None and given != own:
        raise ShapeError(f"`{name}` makes {given}, but {whose} have {own}; leave it out, or give as many.")
    return own
