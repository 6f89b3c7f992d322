"""A rigorous bound of a fully connected network's curvature on balls of parameters, by propagating norms."""

import hashlib
from dataclasses import dataclass
from math import hypot, sqrt
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np

from widescape.arch import Layer
from widescape.core import checks
from widescape.core.errors import NonFiniteError
from widescape.curvature.request import Trainable
from widescape.curvature.system import Reduction
from widescape.landscape.jacobian_anchors import Anchor, Transfers, anchors_of, read_chain, run_chain, transfers_of


class _Spread(NamedTuple):
    """Bounds in a ball, layer by layer.

    Attributes:
        stacked: stacked[l, j], of the derivative of all examples' z^l in block j.
        single: the same for any one example.
        signals: of the derivatives P of the last pre-activations in z^l.
        weights: of the rows of the derivatives Q in phi(z^l).
    """

    stacked: np.ndarray
    single: np.ndarray
    signals: list[float]
    weights: list[float]


@dataclass(frozen=True)
class NetworkBound:
    """How much the outputs F of a network can vary with its trained parameters in a ball around where they are.

    Every bound is a non-decreasing function of the radius R >= 0 and holds at every point of the ball, in exact
    arithmetic; rounding adds about 1e-13 of it. A *block* is what is trained of one dense layer. F stacks all examples
    and outputs, divided by sqrt(n) for the mean. Made by `network_bound`.

    Attributes:
        anchors: what was measured of each dense layer at the center.
        output_bounds: suprema of |psi'| and |psi''| for a nonlinearity psi at the output; (1, 0) for none.
        share: the factor of F: 1 for the sum over examples, 1/sqrt(n) for the mean.
        transfers: norms of Jacobians between hidden layers at the center, if asked for.
        center: a digest of the parameters, inputs and reduction that it was made for; empty for none.
    """

    source: ClassVar[str] = "liu2020loss"
    anchors: tuple[Anchor, ...]
    output_bounds: tuple[float, float]
    share: float
    transfers: Transfers | None = None
    center: str = ""

    def require_center(self, params: Any, x: Any, reduction: Reduction) -> None:
        """Refuse to be used around other parameters, on other inputs, or for another reduction.

        Raises:
            ValueError: it was made for others.
        """
        if self.center and self.center != _digest(params, x, reduction):
            raise ValueError(
                "this bound holds around the parameters, and for the inputs and the reduction, that it was made with, "
                "and these are others; make one with `network_bound` here."
            )

    def __call__(self, radius: float) -> float:
        """beta_F(R) = |B(R)|, which is at least |D2F(w)[u, v]| for unit u and v and every w in the ball.

        Args:
            radius: R of the ball.

        Raises:
            ValueError: `radius` is negative or not finite.
            TypeError: it is no number.
            NonFiniteError: the bound overflows.

        Cost: some tens of microseconds per layer.
        """
        return float(np.linalg.norm(self.blocks(radius), 2))

    def blocks(self, radius: float) -> np.ndarray:
        """B(R), (L, L): |D2F(w)[u, v]| <= B_jk |u| |v| for u in block j and v in block k, everywhere in the ball."""
        with np.errstate(over="ignore", invalid="ignore"):
            return _finite(self._blocks(_radius(radius)), radius)

    def lipschitz(self, radius: float) -> float:
        """L_F(R), which is at least the spectral norm of the Jacobian of F everywhere in the ball."""
        with np.errstate(over="ignore", invalid="ignore"):
            last = self._spread(_radius(radius)).stacked[-1]
            return float(_finite(self.share * self.output_bounds[0] * np.sqrt(last @ last), radius))

    def displacement(self, radius: float) -> float:
        """A bound of |F(w) - F(w_0)| for w in the ball around w_0."""
        radius = _radius(radius)
        moved = self._displacements(radius)[0][-1] * radius
        return float(_finite(self.share * self.output_bounds[0] * np.float64(moved), radius))

    def _blocks(self, radius: float) -> np.ndarray:
        spread = self._spread(radius)
        bound = np.zeros((len(self.anchors),) * 2)
        for k, anchor in enumerate(self.anchors[:-1]):
            bound += anchor.bend * spread.weights[k] * _product(spread.stacked[k], spread.single[k])
        for k, (below, anchor) in enumerate(zip(self.anchors, self.anchors[1:], strict=False), 1):
            crossed = anchor.trains_weights * anchor.scale * spread.signals[k] * below.slope * spread.stacked[k - 1]
            bound[:, k] += crossed
            bound[k, :] += crossed
        slope, bend = self.output_bounds
        return self.share * (slope * bound + bend * _product(spread.stacked[-1], spread.single[-1]))

    def _spread(self, radius: float) -> _Spread:
        moved, moved_single = self._displacements(radius)
        signals, weights = self._backward(radius, moved_single)
        count = len(self.anchors)
        stacked, single = np.zeros((count, count)), np.zeros((count, count))
        for j, anchor in enumerate(self.anchors):
            grown = anchor.trains_weights * anchor.scale * (self.anchors[j - 1].slope * radius if j else 0.0)
            below = (moved[j - 1], moved_single[j - 1]) if j else (0.0, 0.0)
            reach = self._reach(j, radius, moved_single, signals[j])
            stacked[j:, j] = (anchor.data_norm + grown * below[0]) * reach
            single[j:, j] = (anchor.example_norm + grown * below[1]) * reach
        return _Spread(stacked, single, signals, weights)

    def _displacements(self, radius: float) -> tuple[list[float], list[float]]:
        """D and E: z moves by at most D R in the norm over all examples, by E R for any one."""
        moved, moved_single = [0.0], [0.0]
        for below, anchor in zip((None, *self.anchors), self.anchors, strict=False):
            gain = self._gain(below, anchor, radius)
            moved.append(hypot(gain * moved[-1], anchor.data_norm))
            moved_single.append(hypot(gain * moved_single[-1], anchor.example_norm))
        return moved[1:], moved_single[1:]

    @staticmethod
    def _gain(below: Anchor | None, anchor: Anchor, radius: float) -> float:
        """How much a change of the pre-activations below can grow on its way to this layer's."""
        if below is None:
            return 0.0
        return anchor.scale * (anchor.weight_norm + anchor.trains_weights * radius) * below.slope

    def _backward(self, radius: float, moved_single: list[float]) -> tuple[list[float], list[float]]:
        """Bounds of P and of the rows of Q, from the output down."""
        drift, signals, weights = 0.0, [self.anchors[-1].signal_norm], [0.0]
        for i in range(len(self.anchors) - 2, -1, -1):
            anchor, above = self.anchors[i], self.anchors[i + 1]
            step = above.trains_weights * radius
            drift_weights = above.scale * ((above.weight_norm + step) * drift + step * above.signal_norm)
            drift = anchor.slope * drift_weights + anchor.bend * moved_single[i] * radius * anchor.neuron_weight
            signals.insert(0, anchor.signal_norm + drift)
            weights.insert(0, anchor.neuron_weight + drift_weights)
        return signals, weights

    def _reach(self, j: int, radius: float, moved_single: list[float], signal: float) -> np.ndarray:
        """Bounds of |dz^l / dz^j| for one example, l = j, ..., L: products of gains, anchored if asked for."""
        reach, drift = [1.0], 0.0
        for i in range(j + 1, len(self.anchors)):
            below, anchor = self.anchors[i - 1], self.anchors[i]
            gain = self._gain(below, anchor, radius)
            bound = gain * reach[-1]
            if self.transfers is not None:
                step = anchor.trains_weights * radius
                bent = (anchor.row_norm + step) * below.bend * moved_single[i - 1] * radius
                start, passed = self.transfers.reached[i - 1][j], self.transfers.passed[i - 1][j]
                drift = gain * drift + anchor.scale * (bent * start + step * passed)
                last = i == len(self.anchors) - 1
                bound = min(bound, signal if last else self.transfers.reached[i][j] + drift)
            reach.append(bound)
        return np.array(reach)


