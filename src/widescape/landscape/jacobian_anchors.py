"""What norm propagation needs to know of a fully connected network at the parameters where it starts."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from widescape.arch import Dense, Elementwise, Flatten, Frozen, Identity, Layer, Sequential, Signal
from widescape.core import checks
from widescape.core.blas import threads_for
from widescape.core.errors import NonFiniteError, NotCertifiable
from widescape.core.precision import call_in_float64, double_scope
from widescape.curvature.request import Trainable, on_host, selected
from widescape.landscape.activation_bounds import derivative_bounds


@dataclass(frozen=True)
class Block:
    """A dense layer z = scale h w + shift b, and the nonlinearities that follow it."""

    w: np.ndarray
    b: np.ndarray | None
    scale: float
    shift: float
    trains_w: bool
    trains_b: bool
    activations: tuple[Elementwise, ...] = ()

    def affine(self, h: np.ndarray) -> np.ndarray:
        z = self.scale * (h @ self.w)
        return z if self.b is None else z + self.shift * self.b[None]

    def design(self, h: np.ndarray) -> np.ndarray:
        """What one neuron's trained parameters are multiplied with: (n, trained parameters per neuron)."""
        columns = [self.scale * h] * self.trains_w + [np.full((len(h), 1), self.shift)] * self.trains_b
        return np.concatenate(columns, axis=1) if columns else np.zeros((len(h), 0))

    def bounds(self) -> tuple[float, float]:
        """Suprema of the first two derivatives of the composed nonlinearities; (1, 0) where there are none."""
        slope, bend = 1.0, 0.0
        for layer in self.activations:
            outer_slope, outer_bend = derivative_bounds(layer)
            slope, bend = outer_slope * slope, outer_bend * slope**2 + outer_slope * bend
        return slope, bend


class _Part(NamedTuple):
    """A layer that holds no others, with what belongs to it."""

    layer: Layer
    params: Any
    chosen: Any
    frozen: bool
    place: str


def read_chain(net: Layer, params: Any, x: Any, trainable: Trainable) -> tuple[np.ndarray, tuple[Block, ...]]:
    """The input of the first dense layer, and the chain of blocks from there to the output.

    Raises:
        NotCertifiable: a layer without bounds, named with its place.
        ShapeError, DtypeError, TypeError, ValueError: arguments that do not fit.
    """
    if not isinstance(net, Layer):
        raise TypeError(f"`net` is {net!r}; give a network of widescape.arch, for instance Sequential(...).")
    inputs = checks.batch(x, "x")
    chosen = jax.tree.unflatten(jax.tree.structure(params), selected(params, trainable))
    numbers = on_host(params, True, "params")
    with double_scope(True):
        jax.eval_shape(net.apply, numbers, inputs)
    blocks: list[Block] = []
    signal = Signal.of_input(inputs.shape[1:])
    for part in _parts(net, numbers, chosen, False, ""):
        layer = part.layer
        if type(layer) is Dense:
            blocks.append(_block(layer, part, signal))
        elif type(layer) is Flatten:
            inputs = inputs if blocks else inputs.reshape(len(inputs), -1)
        elif isinstance(layer, Elementwise) and blocks:
            _check_bounded(layer, part.place)
            blocks[-1] = replace(blocks[-1], activations=(*blocks[-1].activations, layer))
        elif isinstance(layer, Elementwise):
            inputs = _value_and_slope((layer,), inputs)[0]
        elif type(layer) is not Identity:
            raise NotCertifiable(
                f"{part.place}{type(layer).__name__}: norm propagation covers chains of Dense, Flatten, Identity and "
                "smooth nonlinearities. Leave the layer out, or give a curvature bound of your own."
            )
        signal = layer.out(signal)
    return inputs, tuple(blocks)


def _parts(layer: Layer, params: Any, chosen: Any, frozen: bool, place: str) -> Iterator[_Part]:
    if type(layer) is Frozen:
        yield from _parts(layer.layer, params, chosen, True, place)
    elif type(layer) is Sequential:
        for i, inner in enumerate(layer.layers):
            yield from _parts(inner, params[i], chosen[i], frozen, f"{place}layer {i}, ")
    else:
        yield _Part(layer, params, chosen, frozen, place)


