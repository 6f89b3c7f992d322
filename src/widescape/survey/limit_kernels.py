"""What the chapters about the limit share: data cut to the budget, kernels, and what is said of them."""

from dataclasses import dataclass

import numpy as np

from widescape import arch, kernels, predict
from widescape.core.chart import Chart, Marker, Series
from widescape.core.memory import available_bytes
from widescape.data import Dataset, standardize
from widescape.survey.chapter import Context, Stopwatch

MOST_TEST = 2000
_FEWEST = 100  # training examples, where pairs are cheap; and test examples
_PROBE = 512
_PROBE_FLOPS = 3e8  # of the Gram matrix that is timed, about
_LADDER = tuple(digit * 10**power for power in (1, 2, 3, 4) for digit in (1, 2, 5))


@dataclass(frozen=True)
class Work:
    """Data cut to size, and its kernels."""

    y_train: np.ndarray
    y_test: np.ndarray
    gram: arch.Kernel
    cross: arch.Kernel
    gram_float32: np.ndarray
    sizing: str


def prepare(net: arch.Layer, data: Dataset, context: Context, watch: Stopwatch) -> Work:
    """Choose how many examples fit the budget, and compute their kernels."""
    context.say("timing a small sample to size the work")
    n_train, n_test, note = _size(net, data, context, watch)
    part = data.subset(n_train, n_test, seed=context.seed)
    given = (part.x_train, part.x_test)
    x_train, x_test = given if context.system is not None else standardize(*given, per="auto")
    context.say(f"kernels of {n_train} training and {n_test} test examples")
    both: tuple[arch.limit.Get, ...] = ("nngp", "ntk")
    return Work(
        y_train=part.y_train,
        y_test=part.y_test,
        gram=kernels.gram(net, x_train, get=both),
        cross=kernels.gram(net, x_test, x_train, get=both),
        gram_float32=kernels.gram(net, x_train, get="nngp", dtype="float32"),
        sizing=note,
    )


def _size(net: arch.Layer, data: Dataset, context: Context, watch: Stopwatch) -> tuple[int, int, str]:
    """Training and test examples that fit the budget, from the time of two small runs."""
    most_train, n_test = len(data.x_train), min(len(data.x_test), MOST_TEST)
    whole = f"All {most_train:,} training examples and {n_test:,} of {len(data.x_test):,} test examples were used"
    if context.budget is None:
        return most_train, n_test, f"{whole}, without a limit on time."
    probe = _probe_size(net, data)
    _run_probe(net, data, context.seed, probe)  # compiles
    seconds = _run_probe(net, data, context.seed, probe)
    budget = 0.7 * context.budget - watch.seconds  # the rest is for sampling noise of the timing and for drawing
    # A few sizes only, so that runs with the same seed mostly meet the same one.
    fewest = max(min(_FEWEST, probe), data.num_classes or 1)
    sizes = [n for n in _LADDER if fewest <= n < most_train] + [most_train]
    fitting = [n for n in sizes if _predicted_seconds(n, n_test, probe, seconds) <= budget and _fits(n)]
    if not fitting or fitting[-1] < n_test:  # pairs with test examples would take most of the time
        few = min(n_test, _FEWEST)
        more = [n for n in sizes if _predicted_seconds(n, max(few, n), probe, seconds) <= budget and _fits(n)]
        n_test = min(n_test, max(few, more[-1] if more else 0))
        fitting = more
    n_train = fitting[-1] if fitting else sizes[0]
    if n_train == most_train:
        return n_train, n_test, f"{whole}; that fits the budget of {context.budget:.0f} seconds."
    note = (
        f"To stay within {context.budget:.0f} seconds, {n_train:,} of {most_train:,} training examples and "
        f"{n_test:,} of {len(data.x_test):,} test examples were drawn at random; --full uses all."
    )
    return n_train, n_test, note


def _probe_size(net: arch.Layer, data: Dataset) -> int:
    """Examples whose Gram matrix takes a moment: fewer where a pair of examples costs more."""
    most = min(_PROBE, len(data.x_train))
    plan = kernels.gram(net, data.subset(most, 1).x_train, get=("nngp", "ntk"), plan=True)
    return int(np.clip((2 * _PROBE_FLOPS * plan.pairs / plan.flops) ** 0.5, min(8, most), most))


def _run_probe(net: arch.Layer, data: Dataset, seed: int, n: int) -> tuple[float, float]:
    """Seconds of one Gram matrix (both kernels, and float32) and of one factorization, of `n` examples."""
    x = data.subset(n, 1, seed=seed).x_train + 1e-3  # blank images take as long as others
    watch = Stopwatch()
    kernel = kernels.gram(net, x, get=("nngp", "ntk"), progress=False)
    kernels.gram(net, x, get="nngp", dtype="float32", progress=False)
    between = watch.seconds
    factor = []
    for _ in range(3):
        start = watch.seconds
        predict.GP(kernel.nngp, np.zeros((n, 1)), reg=1e-3).loo()
        factor.append(watch.seconds - start)
    return between, min(factor)


def _predicted_seconds(n: int, n_test: int, probe: int, seconds: tuple[float, float]) -> float:
    """Time of the chapter: kernels grow with pairs, factorizations and eigenvalues with the cube."""
    kernel, factor = seconds
    pairs = (n * n / 2 + n * n_test) / (probe * probe / 2)
    cubes = (n / probe) ** 3
    factorizations = 2 * len(predict.DEFAULT_REGS) + 2 + 10  # regularizers, subsets, three eigenvalue problems
    return kernel * pairs + factor * factorizations * cubes


def _fits(n: int) -> bool:
    """Whether two Gram matrices of `n` examples fit the memory, with copies for factorizations."""
    return 3 * 2 * 8 * n * n <= available_bytes() // 2


def percent(value: float, error: float) -> str:
    """A share and its standard error."""
    return f"{100 * value:.1f} ± {100 * error:.1f}%"


def precision_sentence(precision: kernels.PrecisionReport) -> str:
    """What rounding to float32 does to the Gram matrix."""
    judged = "float32 would do"
    if not precision.sufficient:
        judged = (
            f"to be safe, float32 needs a regularizer of at least {precision.suggested_reg:.0e} of the mean diagonal"
        )
    text = (
        f"The NNGP matrix computed in float32 is off by {precision.noise_norm:.1e} in spectral norm (measured), "
        f"{precision.noise_ratio:.2g} times its smallest eigenvalue: {judged}."
    )
    if precision.critical_size is not None and precision.critical_size_stderr is not None:
        text += (
            " If the rounding of entries were independent, it would reach the smallest eigenvalue at about "
            f"{precision.critical_size:.1e} ± {precision.critical_size_stderr:.0e} examples, an estimate from a "
            "power law fitted to the spectrum."
        )
    return text


def spectrum_chart(spectra: dict[str, kernels.GramSpectrum], precision: kernels.PrecisionReport) -> Chart:
    """Eigenvalues of both kernels, and the rounding of one."""
    series = []
    for name, spectral in spectra.items():
        positive = spectral.eigenvalues > 0
        series.append(Series(np.flatnonzero(positive) + 1, spectral.eigenvalues[positive], name))
    noise = Marker(precision.noise_norm, "float32 noise of the NNGP matrix")
    return Chart(
        name="spectrum",
        title="Eigenvalues of the Gram matrices",
        x_label="rank",
        y_label="eigenvalue",
        series=tuple(series),
        x_scale="log",
        y_scale="log",
        markers=(noise,) if precision.noise_norm > 0 else (),
        caption="NNGP eigenvalues below the line can be lost when the matrix is computed in float32.",
    )
