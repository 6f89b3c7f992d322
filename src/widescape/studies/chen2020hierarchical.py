"""Chen, Bai, Lee, Zhao, Wang, Xiong, Socher (2020): hierarchical learning with fixed neural representations.

How many examples a polynomial of one direction takes, with and without a random, whitened layer below a linear or a
quadratic Taylor model. The paper is theoretical, and its text was not at hand beyond its abstract and a page by its
authors: published here are rates, as the dimension grows. Limits on the curves are this library's own, from runs of a
prototype on other seeds. Features are squares, which span degree 2 and nothing else; the step of the paper's analysis
is measured beside them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import numpy as np

from widescape import features
from widescape.core.blas import serial_blas
from widescape.core.random import named_generator, named_key
from widescape.core.result import Result
from widescape.features import (
    ConvexQuadratic,
    DegreeEnergies,
    LowRankPolynomial,
    QuadraticFit,
    SampleComplexity,
    SampleExponent,
    SecondOrderCertificate,
)
from widescape.features.complexity_exponents import TaylorModel
from widescape.studies.study import Study, StudyClaim, claim, claim_of_count

NAME = "chen2020hierarchical"
D, DEGREE = 16, 4
NS = (500, 1000, 2000)
MODELS: tuple[TaylorModel, ...] = ("NTK-Raw", "NTK-Neural", "Quad-Raw", "Quad-Neural")
NEURAL, OTHERS = MODELS[-1], MODELS[:-1]
LIMITS = {500: (0.90, 0.93), 1000: (0.40, 0.80), 2000: (0.15, 0.55)}
"""Test errors that Quad-Neural must not exceed, and that the others must not fall below, by number of examples."""

_STEP_FEATURES, _STEP_N, _STEP_LEVEL = 512, 4000, 0.7
_DIMENSIONS, _SIZES, _LEVEL = (6, 8, 10, 12), 10, 0.5
_TOY_N, _TOY_D, _TOY_LAM = 60, 6, 0.02
_WIDTHS = (12, 24, 48, 96)
_TOY_WIDTH, _TOY_STARTS = 24, 5
_LEFT_OUT = "left out of the quick study"
_NOT_HERE = "not measured at this size: takes --full"
_RATE = "rates of the abstract and the authors' page; no number for these sizes"


@dataclass(frozen=True)
class _Toy:
    """A problem small enough for full convergence: the convex optimum, and fits without convexity."""

    convex: ConvexQuadratic
    fits: Mapping[int, list[tuple[QuadraticFit, np.ndarray]]]  # by width, with the signs

    @property
    def certificates(self) -> list[SecondOrderCertificate]:
        found = [fit.certificate for fit, _ in self.fits[_TOY_WIDTH]]
        return [own for own in found if own is not None]


def run(
    *,
    seed: int = 0,
    quick: bool = False,
    full: bool = False,
    say: Callable[[str], None] = lambda line: None,
    progress: bool | None = None,
) -> Study:
    """Measure the claims: four sample-complexity curves, second-order points, and the step activation.

    Inputs are uniform on the sphere of radius 4 in 16 dimensions, targets the harmonic of degree 4 along a direction.

    Args:
        seed: every random draw derives from it.
        quick: two seeds at 500 and 1,000 examples; the step activation is left out.
        full: also the powers of the dimension, over 6, 8, 10 and 12 dimensions; they are asymptotic in the paper.
        say: called with lines of progress.
        progress: show progress bars; None shows them on a terminal.

    Returns:
        a `Study`; its results hold a `SampleComplexity` of the four models and one of the step activation, and the
        second-order certificates.

    Cost: about one minute of two quiet cores, of `quick` about 15 seconds, of `full` some eight minutes.
    """
    key = named_key(jax.random.key(seed), NAME)
    with serial_blas():  # several threads gain little at these sizes, and lose much beside other work
        seeds = _seeds(key, "curves", 2 if quick else 5)
        say(f"four models at {'500 and 1,000' if quick else '500, 1,000 and 2,000'} examples, {len(seeds)} seeds")
        problem = LowRankPolynomial(D, DEGREE, kind="harmonic")
        curves = features.sample_complexity_curve(
            features.four_learners(), problem, NS[:2] if quick else NS, seeds, progress=progress
        )
        say(f"second-order points of {_TOY_N} examples")
        toy = _toy(named_generator(key, "toy"))
        step = None if quick else _step(problem, _seeds(key, "step", 3), say, progress)
        energies = features.degree_energies(D, "step")
        exponents = _exponents(_seeds(key, "exponents", 5), say, progress) if full else {}
    results: dict[str, Result] = {"curves": curves, "convex": toy.convex, "step_energies": energies}
    results |= {f"certificate_{i}": own for i, own in enumerate(toy.certificates)}
    results |= {} if step is None else {"step": step}
    results |= {f"exponent_{_slug(name)}": own for name, own in exponents.items()}
    return Study(
        name=NAME,
        title="Towards Understanding Hierarchical Learning: Benefits of Neural Representations",
        citation="Chen, Bai, Lee, Zhao, Wang, Xiong, Socher. NeurIPS 2020, arXiv 2006.13436.",
        claims=(
            *_curve_claims(curves),
            *_toy_claims(toy),
            *_step_claims(step, energies, key),
            *(_exponent_claim(name, exponents.get(name)) for name in MODELS),
        ),
        results=results,
        figures=tuple(name for name in results if name in ("curves", "step_energies") or name.startswith("exponent")),
        seed=seed,
        quick=quick,
    )


def _seeds(key: jax.Array, name: str, count: int) -> list[int]:
    drawn: list[int] = named_generator(key, name).integers(2**31, size=count).tolist()
    return drawn


# The four curves.


def _curve_claims(curves: SampleComplexity) -> tuple[StudyClaim, ...]:
    return (
        *(own for n in NS for own in _claims_at(n, curves)),
        _ratio(curves),
        _falls(curves),
        _above_the_floor(curves),
        _rank(curves),
    )


def _claims_at(n: int, curves: SampleComplexity) -> tuple[StudyClaim, StudyClaim]:
    best, least = _medians_at(n, curves)
    words = f"medians of {len(curves.seeds)} seeds"
    upper, lower = LIMITS[n]
    return (
        claim(
            f"quad_neural_{n}",
            f"From {n:,} examples Quad-Neural reaches a test error of at most {upper:g} of the targets' second moment.",
            value=best,
            high=upper,
            published=_RATE,
            measured=_LEFT_OUT if best is None else f"{best:.3g}, {words}",
        ),
        claim(
            f"others_{n}",
            f"From {n:,} examples the other three stay at or above {lower:g}.",
            value=min(least.values()) if least else None,
            low=lower,
            published=_RATE,
            measured=_named(least) + f", {words}" if least else _LEFT_OUT,
        ),
    )


def _medians_at(n: int, curves: SampleComplexity) -> tuple[float | None, dict[str, float]]:
    """The medians of Quad-Neural and of the others at a number of examples, if it was run."""
    if n not in curves.ns:
        return None, {}
    j = int(np.flatnonzero(curves.ns == n)[0])
    return float(curves.median(NEURAL)[j]), {name: float(curves.median(name)[j]) for name in OTHERS}


def _named(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in values.items())


def _ratio(curves: SampleComplexity) -> StudyClaim:
    n = NS[-1]
    best, least = _medians_at(n, curves)
    return claim(
        f"ratio_{n}",
        f"From {n:,} examples the second best error is at least 4 times that of Quad-Neural.",
        value=None if best is None else min(least.values()) / best,
        low=4,
        published=_RATE,
        measured=_LEFT_OUT if best is None else f"{min(least.values()) / best:.3g}",
    )


def _falls(curves: SampleComplexity) -> StudyClaim:
    medians = curves.median(NEURAL)
    steps, falls = len(NS) - 1, int(np.sum(np.diff(medians) < 0))
    return claim_of_count(
        "falls",
        f"The median error of Quad-Neural falls from each number of examples to the next, of {_listed(NS)}.",
        held=falls,
        trials=steps,
        needed=steps,
        undecided=steps - (len(medians) - 1),
        published=_RATE,
        measured=" to ".join(f"{value:.3g}" for value in medians),
    )


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(f"{n:,}" for n in numbers)


def _above_the_floor(curves: SampleComplexity) -> StudyClaim:
    floor = features.invariant_kernel_risk_floor(curves.ns, D, DEGREE)
    margins = {name: float(np.min(curves.median(name) - floor)) for name in ("NTK-Raw", "NTK-Neural")}
    return claim(
        "floor",
        f"At no number of examples is a linear model below 1 - n/{features.harmonic_dim(D, DEGREE):,}, the floor of "
        "rotation-invariant kernels.",
        value=min(margins.values()),
        low=0,
        published="NTK needs d^4 examples for degree 4; the floor is its companion for finite n, proved here",
        measured=f"medians above by at least: {_named(margins)}",
    )


def _rank(curves: SampleComplexity) -> StudyClaim:
    ranks = sorted({row["selected"]["rank"] for row in curves.rows() if "rank" in row["selected"]})
    expected = (D + 1) * (D + 2) // 2 - 1
    return claim(
        "rank",
        f"192 square features span (d + 1)(d + 2)/2 - 1 = {expected} directions: degree 2, less the constant norm.",
        value=ranks[0] if len(ranks) == 1 else None,
        low=expected,
        high=expected,
        measured=f"{', '.join(map(str, ranks))} in all fits",
    )


# Second-order points.


def _toy(generator: np.random.Generator) -> _Toy:
    """Targets (u . h)^2 - (v . h)^2 / 2 + noise: the convex solver, and fits at several widths and starts."""
    h = generator.normal(size=(_TOY_N, _TOY_D))
    u, v = generator.normal(size=(2, _TOY_D)) / _TOY_D**0.5
    y = (h @ u) ** 2 - (h @ v) ** 2 / 2 + 0.1 * generator.normal(size=_TOY_N)
    convex = features.solve_convex_quadratic(h, y, lam=_TOY_LAM, tol=1e-10, max_iter=50_000, progress=False)
    fits: dict[int, list[tuple[QuadraticFit, np.ndarray]]] = {}
    for width in _WIDTHS:
        w0, a = features.taylor_weights(width, _TOY_D)
        fits[width] = [
            (
                features.fit_quadratic_taylor(
                    h, y, w0, a, lam=_TOY_LAM, activation="square", max_iter=20_000, tol=1e-8, seed=start,
                    dtype="float64", certify=width == _TOY_WIDTH, progress=False,
                ),
                a,
            )
            for start in range(_TOY_STARTS if width == _TOY_WIDTH else 1)
        ]  # fmt: skip
    return _Toy(convex, fits)


def _toy_claims(toy: _Toy) -> tuple[StudyClaim, ...]:
    best = toy.convex.objective
    starts = np.array([fit.objective for fit, _ in toy.fits[_TOY_WIDTH]])
    curvature = min(own.min_hess_eig for own in toy.certificates)
    gradient = max(own.grad_norm for own in toy.certificates)
    widths = {m: abs(found[0][0].objective / best - 1) for m, found in toy.fits.items()}
    penalty = _TOY_LAM * 8 * (toy.convex.T_plus**2 + toy.convex.T_minus**2)
    paid = {m: abs(_TOY_LAM * features.l24_norm(found[0][0].W) ** 4 / penalty - 1) for m, found in toy.fits.items()}
    spread = max(_spread(fit.W, a) for found in toy.fits.values() for fit, a in found)
    places = f"{_TOY_STARTS} starts of {_TOY_WIDTH} neurons, {_TOY_N} examples in {_TOY_D} dimensions"
    landscape = "second-order points are near optimal for wide networks; proved, constants not quoted"
    return (
        claim(
            "second_order",
            "Fits end at points without negative curvature: no eigenvalue of the Hessian below -1e-6.",
            value=curvature,
            low=-1e-6,
            published=landscape,
            measured=f"smallest {curvature:.1e}, largest gradient {gradient:.1e}; {places}",
        ),
        claim(
            "same_objective",
            "All starts end at one objective, to 1e-8 of it.",
            value=float(np.ptp(starts) / best),
            high=1e-8,
            published=landscape,
        ),
        claim(
            "convex",
            "It is the global minimum, that of a convex problem over quadratic forms, to 1e-6.",
            value=float(np.abs(starts / best - 1).max()),
            high=1e-6,
            published=landscape,
            measured=f"{np.abs(starts / best - 1).max():.1e}; duality gap {toy.convex.gap or 0:.1e} of {best:.4g}",
        ),
        claim(
            "widths",
            f"Its value does not depend on the number of neurons: {_listed(_WIDTHS)}, to 1e-6.",
            value=max(widths.values()),
            high=1e-6,
            measured=f"at most {max(widths.values()):.1e} from the convex optimum",
        ),
        claim(
            "regularizer",
            "There lam sum |w_r|^4 is 8 lam (T+^2 + T-^2), with the traces of either part of the form, to 1e-5.",
            value=max(paid.values()),
            high=1e-5,
            measured=f"at most {max(paid.values()):.1e} at widths {_listed(_WIDTHS)}",
        ),
        claim(
            "equal_norms",
            "Neurons of one sign have equal norms there: coefficient of variation at most 1e-3.",
            value=spread,
            high=1e-3,
        ),
    )


def _spread(w: np.ndarray, a: np.ndarray) -> float:
    """The largest coefficient of variation of row norms among the neurons of a sign."""
    norms = np.linalg.norm(w, axis=1)
    return float(max(norms[a == sign].std() / norms[a == sign].mean() for sign in (1, -1)))


# The step activation.


def _step(
    problem: LowRankPolynomial, seeds: list[int], say: Callable[[str], None], progress: bool | None
) -> SampleComplexity:
    say(f"step features: {_STEP_FEATURES} of them, {_STEP_N:,} examples, {len(seeds)} seeds")
    models = features.four_learners(n_features=_STEP_FEATURES, features="step")
    return features.sample_complexity_curve({NEURAL: models[NEURAL]}, problem, [_STEP_N], seeds, progress=progress)


def _step_claims(
    step: SampleComplexity | None, energies: DegreeEnergies, key: jax.Array
) -> tuple[StudyClaim, StudyClaim, StudyClaim]:
    error = None if step is None else float(step.median(NEURAL)[0])
    moments = None if step is None else _step_eigenvalues(key)
    shares = energies.shares
    return (
        claim(
            "step",
            f"The paper's step activation does not show the benefit at this size: with {_STEP_FEATURES} features and "
            f"{_STEP_N:,} examples the error of Quad-Neural stays at or above {_STEP_LEVEL:g}.",
            value=error,
            low=_STEP_LEVEL,
            published="benefit, as d grows; here: none at this size",
            measured=_LEFT_OUT
            if step is None or error is None
            else f"{error:.3g}, {step.values.min():.3g} to {step.values.max():.3g} over {len(step.seeds)} seeds",
        ),
        claim(
            "step_eigenvalues",
            "One reason: no useful constant bounds the eigenvalues of its second moments from below; the smallest is "
            "at most 1e-4 of the largest.",
            value=None if moments is None else float(moments[-1] / moments[0]),
            high=1e-4,
            published="bounded below by a constant, as d grows",
            measured=_LEFT_OUT
            if moments is None
            else f"{moments[-1]:.1e} smallest, {np.median(moments):.2g} median, {moments[0]:.3g} largest",
        ),
        claim(
            "step_energy",
            "Another: about 9 to 10% of the variance of its features is quadratic, and whitening raises degrees "
            "above to the same size.",
            value=float(shares[1]),
            low=0.08,
            high=0.11,
            measured=f"linear {shares[0]:.1%}, quadratic {shares[1]:.1%}, higher {1 - shares[:2].sum():.1%} at d = {D}",
        ),
    )


def _step_eigenvalues(key: jax.Array) -> np.ndarray:
    """Eigenvalues of the second moments of step features, falling."""
    (seed,) = _seeds(key, "eigenvalues", 1)
    x = LowRankPolynomial(D, DEGREE).unlabeled(features.unlabeled_samples(_STEP_FEATURES), seed=seed)
    layer = features.random_features(D, _STEP_FEATURES, activation="step", seed=seed)
    moment = features.second_moment(x, layer)
    values: np.ndarray = np.linalg.eigvalsh(moment.matrix)[::-1]
    return values


# The powers of the dimension.


def _exponents(seeds: list[int], say: Callable[[str], None], progress: bool | None) -> dict[str, SampleExponent]:
    curves = {}
    for d in _DIMENSIONS:
        directions = (d + 1) * (d + 2) // 2
        largest = 4 * features.harmonic_dim(d, DEGREE)
        ns = sorted({round(n) for n in np.geomspace(directions, largest, _SIZES)})
        say(f"powers of the dimension: d = {d}, {ns[0]} to {ns[-1]:,} examples")
        curves[d] = features.sample_complexity_curve(
            features.four_learners(n_features=5 * directions // 4),
            LowRankPolynomial(d, DEGREE, kind="harmonic"),
            ns,
            seeds,
            progress=progress,
        )
    return {name: features.fit_exponent(curves, name, level=_LEVEL) for name in MODELS}


def _exponent_claim(name: TaylorModel, found: SampleExponent | None) -> StudyClaim:
    power = features.sample_complexity_exponent(name, DEGREE)
    necessary = name.startswith("NTK")
    known = found is not None and found.status.ok
    words = f"{_slug(name)}_power"
    return claim(
        words,
        f"{name} takes {'about' if necessary else 'at most'} d^{power} examples to a test error of {_LEVEL:g}, for d "
        f"from {_DIMENSIONS[0]} to {_DIMENSIONS[-1]}"
        + (": between d^3 and d^4.5, since N(d, 4) itself grows as d^3.6 there." if necessary else "."),
        value=found.exponent if known and found is not None else None,
        stderr=found.exponent_stderr if known and found is not None else None,
        low=power - 1 if necessary else None,
        high=power + 0.5 if necessary else power,
        published=f"d^{power} up to logarithms, as d grows" + ("" if necessary else "; an upper bound"),
        measured=_NOT_HERE if found is None else _power_words(found),
    )


def _power_words(found: SampleExponent) -> str:
    crossings = ", ".join(f"{n:.0f}" for n in found.ns)
    if not found.status.ok:
        return f"{found.status.value} Crossings: {crossings}"
    return f"d^{found.exponent:.2f} ± {found.exponent_stderr:.2f}, from {crossings} examples"


def _slug(name: str) -> str:
    return name.lower().replace("-", "_")
