"""Chapter: the network at infinite width, as NNGP and NTK regression."""

from widescape import kernels, predict
from widescape.core.result import Result
from widescape.core.table import Table
from widescape.survey.chapter import Chapter, Context, Stopwatch, network_and_data
from widescape.survey.infinite_regression import regression_chapter
from widescape.survey.limit_kernels import Work, percent, precision_sentence, prepare, spectrum_chart

TITLE = "The infinite-width limit"
_LOSS_ENDS = 5  # sizes of the learning curve, each half of the next


def chapter(context: Context) -> Chapter:
    """NNGP and NTK regression: accuracy or explained variance, loss, spectrum, precision."""
    watch = Stopwatch()
    net, data = network_and_data(context)
    if data.num_classes is None:
        return regression_chapter(net, data, context, TITLE)
    work = prepare(net, data, context, watch)
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
    difference = _difference(work, paths, data.num_classes)
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
            spectrum_chart(spectra, precision),
        ),
        tables=(_table(paths, spectra),),
        seconds=watch.seconds,
        budget=context.budget,
    )


def _difference(work: Work, paths: dict[str, predict.RegularizerCurve], num_classes: int) -> predict.PairedDifference:
    correct = []
    for name, field in (("NNGP", "nngp"), ("NTK", "ntk")):
        targets = predict.one_hot(work.y_train, num_classes)
        gp = predict.GP(getattr(work.gram, field), targets, reg=paths[name].best[0])
        correct.append(gp.mean(getattr(work.cross, field)).argmax(axis=1) == work.y_test)
    return predict.paired_difference(*correct)


def _verdict(work: Work, paths: dict[str, predict.RegularizerCurve]) -> str:
    scores = " and ".join(f"{percent(*path.best[1:])} with the {name}" for name, path in paths.items())
    return (
        f"Trained on {len(work.y_train):,} examples, the infinitely wide network classifies {scores} "
        f"of {len(work.y_test):,} test examples."
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
        "losses are estimates from the test examples; ± is one standard error.",
        *(_regularizer_sentence(name, path) for name, path in paths.items()),
        _difference_sentence(difference),
        *(_samples_sentence(name, curve) for name, curve in curves.items()),
        f"The Gram matrices have condition numbers {conditions}.",
        precision_sentence(precision),
    )


def _regularizer_sentence(name: str, path: predict.RegularizerCurve) -> str:
    reg, accuracy, error = path.best
    text = (
        f"{name}: leave-one-out on the training examples, which is exact and needs no validation set, chooses a "
        f"regularizer of {reg:.0e} of the mean diagonal. Test accuracy there is {percent(accuracy, error)}; the "
        f"best anywhere is {100 * path.accuracy.max():.1f}%."
    )
    loss, stderr, loo = (float(values[path.chosen]) for values in (path.mse, path.mse_stderr, path.loo_mse))
    text += f" The squared loss there is {loss:.4f} ± {stderr:.4f} on test examples and {loo:.4f} by leave-one-out"
    text += "; the first is larger by more than three of its standard errors." if loss > loo + 3 * stderr else "."
    if path.dropped:
        text += f" Up to a regularizer of {max(path.dropped):.0e} the matrix is not positive definite in float64."
    return text


def _difference_sentence(difference: predict.PairedDifference) -> str:
    value, error = difference.difference, difference.difference_stderr
    judged = "a clear difference" if abs(value) > 2 * error else "no clear difference"  # two standard errors
    return (
        f"NNGP minus NTK accuracy, on the same test examples: {100 * value:+.1f} ± {100 * error:.1f} points, {judged}."
    )


def _samples_sentence(name: str, curve: predict.LearningCurve) -> str:
    first, last = (percent(curve.accuracy[i], curve.accuracy_stderr[i]) for i in (0, -1))
    return (
        f"{name}: from {curve.sizes[0]:,} to {curve.sizes[-1]:,} training examples, test accuracy goes from {first} "
        f"to {last}."
    )


def _table(paths: dict[str, predict.RegularizerCurve], spectra: dict[str, kernels.GramSpectrum]) -> Table:
    rows = []
    for name, path in paths.items():
        i, s = path.chosen, spectra[name]
        loss = f"{path.mse[i]:.4f} ± {path.mse_stderr[i]:.4f}"
        rows.append((name, float(path.reg[i]), percent(*path.best[1:]), loss, s.condition_number, s.effective_rank))
    return Table(
        name="summary",
        title="The two kernels side by side",
        columns=("kernel", "regularizer", "accuracy", "squared loss", "condition number", "effective rank"),
        rows=tuple(rows),
        caption="At the regularizer that leave-one-out chose; condition number and rank without a regularizer.",
    )