def _block(layer: Dense, part: _Part, signal: Signal) -> Block:
    w = np.asarray(part.params["w"], np.float64)
    has_bias = layer.b_std is not None
    if layer.param == "ntk":
        scale, shift = layer.w_std / np.sqrt(len(w)), layer.b_std or 0.0
    else:
        based = layer.base_width is not None and signal.base is not None
        scale, shift = 1 / np.sqrt(len(w) / signal.base) if based and signal.base else 1.0, float(has_bias)
    return Block(
        w=w,
        b=np.asarray(part.params["b"], np.float64) if has_bias else None,
        scale=float(scale),
        shift=float(shift),
        trains_w=part.chosen["w"] and not part.frozen,
        trains_b=has_bias and part.chosen["b"] and not part.frozen,
    )


def _check_bounded(layer: Elementwise, place: str) -> None:
    try:
        derivative_bounds(layer)
    except NotCertifiable as error:
        raise NotCertifiable(f"{place}{error}") from error


class Pass(NamedTuple):
    """A forward and a backward pass over all examples, block by block.

    Attributes:
        inputs: H of each block, (n, fan-in).
        slopes: phi' at its pre-activations, (n, width).
        signals: P, the derivatives of the last pre-activations in those of the block, (n or 1, c, width).
        weights: Q, the same in the block's outputs phi(z); absent for the last block.
    """

    inputs: list[np.ndarray]
    slopes: list[np.ndarray]
    signals: list[np.ndarray]
    weights: list[np.ndarray]


def run_chain(h: np.ndarray, blocks: tuple[Block, ...]) -> Pass:
    """The forward and the backward pass.

    Raises:
        NonFiniteError: they overflow.
    """
    inputs, before, slopes, weights = [], [], [], list[np.ndarray]()
    signals = [np.eye(blocks[-1].w.shape[1])[None]]
    with np.errstate(over="ignore", invalid="ignore"):
        for block in blocks:
            inputs.append(h)
            before.append(block.affine(h))
            h, slope = _value_and_slope(block.activations, before[-1])
            slopes.append(slope)
        for block, slope in zip(blocks[:0:-1], slopes[-2::-1], strict=True):
            rows = signals[0].reshape(-1, signals[0].shape[-1]) @ block.w.T  # one product is faster than many
            weights.insert(0, block.scale * rows.reshape(*signals[0].shape[:2], -1))
            signals.insert(0, weights[0] * slope[:, None, :])
    if not all(np.isfinite(array).all() for array in (h, *before, *slopes, *signals)):
        raise NonFiniteError("the network overflows on these examples; give smaller parameters or inputs.")
    return Pass(inputs, slopes, signals, weights)


