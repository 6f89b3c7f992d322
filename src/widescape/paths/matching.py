"""Renumbering the units of one network so that it comes close to another: by weights, or by activations."""

from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import linear_sum_assignment

from widescape.arch import Dense, Layer, Signal
from widescape.core import checks
from widescape.core.errors import NonFiniteError, ShapeError
from widescape.core.evidence import EXACT, proved, sampled
from widescape.core.precision import double_scope, has_float64
from widescape.core.progress import track
from widescape.core.random import named_generator
from widescape.core.result import Result, quantity
from widescape.core.status import Status
from widescape.paths.permutations import Layout, Spec, parts, permutation_spec, resolve
from widescape.paths.polyline import require_alike

Kind = Literal["pearson", "inner"]

_GAIN = 1e-12  # of |a| |b|: what a sweep must add to count
_CONSTANT = 8  # roundings of the largest activation: a unit that varies by less is constant
_LONE = "P1"
_SEPARATE = proved("no leaf joins two groups: linear assignments are optimal, up to 1e-12 |a| |b| for each")


class AlignmentStatus(Status):
    """How a search for permutations ended."""

    OK = "No group can be renumbered to any further gain."
    MAX_SWEEPS = "The last sweep still gained: more sweeps may find better permutations."


class Alignment(Result):
    """Permutations that bring the units of a network b close to those of a network a."""

    source = "ainsworth2022rebasin"
    status: AlignmentStatus = quantity(EXACT, "how the search ended")
    method: str = quantity(EXACT, "what was compared")
    permutations: Mapping[str, np.ndarray] = quantity(
        sampled("one group at a time is optimal, given the others"),
        "by group, the unit of b that comes to the place of each unit of a, (n,)",
    )
    objective: np.ndarray = quantity(
        EXACT, "inner product of a and the permuted b: at the start and after each sweep, (num_sweeps + 1,)"
    )
    num_sweeps: int = quantity(
        EXACT, "sweeps over all groups, a last one without gain included; 1 where groups do not interact"
    )
    similarity_before: float = quantity(EXACT, "cosine of a and b; 0 if one of them is zero")
    similarity_after: float = quantity(EXACT, "cosine of a and the permuted b; 0 if one of them is zero")


class ActivationAlignment(Alignment):
    """An alignment of activations; `objective` and the cosines are of them, standardized for Pearson correlation."""

    matched: Mapping[str, float] = quantity(
        EXACT, "by group, the mean over pairs of units of their correlation, or of E[a b] for ``inner``"
    )
    constant_units: Mapping[str, tuple[int, int]] = quantity(
        EXACT, "by group, the units of a and of b that do not vary, whose correlation counts as 0"
    )


