"""The one way in which a model enters a measurement: a function of parameters, data, and a loss."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from widescape.core import checks
from widescape.core.errors import DtypeError, NonFiniteError, ShapeError
from widescape.core.precision import double_scope, has_float64
from widescape.curvature.operators import Loss, Operators, evaluate
from widescape.curvature.request import count_examples, hashable

Reduction = Literal["sum", "mean"]


class System:
    """A function f(params, x) with any PyTree of parameters, data, and a loss, as operators on flat vectors.

    With w the flattened parameters (p,) and F(w) the outputs on `x`, the loss is
    L(w) = sum_i l(F_i, y_i), or its mean over examples. ``"square"`` is l = |F_i - y_i|^2 / 2; ``"cross_entropy"``
    takes logits (n, c) and integer labels (n,); a callable takes the output and target of one example.

    Everything is computed in float64 if the parameters or `x` hold float64 arrays, whatever the
    process-wide flag says, else in their own precision. Results are NumPy arrays.

    Args:
        f: maps (params, x) to outputs (n,) or (n, c). Must be differentiable by JAX.
        params: a PyTree of floating-point arrays.
        x: inputs, an array or PyTree whose leaves have examples along the first axis.
        y: targets: shaped like the outputs for ``"square"``, labels (n,) for ``"cross_entropy"``; None if only outputs
            and their derivatives are wanted.
        loss: the loss of one example.
        reduction: sum or mean over examples.
        chunk: examples that are worked on at a time, for less memory; None for all. With it each output must be a
            function of its own example.
        mixes_examples: the output of an example depends on the others, as with batch normalization in training mode.

    Attributes:
        flat: the flattened parameters w, (p,).
        num_examples, num_outputs, num_params: n, c and p; c is 1 for outputs (n,).

    Raises:
        DtypeError: a parameter is not real floating point.
        ShapeError: no examples, or outputs and targets that do not fit.
        ValueError: parameters, inputs or targets that are not finite.

    Example:
        >>> system = System(lambda w, x: x @ w, np.array([1.0, 2.0]), np.eye(2), np.zeros(2))
        >>> float(system.value()), system.grad().tolist()
        (2.5, [1.0, 2.0])
    """

    def __init__(
        self,
        f: Callable[[Any, Any], jax.Array],
        params: Any,
        x: Any,
        y: Any = None,
        *,
        loss: Loss = "square",
        reduction: Reduction = "sum",
        chunk: int | None = None,
        mixes_examples: bool = False,
    ) -> None:
        checks.choice(reduction, "reduction", Reduction)
        if chunk is not None:
            checks.count(chunk, "chunk", "System")
            if mixes_examples:
                raise ValueError("a function that mixes examples cannot be worked on in chunks; leave out `chunk`.")
        if not callable(loss):
            checks.choice(loss, "loss", ("square", "cross_entropy"))
        _check_params(params)
        self.f, self.loss, self.reduction, self.chunk = f, loss, reduction, chunk
        self.mixes_examples = mixes_examples
        self.num_examples = _checked_examples(x)
        self._double = has_float64(params, x)
        own = self._scoped(_copied, params, self._double)
        leaves, structure = jax.tree.flatten(own)
        self.operators = Operators(
            hashable(f),
            hashable(loss),
            1 / self.num_examples if reduction == "mean" else 1.0,
            structure,
            tuple(leaf.shape for leaf in leaves),
            tuple(leaf.dtype for leaf in leaves),
            chunk,
        )
        self.flat = _flattened(leaves)
        self.num_params = self.flat.size
        self._x = self._scoped(_copied, x, self._double)
        self._shape = self._output_shape()
        self.num_outputs = 1 if len(self._shape) == 1 else self._shape[1]
        self._y = None if y is None else self._scoped(jnp.array, self._checked_targets(y))
        if callable(loss) and y is not None:
            self._check_loss()

    def unravel(self, w: Any) -> Any:
        """The PyTree of parameters that the flat vector `w` (p,) stands for."""
        return jax.tree.map(np.asarray, self.operators.unravel(self._vector(w, "w", self.num_params)))

    def vector(self, params: Any = None) -> np.ndarray:
        """The flat vector (p,) of a PyTree like the parameters, of a flat vector, or of the parameters themselves.

        Raises:
            ShapeError, DtypeError, ValueError: it is neither of the two, or not finite.
        """
        if params is None:
            return self.flat
        if not isinstance(params, tuple | list | dict) and np.shape(params) == (self.num_params,):
            return self._vector(params, "params", self.num_params)
        leaves, structure = jax.tree.flatten(params)
        shapes = tuple(np.shape(leaf) for leaf in leaves)
        if structure != self.operators.structure or shapes != self.operators.shapes:
            raise ShapeError(
                f"`params` holds arrays of shapes {shapes}; give a flat vector of {self.num_params} entries, or a "
                f"PyTree like that of the system, with shapes {self.operators.shapes}."
            )
        _check_params(params)
        return self._vector(_flattened([np.asarray(leaf) for leaf in leaves]), "params", self.num_params)

    def on(self, x: Any, y: Any = None) -> "System":
        """The same function, parameters and loss on other data."""
        return self._remade(self.params, x, y)

    def starting_at(self, params: Any) -> "System":
        """The same function, data and loss at other parameters: a PyTree, or a flat vector (p,)."""
        return self._remade(self.unravel(self.vector(params)), self.x, self.y)

    def as_float64(self) -> "System":
        """The same system with parameters and inputs in double precision; itself where it has them already."""
        if self._double:
            return self
        return self._remade(jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), self.params), self.x, self.y)

    def _remade(self, params: Any, x: Any, y: Any) -> "System":
        return System(
            self.f,
            params,
            x,
            y,
            loss=self.loss,
            reduction=self.reduction,
            chunk=self.chunk,
            mixes_examples=self.mixes_examples,
        )

    def F(self, w: Any = None) -> np.ndarray:  # noqa: N802
        """The outputs at w, (n,) or (n, c). Cost: one forward pass."""
        return self._run("outputs", w)

    def residual(self, w: Any = None) -> np.ndarray:
        """r(w) = F(w) - y for the square loss, flattened to (n c,); divided by sqrt(n) for the mean.

        So that L = |r|^2 / 2 under both reductions. Cost: one forward pass.

        Raises:
            ValueError: the loss is not ``"square"``, or there are no targets.
        """
        if self.loss != "square":
            raise ValueError("residuals belong to loss='square'; other losses have none.")
        self.require_targets()
        return self._run("residual", w)

    def value(self, w: Any = None) -> float:
        """The loss L(w). Cost: one forward pass."""
        self.require_targets()
        return float(self._run("value", w))

    def grad(self, w: Any = None) -> np.ndarray:
        """The gradient of L at w, (p,). Cost: about three forward passes."""
        self.require_targets()
        return self._run("grad", w)

    def output_curvature(self, w: Any = None) -> np.ndarray:
        """The largest eigenvalue of the Hessian of each example's loss in its outputs, (n,).

        1 for the square loss; at most 1/2 for cross entropy. The reduction does not enter. Cost: a forward pass and n
        eigenvalue problems of size c.
        """
        self.require_targets()
        return self._run("output_curvature", w)

    def jvp(self, v: Any, w: Any = None) -> np.ndarray:
        """J(w) v, the derivative of the outputs along `v` (p,): shaped like the outputs. Cost: two forward passes."""
        return self._run("jvp", w, self._vector(v, "v", self.num_params))

    def vjp(self, z: Any, w: Any = None) -> np.ndarray:
        """J(w)^T z for `z` shaped like the outputs, or flat (n c,): a vector (p,). Cost: three forward passes."""
        if np.shape(z) == self._shape:
            z = np.reshape(np.asarray(z), -1)
        z = self._vector(z, "z", self.num_examples * self.num_outputs)
        return self._run("vjp", w, z)

    def jacobian(self, w: Any = None) -> np.ndarray:
        """J(w), the derivative of the outputs, (n c, p). Cost: about c + 1 forward passes, and its memory."""
        rows = self._run("batch_jacobian" if self.mixes_examples else "jacobian", w)
        return rows.reshape(self.num_residuals, self.num_params)

    def kernel_mv(self, z: Any, w: Any = None) -> np.ndarray:
        """The tangent kernel K(w) = J J^T (divided by n for the mean) times `z` (n c,): a vector (n c,).

        Cost: about five forward passes.
        """
        return self._run("kernel_mv", w, self._vector(z, "z", self.num_examples * self.num_outputs))

    def hvp(self, v: Any, w: Any = None) -> np.ndarray:
        """The Hessian of the loss at w times `v` (p,). Cost: about six forward passes."""
        self.require_targets()
        return self._run("hvp", w, self._vector(v, "v", self.num_params))

    def ggn_mv(self, v: Any, w: Any = None) -> np.ndarray:
        """The Gauss-Newton matrix J^T Q J times `v` (p,), with Q the Hessian of the loss in the outputs.

        For the square loss Q is the identity (divided by n for the mean). Cost: about five forward passes.
        """
        self.require_targets()
        return self._run("ggn_mv", w, self._vector(v, "v", self.num_params))

    def second_derivative(self, u: Any, v: Any, w: Any = None) -> np.ndarray:
        """D^2 F(w)[u, v], the second derivative of the outputs along `u` and `v`, shaped like them.

        Cost: about four forward passes.
        """
        u, v = self._vector(u, "u", self.num_params), self._vector(v, "v", self.num_params)
        return self._run("second_derivative", w, u, v)

    def second_adjoint(self, z: Any, u: Any, w: Any = None) -> np.ndarray:
        """The gradient in w of z . J(w) u, a vector (p,): the Hessian of z . F times `u`.

        `z` is shaped like the outputs, or flat (n c,). Cost: about six forward passes.
        """
        z = self._vector(np.reshape(np.asarray(z), -1), "z", self.num_examples * self.num_outputs)
        return self._run("second_adjoint", w, z, self._vector(u, "u", self.num_params))

    @property
    def weight(self) -> float:
        """What an example counts in the loss: 1, or 1/n for the mean."""
        return self.operators.weight

    @property
    def num_residuals(self) -> int:
        """N = n c, the entries of all outputs."""
        return self.num_examples * self.num_outputs

    @property
    def double(self) -> bool:
        """Whether everything is computed in float64, whatever the process-wide flag says."""
        return self._double

    @property
    def params(self) -> Any:
        """The parameters, as the PyTree in which they came."""
        return self.unravel(self.flat)

    @property
    def arrays(self) -> tuple[Any, Any]:
        """Inputs and targets on the device, as `operators` take them."""
        return self._x, self._y

    @property
    def x(self) -> Any:
        """The inputs, as NumPy arrays."""
        return jax.tree.map(np.asarray, self._x)

    @property
    def y(self) -> np.ndarray | None:
        """The targets, or None."""
        return None if self._y is None else np.asarray(self._y)

    def _run(self, name: str, w: Any, *args: Any) -> np.ndarray:
        """Evaluate one operator at `w`."""
        point = self.flat if w is None else self._vector(w, "w", self.num_params)
        result = np.asarray(self._scoped(evaluate, self.operators, name, point, self._x, self._y, *args))
        if not np.isfinite(result).all():
            raise NonFiniteError(
                "the system returned NaN or infinite values at this point; scale the parameters or data."
            )
        return result

    def _scoped(self, function: Callable[..., Any], *args: Any) -> Any:
        with double_scope(self._double):
            return function(*args)

    def _vector(self, v: Any, name: str, size: int) -> np.ndarray:
        vector = checks.real_array(v, name)
        if vector.shape != (size,):
            raise ShapeError(f"`{name}` has shape {vector.shape}; it must be a flat vector of {size} entries.")
        checks.all_finite(vector, name)
        with np.errstate(over="ignore"):
            converted = vector.astype(self.flat.dtype)
        checks.all_finite(converted, name)
        return converted

    def _checked_targets(self, y: Any) -> np.ndarray:
        targets, shape = np.asarray(y), self._shape
        if self.loss == "square":
            targets = checks.real_array(y, "y")
            if targets.shape != shape:
                raise ShapeError(f"`y` has shape {targets.shape}, but `f` returns {shape}; give targets of that shape.")
            targets = targets.astype(self.flat.dtype)
        elif self.loss == "cross_entropy":
            if targets.shape != shape[:1] or targets.dtype.kind not in "iu" or len(shape) != 2:
                raise ShapeError(
                    f"for cross entropy `f` must return logits (n, c) and `y` integers (n,); their shapes are {shape} "
                    f"and {targets.shape}, and `y` has dtype {targets.dtype}."
                )
            if targets.min() < 0 or targets.max() >= shape[1]:
                raise ValueError(
                    f"`y` runs from {targets.min()} to {targets.max()}; labels lie in 0 ... {shape[1] - 1}."
                )
        elif targets.shape[:1] != (self.num_examples,):
            raise ShapeError(
                f"`y` has shape {targets.shape}; give one target for each of {self.num_examples} examples."
            )
        if targets.dtype.kind == "f":
            checks.all_finite(targets, "y")
        return targets

    def _output_shape(self) -> tuple[int, ...]:
        out = self._scoped(lambda: jax.eval_shape(self.operators.outputs, self.flat, self._x, None))
        shape, dtype = getattr(out, "shape", None), getattr(out, "dtype", None)
        if shape is None or dtype is None:
            raise TypeError(f"`f` returns a {type(out).__name__}; it must return one array.")
        if not jnp.issubdtype(dtype, jnp.floating):
            raise DtypeError(f"`f` returns {dtype}; it must return real floating-point numbers to be differentiated.")
        if len(shape) not in (1, 2) or shape[0] != self.num_examples:
            raise ShapeError(
                f"`f` returns shape {shape} for {self.num_examples} examples; it must return ({self.num_examples},) or "
                f"({self.num_examples}, c)."
            )
        return tuple(shape)

    def _check_loss(self) -> None:
        """Refuse a loss of one example that is not one number."""
        out = self._scoped(lambda: jax.eval_shape(self.operators.losses, self.flat, self._x, self._y))
        if getattr(out, "shape", None) != (self.num_examples,):
            raise ShapeError("`loss` must return one number for the output and target of one example.")

    def require_targets(self) -> None:
        """Refuse what needs a loss where there are no targets.

        Raises:
            ValueError: the system has none.
        """
        if self._y is None:
            raise ValueError("this needs targets: make the System with `y`.")


def _flattened(leaves: list[Any]) -> np.ndarray:
    """All entries in one vector, in the highest precision among them."""
    dtype = np.result_type(*(leaf.dtype for leaf in leaves))
    return np.concatenate([np.asarray(leaf).astype(dtype).reshape(-1) for leaf in leaves])


def _copied(tree: Any, double: bool) -> Any:
    """JAX arrays of its own; floating-point leaves in float64 if `double`."""

    def copy(leaf: Any) -> jax.Array:
        array = np.asarray(leaf)
        real = jnp.issubdtype(array.dtype, jnp.floating)
        return jnp.array(array, dtype=jnp.float64 if double and real else None)

    return jax.tree.map(copy, tree)


def _check_params(params: Any) -> None:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if not leaves:
        raise ShapeError("`params` has no arrays; a system needs at least one parameter.")
    for path, leaf in leaves:
        name = f"params{jax.tree_util.keystr(path)}"
        if isinstance(leaf, (bool, int)):
            raise DtypeError(f"`{name}` is the integer {leaf!r}; parameters must be real floating-point numbers.")
        checks.all_finite(checks.real_array(leaf, name), name)


def _checked_examples(x: Any) -> int:
    """How many examples there are, after their check."""
    n = count_examples(x, "x")
    for leaf in jax.tree.leaves(x):
        if np.asarray(leaf).dtype.kind == "f":
            checks.all_finite(np.asarray(leaf), "x")
    return n
