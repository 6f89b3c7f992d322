"""Liu, Zhu, Belkin (2022): loss landscapes and optimization in over-parameterized non-linear systems.

The paper is theory; what it and its companion on the linearity of large models (arXiv 2010.01092) assert is measured
here on small networks in float64. Certificates are of a tanh layer whose neurons come in pairs with opposite frozen
output weights, so that the network starts at zero.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy import stats

from widescape import arch, data
from widescape.core.progress import track
from widescape.core.random import named_generator, named_key
from widescape.core.result import Result
from widescape.curvature import System, kernel_spectrum, top_eigs
from widescape.landscape import (
    Certificate,
    CertificateCheck,
    RateReport,
    WidthReport,
    certify_pl_star,
    check_certificate,
    compare_gd_rate,
    first_certified_step,
    gradient_descent,
    nonconvexity_probe,
    pl_trajectory,
    width_scaling,
)
from widescape.landscape.first_step import FirstStepStatus
from widescape.studies.study import Study, StudyClaim, claim, claim_of_count

NAME = "liu2020loss"
WIDTHS = (1000, 4000, 20_000, 40_000)
"""Neurons of the networks that are certified where they start."""
WIDE = 20_000
"""The width whose descent is held against its linearization."""

_PROVED = "proved; no number printed"
_COMPANION = "2010.01092: the change falls with the width, with a nonlinear output it does not; no number recovered"
_ROUNDING = 1e-6
_DIGITS, _DIGITS_WIDTH, _DIGITS_STEPS = 60, 4096, 300
_ONE_HIDDEN, _TWO_HIDDEN = (arch.fc(depth, 1, 1, activation=arch.Tanh()) for depth in (1, 2))
_CURVED = arch.Polynomial((0.0, 1.0, 0.5))
_NETWORKS: dict[str, arch.Layer] = {
    "one_hidden_linear": _ONE_HIDDEN,
    "one_hidden_curved": arch.Sequential(_ONE_HIDDEN, _CURVED),
    "two_hidden_linear": _TWO_HIDDEN,
    "two_hidden_curved": arch.Sequential(_TWO_HIDDEN, _CURVED),
}
_ONE, _TWO = list(_NETWORKS)[:2], list(_NETWORKS)[2:]


class _Part(NamedTuple):
    """Some claims, and the measurements behind them."""

    claims: tuple[StudyClaim, ...]
    results: Mapping[str, Result]


def run(
    *,
    seed: int = 0,
    quick: bool = False,
    say: Callable[[str], None] = lambda line: None,
    progress: bool | None = None,
) -> Study:
    """Measure the claims: PL ratios, certificates, predicted rates, transition to linearity, minima, conditioning.

    Args:
        seed: every random draw derives from it; the digits do not.
        quick: fewer draws, three widths of the five, and no networks with two hidden layers.
        say: called with lines of progress.
        progress: show progress bars; None shows them on a terminal.

    Returns:
        a `Study`. Its figures: PL ratio, curvature beside a minimum, h against the width, measured and predicted loss,
        curvature against the width, and the first certified step.

    Cost: about three and a half minutes of one core, of `quick` one.
    """
    key = named_key(jax.random.key(seed), NAME)
    say("small networks: PL ratio, and what their minima look like")
    parts = [_minima(key, 3 if quick else 10, progress)]
    say(f"certificates at {len(WIDTHS)} widths")
    parts.append(_a_priori(key, 4 if quick else 20, progress))
    say("transition to linearity")
    parts.append(_transition(key, quick, progress))
    say("condition numbers of Gaussian Jacobians")
    parts.append(_Part((_gaussian(key, 20, 40, 3.16, 0.15), _gaussian(key, 20, 200, 1.19, 0.06)), {}))
    say(f"the first certified step on {_DIGITS} digits")
    parts.append(_digits(key, progress))
    results = {name: found for part in parts for name, found in part.results.items()}
    figures = ("ratio_0", "beside_0", "h_0", "rates_0", "one_hidden_linear", "one_hidden_curved", "digits")
    return Study(
        name=NAME,
        title="Loss landscapes and optimization in over-parameterized non-linear systems and neural networks",
        citation="Liu, Zhu, Belkin. Applied and Computational Harmonic Analysis 59, 2022, arXiv 2003.00307.",
        claims=tuple(own for part in parts for own in part.claims),
        results=results,
        figures=tuple(name for name in figures if name in results),
        seed=seed,
        quick=quick,
    )


def _on_sphere(generator: np.random.Generator, n: int, d: int, radius: float = 1.0) -> np.ndarray:
    """Points (n, d), uniform on a sphere."""
    x = generator.standard_normal((n, d))
    points: np.ndarray = radius * x / np.linalg.norm(x, axis=1, keepdims=True)
    return points


def _counted(
    name: str, statement: str, held: Sequence[Any] | np.ndarray, words: str, *, published: str, most: bool = False
) -> StudyClaim:
    """A claim that something holds in all trials, or in most; undecided if there are none."""
    number, trials = int(np.sum(held)), len(held)
    return claim_of_count(
        name,
        statement,
        held=number,
        trials=trials or 1,
        needed=trials // 2 + 1 if most else trials or 1,
        undecided=int(trials == 0),
        published=published,
        measured=f"{number} of {trials}; {words}",
    )


# Minima of small networks.


def _minima(key: jax.Array, count: int, progress: bool | None) -> _Part:
    """Networks of 20 tanh units with all parameters trained to zero loss on 3 points."""
    results: dict[str, Result] = {}
    for i in track(range(count), "minima", show=progress):
        generator = named_generator(key, "minimum", i)
        x, y = _on_sphere(generator, 3, 8, 8**0.5), generator.choice([-1.0, 1.0], (3, 1))
        params = _ONE_HIDDEN.init(named_key(key, "minimum", i), (8,), width=20, dtype="float64")
        system = System(_ONE_HIDDEN.apply, params, x, y)
        trained = gradient_descent(system, 0.3, 3000, keep_every=10, progress=False)
        early = trained.snapshot_steps <= 300
        results[f"ratio_{i}"] = pl_trajectory(
            system, trained.snapshots[early], steps=trained.snapshot_steps[early], progress=False
        )
        results[f"hessian_{i}"] = top_eigs(
            partial(system.hvp, w=trained.w), system.num_params, system.num_params, which="LM", vectors=False
        )
        results[f"beside_{i}"] = nonconvexity_probe(
            system, trained.w, key=named_key(key, "directions", i), progress=False
        )
    return _Part((_ratios(results, count), _ranks(results, count), _nonconvex(results, count)), results)


def _ratios(results: Mapping[str, Any], count: int) -> StudyClaim:
    held: list[bool] = []
    for path in (results[f"ratio_{i}"] for i in range(count)):
        seen = path.loss >= 1e-16 * path.loss[0]
        ratio, low, high = (values[seen] for values in (path.ratio, path.lam_min, path.lam_max))
        held += ((ratio >= low * (1 - _ROUNDING)) & (ratio <= high * (1 + _ROUNDING))).tolist()
    return _counted(
        "ratio",
        "The PL ratio lies between the extreme eigenvalues of the tangent kernel all along descent.",
        held,
        f"points of {count} runs, losses down to 1e-16 of the first",
        published=_PROVED,
    )


def _ranks(results: Mapping[str, Any], count: int) -> StudyClaim:
    spectra = [np.abs(results[f"hessian_{i}"].eigs) for i in range(count)]
    worst = max(float(own[3] / own[0]) for own in spectra)
    return claim(
        "rank",
        "At a zero of the loss of 3 examples the Hessian has at most 3 eigenvalues that are not 0.",
        value=worst,
        high=1e-8,
        published=_PROVED,
        measured=f"the fourth of {len(spectra[0])} is at most {worst:.1g} of the first, in {count} networks",
    )


def _nonconvex(results: Mapping[str, Any], count: int) -> StudyClaim:
    probes = [results[f"beside_{i}"] for i in range(count)]
    ranks, least = [int(own.ranks.max()) for own in probes], [own.smallest for own in probes]
    return _counted(
        "nonconvex",
        "Beside a zero of the loss where an output's Hessian has rank above 2N = 6 the loss is not convex.",
        [own.nonconvex and rank > own.needed_rank for own, rank in zip(probes, ranks, strict=True)],
        f"ranks of {min(ranks)} or more, least eigenvalues {min(least):.2g} to {max(least):.2g} within 0.1 of it",
        published=_PROVED,
    )


# Certificates where descent starts.


def _doubled(width: int, x: np.ndarray, y: np.ndarray, key: jax.Array) -> System:
    """The network sum_r a_r tanh(w_r . x) / sqrt(width) with w ~ N(0, 1) and fixed signs, zero at the start."""
    features = x.shape[1]
    net = arch.Sequential(arch.Dense(1, features**0.5), arch.Tanh(), arch.Frozen(arch.Dense(1)))
    first, _, last = net.init(key, (features,), width=width // 2, dtype="float64")
    half, signs = np.asarray(first["w"]), np.sign(np.asarray(last["w"]))
    params = ({"w": np.concatenate([half, half], axis=1)}, (), {"w": np.concatenate([signs, -signs])})
    return System(net.apply, params, x, y)


def _a_priori(key: jax.Array, draws: int, progress: bool | None) -> _Part:
    """4 points of the unit sphere in 20 dimensions with targets +1 and -1, at four widths."""
    scaled: list[WidthReport] = []
    certificates: dict[str, Certificate] = {}
    checked: dict[str, CertificateCheck] = {}
    rates: dict[str, RateReport] = {}
    for i in track(range(draws), "certificates", show=progress):
        generator = named_generator(key, "certificate", i)
        x, y = _on_sphere(generator, 4, 20), generator.choice([-1.0, 1.0], (4, 1))
        make = _maker(x, y, named_key(key, "certificate", i))
        scaled.append(width_scaling(make, WIDTHS, seeds=1, metrics=("h",), progress=False))
        for width in np.asarray(WIDTHS)[scaled[-1].median("h") <= 1].tolist():
            name, system = f"{width}_{i}", make(width, key)
            own = certificates[f"certificate_{name}"] = certify_pl_star(system)
            checked[f"check_{name}"] = check_certificate(system, own, 150, looks=10, progress=False)
            if width == WIDE:
                rates[f"rates_{i}"] = compare_gd_rate(system, own.lr_max, 300, certificate=own, progress=False)
    claims = (*_certified(scaled), _obeyed(certificates, checked), *_predicted(list(rates.values())))
    powers = {f"h_{i}": own for i, own in enumerate(scaled)}
    return _Part(claims, {**powers, **certificates, **checked, **rates})


def _maker(x: np.ndarray, y: np.ndarray, key: jax.Array) -> Callable[[int, jax.Array], System]:
    """A network for each width on the same data, the same one each time."""
    return lambda width, _: _doubled(width, x, y, named_key(key, width))


def _certified(scaled: list[WidthReport]) -> tuple[StudyClaim, ...]:
    h = np.stack([own.median("h") for own in scaled])
    powers = np.array([own.slope("h")[0] for own in scaled])
    middle = ", ".join(f"{own:.2g} at {width:,}" for own, width in zip(np.median(h, axis=0), WIDTHS, strict=True))
    wide, narrow = (h[:, WIDTHS.index(width)] for width in (WIDE, 1000))
    return (
        _counted(
            "certified_20000",
            "Networks of 20,000 neurons are certified to reach zero loss from where they start, in most draws.",
            wide <= 1,
            f"median h {middle}",
            published="proved for widths that are large enough; no number printed",
            most=True,
        ),
        _counted(
            "uncertified_1000",
            "Networks of 1,000 neurons are not certified.",
            narrow > 1,
            f"h from {narrow.min():.2f} to {narrow.max():.2f}",
            published="the theorem asks for width; no number printed",
        ),
        _counted(
            "h_slope",
            "The distance h from linearity falls as width^-1/2, to 0.05 in the power, on each draw of the data.",
            np.abs(powers + 0.5) <= 0.05,
            f"powers {powers.min():.3f} to {powers.max():.3f}",
            published="the Hessian falls as width^-1/2; no number printed",
        ),
    )


def _obeyed(certificates: Mapping[str, Certificate], checked: Mapping[str, CertificateCheck]) -> StudyClaim:
    pairs = zip(certificates.values(), checked.values(), strict=True)
    share = max((own.max_distance / own.radius for own in checked.values()), default=math.nan)
    return _counted(
        "obeys",
        "Descent at the largest certified rate obeys the promised loss, ball and smallest eigenvalue at every look.",
        [own.rigorous and check.holds for own, check in pairs],
        f"certified runs, farthest at {share:.2f} of the radius",
        published=_PROVED,
    )


def _predicted(rates: list[RateReport]) -> tuple[StudyClaim, ...]:
    errors = [own.curve_error for own in rates if own.curve_error is not None]
    factors = [
        abs(own.measured / own.linearized - 1)
        for own in rates
        if own.measured is not None and own.linearized is not None
    ]
    lost = len(errors) < len(rates) or len(factors) < len(rates) or not rates
    error, factor = (None, None) if lost else (max(errors), max(factors))
    published = "the kernel stays nearly constant; no number printed"
    return (
        claim(
            "linearized",
            "At width 20,000 the linearized curve predicts the loss of descent to 5%, down to 1e-16 of the first.",
            value=error,
            high=0.05,
            published=published,
            measured="nothing" if lost else f"largest relative error {error:.2g} of {len(rates)} certified runs",
        ),
        claim(
            "rate",
            "There the fitted factor of the loss per step is that of the linearized curve to 1%.",
            value=factor,
            high=0.01,
            published=published,
            measured="nothing" if lost else f"largest relative difference {factor:.2g} of {len(rates)} runs",
        ),
    )


# Transition to linearity.


def _transition(key: jax.Array, quick: bool, progress: bool | None) -> _Part:
    """Networks of tanh units with all layers trained, with a linear output and with z + z^2 / 2."""
    widths, draws = ((128, 512, 2048), 5) if quick else ((128, 256, 512, 1024, 2048), 10)
    reports = {
        name: width_scaling(
            _network_maker(_NETWORKS[name]),
            widths,
            seeds=draws,
            metrics=("hessian_norm", "gradient_norm", "trained_kernel_change"),
            train=(0.05, 1000),
            key=named_key(key, "transition", name),
            progress=progress,
        )
        for name in _ONE
    }
    for name in [] if quick else _TWO:
        reports[name] = width_scaling(
            _network_maker(_NETWORKS[name]),
            (32, 64, 128, 256),
            seeds=draws,
            metrics=("hessian_norm",),
            key=named_key(key, "transition", name),
            progress=progress,
        )
    trained = _trained(key, 3 if quick else 10)
    return _Part((*_curvature(reports), _gradient(reports), *_kernels(reports), trained), reports)


def _network_maker(net: arch.Layer) -> Callable[[int, jax.Array], System]:
    """Networks on 5 inputs of length sqrt(10) in 10 dimensions, with targets between 0 and 1."""

    def make(width: int, key: jax.Array) -> System:
        generator = named_generator(key, "data")
        x, y = _on_sphere(generator, 5, 10, 10**0.5), generator.uniform(0, 1, (5, 1))
        return System(net.apply, net.init(named_key(key, "network"), (10,), width=width, dtype="float64"), x, y)

    return make


def _curvature(reports: Mapping[str, WidthReport]) -> tuple[StudyClaim, ...]:
    accepted = {
        "one_hidden_linear": (-0.6, -0.3),
        "one_hidden_curved": (-0.08, 0.08),
        "two_hidden_linear": (-0.6, -0.33),
        "two_hidden_curved": (-0.1, 0.1),
    }
    words = {
        "linear": "falls about as width^-1/2 with a linear output",
        "curved": "does not fall with the output z + z^2/2",
        "one_hidden": "one hidden layer",
        "two_hidden": "two hidden layers",
    }
    claims = []
    for name, (low, high) in accepted.items():
        layers, output = name.rsplit("_", 1)
        slope, error = reports[name].slope("hessian_norm") if name in reports else (None, None)
        claims.append(
            claim(
                f"hessian_{name}",
                f"The Hessian norm of a network with {words[layers]} {words[output]}.",
                value=slope,
                low=low,
                high=high,
                published="width^-1/2 up to logarithms" if output == "linear" else "no fall; no number printed",
                measured="nothing; not in the quick study" if slope is None else f"power {slope:.3f} ± {error:.3f}",
            )
        )
    return tuple(claims)


def _gradient(reports: Mapping[str, WidthReport]) -> StudyClaim:
    medians = reports["one_hidden_linear"].median("gradient_norm")
    return claim(
        "gradient",
        "The gradient of a linear output neither grows nor falls: its median norm varies by less than 10%.",
        value=float(medians.max() / medians.min()),
        high=1.1,
        published="of order 1; no number printed",
        measured=f"{medians.min():.3f} to {medians.max():.3f} over the widths",
    )


def _kernels(reports: Mapping[str, WidthReport]) -> tuple[StudyClaim, ...]:
    linear, curved = (reports[name].slope("trained_kernel_change") for name in _ONE)
    moved = [reports[name].median("trained_kernel_change")[-1] for name in _ONE]
    return (
        claim(
            "kernel_linear",
            "With a linear output training changes the tangent kernel the less the wider: at least as width^-1/2.",
            value=linear[0],
            stderr=linear[1],
            high=-0.5,
            published=_COMPANION,
            measured=f"power {linear[0]:.2f} ± {linear[1]:.2f}; changed by {moved[0]:.1g} of it at the widest",
        ),
        claim(
            "kernel_curved",
            "With the output z + z^2/2 training changes the tangent kernel at every width alike.",
            value=curved[0],
            stderr=curved[1],
            low=-0.4,
            high=0.4,
            published=_COMPANION,
            measured=f"power {curved[0]:.2f} ± {curved[1]:.2f}; changed by {moved[1]:.2g} of it at the widest",
        ),
    )


def _trained(key: jax.Array, draws: int) -> StudyClaim:
    falls = []
    for name in _ONE:
        for i in range(draws):
            system = _network_maker(_NETWORKS[name])(2048, named_key(key, "trained", name, i))
            loss = gradient_descent(system, 0.05, 1000, progress=False).loss
            falls.append(float(loss[-1] / loss[0]))
    return _counted(
        "both_train",
        "Networks with either output are trained to 1e-6 of their loss by 1,000 steps at width 2048.",
        [fall <= 1e-6 for fall in falls],
        f"losses fall to {max(falls):.1g} or less",
        published="both train (2010.01092); no number recovered",
    )


# Condition numbers, and real data.


def _linear(w: Any, x: Any) -> jax.Array:
    product: jax.Array = x @ w
    return product


def _gaussian(key: jax.Array, n: int, m: int, mean: float, tolerance: float) -> StudyClaim:
    generator = named_generator(key, "Gaussian", m)
    logs = [
        math.log(kernel_spectrum(System(_linear, np.zeros(m), generator.standard_normal((n, m)))).kappa)
        for _ in range(300)
    ]
    bound = 2 * math.log(m / (m - n + 1)) + 5
    return claim(
        f"gaussian_{m}",
        f"The mean log condition number of the kernel of a Gaussian Jacobian, {n} by {m}, is {mean}, below "
        f"the bound {bound:.2f}.",
        value=float(np.mean(logs)),
        stderr=float(stats.sem(logs)),
        low=mean - tolerance,
        high=mean + tolerance,
        published=f"below 2 log(m/(m-n+1)) + 5 = {bound:.2f}",
    )


def _digits(key: jax.Array, progress: bool | None) -> _Part:
    """Even against odd digits, centered, of unit length, one wide tanh layer with its output frozen."""
    found = data.load("digits").subset(_DIGITS, 1)
    x = found.x_train.reshape(_DIGITS, -1)
    x = x - x.mean(axis=0, keepdims=True)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    y = np.where(found.y_train % 2 == 0, 1.0, -1.0)[:, None]
    system = _doubled(_DIGITS_WIDTH, x, y, named_key(key, "digits"))
    lr = 0.8 / kernel_spectrum(system).lam_max
    trained = gradient_descent(system, lr, _DIGITS_STEPS, keep_every=10, progress=progress)
    first = first_certified_step(system, trained, progress=progress)
    results: dict[str, Result] = {"digits": first}
    kept = []
    if first.step is not None:
        at = trained.snapshots[trained.snapshot_steps.tolist().index(first.step)]
        check = check_certificate(system, first.certificate, 400, params=at, looks=5, progress=progress)
        results["digits_check"] = check
        kept = [first.status is FirstStepStatus.OK, check.holds]
    started = claim(
        "digits",
        f"On {_DIGITS} digits a network of {_DIGITS_WIDTH} neurons is not certified where it starts, and is after at "
        f"most {_DIGITS_STEPS} steps.",
        value=math.inf if first.step is None else first.step,
        low=1,
        high=_DIGITS_STEPS,
        published="no experiment on data",
        measured=f"h {first.h[0]:.3g} at the start, "
        + (
            f"{first.h[-1]:.3g} after {_DIGITS_STEPS} steps"
            if first.step is None
            else f"1 or less at step {first.step}, at {first.loss_share:.1g} of the first loss"
        ),
    )
    obeyed = _counted(
        "digits_obey",
        "From the certified step on, the rest of the run and 400 steps at the certified rate obey the certificate.",
        kept,
        "the rest of the run, and the steps at the certified rate",
        published=_PROVED,
    )
    return _Part((started, obeyed), results)
