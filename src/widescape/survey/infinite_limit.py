"""Chapter: the network at infinite width, as NNGP and NTK regression."""

from dataclasses import dataclass

import numpy as np

from widescape import arch, kernels, predict
from widescape.core.chart import Chart, Marker, Series
from widescape.core.memory import available_bytes
from widescape.core.result import Result
from widescape.core.table import Table
from widescape.data import Dataset, standardize
from widescape.survey.chapter import Chapter, Context, Stopwatch, labeled

TITLE = "The infinite-width limit"
MOST_TEST = 2000
_PROBE = 512
_LADDER = tuple(digit * 10**power for power in (2, 3, 4) for digit in (1, 2, 5))
_LOSS_ENDS = 5  # sizes of the learning curve, each half of the next


@dataclass(frozen=True)
class _Work:
    """Data cut to size, and its kernels."""

    y_train: np.ndarray
    y_test: np.ndarray
    gram: arch.Kernel
    cross: arch.Kernel
    gram_float32: np.ndarray
    num_classes: int
    sizing: str


def chapter(context: Context) -> Chapter:
    """NNGP and NTK regression: accuracy, loss, spectrum, precision."""
    watch = Stopwatch()
    net, data = labeled(context)
    work = _prepare(net, data, context, watch)
    names = {"NNGP": "nngp", "NTK": "ntk"}
    context.say("regressing at every regularizer")
    paths = {
        name: predict.regularizer_curve(
            getattr(work.gram, field), work.y_train, getattr(work.cross, field), test_labels=work.y_test
        )
        for name, field in names.items()
    }
    context.say("regressing on subsets")
    n = len(work.y_train)
    sizes = sorted({min(n, max(data.num_classes, n >> k)) for k in range(_LOSS_ENDS)})
    curves = {
        name: predict.learning_curve(
            getattr(work.gram, field),
            work.y_train,
            getattr(work.cross, field),
            test_labels=work.y_test,
            sizes=sizes,
            reg=paths[name].best[0],
            seed=context.seed,
        )
        for name, field in names.items()
    }
    context.say("eigenvalues and precision")
    precision = kernels.precision_report(work.gram.nngp, "float32", lower=work.gram_float32)
    spectra = {"NNGP": precision.spectrum, "NTK": kernels.spectrum(work.gram.ntk)}
    difference = _difference(work, paths)
    results: dict[str, Result] = {
        **{f"{name} against the regularizer": path for name, path in paths.items()},
        **{f"{name} against the number of samples": curve for name, curve in curves.items()},
        **{f"{name} spectrum": spectral for name, spectral in spectra.items()},
        "float32 precision of the NNGP Gram matrix": precision,
        "NNGP minus NTK": difference,
    }
    return Chapter(
        name="infinite-limit",
        title=TITLE,
        question="What does this network predict when its layers are infinitely wide, and how well conditioned is it?",
        verdict=_verdict(work, paths),
        sentences=_sentences(paths, curves, spectra, precision, difference),
        sizing=work.sizing,
        results=results,
        charts=(
            *predict.regularizer_charts(paths),
            *predict.learning_charts(curves, chance=1 / data.num_classes),
            _spectrum_chart(spectra, precision),
        ),
        tables=(_table(paths, spectra),),
        seconds=watch.seconds,
        budget=context.budget,
    )


def _prepare(net: arch.Layer, data: Dataset, context: Context, watch: Stopwatch) -> _Work:
    """Choose how many examples fit the budget, and compute their kernels."""
    context.say("timing a small sample to size the work")
    n_train, n_test, note = _size(net, data, context, watch)
    part = data.subset(n_train, n_test, seed=context.seed)
    given = (part.x_train, part.x_test)
    x_train, x_test = given if context.system is not None else standardize(*given)
    context.say(f"kernels of {n_train} training and {n_test} test images")
    both: tuple[arch.limit.Get, ...] = ("nngp", "ntk")
    return _Work(
        y_train=part.y_train,
        y_test=part.y_test,
        gram=kernels.gram(net, x_train, get=both),
        cross=kernels.gram(net, x_test, x_train, get=both),
        gram_float32=kernels.gram(net, x_train, get="nngp", dtype="float32"),
        num_classes=data.num_classes,
        sizing=note,
    )


def _size(net: arch.Layer, data: Dataset, context: Context, watch: Stopwatch) -> tuple[int, int, str]:
    """Training and test examples that fit the budget, from the time of two small runs."""
    most_train, n_test = len(data.x_train), min(len(data.x_test), MOST_TEST)
    whole = f"All {most_train:,} training images and {n_test:,} of {len(data.x_test):,} test images were used"
    if context.budget is None:
        return most_train, n_test, f"{whole}, without a limit on time."
    probe = min(_PROBE, most_train)
    _run_probe(net, data, context.seed, probe)  # compiles
    seconds = _run_probe(net, data, context.seed, probe)
    budget = 0.7 * context.budget - watch.seconds  # the rest is for sampling noise of the timing and for drawing
    # A few sizes only, so that runs with the same seed mostly meet the same one.
    sizes = [n for n in _LADDER if n < most_train] + [most_train]
    fitting = [n for n in sizes if _predicted_seconds(n, n_test, probe, seconds) <= budget and _fits(n)]
    n_train = fitting[-1] if fitting else sizes[0]
    if n_train == most_train:
        return n_train, n_test, f"{whole}; that fits the budget of {context.budget:.0f} seconds."
    note = (
        f"To stay within {context.budget:.0f} seconds, {n_train:,} of {most_train:,} training images and "
        f"{n_test:,} of {len(data.x_test):,} test images were drawn at random; --full uses all."
    )
    return n_train, n_test, note


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


