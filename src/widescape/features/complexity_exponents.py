"""With which power of the dimension the number of examples grows: as it was proved, and as it was measured."""

from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np

from widescape.core import checks
from widescape.core.chart import Chart, Series
from widescape.core.evidence import EXACT, estimate, sampled
from widescape.core.result import Result, quantity
from widescape.core.status import Status
from widescape.features.sample_complexity import SampleComplexity, resampled

TaylorModel = Literal["NTK-Raw", "NTK-Neural", "Quad-Raw", "Quad-Neural"]


def sample_complexity_exponent(model: TaylorModel, p: int) -> int:
    """The power of d in the number of examples that suffices for a polynomial of degree p and few directions.

    Up to logarithms and powers of the rank, inputs uniform on the sphere, features as many as examples:

    * ``"NTK-Raw"`` and ``"NTK-Neural"``: p. For kernels that are functions of the angle this is also necessary.
    * ``"Quad-Raw"``: p - 1, for p >= 2. An upper bound only; nothing says that it is necessary.
    * ``"Quad-Neural"``: ceil(p/2). An upper bound only. It is below that of ``"Quad-Raw"`` from p = 4 on.

    Args:
        model: the linear (NTK) or the quadratic Taylor model, on the inputs (Raw) or on whitened random features.
        p: degree.

    Raises:
        TypeError, ValueError: an unknown model or degree; ``"Quad-Raw"`` at degree 1, which has no linear part.

    Source: chen2020hierarchical; the abstract has the power of Quad-Neural.

    Example:
        >>> [sample_complexity_exponent(model, 4) for model in ("NTK-Raw", "Quad-Raw", "Quad-Neural")]
        [4, 3, 2]
    """
    checks.choice(model, "model", get_args(TaylorModel))
    checks.count(p, "p", "sample_complexity_exponent", minimum=2 if model == "Quad-Raw" else 1)
    return {"NTK-Raw": p, "NTK-Neural": p, "Quad-Raw": p - 1, "Quad-Neural": -(-p // 2)}[model]


class ExponentStatus(Status):
    """Whether a power could be fitted."""

    OK = "The medians of every dimension cross the level."
    NOT_CROSSED = "The medians of some dimension stay above the level; measure at more examples, or raise it."
    BELOW_FROM_START = "The medians of some dimension begin below the level; measure at fewer examples, or lower it."


class SampleExponent(Result):
    """The power of the dimension with which the number of examples to a level of error grows."""

    source = "chen2020hierarchical"
    model: str = quantity(EXACT, "the model")
    level: float = quantity(EXACT, "the test error that is to be reached")
    ds: np.ndarray = quantity(EXACT, "dimensions, rising (D,)")
    ns: np.ndarray = quantity(
        sampled("from medians over seeds"), "examples at which the median crosses the level (D,); NaN if it does not"
    )
    exponent: float = quantity(
        estimate("exponent_stderr", "bootstrap over seeds: for these dimensions, without the error of the power law"),
        "slope of log n on log d; NaN unless the status is ok",
    )
    exponent_stderr: float = quantity(EXACT, "standard error of the exponent; NaN for one seed")
    low: float = quantity(sampled("bootstrap over seeds"), "5 % point of the exponent over resampled seeds")
    high: float = quantity(sampled("bootstrap over seeds"), "95 % point of the exponent over resampled seeds")
    crossed: float = quantity(
        EXACT, "share of resamples in which every dimension crosses; below 1, the error is too small"
    )
    status: ExponentStatus = quantity(EXACT, "whether a power could be fitted")

    def charts(self) -> tuple[Chart, ...]:
        """Examples to the level against the dimension; none if nothing crossed."""
        known = np.isfinite(self.ns)
        if not known.any():
            return ()
        return (
            Chart(
                name="sample-exponent",
                title="Examples to a level of test error against the dimension",
                x_label="dimension",
                y_label="training examples",
                series=(Series(self.ds[known], self.ns[known], f"{self.model}: d^{self.exponent:.2f}", style="both"),),
                x_scale="log",
                y_scale="log",
                caption=f"Where the median test error is {self.level:g}.",
            ),
        )


def fit_exponent(curves: Mapping[int, SampleComplexity], model: str, *, level: float = 0.5) -> SampleExponent:
    """Fit the power of d in the number of examples at which a model's median test error crosses a level.

    The crossing is where the line through neighboring medians against log n meets the level for the first time; the
    power is the least-squares slope of log n on log d.

    Args:
        curves: measurements of the same model by dimension d, at least two.
        model: its name in them.
        level: the test error, positive.

    Returns:
        a `SampleExponent`. Where the median of a dimension does not cross, the status says how, and there is no power.

    Raises:
        TypeError, ValueError: fewer than two dimensions, an unknown model, a level that is not positive.

    Cost: 2,000 resamples of the seeds of each dimension.
    """
    for d in curves:
        checks.count(d, "curves", "fit_exponent")
    if len(curves) < 2:
        raise ValueError(f"`curves` has {len(curves)} dimensions; give at least two.")
    level = checks.number(level, "level", "fit_exponent")
    checks.positive(level, "level", "fit_exponent")
    ds = sorted(curves)
    runs = [curves[d].of(model) for d in ds]
    sizes = [curves[d].ns for d in ds]
    crossings = np.array(
        [_crossings(n, np.median(v, axis=1)[:, None], level)[0] for n, v in zip(sizes, runs, strict=True)]
    )
    begin_below = [np.median(v[0]) < level for v in runs]
    status = ExponentStatus.OK
    if np.isnan(crossings).any():
        status = ExponentStatus.BELOW_FROM_START if any(begin_below) else ExponentStatus.NOT_CROSSED
    exponent = float(_slopes(ds, crossings[:, None])[0])
    stderr = low = high = crossed = float("nan")
    if status.ok and min(v.shape[1] for v in runs) > 1:
        draws = np.array(
            [
                _crossings(n, np.median(v[:, _shuffled(v.shape[1], i)], axis=2), level)
                for i, (n, v) in enumerate(zip(sizes, runs, strict=True))
            ]
        )
        slopes = _slopes(ds, draws)
        slopes = slopes[np.isfinite(slopes)]
        crossed = len(slopes) / draws.shape[1]
        if len(slopes) > 1:
            stderr = float(slopes.std(ddof=1))
            low, high = (float(q) for q in np.quantile(slopes, [0.05, 0.95]))
    return SampleExponent(
        model=model,
        level=level,
        ds=np.array(ds),
        ns=crossings,
        exponent=exponent,
        exponent_stderr=stderr,
        low=low,
        high=high,
        crossed=crossed,
        status=status,
    )


def _shuffled(count: int, dimension: int) -> np.ndarray:
    """Resampled places of seeds, in an order of its own for each dimension, whose seeds are independent."""
    places = resampled(count)
    return places[np.random.default_rng(dimension).permutation(len(places))]


def _crossings(ns: np.ndarray, medians: np.ndarray, level: float) -> np.ndarray:
    """Where columns of medians (S, B) first fall to the level, interpolated in log n; else NaN."""
    below = medians <= level
    first = below.argmax(axis=0)
    columns = np.arange(medians.shape[1])
    crosses = below.any(axis=0) & (first > 0)
    after = np.where(crosses, first, min(1, len(ns) - 1))
    upper, lower = medians[after - 1, columns], medians[after, columns]
    share = (upper - level) / np.where(crosses, upper - lower, 1)
    logs = np.log(ns)
    found = np.exp(logs[after - 1] + share * (logs[after] - logs[after - 1]))
    at_start = medians[0] == level
    return np.where(crosses, found, np.where(at_start, float(ns[0]), np.nan))


def _slopes(ds: list[int], ns: np.ndarray) -> np.ndarray:
    """Least-squares slopes of log n (D, B) on log d; NaN where an entry is."""
    x = np.log(ds) - np.log(ds).mean()
    return x @ np.log(ns) / (x @ x)
