"""Kawaguchi, Bengio (2019): residual models W (x + R z(x, u)) at local minima, against the best linear predictors.

The paper is theory and no experiment of it was recovered. Points are reached here by a quasi-Newton method and by
Newton-MR, for tanh features of data in the plane. Many starts follow a valley along which parameters grow without
bound and never come to a critical point; they are counted. Chains of several residual blocks are not run.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np
from scipy.optimize import minimize

from widescape import arch
from widescape.core.progress import track
from widescape.core.random import named_generator, named_key
from widescape.curvature import System
from widescape.landscape import (
    PointReport,
    ResidualModel,
    ResidualSearches,
    ResNetReport,
    classify_point,
    find_critical_points,
    problems,
    resnet_certificate,
)
from widescape.landscape.residual_searches import CONVERGED
from widescape.studies.study import Study, StudyClaim, claim, claim_of_count

NAME = "kawaguchi2018resnets"
GAP = 1e-6
"""Distance from the joint optimum that counts as none."""
HELP = 0.01
"""Share of the linear optimum by which a loss must be below it to count as strictly better."""

_ZERO = 1e-8  # entries of W up to this size are set to 0
_NEGATIVE = -1e-5  # curvature below which a critical point counts as a saddle
_FAR = 100.0  # norm of the parameters beyond which a search is far out in a valley
_DX, _OWN_SIZE = 2, 1e-3  # inputs; and a norm cap so low that it is raised to the size of the network's outputs
_THEOREM = "holds at every local minimum (recalled, not checked); no number printed"
_NO_NUMBER = "no number printed"


@dataclass(frozen=True)
class _Setting:
    """A model, the number of its data, and how many searches are made for how many that converge."""

    hidden: int
    dz: int
    points: int
    wanted: int
    starts: int
    steps: int = 600
    dy: int = 1
    cap: float = 20.0

    @property
    def features(self) -> arch.Layer:
        """The features z as a network with its own parameters u."""
        return arch.Sequential(*[arch.Dense(self.dz, 2.0, param="standard"), arch.Tanh()] * self.hidden)

    @property
    def loss(self) -> Literal["square", "cross_entropy"]:
        """The loss of one example."""
        return "square" if self.dy == 1 else "cross_entropy"


def run(
    *,
    seed: int = 0,
    quick: bool = False,
    say: Callable[[str], None] = lambda line: None,
    progress: bool | None = None,
) -> Study:
    """Measure the claims: a degenerate critical point, minima that are reached, saddles, and cross entropy.

    Args:
        seed: every random draw derives from it.
        quick: at most 30 starts instead of 100 for ten that converge, and fewer for saddles and cross entropy;
            features with two hidden layers are left out.
        say: called with lines of progress.
        progress: show progress bars; None shows them on a terminal.

    Returns:
        a `Study`; its results hold every search, and the reports on the degenerate point.

    Cost: about one minute of two cores, of `quick` about ten seconds.
    """
    key = named_key(jax.random.key(seed), NAME)
    one = _Setting(hidden=1, dz=2, points=60, wanted=10, starts=30 if quick else 100)
    two = _Setting(hidden=2, dz=2, points=60, wanted=5, starts=80, steps=1500)
    overlapping = _Setting(hidden=1, dz=2, points=60, wanted=3 if quick else 10, starts=12 if quick else 40, dy=2)
    separable = _Setting(hidden=1, dz=2, points=20, wanted=4, starts=4, steps=20, dy=2, cap=_OWN_SIZE)
    say("the degenerate critical point")
    degenerate, point = _degenerate()
    found: dict[str, ResidualSearches] = {}
    say(f"tanh features: at most {one.starts} starts until {one.wanted} converge")
    found["one_layer"] = _searched(*_regression(one, key), one, key, progress)
    if not quick:
        say(f"two hidden layers: at most {two.starts} starts until {two.wanted} converge")
        found["two_layers"] = _searched(*_regression(two, key), two, key, progress)
    say("saddles: equal units, and searches by Newton-MR")
    found["saddles"] = _saddles(one, 12 if quick else 40, key, progress)
    say("cross entropy, overlapping and separable labels")
    found["overlapping"] = _searched(*_labels(overlapping, key, apart=False), overlapping, key, progress)
    found["separable"] = _searched(*_labels(separable, key, apart=True), separable, key, progress)
    return Study(
        name=NAME,
        title="Depth with Nonlinearity Creates No Bad Local Minima in ResNets",
        citation="Kawaguchi, Bengio. Neural Networks 118, 2019.",
        claims=(
            *_degenerate_claims(degenerate, point),
            *_minima_claims("one_layer", "Tanh features", found["one_layer"], one),
            *_minima_claims("two_layers", "Tanh features with two hidden layers", found.get("two_layers"), two),
            *_saddle_claims(found["saddles"]),
            *_entropy_claims(found["overlapping"], overlapping, found["separable"]),
        ),
        results={"degenerate": degenerate, "degenerate_point": point, **found},
        figures=("degenerate", "degenerate_point", *(name for name in found if name != "separable")),
        seed=seed,
        quick=quick,
    )


# Points.


def _degenerate() -> tuple[ResNetReport, PointReport]:
    problem = problems.degenerate_resnet()
    params = problem.params()
    z = np.tanh(problem.X @ params["U"].T)
    report = resnet_certificate(params["W"], params["R"], z, problem.X, problem.y, problem.loss)
    return report, classify_point(problem.system(), params)


def _regression(setting: _Setting, key: jax.Array) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian inputs in the plane; targets linear, plus three tanh units, plus noise, in units of their deviation."""
    rng = named_generator(key, "regression", setting.points)
    x, noise = rng.standard_normal((setting.points, _DX)), rng.standard_normal((setting.points, 1))
    units = np.tanh(x @ (2 * rng.standard_normal((_DX, 3)))) @ rng.standard_normal((3, 1))
    y = x @ rng.standard_normal((_DX, 1)) + 2 * units + noise
    return x, y / y.std()