def weight_matching(
    spec: Spec,
    a: Any,
    b: Any,
    *,
    key: jax.Array | None = None,
    max_sweeps: int = 100,
    progress: bool | None = None,
) -> Alignment:
    """Permutations pi of the units of b for which the inner product <a, pi b> of all parameters is large.

    The same as a small distance |a - pi b|. Coordinate ascent from the identities: for one group after the other, in
    random order, a linear assignment finds the best permutation given those of the other groups, which is taken if it
    gains more than 1e-12 |a| |b|. This ends with the first sweep in which no group gains so much; or after one sweep if
    no leaf joins two groups, as with a single group: then <a, pi b> is the largest there is, up to that much for each
    group. It never decreases. (A group that permutes two axes of one leaf gives a quadratic problem, which the
    assignment need not solve.) Biases take part as far as `spec` lists them. In float64.

    Args:
        spec: the axes of each group.
        a: parameters that stay, a PyTree of floating-point arrays.
        b: parameters that are permuted, of the same structure and shapes.
        key: of the order of the groups; `jax.random.key(0)` if None.
        max_sweeps: visits to all groups, at least 1.
        progress: show a progress bar; None shows it on a terminal.

    Returns:
        an `Alignment` with status MAX_SWEEPS if the last sweep still gained and groups interact. Units that are alike,
        as dead ones, are paired in any way: the function is recovered, the indices need not be.

    Raises:
        ShapeError, DtypeError, TypeError, ValueError: arguments that do not fit; a specification names its group.
        NonFiniteError: |a| or |b| overflows.

    Cost: for each visit to a group of n units with m parameters, 2 n m flops, a copy of the leaves that it shares with
    other groups, and an assignment, O(n^3) at worst.

    Example:
        >>> a, b = {"w": np.array([1.0, 2.0, 3.0])}, {"w": np.array([3.0, 1.0, 2.0])}
        >>> found = weight_matching({"P": [("w", 0)]}, a, b)
        >>> found.permutations["P"].tolist(), found.similarity_after
        ([1, 2, 0], 1.0)
    """
    checks.count(max_sweeps, "max_sweeps", "weight_matching")
    a, b = (jax.tree.map(np.asarray, params) for params in (a, b))
    require_alike(a, b, "a", "b")
    problem = _Matching(resolve(spec, a), _doubles(a, "a"), _doubles(b, "b"))
    generator = named_generator(key, "weight_matching")
    permutations = {group: np.arange(n) for group, n in problem.layout.sizes.items()}
    scale = problem.scale
    separate = all(len(groups) < 2 for groups in problem.layout.groups)
    objective, status = [problem.inner_product(permutations)], AlignmentStatus.MAX_SWEEPS
    for _ in track(range(max_sweeps), "sweeps", show=progress):
        gained = problem.sweep(permutations, generator.permutation(list(permutations)).tolist(), _GAIN * scale)
        objective.append(problem.inner_product(permutations))
        if separate or not gained:
            status = AlignmentStatus.OK
            break
    return Alignment(
        status=status,
        method="weights",
        permutations=permutations,
        objective=np.asarray(objective),
        num_sweeps=len(objective) - 1,
        similarity_before=_share(objective[0], scale),
        similarity_after=_share(objective[-1], scale),
        stands={"permutations": _SEPARATE} if separate else {},
    )


def activation_matching(acts_a: Any, acts_b: Any, kind: Kind = "pearson") -> ActivationAlignment:
    """Permutations of the units of b under which activations on the same inputs are alike, for each group by itself.

    The sum over i of S[i, perm[i]] is the largest there is, with S[i, j] the Pearson correlation of unit i of a and
    unit j of b over all samples, or E[a_i b_j] for ``"inner"``. In float64, with exact centering in two passes.

    Args:
        acts_a: activations of a by group, (N, n) or (N, ..., n), whose positions count as samples; or a single array,
            whose group is then called ``"P1"``, as in `mlp_spec`.
        acts_b: activations of b on the same inputs, of the same groups and shapes.
        kind: correlation, or the second moment without centering.

    Returns:
        an `ActivationAlignment`. Units that do not vary have correlation 0 with all others, and are paired in any way.

    Raises:
        ShapeError: other groups or shapes.
        DtypeError, ValueError: entries that are not real or not finite.
        NonFiniteError: moments overflow.

    Cost: 2 N n^2 flops for each group, and an assignment, O(n^3) at worst.

    Example:
        >>> a = np.array([[1.0, 0.0], [2.0, 5.0], [3.0, 1.0]])
        >>> found = activation_matching(a, 7 * a[:, ::-1] + 2)
        >>> found.permutations["P1"].tolist(), round(found.matched["P1"], 12)
        ([1, 0], 1.0)
    """
    checks.choice(kind, "kind", Kind)
    first, second = _activations(acts_a, "acts_a"), _activations(acts_b, "acts_b")
    shapes = [{group: array.shape for group, array in acts.items()} for acts in (first, second)]
    if shapes[0] != shapes[1]:
        raise ShapeError(f"`acts_a` has shapes {shapes[0]} and `acts_b` {shapes[1]}; give the same groups and inputs.")
    permutations, matched, constant = {}, {}, {}
    start = end = square_a = square_b = 0.0
    for group in first:
        with np.errstate(over="ignore", invalid="ignore"):
            (own, still_a), (other, still_b) = (_samples(acts[group], kind) for acts in (first, second))
            similarity = own.T @ other
            square_a, square_b = square_a + float(np.sum(own**2)), square_b + float(np.sum(other**2))
        if not (np.isfinite(similarity).all() and np.isfinite([square_a, square_b]).all()):
            raise NonFiniteError(f"the second moments of group {group!r} overflow; scale the activations.")
        order = _assignment(similarity)
        pairs = similarity[np.arange(len(order)), order]
        start, end = start + float(np.trace(similarity)), end + float(pairs.sum())
        permutations[group], matched[group], constant[group] = order, float(pairs.mean()), (still_a, still_b)
    return ActivationAlignment(
        status=AlignmentStatus.OK,
        method="activations, by correlation" if kind == "pearson" else "activations, by second moments",
        permutations=permutations,
        objective=np.array([start, end]),
        num_sweeps=1,
        similarity_before=_share(start, np.sqrt(square_a) * np.sqrt(square_b)),
        similarity_after=_share(end, np.sqrt(square_a) * np.sqrt(square_b)),
        matched=matched,
        constant_units=constant,
        stands={"permutations": proved("groups do not interact: linear assignments are optimal")},
    )


