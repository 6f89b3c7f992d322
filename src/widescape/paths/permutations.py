"""Units that can be renumbered without changing a function: which axes of which leaves go together, and the action."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import jax
import numpy as np

from widescape.arch import Dense, Elementwise, Flatten, Frozen, Identity, Layer, Sequential, Softmax
from widescape.core import checks
from widescape.core.errors import ShapeError
from widescape.core.random import named_generator
from widescape.curvature.system import System

Entry = tuple[str, int] | tuple[str, int, int]
"""A leaf's name and an axis of it; or also how many consecutive entries of the axis one unit owns."""

Spec = Mapping[str, Sequence[Entry]]
"""For each group of units the axes that are renumbered together."""


class Permuting(Protocol):
    """What holds permutations by group, as an `Alignment` does."""

    @property
    def permutations(self) -> Mapping[str, np.ndarray]: ...


@dataclass(frozen=True)
class Layout:
    """A specification resolved on the shapes of a PyTree.

    Attributes:
        names: the leaves.
        sizes: units of each group.
        shapes: the shape of each leaf in which every axis of units stands by itself.
        groups: for each leaf the groups of these axes.
    """

    names: tuple[str, ...]
    sizes: Mapping[str, int]
    shapes: tuple[tuple[int, ...], ...]
    groups: tuple[Mapping[int, str], ...]

    def permuted(self, index: int, expanded: Any, permutations: Mapping[str, np.ndarray], skip: int = -1) -> Any:
        """A leaf in its expanded shape, permuted along all axes of units but `skip`."""
        for axis, group in self.groups[index].items():
            if axis != skip and group in permutations:
                expanded = np.take(expanded, permutations[group], axis=axis)
        return expanded


def leaf_names(params: Any) -> tuple[str, ...]:
    """The names of the leaves of a PyTree, in its order: keys, indices and attributes joined by slashes.

    Raises:
        ValueError: two leaves have the same name, because a key holds a slash.

    Example:
        >>> leaf_names({"layers": [(np.ones((2, 3)), np.ones(3))]})
        ('layers/0/0', 'layers/0/1')
    """
    paths = (path for path, _ in jax.tree_util.tree_leaves_with_path(params))
    names = tuple(jax.tree_util.keystr(path, simple=True, separator="/") for path in paths)
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"`params` has two leaves named {twice!r}; leave slashes out of its keys.")
    return names


def mlp_spec(n_hidden: int, *, biases: bool = True) -> dict[str, list[Entry]]:
    """The specification of a chain of dense layers whose weights are ``layers/{l}/0`` and biases ``layers/{l}/1``.

    Args:
        n_hidden: hidden layers; weights (n_in, n_out) are numbered from 0 to `n_hidden`.
        biases: whether every hidden layer has one.

    Returns:
        groups ``P1`` to ``P{n_hidden}``, one for each hidden layer.

    Raises:
        TypeError, ValueError: `n_hidden` is no positive integer.

    Example:
        >>> mlp_spec(1)
        {'P1': [('layers/0/0', 1), ('layers/0/1', 0), ('layers/1/0', 0)]}
    """
    checks.count(n_hidden, "n_hidden", "mlp_spec")
    weights, bias = [f"layers/{layer}/0" for layer in range(n_hidden + 1)], "layers/{}/1"
    return _chain(weights, [bias.format(layer) if biases else None for layer in range(n_hidden)])


def permutation_spec(net: Layer, params: Any) -> dict[str, list[Entry]]:
    """The specification of a network of `widescape.arch`: a group for each dense layer but the last.

    Args:
        net: dense layers with elementwise activations, softmax, `Flatten` and `Identity` between them; `Frozen` parts
            are permuted like any other.
        params: its parameters.

    Returns:
        groups ``P1``, ``P2``, ... from input to output; none for a network without hidden units.

    Raises:
        NotImplementedError: a layer is none of these; names it.
        ValueError: `params` do not belong to the network.

    Example:
        >>> from widescape import arch
        >>> net = arch.fc(1, 4, 2, activation=arch.Relu(), b_std=0.1)
        >>> permutation_spec(net, net.init(jax.random.key(0), (3,)))
        {'P1': [('1/w', 1), ('1/b', 0), ('3/w', 0)]}
    """
    dense = [prefix for prefix, layer in parts(net) if isinstance(layer, Dense)]
    names = leaf_names(params)
    biases = [prefix + "b" if prefix + "b" in names else None for prefix in dense[:-1]]
    spec = _chain([prefix + "w" for prefix in dense], biases)
    resolve(spec, params)
    return spec