def _labels(setting: _Setting, key: jax.Array, *, apart: bool) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian inputs in the plane, and labels by the sign of the first, or at random."""
    rng = named_generator(key, "labels", setting.points)
    x, coins = rng.standard_normal((setting.points, _DX)), rng.integers(0, 2, setting.points)
    return x, (x[:, 0] > 0).astype(np.int64) if apart else coins


def _system(x: np.ndarray, y: np.ndarray, setting: _Setting, key: jax.Array, count: int) -> tuple[System, list[Any]]:
    """The mean loss of the model, and random starts."""
    model = ResidualModel(setting.features.apply, dx=_DX, dz=setting.dz, dy=setting.dy)
    starts = []
    for i in range(count):
        own = named_key(key, "start", setting.points, i)
        u = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), setting.features.init(own, (_DX,)))
        starts.append(model.init(own, u))
    return System(model.apply, starts[0], x, y, loss=setting.loss, reduction="mean"), starts


def _minimized(system: System, start: Any, steps: int) -> np.ndarray:
    found = minimize(
        lambda w: (system.value(w), system.grad(w)),
        system.vector(start),
        method="BFGS",
        jac=True,
        options={"gtol": 1e-9, "maxiter": steps},
    )
    return np.asarray(found.x)


def _certified(system: System, w: np.ndarray, setting: _Setting) -> ResNetReport:
    """The certificate at a point, where entries of W next to 0 are set to 0."""
    params = system.unravel(w)
    weights, residual = np.asarray(params["W"], np.float64), np.asarray(params["R"], np.float64)
    z = System(setting.features.apply, params["u"], system.x).F()
    weights = np.where(np.abs(weights) <= _ZERO, 0.0, weights)
    return resnet_certificate(
        weights, residual, z, np.asarray(system.x), system.y, setting.loss, tol=GAP, max_norm=setting.cap
    )


def _collected(system: System, ends: Sequence[np.ndarray], setting: _Setting, *, curved: bool) -> ResidualSearches:
    curvatures = [classify_point(system, system.unravel(w)).lambda_min for w in ends] if curved else None
    return ResidualSearches(
        reports=tuple(_certified(system, w, setting) for w in ends),
        grad_norms=np.array([np.linalg.norm(system.grad(w)) for w in ends]),
        sizes=np.array([np.linalg.norm(w) for w in ends]),
        lambda_min=None if curvatures is None else np.array(curvatures),
    )


def _searched(
    x: np.ndarray, y: np.ndarray, setting: _Setting, key: jax.Array, progress: bool | None
) -> ResidualSearches:
    """Searches for minima from random starts, until as many as wanted have converged or no start is left."""
    system, starts = _system(x, y, setting, key, setting.starts)
    ends: list[np.ndarray] = []
    good = 0
    for start in track(starts, "starts", show=progress):
        ends.append(_minimized(system, start, setting.steps))
        good += bool(np.linalg.norm(system.grad(ends[-1])) < CONVERGED)
        if good == setting.wanted:
            break
    return _collected(system, ends, setting, curved=False)


def _saddles(setting: _Setting, count: int, key: jax.Array, progress: bool | None) -> ResidualSearches:
    """Critical points by Newton-MR from random starts, and by descent among models whose units are all equal."""
    system, starts = _system(*_regression(setting, key), setting, key, count)
    reports = find_critical_points(system, starts, tol=1e-20, max_steps=200, progress=progress)
    equal = track([_equal_units(start) for start in starts[: count // 2]], "equal units", show=progress)
    ends = [own.w for own in reports if own.status.ok] + [_minimized(system, own, setting.steps) for own in equal]
    kept = [w for w in ends if np.linalg.norm(system.grad(w)) < CONVERGED]
    return _collected(system, kept, setting, curved=True)


def _equal_units(start: Any) -> Any:
    """The start with all features equal to the first, and all columns of R too, which descent preserves."""
    u = jax.tree.map(lambda leaf: np.repeat(leaf[:, :1], leaf.shape[1], axis=1), start["u"])
    return {"W": start["W"], "R": np.repeat(start["R"][:, :1], start["R"].shape[1], axis=1), "u": u}


# Claims.


def _degenerate_claims(report: ResNetReport, point: PointReport) -> tuple[StudyClaim, ...]:
    facts = problems.degenerate_resnet().facts()
    pairs = {
        "loss": (report.L, facts["loss"]),
        "linear optimum": (report.L_linear, facts["linear"]),
        "joint optimum": (report.L_joint, facts["joint"]),
        "smallest eigenvalue": (point.lambda_min, facts["lambda_min"]),
    }
    held = [abs(value - known) <= 1e-7 for value, known in pairs.values()]
    lowered = None if report.escape_value is None else report.L - report.escape_value
    return (
        _counted(
            "degenerate",
            "The degenerate point is critical, to 1e-14, and loss, optima and curvature are as derived, to 1e-7.",
            [point.grad_norm <= 1e-14, *held],
            ", ".join(f"{name} {value:.7f}" for name, (value, _) in pairs.items()),
            published=_NO_NUMBER,
        ),
        claim(
            "degenerate_escape",
            "There W = 0 and the loss is above the linear optimum; a move that keeps outputs opens a descent.",
            value=lowered if report.rank == 0 and report.gap_linear > 0 else None,
            low=1e-6,
            published=_NO_NUMBER,
            measured=f"rank {report.rank}; "
            + ("no escape" if lowered is None else f"lower by {lowered:.2g} after a move"),
        ),
    )


def _minima_claims(name: str, words: str, found: ResidualSearches | None, setting: _Setting) -> tuple[StudyClaim, ...]:
    critical = () if found is None else found.critical
    shown = fits = _ended(found)
    if critical:
        losses, gap = [own.L for own in critical], max(abs(own.gap_joint) for own in critical)
        shown = f"gap at most {gap:.1e}; {shown}"
        fits = f"losses {min(losses):.4f} to {max(losses):.4f}, linear {critical[0].L_linear:.4f}"
    return (
        _counted(
            f"{name}_joint",
            f"{words}: where |grad| < {CONVERGED:g} the loss is the joint convex optimum, to {GAP:g}.",
            [abs(own.gap_joint) <= GAP for own in critical],
            shown,
            setting.wanted,
        ),
        _counted(
            f"{name}_linear",
            f"{words}: the loss there is at most that of the best linear predictor.",
            [own.gap_linear <= 1e-9 for own in critical],
            fits,
            setting.wanted,
        ),
        _counted(
            f"{name}_helps",
            f"{words}: it is below it by {HELP:.0%} or more, the targets not being linear.",
            [(1 - HELP) * own.L_linear >= own.L for own in critical],
            fits,
            setting.wanted,
        ),
    )


def _ended(found: ResidualSearches | None) -> str:
    """How many searches converged, and how far those came that did not."""
    if found is None:
        return "left out of the quick study"
    good, runs = found.converged, len(found.reports)
    words = f"{good.sum()} of {runs} starts converged, {np.sum(good & (found.sizes > _FAR))} of them at |w| > {_FAR:g}"
    if good.all():
        return words
    far = np.median(found.sizes[~good])
    return f"{words}; {np.sum(~good)} did not, as along a valley to infinity: |w| {far:.3g} in the median"


def _saddle_claims(found: ResidualSearches) -> tuple[StudyClaim, ...]:
    assert found.lambda_min is not None
    full = [own for own in found.reports if own.rank == 1]
    lacking = [own for own in found.reports if own.rank == 0]
    curved = found.lambda_min < _NEGATIVE
    saddles = [own for own, down in zip(found.reports, curved.tolist(), strict=True) if down and own.rank == 1]
    gaps = [abs(own.gap_joint) for own in full]
    return (
        _counted(
            "full_rank_saddles",
            "Even at saddles, with curvature below -1e-5, the loss is the joint optimum if W has full rank.",
            [abs(own.gap_joint) <= GAP for own in saddles],
            f"{len(full)} critical points of full rank in all" + (f", gap at most {max(gaps):.1e}" if gaps else ""),
            published="holds at every critical point of full rank (recalled, not checked)",
        ),
        _counted(
            "rank_deficient",
            "Critical points with W = 0 are worse than the best linear predictor, and each has an escape.",
            [own.gap_linear > 0 and own.escape_value is not None for own in lacking],
            f"losses above it by {min(own.gap_linear for own in lacking):.3g} or more" if lacking else "no such point",
            published="only minimality excludes them (recalled, not checked)",
        ),
    )


def _entropy_claims(
    overlapping: ResidualSearches, setting: _Setting, separable: ResidualSearches
) -> tuple[StudyClaim, ...]:
    critical, ends = overlapping.critical, separable.reports
    gaps = [abs(own.gap_joint) for own in critical]
    return (
        _counted(
            "entropy_joint",
            f"Cross entropy, overlapping labels: where |grad| < {CONVERGED:g} the loss is the joint optimum, attained.",
            [own.status.ok and abs(own.gap_joint) <= GAP for own in critical],
            (f"gap at most {max(gaps):.1e}; " if gaps else "") + _ended(overlapping),
            setting.wanted,
        ),
        _counted(
            "entropy_capped",
            "Separable labels: no optimum is attained, and the certificate says that it compares under a norm cap.",
            [not own.status.ok for own in ends],
            "certificates, caps " + ", ".join(f"{own.cap:.3g}" for own in ends),
            published=_NO_NUMBER,
        ),
        _counted(
            "entropy_between",
            "Under a cap of its own size a trained network is no better than the joint optimum, no worse than linear.",
            [own.gap_joint >= -1e-9 and own.gap_linear <= 1e-9 for own in ends],
            ", ".join(f"{own.L_joint:.2g} <= {own.L:.2g} <= {own.L_linear:.2g}" for own in ends),
        ),
    )


def _counted(
    name: str, statement: str, held: Sequence[bool], words: str, wanted: int = 1, *, published: str = _THEOREM
) -> StudyClaim:
    """A claim that something holds in all trials, and in as many as are wanted; open where there were fewer."""
    trials = max(len(held), wanted)
    return claim_of_count(
        name,
        statement,
        held=sum(held),
        trials=trials,
        needed=trials,
        undecided=trials - len(held),
        published=published,
        measured=f"{sum(held)} of {len(held)}; {words}" if held else words,
    )