def hidden_activations(net: Layer, params: Any, x: Any) -> dict[str, np.ndarray]:
    """The activations of each hidden layer of a network, as the next dense layer reads them.

    Args:
        net: a network that `permutation_spec` knows.
        params: its parameters.
        x: a batch of examples (N, *input_shape), floating point.

    Returns:
        for each group of `permutation_spec`, in its order, an array (N, n).

    Raises:
        NotImplementedError: a layer is not known.
        ShapeError, DtypeError, ValueError: arguments that do not fit.

    Cost: one forward pass, and its activations.

    Example:
        >>> from widescape import arch
        >>> net = arch.fc(1, 2, 1, activation=arch.Relu(), param="standard")
        >>> params = ((), {"w": np.array([[1.0, -1.0]])}, (), {"w": np.ones((2, 1))})
        >>> {group: h.tolist() for group, h in hidden_activations(net, params, np.array([[3.0], [-2.0]])).items()}
        {'P1': [[3.0, 0.0], [0.0, 2.0]]}
    """
    groups = iter(permutation_spec(net, params))
    batch = checks.batch(x, "x", dtype="float64" if has_float64(params, x) else "float32")
    found: dict[str, np.ndarray] = {}
    before = True
    with double_scope(batch.dtype == np.float64):
        h, signal = jnp.asarray(batch), Signal.of_input(batch.shape[1:])
        for prefix, layer in parts(net):
            if isinstance(layer, Dense):
                if not before:
                    found[next(groups)] = np.asarray(h)
                before = False
            h, signal = layer.forward(_own(params, prefix), h, signal), layer.out(signal)
    return found


class _Matching:
    """Two networks in float64, every axis of units by itself, and what does not change as permutations do."""

    def __init__(self, layout: Layout, a: list[np.ndarray], b: list[np.ndarray]) -> None:
        self.layout = layout
        self.a = [leaf.reshape(shape) for leaf, shape in zip(a, layout.shapes, strict=True)]
        self.b = [leaf.reshape(shape) for leaf, shape in zip(b, layout.shapes, strict=True)]
        self.scale = _norm(a, "a") * _norm(b, "b")
        self.shared: dict[str, list[tuple[int, int]]] = {group: [] for group in layout.sizes}
        self.fixed = {group: np.zeros((n, n)) for group, n in layout.sizes.items()}
        for i, groups in enumerate(layout.groups):
            for axis, group in groups.items():
                if len(groups) == 1:
                    self.fixed[group] += self._products(i, axis, {})
                else:
                    self.shared[group].append((i, axis))
        self.quadratic = {g for own in layout.groups for g in own.values() if list(own.values()).count(g) > 1}

    def sweep(self, permutations: dict[str, np.ndarray], order: list[str], least: float) -> bool:
        """Improve every group in turn, in place; whether one of them gained more than `least`."""
        gained = False
        for group in order:
            similarity = self.fixed[group] + sum(
                self._products(i, axis, permutations) for i, axis in self.shared[group]
            )
            proposed = {**permutations, group: _assignment(similarity)}
            if self._gain(group, similarity, permutations, proposed) > least:
                permutations[group] = proposed[group]
                gained = True
        return gained

    def inner_product(self, permutations: Mapping[str, np.ndarray], leaves: Any = None) -> float:
        """<a, pi b> over all leaves, or some."""
        places = range(len(self.a)) if leaves is None else leaves
        return float(sum(np.vdot(self.a[i], self.layout.permuted(i, self.b[i], permutations)) for i in places))

    def _gain(self, group: str, similarity: np.ndarray, old: Mapping[str, Any], new: Mapping[str, Any]) -> float:
        """What the inner product gains from another permutation of one group."""
        if group in self.quadratic:
            leaves = [i for i, groups in enumerate(self.layout.groups) if group in groups.values()]
            return self.inner_product(new, leaves) - self.inner_product(old, leaves)
        rows = np.arange(len(similarity))
        return float(np.sum(similarity[rows, new[group]] - similarity[rows, old[group]]))

    def _products(self, i: int, axis: int, permutations: Mapping[str, np.ndarray]) -> np.ndarray:
        """Inner products (n, n) of the slices of a and b along one axis, b permuted along its others."""
        n = self.a[i].shape[axis]
        b = self.layout.permuted(i, self.b[i], permutations, skip=axis)
        own, other = (np.moveaxis(leaf, axis, 0).reshape(n, -1) for leaf in (self.a[i], b))
        products: np.ndarray = own @ other.T
        return products