def apply_permutation(spec: Spec, perm: Mapping[str, Any] | Permuting, params: Any) -> Any:
    """Parameters with the units of each group renumbered: entry i of an axis becomes the old entry perm[i].

    An axis of n units is indexed by perm itself; one of m n entries as m positions of n units each, units last; one
    whose entry in `spec` has a `block` as n units of that many consecutive entries.

    Args:
        spec: the axes of each group.
        perm: for each group a permutation of its units, as indices (n,); or an `Alignment`. A group that is absent
            stays as it is.
        params: a PyTree of arrays.

    Returns:
        a PyTree of the same structure, shapes and dtypes; permuted leaves are NumPy arrays, the others are shared.

    Raises:
        ValueError: not a permutation, an unknown group, or a specification that does not fit; names the group.

    Cost: a copy of the permuted leaves.

    Example:
        >>> apply_permutation({"P": [("w", 0)]}, {"P": [2, 0, 1]}, {"w": np.array([5.0, 6.0, 7.0])})["w"].tolist()
        [7.0, 5.0, 6.0]
    """
    layout = resolve(spec, params)
    given = perm if isinstance(perm, Mapping) else perm.permutations
    checked = {group: _checked_permutation(group, order, layout.sizes) for group, order in given.items()}
    leaves, structure = jax.tree.flatten(params)
    for i, leaf in enumerate(leaves):
        if any(group in checked for group in layout.groups[i].values()):
            expanded = np.asarray(leaf).reshape(layout.shapes[i])
            leaves[i] = layout.permuted(i, expanded, checked).reshape(np.shape(leaf))
    return jax.tree.unflatten(structure, leaves)


def check_spec(spec: Spec, params: Any, f: System | Any, x: Any = None, *, key: jax.Array | None = None) -> None:
    """Refuse a specification under which a function changes when units are renumbered.

    Each group by itself is renumbered by a random cycle through all its units, and f(params, x) is compared before
    and after in float64. It is the structure that is checked: every entry of the parameters is first multiplied by a
    random factor from 1/2 to 3/2, and zeros are replaced by noise, so that leaves count which start at zero or at one.

    Args:
        spec: the axes of each group.
        params: a PyTree of floating-point arrays, of which shapes and scales matter.
        f: maps (params, x) to outputs (n,) or (n, c); or a `System`, of which the function and inputs are taken.
        x: a probe batch; left out for a system.
        key: of the random numbers; `jax.random.key(0)` if None.

    Raises:
        ValueError: outputs change by more than the square root of the rounding of their dtype, relative to the largest
            one; names the group, and leaves with an axis of its size that it does not list. Or outputs are all zero.

    Cost: a forward pass for each group, and where one fails, for each leaf that may be missing.

    Example:
        >>> params = {"w": np.ones((2, 3)), "b": np.zeros(3), "v": np.ones((3, 1))}
        >>> def f(p, x):
        ...     return jax.nn.relu(x @ p["w"] + p["b"][None]) @ p["v"]
        >>> check_spec({"P": [("w", 1), ("b", 0), ("v", 0)]}, params, f, np.eye(2))
        >>> check_spec({"P": [("w", 1), ("v", 0)]}, params, f, np.eye(2))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: group 'P' of `spec` ... With ('b', 0) they do not...
    """
    if isinstance(f, System) and x is not None:
        raise TypeError("`f` is a System, which has its own inputs; leave out `x`, or give the function alone.")
    if not isinstance(f, System) and x is None:
        raise TypeError("`f` is a function of (params, x), so `x` is needed.")
    system = (f if isinstance(f, System) else System(f, params, x)).as_float64()
    params = system.unravel(system.vector(params))
    layout, generator = resolve(spec, params), named_generator(key, "check_spec")
    probe = _Probe(system, _perturbed(params, generator))
    for group, size in layout.sizes.items():
        order = np.arange(size)
        along = generator.permutation(size)
        order[along] = np.roll(along, 1)
        change = probe.change(spec, group, order)
        if change > probe.tolerance:
            raise ValueError(_refusal(probe, spec, layout, group, order, change))


