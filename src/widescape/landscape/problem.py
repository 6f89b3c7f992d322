"""What a problem with known points is made of: the functions, the data, and the facts at each point."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from widescape.core import checks
from widescape.core.random import named_generator
from widescape.curvature import System
from widescape.landscape.minima.losses import mean_loss

Point = tuple[Any, Mapping[str, Any]]
Loss = Callable[[Any, Any], jax.Array]

_PENALTY, _DECAY = 0.01, 0.001  # of the added neuron of `decayed_affine_trap`: on a, and on b and w


@dataclass(frozen=True, eq=False)
class Problem:
    """A function, a loss, data, and what is known at some points. Equal only to itself; its arrays do not change.

    The objective is L(params) = (1/m) sum_i loss(f(params, X)_i, y_i).

    Attributes:
        name: of the function that made it, with its arguments.
        f: maps (params, X) to outputs (m, c).
        loss: of one example: maps (outputs (c,), target) to one number; convex in the outputs.
        X: inputs, examples first.
        y: targets, examples first.
        points: by name, parameters (a PyTree of NumPy arrays in float64) and facts; the facts' names are those in
            `problems`.
    """

    name: str
    f: Callable[[Any, Any], jax.Array]
    loss: Loss
    X: np.ndarray
    y: np.ndarray
    points: Mapping[str, Point]

    def params(self, at: str | None = None) -> Any:
        """The parameters of the point named `at`; by default of the first."""
        name = next(iter(self.points)) if at is None else at
        checks.choice(name, "at", tuple(self.points))
        return self.points[name][0]

    def facts(self, at: str | None = None) -> Mapping[str, Any]:
        """What is known at the point named `at`; by default at the first."""
        name = next(iter(self.points)) if at is None else at
        checks.choice(name, "at", tuple(self.points))
        return self.points[name][1]

    def system(self, params: Any = None) -> System:
        """The problem as a system at `params`: a PyTree, the name of a point, or None for the first point."""
        own = self.params(params) if params is None or isinstance(params, str) else params
        return System(self.f, own, self.X, self.y, loss=self.loss, reduction="mean")

    def objective(self, params: Any) -> jax.Array:
        """The objective as a function of the parameters alone; traceable, and hashable as ``problem.objective``."""
        return mean_loss(self.loss, self.f(params, self.X), self.y)

    def value(self, params: Any = None) -> float:
        """The objective at `params`, in float64: a PyTree, the name of a point, or None for the first point."""
        return self.system(params).value()

    def starts(self, num: int = 50, *, scale: float = 1.0, key: jax.Array | None = None) -> Any:
        """Random parameters, stacked: a PyTree like a point's, whose leaves have `num` starts along the first axis.

        As `elimination_census` takes them, and `find_critical_points` with the problem's system.
        All entries are independent Gaussians of standard deviation `scale`; a `key` of None is ``jax.random.key(0)``.
        """
        checks.count(num, "num", "Problem.starts")
        checks.positive(checks.number(scale, "scale", "Problem.starts"), "scale", "Problem.starts")
        rng = named_generator(key, "starts", self.name)
        return jax.tree.map(lambda leaf: scale * rng.standard_normal((num, *leaf.shape)), self.params())


def known_points(**points: tuple[Any, dict[str, Any]]) -> Mapping[str, Point]:
    """Parameters and facts by the names of points, in float64 and read-only."""
    own = {name: (fixed_tree(params), MappingProxyType(facts)) for name, (params, facts) in points.items()}
    return MappingProxyType(own)


def fixed_tree(params: Any) -> Any:
    """A dictionary of parameters, possibly nested, as read-only arrays in float64."""
    if isinstance(params, dict):
        return {name: fixed_tree(value) for name, value in params.items()}
    return fixed_array(params)


def fixed_array(values: Any) -> np.ndarray:
    """A read-only array in float64."""
    array = np.array(values, np.float64)
    array.flags.writeable = False
    return array


def squared_error(output: jax.Array, target: jax.Array) -> jax.Array:
    """The squared distance |q - y|^2 of one example, without a factor 1/2."""
    return jnp.sum((output - target) ** 2)


def output_itself(output: jax.Array, target: Any) -> jax.Array:
    """The one output as its own loss."""
    return jnp.sum(output)


def cubic(w: Any, x: Any) -> jax.Array:
    """The outputs x (w^3/3 - w) for `w` (1,)."""
    return x * (w**3 / 3 - w)[None]


def relu_network(params: Any, x: Any) -> jax.Array:
    """sum_j v_j relu(w_j . x + beta_j) + c; `w` is (h,) for one input, or (h, d)."""
    hidden = jnp.maximum(x @ jnp.reshape(params["w"], (-1, x.shape[1])).T + params["beta"][None], 0.0)
    return (hidden @ params["v"] + params["c"])[:, None]


def chain(w: Any, x: Any) -> jax.Array:
    """The product of all entries of `w`, times x."""
    return x * jnp.prod(w)


def linear_network(params: Any, x: Any) -> jax.Array:
    """W_2 W_1 x."""
    return jnp.asarray(x) @ params["W1"].T @ params["W2"].T


def affine(w: Any, x: Any) -> jax.Array:
    """w_0 + w_1 x."""
    return w[0] + w[1] * jnp.asarray(x)


def trap_with_neuron(params: Any, x: Any) -> jax.Array:
    """One example of six outputs: the fits with an exponential neuron at three inputs, and its a, b and w."""
    column = jnp.asarray(x)[0, :, None]
    neuron = params["a"][None] * jnp.exp(column @ params["W"].T + params["b"][None])
    fit = relu_network(params["theta"], column) + neuron
    return jnp.concatenate([fit[:, 0], params["a"], params["b"], params["W"][0]])[None]


def decayed_error(output: jax.Array, target: jax.Array) -> jax.Array:
    """The mean squared error of three fits, and the neuron's penalty and decay."""
    fit, a, rest = output[:3], output[3], output[4:]
    return jnp.mean((fit - target) ** 2) + _PENALTY * a**2 + _DECAY * jnp.sum(rest**2)


def quartic_value(w: Any, x: Any) -> jax.Array:
    """x^4/4 - 3 x^2 + 9 x + 0.9 y^4 + 5 y^2 + 40 for `w` = (x, y), (1, 1)."""
    first, second = w[0], w[1]
    value = first**4 / 4 - 3 * first**2 + 9 * first + 0.9 * second**4 + 5 * second**2 + 40
    return jnp.reshape(value, (1, 1))


def logits(w: Any, x: Any) -> jax.Array:
    """The parameters themselves, for every example."""
    return w[None] + 0 * jnp.asarray(x)


def residual_block(params: Any, x: Any) -> jax.Array:
    """W (x + R tanh(U x))."""
    z = jnp.tanh(jnp.asarray(x) @ params["U"].T)
    return (x + z @ params["R"].T) @ params["W"].T
