"""Instability to the noise of training: the barrier between siblings that share their first k steps."""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from widescape.core import checks
from widescape.core.chart import Chart, Marker, Series
from widescape.core.evidence import EXACT, Evidence, estimate, sampled
from widescape.core.progress import track
from widescape.core.random import named_key
from widescape.core.result import Result, quantity
from widescape.paths.barriers import Barrier, BarrierKind, barrier
from widescape.paths.profiles import Loss, Refresh

_SEARCHED = sampled("of a barrier searched on the lines, which may miss a higher loss, and of few pairs")

TrainFunction = Callable[[Any, jax.Array, int, int], Any]


class Instability(Result):
    """Barriers between two runs that share their first k steps, and then see the data in different orders."""

    source = "frankle2020linear"
    ks: np.ndarray = quantity(EXACT, "steps that the siblings share, rising, (K,)")
    barrier: np.ndarray = quantity(
        estimate("stderr", "mean over pairs of siblings"), "barrier between siblings, mean over pairs, (K,)"
    )
    stderr: np.ndarray | None = quantity(
        EXACT, "standard error of the barrier over pairs (K,); None for one pair", default=None
    )
    barriers: np.ndarray = quantity(sampled("searched on the line"), "barrier of each pair (K, pairs)")
    end_losses: np.ndarray = quantity(EXACT, "loss of the two siblings of each pair (K, pairs, 2)")
    stable: np.ndarray = quantity(_SEARCHED, "whether the mean barrier found lies below the threshold (K,)")
    first_stable_k: int | None = quantity(_SEARCHED, "least k below stop that is stable; None if none is", default=None)
    threshold: float = quantity(EXACT, "barrier below which siblings count as linearly connected, in units of the loss")
    stop: int = quantity(EXACT, "steps of each sibling in all")
    kind: str = quantity(EXACT, "reference of the barrier: mean, chord or max")

    def charts(self) -> tuple[Chart, ...]:
        """The barrier against the number of shared steps."""
        pairs = self.barriers.shape[1]
        spread = None if self.stderr is None else 2 * self.stderr
        low, high = (None, None) if spread is None else (self.barrier - spread, self.barrier + spread)
        return (
            Chart(
                name="instability",
                title="Barrier between siblings that share their first steps",
                x_label="shared steps k",
                y_label="barrier",
                series=(Series(self.ks, self.barrier, "siblings", low, high, style="both"),),
                markers=(Marker(self.threshold, "stable below"),),
                caption=f"Each sibling takes {self.stop} steps in all. "
                + ("One pair for each k." if pairs == 1 else f"Mean over {pairs} pairs, with two standard errors."),
            ),
        )