def network_bound(
    net: Layer,
    params: Any,
    x: Any,
    *,
    reduction: Reduction = "sum",
    trainable: Trainable = None,
    anchor_jacobians: bool = False,
) -> NetworkBound:
    """Bounds of the second and first derivatives of a fully connected network in balls of its trained parameters.

    For F(w) = (f(w, x_1), ..., f(w, x_n)), times 1/sqrt(n) for the mean, and every R >= 0:
    sup over |w - w_0| <= R and unit u, v of |D2F(w)[u, v]| <= beta_F(R) = |B(R)|. Spectral norms of weights, largest
    rows, and suprema of phi' and phi'' are propagated forward and backward through the layers; the back-propagated
    derivatives are bounded per neuron, which is why the bound falls with the width.

    Args:
        net: a chain of `Dense`, `Flatten`, `Identity` and smooth nonlinearities; what is inside `Frozen` stands still.
        params: w_0, the center of the balls.
        x: examples (n, ...).
        reduction: whether F is divided by sqrt(n).
        trainable: which parameters move: a function of a leaf's path, or a prefix of `params` with booleans; None
            for all.
        anchor_jacobians: measure the Jacobians between hidden layers at w_0 as well. Never looser, and 1.3 to 4 times
            tighter for two or more hidden layers, at a much higher cost.

    Returns:
        a `NetworkBound`, to be called with R. It is 0 where nothing is trained, or the network is linear in what is.

    Raises:
        NotCertifiable: a layer that has no bounds (a kink, unbounded derivatives, another kind of layer); names it.
        ShapeError, DtypeError, TypeError, ValueError: arguments that do not fit.
        NonFiniteError: the network overflows.

    Cost: a forward and a backward pass, and an eigenvalue problem of order min(fan-in, fan-out) for each dense layer
    but the first and of order min(n, fan-in) for each. With `anchor_jacobians` n (L-1)(L-2)/2 products and Cholesky
    factors of the order of the width. Holds (n, c, width) numbers per layer.

    Example:
        >>> from widescape.arch import Dense, Sequential, Tanh
        >>> net = Sequential(Dense(1), Tanh(), Dense(1))
        >>> params = ({"w": np.zeros((1, 1))}, (), {"w": np.ones((1, 1))})
        >>> bound = network_bound(net, params, np.ones((1, 1)), trainable=lambda path: path == "[0]['w']")
        >>> round(bound(1.0), 10)  # sup |tanh''|, whatever the radius
        0.7698003589
    """
    checks.choice(reduction, "reduction", Reduction)
    h, blocks = read_chain(net, params, x, trainable)
    passes = run_chain(h, blocks)
    return NetworkBound(
        anchors=anchors_of(blocks, passes),
        output_bounds=blocks[-1].bounds(),
        share=1 / sqrt(len(h)) if reduction == "mean" else 1.0,
        transfers=transfers_of(blocks, passes) if anchor_jacobians else None,
        center=_digest(params, x, reduction),
    )


