"""Activations layer by layer, and the similarity of each layer of one network to each of another."""

import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import jax.numpy as jnp
import numpy as np

from widescape.arch import Layer, Sequential, Signal
from widescape.arch.structure import naming
from widescape.core import checks
from widescape.core.chart import HeatMap
from widescape.core.errors import DegenerateWarning, ShapeError
from widescape.core.evidence import EXACT
from widescape.core.precision import double_scope, has_float64
from widescape.core.result import Result, quantity
from widescape.features.canonical_correlations import saturation_message
from widescape.features.centered import Representation
from widescape.features.similarity_index import Index, Metric, index_of

Positions = Literal["features", "samples", "mean"]
Ids = tuple[Sequence[Any], Sequence[Any]]


class LayerSimilarity(Result):
    """The similarity of each layer of one network to each layer of another; as an array the matrix (L1, L2)."""

    source = "kornblith2019similarity"
    matrix: np.ndarray = quantity(EXACT, "similarity of layer i of the first to layer j of the second, (L1, L2)")
    metric: str = quantity(EXACT, "the measure")
    layers1: tuple[str, ...] = quantity(EXACT, "layers of the first network")
    layers2: tuple[str, ...] = quantity(EXACT, "layers of the second network")
    num_samples: int = quantity(EXACT, "samples n")
    saturated: np.ndarray = quantity(EXACT, "where the similarity is 1 whatever the data, (L1, L2)")
    undefined: np.ndarray = quantity(EXACT, "where the similarity is NaN, (L1, L2)")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.matrix, dtype=dtype, copy=copy)

    @property
    def best(self) -> dict[str, str]:
        """For each layer of the first network the layer of the second that is most like it, where one is defined."""
        found = zip(self.layers1, self.matrix, strict=True)
        return {name: self.layers2[int(np.nanargmax(row))] for name, row in found if not np.isnan(row).all()}

    def charts(self) -> tuple[HeatMap, ...]:
        """The matrix, layers of the first network in rows; nothing where all of it is undefined."""
        if self.undefined.all():
            return ()
        flagged = int(self.saturated.sum())
        return (
            HeatMap(
                name="layer-similarity",
                title="Similarity of the layers of two networks",
                x_label="layer of the second network",
                y_label="layer of the first network",
                value_label=f"similarity, {self.metric}",
                rows=self.layers1,
                columns=self.layers2,
                values=self.matrix,
                caption=f"{self.num_samples} samples."
                + (f" {flagged} of the {self.matrix.size} similarities are 1 whatever the data." if flagged else ""),
            ),
        )


def layer_similarity(
    acts1: Mapping[str, Any],
    acts2: Mapping[str, Any],
    metric: Metric = "cka",
    *,
    ids: Ids | None = None,
) -> LayerSimilarity:
    """How alike each layer of one network is to each layer of another, on the same samples.

    Args:
        acts1: activations of the first network, name to (n, p); as from `layer_activations`.
        acts2: activations of the second, on the same samples in the same order.
        metric: the measure, as for `similarity`.
        ids: identifiers of the samples of the first and of the second, each of length n, in the order of their rows;
            if they differ, or their order does, nothing is computed.

    Returns:
        a `LayerSimilarity`.

    Raises:
        ShapeError, DtypeError, ValueError: activations that do not fit, by the name of their layer; two layers of the
            same name as text; ids that differ, with the first that does.

    Warns:
        DegenerateWarning: layers that are constant, by name, whose similarities are NaN; and once each, if others are 1
            whatever the data or NaN. The result says which.

    Cost: for each layer what the measure needs of it alone (a Gram matrix, a basis, ranks), once; for each pair only a
    product. The centered activations of all layers are held in float64.

    Example:
        >>> x = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> found = layer_similarity({"a": x}, {"a": 2 * x, "b": x[:, :1]})
        >>> found.matrix.round(6).tolist()
        [[1.0, 0.707107]]
    """
    index = index_of(metric)
    if ids is not None:
        _same_ids(ids)
    first = _representations(acts1, "acts1")
    second = first if acts2 is acts1 else _representations(acts2, "acts2")
    everything = [*first.values(), *second.values()]
    n = everything[0].n
    for rep in everything:
        if rep.n != n:
            raise ShapeError(
                f"`{rep.name}` has {rep.n} samples and `{everything[0].name}` {n}; give all layers on the same samples."
            )
    for given in ids or ():
        if len(given) != n:
            raise ShapeError(f"`ids` have {len(given)} entries for {n} samples; give one to each.")
    still = list(dict.fromkeys(rep.name for rep in everything if not rep.varies))
    if still:
        warnings.warn(
            f"{', '.join(f'`{name}`' for name in still)} {'are' if len(still) > 1 else 'is'} constant over all {n} "
            "samples, so the similarities are NaN. Leave such layers out, or give other samples.",
            DegenerateWarning,
            stacklevel=2,
        )
    found = [
        [index(a, b) if a.varies and b.varies else Index(math.nan) for b in second.values()] for a in first.values()
    ]
    matrix = np.array([[pair.value for pair in row] for row in found])
    saturated = np.array([[pair.saturated for pair in row] for row in found])
    if saturated.any():
        which = f"in {int(saturated.sum())} of {saturated.size} pairs of layers every canonical correlation is"
        warnings.warn(saturation_message(which), DegenerateWarning, stacklevel=2)
    live = np.ix_([a.varies for a in first.values()], [b.varies for b in second.values()])
    lost = int(np.isnan(matrix[live]).sum())
    if lost:
        why = "the function returned it" if callable(metric) else "a debiased norm is zero up to rounding"
        warnings.warn(
            f"{lost} of {matrix.size} similarities are NaN: {why}. Give more samples, or use another measure.",
            DegenerateWarning,
            stacklevel=2,
        )
    return LayerSimilarity(
        matrix=matrix,
        metric=metric if isinstance(metric, str) else getattr(metric, "__name__", "a function"),
        layers1=tuple(first),
        layers2=tuple(second),
        num_samples=n,
        saturated=saturated,
        undefined=np.isnan(matrix),
    )