def _value_and_slope(activations: tuple[Elementwise, ...], z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """phi(z) and phi'(z) of the composed nonlinearities."""
    if not activations:
        return z, np.ones_like(z)
    value, slope = call_in_float64(_compiled, activations, z)
    return value, slope


@partial(jax.jit, static_argnums=0)
def _compiled(activations: tuple[Elementwise, ...], z: jax.Array) -> tuple[jax.Array, jax.Array]:
    def phi(h: jax.Array) -> jax.Array:
        for layer in activations:
            h = layer.phi(h)
        return h

    return jax.jvp(phi, (z,), (jnp.ones_like(z),))


@dataclass(frozen=True)
class Anchor:
    """The numbers of one block from which its bounds grow with the radius.

    Attributes:
        scale: of the product with the weights.
        trains_weights: 1 if the weights are trained, else 0.
        weight_norm: spectral norm of the weights; 0 for the first block, where nothing moves below.
        row_norm: largest norm of the weights that leave one neuron below.
        data_norm, example_norm: spectral norm and largest row of the block's design matrix.
        slope, bend: suprema of |phi'| and |phi''|.
        start_slope: largest |phi'| at the start.
        signal_norm: largest spectral norm of P over examples.
        neuron_weight: largest row of Q over examples and neurons.
    """

    scale: float
    trains_weights: float
    weight_norm: float
    row_norm: float
    data_norm: float
    example_norm: float
    slope: float
    bend: float
    start_slope: float
    signal_norm: float
    neuron_weight: float


def anchors_of(blocks: tuple[Block, ...], passes: Pass) -> tuple[Anchor, ...]:
    """The anchor of each block."""
    found = []
    for i, block in enumerate(blocks):
        design = block.design(passes.inputs[i])
        slope, bend = block.bounds()
        last = i == len(blocks) - 1
        found.append(
            Anchor(
                scale=block.scale,
                trains_weights=float(block.trains_w),
                weight_norm=spectral_norm(block.w) if i else 0.0,
                row_norm=_largest_norm(block.w, axis=1),
                data_norm=spectral_norm(design),
                example_norm=_largest_norm(design, axis=1),
                slope=slope,
                bend=bend,
                start_slope=float(np.abs(passes.slopes[i]).max()),
                signal_norm=spectral_norm(passes.signals[i]),
                neuron_weight=0.0 if last else _largest_norm(passes.weights[i], axis=1),
            )
        )
    return tuple(found)


def spectral_norm(matrices: np.ndarray) -> float:
    """The largest singular value among the matrices of a stack (..., r, k), from the smaller Gram matrix."""
    size = float(np.abs(matrices).max(initial=0.0))
    if size == 0:
        return 0.0
    gram = _smaller_gram(matrices / size)
    with threads_for(gram.shape[-1]):
        return size * float(np.sqrt(np.linalg.eigvalsh(gram)[..., -1].max()))


def _smaller_gram(matrices: np.ndarray) -> np.ndarray:
    turned = matrices.swapaxes(-1, -2)
    return matrices @ turned if matrices.shape[-2] <= matrices.shape[-1] else turned @ matrices


def _largest_norm(array: np.ndarray, *, axis: int) -> float:
    size = float(np.abs(array).max(initial=0.0))
    return size * float(np.sqrt(np.square(array / size).sum(axis=axis).max())) if size > 0 else 0.0


class Transfers(NamedTuple):
    """Largest spectral norms over examples of the Jacobians of later pre-activations in earlier ones, at the start.

    Attributes:
        reached: reached[l][j], of T = dz^l / dz^j; 1 on the diagonal, 0 where not needed.
        passed: of phi'(z^l) T, likewise.
    """

    reached: tuple[tuple[float, ...], ...]
    passed: tuple[tuple[float, ...], ...]


def transfers_of(blocks: tuple[Block, ...], passes: Pass) -> Transfers:
    """The transfers between hidden blocks, from each that is trained to every later one.

    Cost: for each pair and example a product, a Gram and a Cholesky factor of width-by-width matrices.
    """
    count = len(blocks)
    reached, passed = np.eye(count), np.diag([float(np.abs(slope).max()) for slope in passes.slopes])
    for j in range(count - 2):
        if not (blocks[j].trains_w or blocks[j].trains_b):
            continue
        for slopes in zip(*passes.slopes, strict=True):
            matrix = blocks[j + 1].scale * slopes[j][:, None] * blocks[j + 1].w
            for i in range(j + 1, count - 1):
                reached[i, j] = _larger_norm(reached[i, j], matrix)
                if i < count - 2:
                    matrix = matrix * slopes[i][None]
                    passed[i, j] = _larger_norm(passed[i, j], matrix)
                    matrix = blocks[i + 1].scale * (matrix @ blocks[i + 1].w)
    return Transfers(tuple(map(tuple, reached.tolist())), tuple(map(tuple, passed.tolist())))


def _larger_norm(bound: float, matrix: np.ndarray) -> float:
    """`bound`, or the spectral norm where that is larger: a Cholesky factor of bound^2 - gram shows it is not."""
    size = max(bound, float(np.abs(matrix).max()))
    if size == 0:
        return 0.0
    gram = _smaller_gram(matrix / size)
    with threads_for(len(gram)):
        try:
            np.linalg.cholesky((bound / size) ** 2 * np.eye(len(gram)) - gram)
        except np.linalg.LinAlgError:
            return max(bound, size * float(np.sqrt(np.linalg.eigvalsh(gram)[-1])))
    return bound