def _assignment(similarity: np.ndarray) -> np.ndarray:
    """The column for each row, each taken once, of the largest sum."""
    return np.asarray(linear_sum_assignment(similarity, maximize=True)[1])


def _norm(leaves: list[np.ndarray], name: str) -> float:
    with np.errstate(over="ignore"):
        square = float(sum(np.vdot(leaf, leaf) for leaf in leaves))
    if not np.isfinite(square):
        raise NonFiniteError(
            f"the squared norm of `{name}` overflows; multiply all of its parameters by one small positive number, "
            "which changes no permutation."
        )
    return float(np.sqrt(square))


def _share(inner: float, scale: float) -> float:
    return inner / scale if scale > 0 else 0.0


def _doubles(params: Any, name: str) -> list[np.ndarray]:
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(params)]
    for leaf, path in zip(leaves, jax.tree_util.tree_leaves_with_path(params), strict=True):
        checks.all_finite(leaf, name + jax.tree_util.keystr(path[0]))
    return leaves


def _activations(acts: Any, name: str) -> dict[str, np.ndarray]:
    """Arrays by group, checked, in their own precision."""
    groups = acts if isinstance(acts, Mapping) else {_LONE: acts}
    if not groups:
        raise ShapeError(f"`{name}` has no groups; give the activations of at least one.")
    found = {}
    for group, given in groups.items():
        array = checks.real_array(given, f"{name}[{group!r}]")
        if array.ndim < 2 or array.size == 0:
            raise ShapeError(f"`{name}[{group!r}]` has shape {array.shape}; give (N, n) or (N, ..., n), not empty.")
        checks.all_finite(array, f"{name}[{group!r}]")
        found[group] = array
    return found


def _samples(array: np.ndarray, kind: Kind) -> tuple[np.ndarray, int]:
    """Activations (samples, n) whose products are the similarities, and how many units do not vary."""
    x = array.reshape(-1, array.shape[-1]).astype(np.float64)
    size = np.abs(x).max(axis=0)
    spread = x.max(axis=0) - x.min(axis=0)
    still = spread <= _CONSTANT * float(jnp.finfo(array.dtype).eps) * size
    if kind == "inner":
        return x / np.sqrt(len(x)), int(still.sum())
    x = (x - x.mean(axis=0)) / np.where(still, 1.0, spread)
    x -= x.mean(axis=0)
    return np.where(still, 0.0, x / np.where(still, 1.0, np.linalg.norm(x, axis=0))), int(still.sum())


def _own(params: Any, prefix: str) -> Any:
    """The parameters of one layer of a chain."""
    for index in prefix.split("/")[:-1]:
        params = params[int(index)]
    return params
