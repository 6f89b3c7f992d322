"""Chapter: the loss around a training run: what is certified about it, how sharp it is, what it looks like."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import numpy as np

from widescape import landscape, predict
from widescape.core.errors import NonSmoothWarning, NotCertifiable, UnderparameterizedWarning
from widescape.core.random import named_key
from widescape.core.result import Result
from widescape.core.table import Table
from widescape.curvature import KernelSpectrum, SpectrumStatus, System, kernel_spectrum
from widescape.data import standardize
from widescape.survey.chapter import Chapter, Context, LeftOutError, Stopwatch, network_and_data, pairs_of_positions

TITLE = "The loss landscape around a training run"
_OUTPUTS = 600  # residuals whose tangent kernel is decomposed; of examples times outputs
_IMAGE_OUTPUTS, _IMAGE_WIDTH = 200, 8
_SHARE = 0.45  # of the budget for descent; the rest is for what is measured about it
_MOST_STEPS = 400
_FULL_STEPS = 5000
_KEPT = 20  # points of the run that are kept
_LOOKS = 4  # of these, at which kernel and Hessian are decomposed
_GRID = 21
_FULL_GRID = 51


@dataclass(frozen=True)
class _Work:
    """A run and what was measured about it."""

    system: System
    run: landscape.Descent
    spectrum: KernelSpectrum
    ratio: landscape.PLTrajectory
    certificate: landscape.FirstCertifiedStep | None
    refusal: str
    surface: landscape.LossSurface
    line: landscape.MLIReport
    sizing: str

    @property
    def threshold(self) -> float:
        return landscape.stability_threshold(self.run.lr)


def chapter(context: Context) -> Chapter:
    """Gradient descent on some of the examples, and the landscape along it."""
    watch = Stopwatch()
    system, sizing = _subject(context)
    with warnings.catch_warnings():  # the sentences say it
        warnings.simplefilter("ignore", NonSmoothWarning)
        warnings.simplefilter("ignore", UnderparameterizedWarning)
        work = _measured(context, system, sizing, watch)
    results: dict[str, Result] = {
        "tangent kernel before training": work.spectrum,
        "descent": work.run,
        "PL ratio": work.ratio,
        "loss over the plane of the run": work.surface,
        "line from start to end": work.line,
    }
    if work.certificate is not None:
        results["certificate"] = work.certificate
    return Chapter(
        name="loss-landscape",
        title=TITLE,
        question="Is gradient descent guaranteed to fit this, how fast, and what does the loss look like around it?",
        verdict=_verdict(work),
        sentences=_sentences(work),
        sizing=work.sizing,
        results=results,
        charts=(
            *work.surface.charts(),
            *work.ratio.charts(),
            *(work.certificate.charts() if work.certificate is not None else ()),
            *work.line.charts(),
        ),
        tables=(_table(work),),
        seconds=watch.seconds,
        budget=context.budget,
    )


def _subject(context: Context) -> tuple[System, str]:
    """The user's system, or the network with random parameters on labeled data, on few examples.

    Networks on images are narrowed, since every position costs as much as an example.
    """
    outputs, narrowed = _OUTPUTS, ""
    if context.system is not None:
        whole = context.system
    else:
        net, data = network_and_data(context)
        if context.budget is not None and pairs_of_positions(net, data) > 1:
            net, outputs, narrowed = net.with_hidden_width(_IMAGE_WIDTH), _IMAGE_OUTPUTS, f", width {_IMAGE_WIDTH}"
        x, _ = standardize(data.x_train, data.x_test, per="auto")
        key = named_key(jax.random.key(context.seed), "network of the loss landscape")
        params = net.init(key, x.shape[1:], dtype="float64")
        targets = predict.one_hot(data.y_train, data.class_count)
        whole = System(net.apply, params, x, targets, reduction="mean")
    n = whole.num_examples
    count = min(n, max(2, outputs // whole.num_outputs) * (1 if context.budget is not None else 4))
    order = np.sort(np.random.default_rng((context.seed, 2)).permutation(n)[:count])
    part = whole.on(jax.tree.map(lambda leaf: leaf[order], whole.x), np.asarray(whole.y)[order])
    text = f"Measured on {count:,} of {n:,} training examples ({part.num_residuals:,} outputs){narrowed}"
    return part.as_float64(), text


def _measured(context: Context, system: System, sizing: str, watch: Stopwatch) -> _Work:
    context.say("the tangent kernel and its eigenvalues")
    spectrum = kernel_spectrum(system, method="dense", progress=False)
    if spectrum.lam_max <= 0:
        raise LeftOutError("it follows gradient descent, and the outputs do not depend on the parameters.")
    sharpest = spectrum.lam_max * float(system.output_curvature().max())
    rate = 1 / sharpest if sharpest > 0 else 1 / spectrum.lam_max
    steps = _affordable(context, system, rate, watch)
    context.say(f"{steps:,} steps of gradient descent")
    run = landscape.gradient_descent(system, rate, steps, keep_every=max(1, steps // _KEPT), progress=False)
    if not run.status.ok:
        raise LeftOutError(f"it follows gradient descent at a rate of {rate:.3g}, and the loss diverged.")
    points, at = run.snapshots, run.snapshot_steps
    looks = np.unique(np.linspace(0, len(points) - 1, _LOOKS).astype(int))
    context.say("PL ratio, kernel and sharpness along the run")
    ratio = landscape.pl_trajectory(system, points[looks], steps=at[looks], progress=False)
    context.say("certificates")
    certificate, refusal = _certified(system, points, at)
    context.say("the loss over a plane")
    plane = landscape.trajectory_directions(points)
    surface = _surface(context, system, run, plane)
    line = landscape.mli_report(*landscape.interpolate(system, points[0], points[-1], progress=False))
    budget = "" if context.budget is None else "; --full takes more examples and steps, and a finer picture"
    return _Work(
        system=system,
        run=run,
        spectrum=spectrum,
        ratio=ratio,
        certificate=certificate,
        refusal=refusal,
        surface=surface,
        line=line,
        sizing=f"{sizing}, over {steps:,} steps of gradient descent{budget}.",
    )


def _affordable(context: Context, system: System, rate: float, watch: Stopwatch) -> int:
    """Steps that fit into a share of the budget."""
    if context.budget is None:
        return _FULL_STEPS
    for count in (1, 3):  # the first compiles
        start = watch.seconds
        landscape.gradient_descent(system, rate, count, keep_every=count, progress=False)
        seconds = (watch.seconds - start) / count
    room = max(_SHARE * context.budget - watch.seconds, 0.1 * _SHARE * context.budget)
    return int(np.clip(room / max(seconds, 1e-9) // _KEPT * _KEPT, _KEPT, _MOST_STEPS))


def _certified(
    system: System, points: np.ndarray, steps: np.ndarray
) -> tuple[landscape.FirstCertifiedStep | None, str]:
    """Certificates of start, middle and end, and if one of them is one, of all points; or why none can exist."""
    ends = np.unique([0, len(points) // 2, len(points) - 1])
    try:
        found = landscape.first_certified_step(system, points[ends], steps=steps[ends], progress=False)
        if found.step is not None:
            found = landscape.first_certified_step(system, points, steps=steps, progress=False)
    except NotCertifiable as reason:
        return None, str(reason)
    return found, ""


def _surface(
    context: Context, system: System, run: landscape.Descent, plane: landscape.TrajectoryDirections
) -> landscape.LossSurface:
    """The loss over the plane in which the run moves most, with some room around it."""
    path = landscape.project_trajectory(run, *plane.directions).coordinates
    low, high = path.min(axis=0), path.max(axis=0)
    room = 0.35 * max(float((high - low).max()), 1e-12)
    count = _FULL_GRID if context.budget is None else _GRID
    xs, ys = (np.linspace(low[i] - room, high[i] + room, count) for i in (0, 1))
    first, second = plane.directions
    return landscape.surface_2d(
        system,
        run.w,
        first,
        second,
        xs,
        ys,
        trajectory=run,
        note="The plane of the two principal directions of the run, about its end",
        progress=False,
    )


def _verdict(work: _Work) -> str:
    found = work.certificate
    fall = f"the loss fell from {work.run.loss[0]:.3g} to {work.run.loss[-1]:.3g} in {len(work.run.loss) - 1:,} steps"
    if found is None:
        return f"No certificate was made here, for the reason below; {fall}."
    if found.step is None:
        return (
            f"Convergence is not guaranteed at any step that was looked at (h is {found.h.min():.2g}, and must be at "
            f"most 1), although {fall}."
        )
    return f"From step {found.step:,} on, convergence to zero loss is {_strength(found)}; {fall}."


def _strength(found: landscape.FirstCertifiedStep) -> str:
    return "guaranteed" if found.certificate.rigorous else "guaranteed as far as the sampled curvature is the true one"


def _sentences(work: _Work) -> tuple[str, ...]:
    spectrum, ratio, line, surface = work.spectrum, work.ratio, work.line, work.surface
    conditioned = "is zero up to rounding"
    if not spectrum.certified:
        conditioned = f"is {spectrum.lam_min:.3g}, not certified, since the function computes in lower precision inside"
    elif spectrum.lam_min_lower:
        conditioned = f"is certified to be at least {spectrum.lam_min_lower:.3g}"
    elif spectrum.status is SpectrumStatus.RANK:
        conditioned = "is zero, for there are more outputs than parameters"
    lines = [
        f"Before training the largest eigenvalue of the tangent kernel ({spectrum.order:,} outputs, "
        f"{spectrum.num_params:,} parameters) is {spectrum.lam_max:.4g}; the smallest {conditioned}.",
        *_certificate_sentences(work),
        *_ratio_sentences(ratio),
        _sharpness_sentence(work),
        "On the straight line from the first parameters to the last the loss "
        + (
            f"falls all the way, as seen at {len(line.losses)} points."
            if line.monotonic
            else f"rises once or more, by up to {line.delta:.2g} above its least value before."
        ),
    ]
    if surface.explained is not None:
        lines.append(
            f"The plane of the picture holds {100 * surface.explained:.1f}% of the run's squared distances from its "
            "end; the rest of the landscape is not in it."
        )
    return tuple(lines)


def _certificate_sentences(work: _Work) -> tuple[str, ...]:
    found = work.certificate
    if found is None:
        return (f"No certificate: {work.refusal}",)
    bound = (
        "a proved bound of the curvature (norm propagation)"
        if found.certificate.rigorous
        else "the curvature that a search found, which proves nothing"
    )
    shown = np.unique([0, len(found.h) // 2, len(found.h) - 1])
    trail = ", ".join(f"{found.h[i]:.2g} at step {found.steps[i]:,}" for i in shown)
    first = (
        f"h = residual times curvature over what the kernel allows, with {bound}: {trail}. Descent is certified where "
        "h is at most 1."
    )
    if found.step is None:
        return (
            first,
            "That the bound does not certify the run does not mean that it fails. Bounds by norm propagation hold well "
            "for one hidden layer, tolerably for two, and in name only beyond; more width and a smaller residual help.",
        )
    certificate = found.certificate
    return (
        first,
        f"From step {found.step:,} the parameters stay within {certificate.radius:.3g} of where they are, and the loss "
        f"falls at least by the factor {certificate.rate:.6f} a step at the learning rate {certificate.lr_max:.3g}. "
        f"It is the last leg that is certified: the loss there is {found.loss_share:.1e} of the first.",
    )


def _ratio_sentences(ratio: landscape.PLTrajectory) -> tuple[str, ...]:
    if ratio.mu_traj is None:
        return ()
    finite = ratio.ratio[np.isfinite(ratio.ratio)]
    return (
        f"Along the run half the squared gradient is between {finite.min():.3g} and {finite.max():.3g} times the loss "
        "(the PL ratio); its least value bounds the PL* constant of any set that holds the run from above.",
    )


def _sharpness_sentence(work: _Work) -> str:
    if work.ratio.sharpness is None:  # it was asked for
        raise ValueError("the run has no sharpness.")
    first, last = work.ratio.sharpness[0], work.ratio.sharpness[-1]
    share = last / work.threshold
    stands = "beyond" if share > 1.02 else "at" if share > 0.9 else "below"
    return (
        f"The sharpness (largest eigenvalue of the Hessian of the loss, from below) goes from {first:.4g} to "
        f"{last:.4g}, {100 * share:.0f}% of 2 / learning rate = {work.threshold:.4g}: {stands} the edge of stability."
    )


def _table(work: _Work) -> Table:
    ratio = work.ratio
    columns: Mapping[str, np.ndarray | None] = {
        "loss": ratio.loss,
        "PL ratio": ratio.ratio,
        "smallest kernel eigenvalue": ratio.lam_min,
        "largest": ratio.lam_max,
        "sharpness": ratio.sharpness,
        "distance": ratio.distance,
    }
    kept = {name: values for name, values in columns.items() if values is not None}
    rows = [
        (int(step), *(float(values[i]) if np.isfinite(values[i]) else None for values in kept.values()))
        for i, step in enumerate(ratio.steps)
    ]
    return Table(
        name="along-the-run",
        title="Along the run",
        columns=("step", *kept),
        rows=tuple(rows),
        caption="Eigenvalues of the tangent kernel to rounding; the sharpness is a Ritz value, from below. A smallest "
        "eigenvalue below 1e-12 of the largest is rounding.",
    )
