"""A chain of layers, each hidden one read by the next alone: what the constructive path needs to know of a network."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from widescape import arch
from widescape.core import checks
from widescape.core.errors import DtypeError, ShapeError
from widescape.core.precision import double_scope
from widescape.curvature import System
from widescape.curvature.program import bodies_of, constants, equations
from widescape.curvature.request import hashable

Function = Callable[[jax.Array], jax.Array]
Pairs = tuple[tuple[Any, Any], ...]
_MIXING = frozenset(
    {"cumlogsumexp", "cummax", "cummin", "cumprod", "cumsum", "dynamic_slice", "dynamic_update_slice", "fft"}
    | {"gather", "rev", "scatter", "scatter-add", "sort", "transpose"}
)
"""Operations that keep the shape of an array and mix its entries."""


@dataclass(frozen=True)
class ChainLayer:
    """How one layer of a chain acts on the features before it, beside its weights.

    Args:
        strides: of a convolution, one for each spatial axis; None for 1.
        padding: of a convolution.
        after: a fixed function of the features after the activation, per channel, as pooling is.
        block: for a fully connected layer that reads images: the positions h w over which it flattens them. Its input
            row ``position * channels + channel`` belongs to that channel.
    """

    strides: tuple[int, ...] | None = None
    padding: Literal["SAME", "VALID"] = "SAME"
    after: Function | None = None
    block: int = 1

    def __post_init__(self) -> None:
        checks.choice(self.padding, "padding", ("SAME", "VALID"))
        checks.count(self.block, "block", "ChainLayer")
        if self.after is not None and not callable(self.after):
            raise TypeError(f"ChainLayer: `after` is {self.after!r}; give a function of the features, or None.")


@dataclass(frozen=True)
class _Origin:
    """Where the weights of a chain come from: the leaves of a PyTree and what they are multiplied with."""

    structure: Any
    places: tuple[tuple[int, int], ...]
    factors: tuple[float, ...]


@jax.tree_util.register_pytree_with_keys_class
class Layered:
    """A chain F_0 = x, F_l = activation(F_{l-1} W_l + b_l) for l < L, with the outputs F_L = F_{L-1} W_L + b_L.

    A PyTree of its weights and biases, and a function of inputs: ``net(x)``; ``System(Layered.__call__, net, x, y)`` is
    a system of it. Every hidden layer is read by the next one alone; skip connections, shared weights and normalization
    that mixes samples or units have no place in it.

    Args:
        layers: a pair (W, b) for each of the L layers. W is (n_in, n_out), or a convolution's (k..., n_in, n_out) on
            images (n, h, w, channels); b is (n_out,) or None. A unit is a column of W, or a channel.
        activation: the elementwise function of the L - 1 hidden layers, one for all or a sequence of them; also an
            activation of `widescape.arch`.
        how: a `ChainLayer` for each layer, or for some of them by index from 0; None for plain ones.

    Attributes:
        num_layers: L.
        widths: units of every layer and of the input, (n_0, ..., n_L).

    Raises:
        ShapeError: weights that do not follow on each other; names the layer.
        DtypeError, ValueError: weights that are not real floating point or not finite.
        NotImplementedError: an activation that mixes units.

    Example:
        >>> net = Layered([(np.array([[1.0, -1.0]]), None), (np.array([[1.0], [1.0]]), None)], jax.nn.relu)
        >>> net.widths, net(np.array([[-2.0], [3.0]])).tolist()
        ((1, 2, 1), [[2.0], [3.0]])
    """

    layers: Pairs
    activations: tuple[Function, ...]
    how: tuple[ChainLayer, ...]
    origin: _Origin | None

    def __init__(
        self,
        layers: Sequence[tuple[Any, Any]],
        activation: Function | arch.Layer | Sequence[Function | arch.Layer],
        how: Sequence[ChainLayer] | Mapping[int, ChainLayer] | None = None,
    ) -> None:
        self.layers = tuple(_checked_pair(pair, i) for i, pair in enumerate(layers))
        count = len(self.layers)
        if not count:
            raise ShapeError("`layers` is empty; a chain has at least one layer.")
        chosen = (
            tuple(activation) if isinstance(activation, Sequence) else (activation,) * (count - 1)  # the same for all
        )
        if len(chosen) != count - 1:
            raise ShapeError(f"`activation` has {len(chosen)} entries; give one for each of {count - 1} hidden layers.")
        self.activations = tuple(_activation(f, i) for i, f in enumerate(chosen))
        self.how = _ways(how, count)
        self.origin = None
        self._check_chain()

    @classmethod
    def from_params(
        cls,
        params: Any,
        spec: arch.Layer | Sequence[tuple[str, str | None]],
        activation: Any = None,
        how: Sequence[ChainLayer] | Mapping[int, ChainLayer] | None = None,
    ) -> "Layered":
        """The chain that a PyTree of parameters stands for.

        Args:
            params: the parameters.
            spec: a network of `widescape.arch` (then without `activation` and `how`), whose factors of the
                parameterization are multiplied into the weights; or for each layer the names of the leaves that are its
                weight and its bias (None for no bias), as `widescape.paths.leaf_names` gives them.
            activation: as for the class.
            how: as for the class.

        Raises:
            NotImplementedError: a layer that has no place in a chain.
            ValueError: a name that `params` lacks, or a leaf that no layer uses.
        """
        leaves, structure = jax.tree_util.tree_flatten_with_path(params)
        names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
        values = [leaf for _, leaf in leaves]
        if isinstance(spec, arch.Layer):
            uses, activation, how = _uses_of_network(spec, params)
        else:
            uses = [(weight, bias, 1.0, 1.0) for weight, bias in spec]
        places, factors, pairs = [], [], []
        for weight, bias, weight_factor, bias_factor in uses:
            pair: list[Any] = []
            for name, factor in ((weight, weight_factor), (bias, bias_factor)):
                if name is not None and name not in names:
                    raise ValueError(f"`params` has no leaf {name!r}; its leaves are {', '.join(names)}.")
                pair.append(None if name is None else _scaled(values[names.index(name)], factor))
                if name is not None:
                    places.append(names.index(name))
                    factors.append(factor)
            pairs.append((pair[0], pair[1]))
        unused = [name for i, name in enumerate(names) if i not in places]
        if unused or len(set(places)) < len(places):
            raise ValueError(
                f"`spec` uses {len(set(places))} leaves {len(places)} times and leaves out {unused}; a chain has every "
                "leaf in exactly one place."
            )
        chain = cls(pairs, activation, how)
        order = np.argsort(places)
        leaves_of = [(i, j) for i, pair in enumerate(pairs) for j in (0, 1) if pair[j] is not None]
        chain.origin = _Origin(structure, tuple(leaves_of[k] for k in order), tuple(float(factors[k]) for k in order))
        return chain

    def to_params(self) -> Any:
        """The PyTree that `from_params` was given, with these weights; exact up to the rounding of factors.

        Raises:
            ValueError: the chain was not made by `from_params`, or from a network that multiplies biases with 0.
        """
        if self.origin is None:
            raise ValueError("this chain was not made from a PyTree; its weights are in `layers`.")
        if 0 in self.origin.factors:
            raise ValueError(
                "the network has `b_std` 0 in the NTK parameterization, so its parameters cannot hold the biases of "
                "this chain; take b_std=None for no biases."
            )
        places = zip(self.origin.places, self.origin.factors, strict=True)
        return jax.tree.unflatten(self.origin.structure, [_scaled(self.layers[i][j], 1 / f) for (i, j), f in places])

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @property
    def widths(self) -> tuple[int, ...]:
        return (inputs_of(self.layers[0][0], self.how[0]), *(np.shape(w)[-1] for w, _ in self.layers))

    @property
    def on_host(self) -> bool:
        """Whether all weights are NumPy arrays."""
        return all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(self.layers))

    @property
    def dtype(self) -> Any:
        """The precision of the weights."""
        return np.result_type(*(leaf for pair in self.layers for leaf in pair if leaf is not None))

    def __call__(self, x: Any) -> jax.Array:
        """The outputs (n, c). Cost: one forward pass."""
        return self.features(x, self.num_layers)

    def features(self, x: Any, layer: int, start: int = 0) -> jax.Array:
        """F_layer, where `x` is F_start; layer L gives the outputs."""
        h = jnp.asarray(x)
        for i in range(start, layer):
            (w, b), how = self.layers[i], self.how[i]
            h = _affine(h, w, how)
            if b is not None:
                h = h + jnp.reshape(b, (1,) * (h.ndim - 1) + (-1,))
            if i < self.num_layers - 1:
                h = self.activations[i](h)
            if how.after is not None:
                h = how.after(h)
        return h

    def with_layers(self, layers: Pairs) -> "Layered":
        """The same chain with other weights, which are trusted to fit."""
        return type(self).tree_unflatten((self.activations, self.how, self.origin), (layers,))

    def tail(self, start: int, layers: Pairs) -> "Layered":
        """A chain like layers start + 1 ... L of this one, with weights that are trusted to fit."""
        return type(self).tree_unflatten((self.activations[start:], self.how[start:], None), (layers,))

    def as_float64(self) -> "Layered":
        """The same chain in double precision."""
        return self.with_layers(
            tuple((np.asarray(w, np.float64), None if b is None else np.asarray(b, np.float64)) for w, b in self.layers)
        )

    def tree_flatten_with_keys(self) -> tuple[Any, Any]:
        static = (self.activations, self.how, self.origin)
        return ((jax.tree_util.GetAttrKey("layers"), self.layers),), static

    @classmethod
    def tree_unflatten(cls, static: Any, children: Any) -> "Layered":
        chain = object.__new__(cls)
        chain.activations, chain.how, chain.origin = static
        (chain.layers,) = children
        return chain

    def __repr__(self) -> str:
        return f"Layered({'-'.join(map(str, self.widths))})"

    def _check_chain(self) -> None:
        before = self.widths[0]
        for i, ((w, b), how) in enumerate(zip(self.layers, self.how, strict=True), 1):
            if how.block > 1 and w.ndim > 2:
                raise ShapeError(f"layer {i} is a convolution and has a `block`, which belongs to a flatten.")
            if i > 1 and (w.shape[-2] % how.block or w.shape[-2] // how.block != before):
                raise ShapeError(
                    f"layer {i} has {w.shape[-2]} input rows in blocks of {how.block}, but {before} units come in; "
                    "give a `block` of the positions over which it flattens."
                )
            if b is not None and b.shape != w.shape[-1:]:
                raise ShapeError(f"layer {i} has a bias of shape {b.shape}; its weight needs {w.shape[-1:]}.")
            if how.after is not None and i == self.num_layers:
                raise ShapeError(f"layer {i} is the last one, and its outputs are affine; it has no `after`.")
            before = w.shape[-1]


def as_layered(net: Any) -> Layered:
    """A chain from a chain, or from a system whose function is one or is a network of `widescape.arch`.

    Raises:
        NotImplementedError: the system's function is a plain one, or does more than the chain that is its parameters.
        TypeError: neither.
    """
    if isinstance(net, Layered):
        return net if net.on_host else net.with_layers(jax.tree.map(np.asarray, net.layers))
    if isinstance(net, System):
        if isinstance(net.params, Layered):
            _require_itself(net)
            return net.params
        network = arch.network_of(net.f)
        if network is not None:
            return Layered.from_params(net.params, network)
        raise NotImplementedError(
            "the constructive path needs a chain of layers, and this system's function is a plain one. Make a Layered "
            "of its weights, or use fit_curve, auto_neb or barrier, which take any function."
        )
    raise TypeError(f"a {type(net).__name__} is no chain of layers; give a Layered, or a System of a known network.")


def _require_itself(system: System) -> None:
    """Refuse a system of a chain whose function is another one, as the square of its outputs."""
    few = system.on(jax.tree.map(lambda leaf: leaf[:2], system.x))
    with double_scope(system.double):
        own = np.asarray(system.params(few.x))
    outputs = few.F()
    if own.shape != outputs.shape or not np.allclose(own, outputs, rtol=1e-4, atol=1e-6 * np.abs(own).max()):
        raise NotImplementedError(
            "the parameters of the system are a chain of layers, but its function is not the chain itself; make it "
            "System(Layered.__call__, net, x, y)."
        )


def columns(weight: np.ndarray, how: ChainLayer) -> np.ndarray:
    """A weight as (positions, units in, units out), whichever layer it belongs to; a view where possible."""
    if weight.ndim == 2:
        return weight.reshape(how.block, weight.shape[0] // how.block, weight.shape[1])
    return weight.reshape(-1, *weight.shape[-2:])


def inputs_of(weight: Any, how: ChainLayer) -> int:
    """The units that a layer reads."""
    shape = np.shape(weight)
    return int(shape[-2]) // (how.block if len(shape) == 2 else 1)


def restrict(weight: np.ndarray, how: ChainLayer, rows: np.ndarray | None, kept: np.ndarray | None) -> np.ndarray:
    """The weight between some of the units before it and some of its own; None for all."""
    cut = columns(weight, how)
    cut = cut if rows is None else cut[:, rows]
    cut = cut if kept is None else cut[:, :, kept]
    return resized(cut, weight, how)


def resized(cut: np.ndarray, like: np.ndarray, how: ChainLayer) -> np.ndarray:
    """(positions, units in, units out) back in the shape of a weight, with other numbers of units."""
    if like.ndim == 2:
        return cut.reshape(how.block * cut.shape[1], cut.shape[2])
    return cut.reshape(*like.shape[:-2], *cut.shape[1:])


def _affine(h: jax.Array, w: Any, how: ChainLayer) -> jax.Array:
    """The linear part of a layer on features."""
    spatial = w.ndim - 2
    if spatial == 0:
        positions = math.prod(h.shape[1:-1])
        if how.block not in (1, positions):
            raise ShapeError(
                f"a fully connected layer with `block` {how.block} meets features of shape {h.shape[1:]}; its block "
                f"must be the {positions} positions over which it flattens."
            )
        h = h.reshape(h.shape[0], -1)
        if h.shape[1] != w.shape[0]:
            raise ShapeError(f"a layer with {w.shape[0]} input rows meets features of size {h.shape[1]}.")
        return jnp.matmul(h, w, precision="highest")
    if h.ndim != spatial + 2 or h.shape[-1] != w.shape[-2]:
        raise ShapeError(f"a convolution with weights {w.shape} meets features of shape {h.shape[1:]}.")
    letters = "DHW"[-spatial:]
    return jax.lax.conv_general_dilated(
        h,
        w,
        how.strides or (1,) * spatial,
        how.padding,
        dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
        precision="highest",
    )


def _checked_pair(pair: Any, index: int) -> tuple[np.ndarray, np.ndarray | None]:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise TypeError(f"layer {index + 1} is {type(pair).__name__}; give a pair of weight and bias (None for none).")
    checked: list[Any] = []
    for value, name, dims in ((pair[0], "weight", (2, 3, 4, 5)), (pair[1], "bias", (1,))):
        if value is None and name == "bias":
            checked.append(None)
            continue
        array = np.asarray(value)
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise DtypeError(f"the {name} of layer {index + 1} holds {array.dtype}; give real floating-point numbers.")
        if array.ndim not in dims or 0 in array.shape:
            raise ShapeError(f"the {name} of layer {index + 1} has shape {array.shape}; see Layered for what it takes.")
        checks.all_finite(array, f"{name} of layer {index + 1}")
        checked.append(array)
    return checked[0], checked[1]


def _ways(how: Any, count: int) -> tuple[ChainLayer, ...]:
    if how is None:
        return (ChainLayer(),) * count
    if isinstance(how, Mapping):
        outside = [i for i in how if not 0 <= i < count]
        if outside:
            raise ShapeError(f"`how` names layers {outside}; indices are from 0 to {count - 1}.")
        return tuple(how.get(i, ChainLayer()) for i in range(count))
    if len(how) != count:
        raise ShapeError(f"`how` has {len(how)} entries; give one for each of {count} layers, or a mapping.")
    return tuple(how)


@dataclass(frozen=True)
class _Elementwise:
    """An activation of the architectures as a function."""

    layer: arch.Layer

    def __call__(self, h: jax.Array) -> jax.Array:
        return self.layer.forward((), h, arch.Signal(h.shape[1:], None))


def _activation(function: Any, index: int) -> Function:
    """The activation as something that keys compiled programs.

    Raises:
        NotImplementedError: it mixes units.
    """
    if not callable(function) and not isinstance(function, arch.Layer):
        raise TypeError(f"`activation` of hidden layer {index + 1} is {function!r}; give an elementwise function.")
    phi: Function = _Elementwise(function) if isinstance(function, arch.Layer) else hashable(function)
    probe = jnp.asarray([[-1.7, 3e-3, 0.9], [60.0, -0.4, 1e3]], "float32")
    try:
        program = jax.make_jaxpr(phi)(probe)
    except jax.errors.TracerArrayConversionError as error:
        raise TypeError(
            f"the activation of hidden layer {index + 1} takes no JAX arrays; write it with jax.numpy."
        ) from error
    mixing = _mixing_operation(program, probe.shape)
    whole, alone = (np.asarray(phi(part)).reshape(-1) for part in (probe, probe.reshape(-1, 1)))
    if mixing or whole.size != alone.size or not np.allclose(whole, alone, rtol=1e-5, atol=1e-6, equal_nan=True):
        raise NotImplementedError(
            f"the activation of hidden layer {index + 1} mixes units or examples, or depends on their place"
            + (f" (its operation {mixing})" if mixing else "")
            + "; a chain takes elementwise functions alone."
        )
    return phi


def _mixing_operation(program: Any, shape: tuple[int, ...]) -> str:
    """The first operation of a program that is not seen to act on single entries; empty if all of them are.

    Everything in it has the shape of the input or is one number, nothing of that shape comes from numbers alone but by
    repetition, and no number comes from an array.
    """
    if any(np.shape(held) != () for held in constants(program)):
        return "on arrays of its own"
    for equation in equations(program.jaxpr):
        if any(True for _ in bodies_of(equation)):
            continue
        name = equation.primitive.name
        reads = {tuple(v.aval.shape) for v in equation.invars}
        for out in equation.outvars:
            made = tuple(out.aval.shape)
            repeats = name == "broadcast_in_dim" and reads <= {()}
            entrywise = made == shape and shape in reads and reads <= {(), shape} and name not in _MIXING
            if not (repeats and made == shape) and not entrywise and not (made == () and reads <= {()}):
                return name
    return ""


def _scaled(value: Any, factor: float) -> np.ndarray:
    array = np.asarray(value)
    return array if factor == 1 else array * np.asarray(factor, array.dtype)


def _uses_of_network(
    net: arch.Layer, params: Any
) -> tuple[list[tuple[str, str | None, float, float]], list[arch.Layer], dict[int, ChainLayer]]:
    """Names of weights and biases with their factors, the activations, and how layers act, of an architecture."""
    parts = net.layers if isinstance(net, arch.Sequential) else (net,)
    prefix = [f"{i}/" for i in range(len(parts))] if isinstance(net, arch.Sequential) else [""]
    own = list(params) if isinstance(net, arch.Sequential) else [params]
    uses: list[tuple[str, str | None, float, float]] = []
    activations: list[arch.Layer] = []
    base = None
    for i, (layer, held) in enumerate(zip(parts, own, strict=True)):
        if isinstance(layer, arch.Dense):
            if len(activations) < len(uses):
                raise NotImplementedError(f"layer {i} of the network is a Dense right after another one.")
            weight, bias, base = *_factors(layer, np.shape(held["w"])[0], base), layer.base_width
            uses.append((f"{prefix[i]}w", f"{prefix[i]}b" if "b" in held else None, weight, bias))
        elif isinstance(layer, arch.Identity) or (isinstance(layer, arch.Flatten) and not uses):
            continue
        elif jax.tree.leaves(held) or isinstance(layer, arch.Softmax) or not uses or len(activations) == len(uses):
            raise NotImplementedError(
                f"layer {i}, {type(layer).__name__}, has no place in a chain of fully connected layers with "
                "elementwise activations between them. barrier, fit_curve and auto_neb take any network."
            )
        else:
            activations.append(layer)
    if len(activations) != len(uses) - 1:
        raise NotImplementedError("the network does not end with a Dense layer; the constructive path needs that.")
    return uses, activations, {}


def _factors(layer: arch.Dense, fan_in: int, base: int | None) -> tuple[float, float]:
    """What multiplies a Dense layer's weight and bias in its forward pass."""
    if layer.param == "ntk":
        return layer.w_std / fan_in**0.5, 1.0 if layer.b_std is None else layer.b_std
    return 1.0 if layer.base_width is None or base is None else (base / fan_in) ** 0.5, 1.0


@partial(jax.jit, static_argnums=(2, 3))
def features_of(net: Layered, x: Any, layer: int, start: int = 0) -> jax.Array:
    """F_layer of inputs in one compiled program."""
    return net.features(x, layer, start)