def parts(layer: Layer, prefix: str = "") -> Iterator[tuple[str, Layer]]:
    """The layers of a chain in the order in which they act, each with what the names of its parameters start with.

    Raises:
        NotImplementedError: a layer of another kind; names it.
    """
    if isinstance(layer, Sequential):
        for i, inner in enumerate(layer.layers):
            yield from parts(inner, f"{prefix}{i}/")
    elif isinstance(layer, Frozen):
        yield from parts(layer.layer, prefix)
    elif isinstance(layer, Dense | Elementwise | Flatten | Identity | Softmax):
        yield prefix, layer
    else:
        raise NotImplementedError(
            f"layer {prefix.strip('/') or 0}, {type(layer).__name__}: its groups of units are not known. Write the "
            "specification by hand: for each group the (leaf, axis) pairs that are permuted together."
        )


def resolve(spec: Spec, params: Any) -> Layout:
    """A specification on the shapes of `params`.

    Raises:
        TypeError, ValueError: it does not fit; names the group.
    """
    if not isinstance(spec, Mapping):
        raise TypeError(f"`spec` is {spec!r}; give a mapping from group names to lists of (leaf, axis).")
    names = leaf_names(params)
    lengths = [np.shape(leaf) for leaf in jax.tree.leaves(params)]
    found: dict[tuple[int, int], tuple[str, int | None]] = {}
    for group, entries in spec.items():
        for place, block in _places(group, entries, names, lengths):
            if place in found:
                leaf = (names[place[0]], place[1])
                raise ValueError(f"group {group!r} of `spec` lists {leaf}, and so does group {found[place][0]!r}.")
            found[place] = group, block
    sizes = {group: _size(group, found, names, lengths) for group in spec}
    shapes, groups = [], []
    for i, shape in enumerate(lengths):
        expanded: list[int] = []
        own: dict[int, str] = {}
        for axis, length in enumerate(shape):
            group, block = found.get((i, axis), ("", None))
            if not group:
                expanded.append(length)
                continue
            n = sizes[group]
            own[len(expanded) + (block is None)] = group
            expanded += [n, block] if block is not None else [length // n, n]
        shapes.append(tuple(expanded))
        groups.append(own)
    return Layout(names, sizes, tuple(shapes), tuple(groups))


def _chain(weights: list[str], biases: list[str | None]) -> dict[str, list[Entry]]:
    """One group for each pair of weights that follow one another."""
    spec: dict[str, list[Entry]] = {}
    for i, ((before, after), bias) in enumerate(zip(pairwise(weights), biases, strict=True), 1):
        spec[f"P{i}"] = [(before, 1), *([] if bias is None else [(bias, 0)]), (after, 0)]
    return spec


def _places(
    group: Any, entries: Any, names: tuple[str, ...], lengths: list[tuple[int, ...]]
) -> Iterator[tuple[tuple[int, int], int | None]]:
    """Leaf index, axis and block of each entry."""
    if not isinstance(group, str) or not group:
        raise TypeError(f"`spec` has a group {group!r}; its name must be a string that is not empty.")
    if isinstance(entries, str) or not isinstance(entries, Sequence) or not entries:
        raise ValueError(f"group {group!r} of `spec` is {entries!r}; list at least one (leaf, axis).")
    for entry in entries:
        if isinstance(entry, str) or not isinstance(entry, Sequence) or len(entry) not in (2, 3):
            raise ValueError(f"group {group!r} of `spec` has the entry {entry!r}; write (leaf, axis[, block]).")
        leaf, axis = entry[0], entry[1]
        if leaf not in names:
            known = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
            raise ValueError(f"group {group!r} of `spec` lists the leaf {leaf!r}; the leaves are {known}.")
        index = names.index(leaf)
        ndim = len(lengths[index])
        checks.count(axis, "axis", f"group {group!r} of `spec`", minimum=-ndim)
        if axis >= ndim:
            raise ValueError(f"group {group!r} of `spec` lists axis {axis} of {leaf!r}, which has {ndim} axes.")
        if len(entry) == 3:
            checks.count(entry[2], "block", f"group {group!r} of `spec`")
        yield (index, axis % ndim), entry[2] if len(entry) == 3 else None


def _size(
    group: str,
    found: Mapping[tuple[int, int], tuple[str, int | None]],
    names: tuple[str, ...],
    lengths: list[tuple[int, ...]],
) -> int:
    """The units of a group: its shortest axis, a block counting as one entry."""
    own = {place: block for place, (owner, block) in found.items() if owner == group}
    sizes = {(i, axis): lengths[i][axis] // (block or 1) for (i, axis), block in own.items()}
    n = min(sizes.values())
    for (i, axis), block in own.items():
        length = lengths[i][axis]
        if n == 0 or length % (n * (block or 1)) or (block is not None and length != n * block):
            listed = ", ".join(f"{lengths[j][k]} of {names[j]!r}" for j, k in own)
            raise ShapeError(
                f"group {group!r} of `spec` joins axes of {listed}: {names[i]!r} does not hold {n} units"
                + (f" in blocks of {block}." if block is not None else ".")
            )
    return n


def _checked_permutation(group: str, order: Any, sizes: Mapping[str, int]) -> np.ndarray:
    if group not in sizes:
        raise ValueError(f"`perm` has a group {group!r}; the groups of `spec` are {', '.join(sizes) or 'none'}.")
    array, n = np.asarray(order), sizes[group]
    if array.shape != (n,) or array.dtype.kind not in "iu" or not np.array_equal(np.sort(array), np.arange(n)):
        raise ValueError(
            f"`perm` for group {group!r} is no permutation of its {n} units: it has shape {array.shape} and dtype "
            f"{array.dtype}; give each of 0 ... {n - 1} once."
        )
    return array


def _perturbed(params: Any, generator: np.random.Generator) -> Any:
    """Parameters of the same scale and signs with no entry like another, and none zero."""
    leaves = jax.tree.leaves(params)
    total = sum(float(np.sum(leaf**2)) for leaf in leaves)
    count = sum(int(np.count_nonzero(leaf)) for leaf in leaves)
    scale = np.sqrt(total / count) if count else 1.0

    def change(leaf: np.ndarray) -> np.ndarray:
        factors, noise = generator.uniform(0.5, 1.5, leaf.shape), generator.normal(0.0, scale, leaf.shape)
        return np.where(leaf == 0, noise, leaf * factors)

    return jax.tree.map(change, params)


class _Probe:
    """How much the outputs of a system change when a group is renumbered."""

    def __init__(self, system: System, params: Any) -> None:
        self.system, self.params = system, params
        self.outputs = system.F(system.vector(params))
        self.rounding = float(np.finfo(self.outputs.dtype).eps)
        self.tolerance = self.rounding**0.5
        self.largest = float(np.abs(self.outputs).max())
        if self.largest == 0:
            raise ValueError("the outputs on `x` are all zero, so no specification can be checked on it; give another.")

    def change(self, spec: Spec, group: str, order: np.ndarray) -> float:
        """The largest change of an output, relative to the largest output."""
        moved = apply_permutation({group: spec[group]}, {group: order}, self.params)
        return float(np.abs(self.system.F(self.system.vector(moved)) - self.outputs).max()) / self.largest


def _refusal(probe: _Probe, spec: Spec, layout: Layout, group: str, order: np.ndarray, change: float) -> str:
    """What is wrong with a group, and which leaf would mend it."""
    own, size = list(spec[group]), layout.sizes[group]

    def mends(entries: list[Entry]) -> bool:
        return bool(entries) and probe.change({group: entries}, group, order) <= probe.tolerance

    text = (
        f"group {group!r} of `spec` is no symmetry: when its {size} units are renumbered, outputs change by "
        f"{change:.2g} of their size, {change / probe.rounding:.2g} roundings."
    )
    free = _unlisted(spec, layout, probe.params, size)
    for entry in free:
        if mends([*own, entry]):
            return f"{text} With {entry} they do not: add it."
    for i, listed in enumerate(own):
        if mends(own[:i] + own[i + 1 :]):
            return f"{text} Without {listed} they do not: leave it out."
    if free:
        return f"{text} Leaves with an axis for its units that no group lists: {', '.join(map(str, free))}."
    return f"{text} No other leaf has an axis for its units; look for one that is listed and must not be."


def _unlisted(spec: Spec, layout: Layout, params: Any, size: int) -> list[tuple[str, int]]:
    """Axes of `size` entries, then of multiples, that no group lists."""
    shapes = dict(zip(layout.names, map(np.shape, jax.tree.leaves(params)), strict=True))
    taken = {(entry[0], entry[1] % len(shapes[entry[0]])) for entries in spec.values() for entry in entries}
    axes = [(name, axis) for name, shape in shapes.items() for axis in range(len(shape))]
    fitting = [(name, k) for name, k in axes if (name, k) not in taken and shapes[name][k] % size == 0]
    return sorted(fitting, key=lambda place: shapes[place[0]][place[1]])
