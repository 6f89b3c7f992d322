"""How many examples models need: test errors against the number of examples, over seeds."""

import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np

from widescape.core import checks
from widescape.core.chart import Chart, Series
from widescape.core.errors import NonFiniteError, ShapeError
from widescape.core.evidence import EXACT, estimate, sampled
from widescape.core.progress import track
from widescape.core.random import named_generator
from widescape.core.result import Result, quantity
from widescape.features.learners import Learner, as_learner
from widescape.features.row_store import RowStore, digest, without_address

Metric = Literal["relative_mse", "error"]
RESAMPLES = 2000
"""Draws of a bootstrap over seeds."""
_LABELS = {"relative_mse": "test error / second moment of targets", "error": "share of wrong answers"}
_FLOOR_POINTS = 64


class Problem(Protocol):
    """What draws examples, as `LowRankPolynomial` does: a specification that prints itself."""

    def sample(self, n: int, *, seed: int, part: str = "train") -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets of a part; parts of one seed are independent."""
        ...

    def unlabeled(self, n: int, *, seed: int) -> np.ndarray:
        """Inputs alone, independent of every part."""
        ...


class SampleComplexity(Result):
    """Test errors of models against the number of examples: each run, medians over seeds, powers of n."""

    source = "chen2020hierarchical"
    problem: str = quantity(EXACT, "what was learned")
    metric: str = quantity(EXACT, "what is measured on the test set")
    models: tuple[str, ...] = quantity(EXACT, "the models (M,)")
    ns: np.ndarray = quantity(EXACT, "numbers of examples, rising (S,)")
    seeds: np.ndarray = quantity(EXACT, "seeds of data and models (K,)")
    values: np.ndarray = quantity(sampled("one training and one test set for each seed"), "each run (M, S, K)")
    seconds: np.ndarray = quantity(EXACT, "time of each fit (M, S, K)", unit="s")
    selected: tuple[str, ...] = quantity(
        EXACT, "what each fit chose, as JSON, in the order of `rows`; empty for nothing"
    )
    medians: np.ndarray = quantity(sampled("over seeds"), "median over seeds (M, S)")
    low: np.ndarray = quantity(
        sampled("bootstrap over seeds"), "5 % point of the median over resampled seeds (M, S); NaN for one seed"
    )
    high: np.ndarray = quantity(
        sampled("bootstrap over seeds"), "95 % point of the median over resampled seeds (M, S); NaN for one seed"
    )
    slopes: np.ndarray = quantity(
        estimate("slopes_stderr", "least squares; the error from the distances of the medians to the line"),
        "power of n of the medians (M,); NaN for one size, or a median of 0",
    )
    slopes_stderr: np.ndarray = quantity(EXACT, "standard error of the powers (M,); NaN below three sizes")
    floor_ns: np.ndarray | None = quantity(EXACT, "numbers of examples of `floor`", default=None)
    floor: np.ndarray | None = quantity(
        EXACT,
        "relative mean squared error that rotation-invariant kernels cannot fall below on average over targets",
        default=None,
    )

    def rows(self) -> list[dict[str, Any]]:
        """One row for each run: model, n, seed, value, seconds, selected. Ready for ``pandas.DataFrame``."""
        places = np.ndindex(self.values.shape)
        return [
            {
                "model": self.models[i],
                "n": int(self.ns[j]),
                "seed": int(self.seeds[k]),
                "value": float(self.values[i, j, k]),
                "seconds": float(self.seconds[i, j, k]),
                "selected": json.loads(chosen) if chosen else None,
            }
            for (i, j, k), chosen in zip(places, self.selected, strict=True)
        ]

    def of(self, model: str) -> np.ndarray:
        """The runs (S, K) of one model."""
        return self.values[self._place(model)]

    def median(self, model: str) -> np.ndarray:
        """The medians (S,) of one model."""
        return self.medians[self._place(model)]

    def slope(self, model: str) -> tuple[float, float]:
        """The power of n of one model's medians, and its standard error."""
        i = self._place(model)
        return float(self.slopes[i]), float(self.slopes_stderr[i])

    def charts(self) -> tuple[Chart, ...]:
        """Medians with their intervals against the number of examples, and the floor of invariant kernels."""
        several = len(self.seeds) > 1
        series = [
            Series(self.ns, y, name, low if several else None, high if several else None, "both")
            for name, y, low, high in zip(self.models, self.medians, self.low, self.high, strict=True)
        ]
        if self.floor is not None and self.floor_ns is not None:
            series.append(Series(self.floor_ns, self.floor, "floor of rotation-invariant kernels"))
        runs = f"Medians of {len(self.seeds)} seeds; intervals: 90 % by a bootstrap over seeds."
        return (
            Chart(
                name="sample-complexity",
                title="Test error against the number of examples",
                x_label="training examples",
                y_label=_LABELS[self.metric],
                series=tuple(series),
                x_scale="log",
                caption=runs if several else "One seed.",
            ),
        )

    def _place(self, model: str) -> int:
        if model not in self.models:
            raise ValueError(f"`model` is {model!r}; choose one of {', '.join(map(repr, self.models))}.")
        return self.models.index(model)