def layer_activations(net: Layer, params: Any, x: Any, *, positions: Positions = "features") -> dict[str, np.ndarray]:
    """The activations after each layer of a chain of layers, as matrices.

    Args:
        net: an `arch.Sequential`. A block inside it, as a residual one, counts as one layer.
        params: its parameters.
        x: a batch of examples (n, *input_shape), floating point.
        positions: what becomes of activations (n, *S, c) of images: ``"features"``, every position and channel is a
            feature, (n, S c); ``"samples"``, every position is a sample, (n S, c), so that layers of different
            resolution have different numbers of samples and cannot be compared; ``"mean"``, channels averaged over
            positions, (n, c).

    Returns:
        by name, in order, such as ``"1 Dense"`` and ``"2 Relu"``; the branches of a `Parallel` each by itself, as
        ``"3 Parallel, branch 1"``. In float64 where the parameters or `x` are, and in float32 otherwise.

    Raises:
        TypeError: `net` is no `Sequential`.
        ShapeError, DtypeError, ValueError: arguments that do not fit.

    Cost: one forward pass; all activations are held.

    Example:
        >>> from widescape import arch
        >>> net = arch.Sequential(arch.Dense(2, param="standard"), arch.Relu())
        >>> params = ({"w": np.array([[1.0, -1.0]])}, ())
        >>> {name: h.tolist() for name, h in layer_activations(net, params, np.array([[3.0]])).items()}
        {'1 Dense': [[3.0, -3.0]], '2 Relu': [[3.0, 0.0]]}
    """
    checks.choice(positions, "positions", get_args(Positions))
    if not isinstance(net, Sequential):
        raise TypeError(f"`net` is {type(net).__name__}; give an arch.Sequential, whose layers come one after another.")
    if len(params) != len(net.layers):
        raise ShapeError(f"`params` has {len(params)} entries for {len(net.layers)} layers; use this network's init.")
    batch = checks.batch(x, "x", dtype="float64" if has_float64(params, x) else "float32")
    found: dict[str, np.ndarray] = {}
    with double_scope(batch.dtype == np.float64):
        h, signal = jnp.asarray(batch), Signal.of_input(batch.shape[1:])
        for i, (layer, own) in enumerate(zip(net.layers, params, strict=True)):
            with naming(i, layer):
                h, signal = layer.forward(own, h, signal), layer.out(signal)
            name = f"{i + 1} {type(layer).__name__}"
            if isinstance(h, tuple):
                found |= {f"{name}, branch {j + 1}": _rows(np.asarray(part), positions) for j, part in enumerate(h)}
            else:
                found[name] = _rows(np.asarray(h), positions)
    return found


def _rows(h: np.ndarray, positions: Positions) -> np.ndarray:
    """Activations (n, *S, c) as a matrix."""
    if positions == "samples":
        return h.reshape(-1, h.shape[-1])
    if positions == "features" or h.ndim == 2:
        return h.reshape(len(h), -1)
    mean: np.ndarray = h.mean(axis=tuple(range(1, h.ndim - 1)))
    return mean


def _representations(acts: Mapping[str, Any], name: str) -> dict[str, Representation]:
    if not isinstance(acts, Mapping) or not acts:
        raise TypeError(f"`{name}` is {type(acts).__name__}; give a dictionary, name of a layer to activations (n, p).")
    twice = [layer for layer, count in Counter(map(str, acts)).items() if count > 1]
    if twice:
        raise ValueError(f"`{name}` has several layers whose name as text is {twice[0]!r}; give each another.")
    return {str(layer): Representation(x, f"{name}[{layer!r}]", constant=True) for layer, x in acts.items()}


def _same_ids(ids: Ids) -> None:
    if len(ids) != 2:
        raise ValueError(f"`ids` has {len(ids)} entries; give two sequences, one for each network.")
    first, second = (own.tolist() if hasattr(own, "tolist") else list(own) for own in ids)
    if first == second:
        return
    known = set(first), set(second)
    alone = [i for i in first if i not in known[1]], [i for i in second if i not in known[0]]
    if alone[0] or alone[1]:
        who, lost = ("first", alone[0]) if alone[0] else ("second", alone[1])
        raise ValueError(
            f"`ids`: {len(lost)} samples of the {who} are not among the other's, for instance {lost[0]!r}; give "
            "activations on the same samples."
        )
    if len(first) != len(second):
        raise ValueError(f"`ids`: {len(first)} and {len(second)} samples, so some are repeated; give each once.")
    place = next(i for i, (one, other) in enumerate(zip(first, second, strict=True)) if one != other)
    raise ValueError(
        f"`ids` list the same samples in another order: at {place} they are {first[place]!r} and {second[place]!r}. "
        "Sort the rows of both by their identifiers."
    )
