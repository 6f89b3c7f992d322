"""The chapter about the limit for targets that are numbers: how much of their variance the kernels explain."""

import numpy as np

from widescape import arch, kernels, predict
from widescape.core.chart import Chart, Marker, Series
from widescape.core.result import Result
from widescape.core.table import Table
from widescape.data import Dataset
from widescape.survey.chapter import Chapter, Context, LeftOutError, Stopwatch
from widescape.survey.limit_kernels import Work, precision_sentence, prepare, spectrum_chart

_FIELDS = {"NNGP": "nngp", "NTK": "ntk"}


def regression_chapter(net: arch.Layer, data: Dataset, context: Context, title: str) -> Chapter:
    """NNGP and NTK regression on numbers: loss, explained variance, spectrum, precision."""
    watch = Stopwatch()
    work = prepare(net, data, context, watch)
    y_train, y_test = (y if y.ndim == 2 else y[:, None] for y in (work.y_train, work.y_test))
    if len(y_test) < 3 or (np.ptp(y_test, axis=0) == 0).any():
        raise LeftOutError("it needs at least three test examples whose targets differ.")
    mean = y_train.mean(axis=0)
    context.say("searching for the regularizer")
    chosen = {
        name: predict.loo_regularizer(getattr(work.gram, field), y_train - mean) for name, field in _FIELDS.items()
    }
    scores = {}
    for name, field in _FIELDS.items():
        gp = predict.GP(getattr(work.gram, field), y_train - mean, reg=chosen[name].reg)
        scores[name] = predict.regression_score(gp.mean(getattr(work.cross, field)) + mean, y_test)
    context.say("eigenvalues and precision")
    precision = kernels.precision_report(work.gram.nngp, "float32", lower=work.gram_float32)
    spectra = {"NNGP": precision.spectrum, "NTK": kernels.spectrum(work.gram.ntk)}
    results: dict[str, Result] = {
        **{f"{name} score": score for name, score in scores.items()},
        **{f"{name} against the regularizer": own for name, own in chosen.items()},
        **{f"{name} spectrum": spectral for name, spectral in spectra.items()},
        "float32 precision of the NNGP Gram matrix": precision,
    }
    return Chapter(
        name="infinite-limit",
        title=title,
        question="What does this network predict when its layers are infinitely wide, and how well conditioned is it?",
        verdict=_verdict(work, scores),
        sentences=_sentences(chosen, scores, spectra, precision),
        sizing=work.sizing,
        results=results,
        charts=(_loss_chart(chosen), spectrum_chart(spectra, precision)),
        tables=(_table(chosen, scores, spectra),),
        seconds=watch.seconds,
        budget=context.budget,
    )


def _share(score: predict.RegressionScore) -> str:
    return f"{100 * score.r2:.0f} ± {100 * score.r2_stderr:.0f}%"


def _verdict(work: Work, scores: dict[str, predict.RegressionScore]) -> str:
    shares = " and ".join(f"{_share(score)} with the {name}" for name, score in scores.items())
    start = f"Trained on {len(work.y_train):,} examples, the infinitely wide network"
    if max(score.r2 for score in scores.values()) <= 0:
        return (
            f"{start} predicts {len(work.y_test):,} test targets no better than their mean would: the share of "
            f"variance that it explains is {shares}."
        )
    return f"{start} explains {shares} of the variance of {len(work.y_test):,} test targets."


def _sentences(
    chosen: dict[str, predict.LooRegularizer],
    scores: dict[str, predict.RegressionScore],
    spectra: dict[str, kernels.GramSpectrum],
    precision: kernels.PrecisionReport,
) -> tuple[str, ...]:
    conditions = " and ".join(f"{s.condition_number:.1e} ({name})" for name, s in spectra.items())
    return (
        "The kernels are exact: closed forms of the infinite-width limit, evaluated in float64. Shares of variance are "
        "estimates from the test examples; ± is one standard error.",
        *(
            f"{name}: leave-one-out on the training examples, exact up to their mean and without a validation set, "
            f"chooses a regularizer of {own.reg:.1e} of the mean diagonal"
            + (", at the end of the range that was searched" if own.at_bound else "")
            + f". The squared loss there is {own.mse:.4g} by leave-one-out and {scores[name].mse:.4g} ± "
            f"{scores[name].mse_stderr:.2g} on test examples."
            for name, own in chosen.items()
        ),
        f"The Gram matrices have condition numbers {conditions}.",
        precision_sentence(precision),
    )


def _loss_chart(chosen: dict[str, predict.LooRegularizer]) -> Chart:
    return Chart(
        name="loss-regularizer",
        title="Leave-one-out loss against the regularizer",
        x_label="regularizer / mean of the kernel's diagonal",
        y_label="mean squared error",
        series=tuple(Series(own.regs, own.mses, name) for name, own in chosen.items()),
        x_scale="log",
        y_scale="log",
        markers=tuple(Marker(own.reg, f"chosen, {name}", "x") for name, own in chosen.items()),
        caption="Exact, from the training examples alone.",
    )


def _table(
    chosen: dict[str, predict.LooRegularizer],
    scores: dict[str, predict.RegressionScore],
    spectra: dict[str, kernels.GramSpectrum],
) -> Table:
    rows = tuple(
        (name, own.reg, _share(scores[name]), float(np.sqrt(scores[name].mse)), spectra[name].condition_number)
        for name, own in chosen.items()
    )
    return Table(
        name="summary",
        title="The two kernels side by side",
        columns=("kernel", "regularizer", "explained variance", "root mean square error", "condition number"),
        rows=rows,
        caption="At the regularizer that leave-one-out chose; the condition number without a regularizer.",
    )