def sample_complexity_curve(
    models: Mapping[str, Any],
    problem: Problem,
    ns: Sequence[int],
    seeds: int | Sequence[int],
    *,
    n_val: int = 1000,
    n_test: int = 4000,
    metric: Metric = "relative_mse",
    path: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> SampleComplexity:
    """Fit every model at every number of examples and seed, and measure it on a test set.

    A seed chooses the target, the training, validation and test sets, and what a model draws. Training sets of one seed
    are nested.

    Args:
        models: by name; a *learner*, which is a function (x, y, *, validation, unlabeled, seed) -> predict as `Learner`
            describes it, or an object with `fit` and `predict`. Of the latter each fit takes a deep copy, whose
            parameters `random_state` (of inner objects, too) and `validation` are set if `get_params` lists them. For a
            representation that is fitted on unlabeled inputs see `on_representation`.
        problem: draws examples; a `LowRankPolynomial`, or what has its methods `sample` and `unlabeled`, and, for the
            floor of the relative mean squared error in the figure, `risk_floor`.
        ns: numbers of training examples.
        seeds: integers, or how many of 0, 1, 2, ....
        n_val: examples for validation.
        n_test: examples for the test.
        metric: ``"relative_mse"``, the mean squared error over the mean square of the test targets, or ``"error"``, the
            share of answers that are not the target.
        path: a file to which each finished run is appended, as lines of JSON. Runs that it holds are not done again, so
            that an interrupted experiment goes on, and more sizes, seeds or models can be added. None keeps nothing.
        progress: show a progress bar; None shows it on a terminal.

    Returns:
        a `SampleComplexity`; it does not depend on interruptions, other than the seconds.

    Raises:
        TypeError, ValueError: arguments that do not fit.
        CheckpointError: `path` is damaged, or belongs to another experiment or another model of the same name, told by
            the parameters of an object (and what a frozen part of it learned) and by the code and closure of a
            function, not by what that calls.
        ShapeError, NonFiniteError: predictions of another shape than the targets, or not finite.
        and whatever a model raises.

    Cost: that of the fits.

    Example:
        >>> from widescape.features import LowRankPolynomial
        >>> def linear(x, y, *, validation, unlabeled, seed):
        ...     weights = np.linalg.lstsq(x, y)[0]
        ...     return lambda inputs: inputs @ weights
        >>> curve = sample_complexity_curve({"linear": linear}, LowRankPolynomial(5, 1), [10, 20], 2, n_test=50)
        >>> bool(curve.values.max() < 1e-20)
        True
    """
    sizes, chosen = _counts(ns, "ns", 1), _counts(range(seeds) if isinstance(seeds, int) else seeds, "seeds", 0)
    checks.count(n_val, "n_val", "sample_complexity_curve")
    checks.count(n_test, "n_test", "sample_complexity_curve")
    checks.choice(metric, "metric", Metric)
    if not models:
        raise ValueError("`models` is empty; give at least one.")
    learners = {name: as_learner(model, name) for name, model in models.items()}
    shared = {"problem": without_address(problem), "metric": metric, "n_val": str(n_val), "n_test": str(n_test)}
    store = RowStore(path, {**shared, "data": digest(problem)}, {name: digest(own) for name, own in models.items()})
    missing = [(s, n, name) for s in chosen for n in sizes for name in learners if (name, n, s) not in store.rows]
    held: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    held_seed: int | None = None
    for seed, n, name in track(missing, "fits", show=progress):
        if seed != held_seed:
            held = {"validation": problem.sample(n_val, seed=seed, part="validation")}
            held["test"], held_seed = problem.sample(n_test, seed=seed, part="test"), seed
        value, seconds, selected = _run(learners[name], name, problem, n, seed, held, metric)
        store.add({"model": name, "n": n, "seed": seed, "value": value, "seconds": seconds, "selected": selected})
    return _summary(store, tuple(learners), sizes, chosen, problem, metric)


def _run(
    learner: Learner,
    name: str,
    problem: Problem,
    n: int,
    seed: int,
    held: Mapping[str, tuple[np.ndarray, np.ndarray]],
    metric: Metric,
) -> tuple[float, float, Any]:
    """The measure, the seconds of the fit, and what it selected."""
    x, y = problem.sample(n, seed=seed, part="train")
    validation = held["validation"][0].copy(), held["validation"][1].copy()
    start = time.perf_counter()
    predict = learner(x, y, validation=validation, unlabeled=lambda m: problem.unlabeled(m, seed=seed), seed=seed)
    seconds = time.perf_counter() - start
    x_test, y_test = held["test"]
    where = f"model {name!r} at n = {n}, seed {seed}"
    answers = np.asarray(predict(x_test.copy()))
    if answers.shape != y_test.shape:
        raise ShapeError(f"{where}: predictions have shape {answers.shape}, but the targets have {y_test.shape}.")
    if metric == "error":
        return float(np.mean(answers != y_test)), seconds, getattr(predict, "selected", None)
    if not np.isfinite(answers).all():
        raise NonFiniteError(f"{where}: predictions are not finite.")
    moment = float(np.mean(np.square(y_test)))
    if moment == 0:
        raise ValueError(f"the targets of the test set of seed {seed} are all zero; no error is relative to them.")
    return float(np.mean(np.square(answers - y_test))) / moment, seconds, getattr(predict, "selected", None)


def _summary(
    store: RowStore, models: tuple[str, ...], sizes: list[int], seeds: list[int], problem: Any, metric: Metric
) -> SampleComplexity:
    shape = len(models), len(sizes), len(seeds)
    rows = [store.rows[name, n, seed] for name in models for n in sizes for seed in seeds]
    values = np.array([row["value"] for row in rows], dtype=np.float64).reshape(shape)
    medians = np.median(values, axis=2)
    low, high = np.full((2, *shape[:2]), np.nan)
    if len(seeds) > 1:
        low, high = np.quantile(np.median(values[:, :, resampled(len(seeds))], axis=3), [0.05, 0.95], axis=2)
    lines = [_power(sizes, row) for row in medians]
    floor_ns = np.unique([*sizes, *np.geomspace(sizes[0], sizes[-1], _FLOOR_POINTS).astype(np.int64)])
    found = problem.risk_floor(floor_ns) if metric == "relative_mse" and hasattr(problem, "risk_floor") else None
    return SampleComplexity(
        problem=without_address(problem),
        metric=metric,
        models=models,
        ns=np.array(sizes),
        seeds=np.array(seeds),
        values=values,
        seconds=np.array([row["seconds"] for row in rows], dtype=np.float64).reshape(shape),
        selected=tuple("" if row["selected"] is None else json.dumps(row["selected"]) for row in rows),
        medians=medians,
        low=low,
        high=high,
        slopes=np.array([slope for slope, _ in lines]),
        slopes_stderr=np.array([error for _, error in lines]),
        floor_ns=None if found is None else floor_ns,
        floor=found,
    )


def resampled(count: int) -> np.ndarray:
    """Places of seeds drawn with replacement, (RESAMPLES, count); the same at every call."""
    rng = named_generator(None, "bootstrap over seeds", count)
    return rng.integers(0, count, (RESAMPLES, count))


def _power(sizes: list[int], medians: np.ndarray) -> tuple[float, float]:
    """The least-squares slope of log medians on log sizes, and its standard error."""
    if len(sizes) < 2 or not (medians > 0).all():
        return float("nan"), float("nan")
    x, y = np.log(sizes), np.log(medians)
    x = x - x.mean()
    slope = float(x @ y / (x @ x))
    if len(sizes) < 3:
        return slope, float("nan")
    residual = y - y.mean() - slope * x
    return slope, float((residual @ residual / (len(sizes) - 2) / (x @ x)) ** 0.5)


def _counts(values: Iterable[int], name: str, minimum: int) -> list[int]:
    """Distinct integers, rising."""
    found = list(values)
    for value in found:
        checks.count(value, name, "sample_complexity_curve", minimum=minimum)
    if not found or len(set(found)) < len(found):
        raise ValueError(f"`{name}` is {found}; give at least one number, and each once.")
    return sorted(int(value) for value in found)