def instability(
    train_fn: TrainFunction,
    loss: Loss,
    params: Any,
    ks: Iterable[int],
    key: jax.Array | None = None,
    *,
    stop: int | None = None,
    pairs: int = 1,
    num: int = 30,
    kind: BarrierKind = "mean",
    refine: bool = True,
    refresh: Refresh = None,
    threshold: float = 0.02,
    progress: bool | None = None,
) -> Instability:
    """The barrier between two copies of a network that train apart after k shared steps, for each k of `ks`.

    The network trains from `params` to step k with one key. Two copies go on to step `stop` with two other keys, the
    same two for every k, and the barrier between them is `widescape.paths.barriers.barrier`.

    Args:
        train_fn: maps (params, key, start, stop) to the parameters after the steps start, ..., stop - 1. It draws the
            order of the data from the key and the number of the step alone, so that training to step 2 and then to
            step 5 is training to step 5. It is called only for stop > start.
        loss: a `System`, or a function of the parameters that returns one number; the paper takes the error.
        params: where training starts: a PyTree, or for a system also a flat vector.
        ks: numbers of shared steps; sorted, each once.
        key: the root of all keys; `jax.random.key(0)` if None.
        stop: steps of each sibling in all. None for the largest of `ks`, at which siblings are equal and the barrier
            is 0.
        pairs: pairs of siblings for each k, each with two keys of its own.
        num: equally spaced positions on the line; the default is the paper's.
        kind: the reference of the barrier.
        refine: search for the barrier between the positions.
        refresh: as for `barrier`.
        threshold: barrier below which a k is stable, in units of the loss; the default is the paper's for the error.
        progress: show a progress bar; None shows it on a terminal.

    Returns:
        an `Instability`. Since a barrier is found by a search, a k that counts as stable may not be: loss between the
        positions that the search does not meet is not seen.

    Raises:
        ShapeError, DtypeError, TypeError, ValueError: arguments that do not fit, or nothing to train.
        NonFiniteError: the loss is NaN or infinite on a line.

    Cost: max(ks) steps, 2 pairs sum_k (stop - k) more, and K pairs barriers.

    Example:
        >>> def walk(w, key, start, stop):
        ...     for step in range(start, stop):
        ...         w = w + np.where(jax.random.bernoulli(jax.random.fold_in(key, step)), 1.0, -1.0)
        ...     return w
        >>> found = instability(walk, lambda w: -(w**2).sum(), np.zeros(3), [0, 4])
        >>> found.ks.tolist(), found.barrier[1].item(), found.first_stable_k
        ([0, 4], 0.0, None)
    """
    steps, end = _checked_steps(train_fn, ks, stop)
    checks.count(pairs, "pairs", "instability")
    limit = checks.number(threshold, "threshold", "instability")
    root = jax.random.key(0) if key is None else key
    shared, at, rows = copy.deepcopy(params), 0, []
    for k in track(steps, "siblings", show=progress):
        shared, at = _trained(train_fn, shared, named_key(root, "shared"), at, k), k
        siblings = [
            [_trained(train_fn, shared, named_key(root, "sibling", pair, i), k, end) for i in range(2)]
            for pair in range(pairs)
        ]
        rows.append(
            [
                barrier(loss, *two, num=num, kind=kind, refine=refine, refresh=refresh, progress=False)
                for two in siblings
            ]
        )
    return _result(steps, rows, end, float(limit), kind)


def _trained(train_fn: TrainFunction, params: Any, key: jax.Array, start: int, stop: int) -> Any:
    """A copy of the parameters, trained, so that a function that writes into its arguments harms nothing."""
    own = copy.deepcopy(params)
    return train_fn(own, key, start, stop) if stop > start else own


def _result(steps: list[int], rows: list[list[Barrier]], stop: int, threshold: float, kind: str) -> Instability:
    values = np.array([[one.value for one in row] for row in rows])
    means, pairs = values.mean(axis=1), values.shape[1]
    stable = means < threshold
    alone: dict[str, Evidence] = {"barrier": sampled("one pair of siblings")} if pairs == 1 else {}
    return Instability(
        ks=np.asarray(steps),
        barrier=means,
        stderr=None if pairs == 1 else values.std(axis=1, ddof=1) / np.sqrt(pairs),
        barriers=values,
        end_losses=np.array([[one.loss[[0, -1]] for one in row] for row in rows]),
        stable=stable,
        first_stable_k=next((k for k, well in zip(steps, stable, strict=True) if well and k < stop), None),
        threshold=threshold,
        stop=stop,
        kind=kind,
        stands=alone,
    )


def _checked_steps(train_fn: Any, ks: Iterable[int], stop: int | None) -> tuple[list[int], int]:
    if not callable(train_fn):
        raise TypeError(f"`train_fn` is {train_fn!r}; give a function of (params, key, start, stop).")
    given = list(ks)
    for k in given:
        checks.count(k, "ks", "instability", minimum=0)
    if not given:
        raise ValueError("`ks` is empty; give at least one number of shared steps.")
    steps = sorted({int(k) for k in given})
    if stop is not None:
        checks.count(stop, "stop", "instability", minimum=0)
    end = steps[-1] if stop is None else int(stop)
    if steps[-1] > end:
        raise ValueError(f"`ks` goes up to {steps[-1]}, but `stop` is {end}; siblings need k <= stop.")
    if steps[0] == end:
        raise ValueError(
            f"siblings that share all of their {end} steps are equal, so nothing would be trained apart; give a "
            "larger `stop`, or a smaller k."
        )
    return steps, end