def layerwise_kernel(
    net: Layer, params: Any, x: Any, *, reduction: Reduction = "sum", trainable: Trainable = None
) -> np.ndarray:
    """The tangent kernel J J^T of a fully connected network, summed over its layers without forming J.

    K = sum over l of (A_l A_l^T) o (P^l P^lT), times psi' at both ends for a nonlinearity psi at the output and 1/n for
    the mean. A_l has the inputs of layer l as rows, scaled, with a column for a trained bias; P^l stacks the
    derivatives of the outputs in the pre-activations of layer l.

    Args:
        net: a network that `network_bound` takes.
        params: where the kernel is taken.
        x: examples (n, ...).
        reduction: whether the kernel is divided by n.
        trainable: the parameters in J, as for `network_bound`.

    Returns:
        (N, N) with N = n c, ordered by example, then output.

    Raises:
        NotCertifiable: a layer without a bound.
        ShapeError, DtypeError, ValueError: arguments that do not fit.
        NonFiniteError: the network overflows.

    Cost: a forward and a backward pass and N^2 times the sum of widths flops; holds three N by N matrices.

    Example:
        >>> from widescape.arch import Dense
        >>> layerwise_kernel(Dense(1), {"w": np.ones((2, 1))}, np.array([[1.0, 1.0], [2.0, 0.0]]))
        array([[1., 1.],
               [1., 2.]])
    """
    checks.choice(reduction, "reduction", Reduction)
    h, blocks = read_chain(net, params, x, trainable)
    passes = run_chain(h, blocks)
    n, c = len(h), blocks[-1].w.shape[1]
    kernel = np.zeros((n * c, n * c))
    for block, inputs, signals in zip(blocks, passes.inputs, passes.signals, strict=True):
        design = block.design(inputs)
        rows = np.broadcast_to(signals, (n, *signals.shape[1:])).reshape(n * c, -1)
        kernel += np.repeat(np.repeat(design @ design.T, c, axis=0), c, axis=1) * (rows @ rows.T)
    ends = passes.slopes[-1].reshape(-1)
    return kernel * np.outer(ends, ends) / (n if reduction == "mean" else 1)


def _digest(params: Any, x: Any, reduction: Reduction) -> str:
    """What a bound is tied to, in a few letters."""
    digest = hashlib.sha256(reduction.encode())
    for leaf in (*jax.tree.leaves(params), x):
        digest.update(np.ascontiguousarray(leaf, np.float64).tobytes())
    return digest.hexdigest()[:16]


def _product(stacked: np.ndarray, single: np.ndarray) -> np.ndarray:
    """Of two derivatives at the same neurons, example by example: the largest of one with the norm of the other."""
    crossed = np.outer(stacked, single)
    return np.minimum(crossed, crossed.T)


def _radius(value: Any) -> float:
    radius: float = checks.number(value, "radius", "NetworkBound")
    checks.not_negative(radius, "radius", "NetworkBound")
    return radius


def _finite(bound: Any, radius: float) -> Any:
    if not np.isfinite(bound).all():
        raise NonFiniteError(f"the bound overflows at `radius` {radius}; ask for a smaller ball.")
    return bound