def _difference(work: _Work, paths: dict[str, predict.RegularizerCurve]) -> predict.PairedDifference:
    correct = []
    for name, field in (("NNGP", "nngp"), ("NTK", "ntk")):
        targets = predict.one_hot(work.y_train, work.num_classes)
        gp = predict.GP(getattr(work.gram, field), targets, reg=paths[name].best[0])
        correct.append(gp.mean(getattr(work.cross, field)).argmax(axis=1) == work.y_test)
    return predict.paired_difference(*correct)


def _percent(value: float, error: float) -> str:
    return f"{100 * value:.1f} ± {100 * error:.1f}%"


def _verdict(work: _Work, paths: dict[str, predict.RegularizerCurve]) -> str:
    scores = " and ".join(f"{_percent(*path.best[1:])} with the {name}" for name, path in paths.items())
    return (
        f"Trained on {len(work.y_train):,} images, the infinitely wide network classifies {scores} "
        f"of {len(work.y_test):,} test images."
    )


def _sentences(
    paths: dict[str, predict.RegularizerCurve],
    curves: dict[str, predict.LearningCurve],
    spectra: dict[str, kernels.GramSpectrum],
    precision: kernels.PrecisionReport,
    difference: predict.PairedDifference,
) -> tuple[str, ...]:
    conditions = " and ".join(f"{s.condition_number:.1e} ({name})" for name, s in spectra.items())
    return (
        "The kernels are exact: closed forms of the infinite-width limit, evaluated in float64. Accuracies and "
        "losses are estimates from the test images; ± is one standard error.",
        *(_regularizer_sentence(name, path) for name, path in paths.items()),
        _difference_sentence(difference),
        *(_samples_sentence(name, curve) for name, curve in curves.items()),
        f"The Gram matrices have condition numbers {conditions}.",
        _precision_sentence(precision),
    )


def _regularizer_sentence(name: str, path: predict.RegularizerCurve) -> str:
    reg, accuracy, error = path.best
    text = (
        f"{name}: leave-one-out on the training images, which is exact and needs no validation set, chooses a "
        f"regularizer of {reg:.0e} of the mean diagonal. Test accuracy there is {_percent(accuracy, error)}; the "
        f"best anywhere is {100 * path.accuracy.max():.1f}%."
    )
    loss, stderr, loo = (float(values[path.chosen]) for values in (path.mse, path.mse_stderr, path.loo_mse))
    text += f" The squared loss there is {loss:.4f} ± {stderr:.4f} on test images and {loo:.4f} by leave-one-out"
    text += "; the test images are harder than the training images." if loss > loo + 3 * stderr else "."
    if path.dropped:
        text += f" Up to a regularizer of {max(path.dropped):.0e} the matrix is not positive definite in float64."
    return text


def _difference_sentence(difference: predict.PairedDifference) -> str:
    value, error = difference.difference, difference.difference_stderr
    judged = "a clear difference" if abs(value) > 2 * error else "no clear difference"  # two standard errors
    return f"NNGP minus NTK accuracy, on the same test images: {100 * value:+.1f} ± {100 * error:.1f} points, {judged}."


def _samples_sentence(name: str, curve: predict.LearningCurve) -> str:
    first, last = (_percent(curve.accuracy[i], curve.accuracy_stderr[i]) for i in (0, -1))
    return (
        f"{name}: from {curve.sizes[0]:,} to {curve.sizes[-1]:,} training images, test accuracy goes from {first} "
        f"to {last}."
    )


def _precision_sentence(precision: kernels.PrecisionReport) -> str:
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
            f"{precision.critical_size:.1e} ± {precision.critical_size_stderr:.0e} images, an estimate from a "
            "power law fitted to the spectrum."
        )
    return text


def _spectrum_chart(spectra: dict[str, kernels.GramSpectrum], precision: kernels.PrecisionReport) -> Chart:
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


def _table(paths: dict[str, predict.RegularizerCurve], spectra: dict[str, kernels.GramSpectrum]) -> Table:
    rows = []
    for name, path in paths.items():
        i, s = path.chosen, spectra[name]
        loss = f"{path.mse[i]:.4f} ± {path.mse_stderr[i]:.4f}"
        rows.append((name, float(path.reg[i]), _percent(*path.best[1:]), loss, s.condition_number, s.effective_rank))
    return Table(
        name="summary",
        title="The two kernels side by side",
        columns=("kernel", "regularizer", "accuracy", "squared loss", "condition number", "effective rank"),
        rows=tuple(rows),
        caption="At the regularizer that leave-one-out chose; condition number and rank without a regularizer.",
    )
