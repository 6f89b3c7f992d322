"""Frye, Simon, Wadia, Ligeralde, DeWeese, Bouchard (2019): finders of critical points, and gradient-flat regions.

Linear autoencoders, whose critical points are known, and a small one with Swish units on pooled digits in place of
MNIST. Initializations and learning rates of the descents that supply starts were not recovered. Newton-MR solves by
MINRES-QLP, as published; what it finds with decomposed Hessians is told beside. The public package of the paper
compares dampings with a best value that it never updates, so that its damped Newton is another one than that here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from widescape import arch, data
from widescape.core.random import named_key
from widescape.curvature import System
from widescape.landscape import (
    CPReport,
    CriticalPointSearches,
    PointStatus,
    find_critical_points,
    loss_uniform_starts,
    problems,
)
from widescape.landscape.minima.finders import FinderMethod
from widescape.landscape.minima.searches import CLOSE
from widescape.landscape.problem import Problem
from widescape.studies.study import Study, StudyClaim, claim, claim_of_count

NAME = "frye2019critical"
RATES = {"newton_mr": (0.80, 0.04), "damped_newton": (0.45, 0.05), "gnm": (0.35, 0.06)}
"""Published shares of searches that succeed on the deep linear autoencoder, with their standard errors."""
CUTOFFS = (1e-8, 1e-6)
"""Squared norms of the gradient that earlier work took for zero, or that are said to distort its map."""

_WORDS = {"newton_mr": "Newton-MR", "damped_newton": "damped Newton", "gnm": "descent on the gradient norm"}
_TO_MINIMUM = ((-4.0, 1.0), (-2.0, 0.5), (0.0, 1.0))
_TO_FLAT = ((2.0, 0.5), (3.0, 1.0), (1.0, 0.2))
_DESCENTS, _STEPS, _SPREAD = 10, 1000, 0.3  # descents that supply starts, and the scale of their initialization
_HIDDEN, _NO_NUMBER, _FEW = 8, "no number printed", "too few of them in the quick study"


@dataclass(frozen=True)
class _Scale:
    """Numbers of searches; on 16-4-16 by name of the result."""

    deep: dict[str, int]
    gnm_steps: int
    digits: int
    images: int | None = 200


_QUICK = _Scale({"newton_mr": 1, "damped_newton": 4, "gnm": 4}, 2000, digits=0)
_USUAL = _Scale({"newton_mr": 20, "newton_mr_decomposed": 10, "damped_newton": 20, "gnm": 20}, 25_000, digits=5)
_PAPER = _Scale(
    {"newton_mr": 100, "newton_mr_decomposed": 100, "damped_newton": 100, "gnm": 60}, 25_000, digits=100, images=None
)


def run(
    *,
    seed: int = 0,
    quick: bool = False,
    full: bool = False,
    say: Callable[[str], None] = lambda line: None,
    progress: bool | None = None,
) -> Study:
    """Measure the claims: maps of linear autoencoders, success rates, loose cutoffs, gradient-flat points.

    Args:
        seed: every random draw derives from it.
        quick: one to four searches with each method, too few for success rates; digits are left out.
        full: the paper's numbers of searches, 100, 100 and 60, and 100 on all digits. Hours.
        say: called with lines of progress.
        progress: show progress bars; None shows them on a terminal.

    Returns:
        a `Study`; its results hold every search, and its figures show loss against index.

    Raises:
        ValueError: both `quick` and `full`.

    Cost: about three minutes of two cores, of `quick` about 15 seconds.
    """
    if quick and full:
        raise ValueError("`quick` and `full` exclude each other; choose one of them.")
    scale = _QUICK if quick else _PAPER if full else _USUAL
    key = named_key(jax.random.key(seed), NAME)
    say("quartic: six searches")
    quartic = _quartic(progress)
    say("linear autoencoder 6-2-6: 60 searches")
    small = problems.linear_autoencoder()
    starts = _starts(small, 60, named_key(key, "map"))
    results = {**quartic, "map": _searched(small, find_critical_points(small.system(), starts, progress=progress))}
    results |= (deep := _deep(named_key(key, "deep"), scale, say, progress))
    if scale.digits:
        say(f"digits, Swish autoencoder 16-{_HIDDEN}-16: {scale.digits} searches")
        results["digits"] = _digits(named_key(key, "digits"), scale, progress)
    return Study(
        name=NAME,
        title="Critical Point-Finding Methods Reveal Gradient-Flat Regions of Deep Network Losses",
        citation="Frye, Simon, Wadia, Ligeralde, DeWeese, Bouchard. Neural Computation 33, 2021.",
        claims=(
            *_map_claims(results["map"]),
            *_zero_claims(),
            *(_rate(method, deep, enough=not quick) for method in RATES),
            _exact("deep_exact", "16-4-16", list(deep.values())),
            *(_cutoff(cutoff, [results["map"], *deep.values()], enough=not quick) for cutoff in CUTOFFS),
            *_quartic_claims(quartic),
            *_digits_claims(results.get("digits")),
        ),
        results=results,
        figures=tuple(name for name in results if not name.startswith("quartic")),
        seed=seed,
        quick=quick,
    )


# Searches.


def _starts(problem: Problem, count: int, key: jax.Array) -> list[Any]:
    """Iterates of some descents from random initializations, uniform in the loss; half of them moved by noise."""
    stacked = problem.starts(_DESCENTS, scale=_SPREAD, key=named_key(key, "initialization"))
    each = -(-count // _DESCENTS)
    found: list[list[Any]] = []
    for i in range(_DESCENTS):
        system = problem.system({name: leaf[i] for name, leaf in stacked.items()})
        own = named_key(key, "descent", i)
        found.append(list(loss_uniform_starts(system, num=each, lr=0.05, steps=_STEPS, key=own, progress=False)))
    return [start for some in zip(*found, strict=True) for start in some][:count]


def _searched(problem: Problem, reports: Sequence[CPReport]) -> CriticalPointSearches:
    """The reports beside the known critical points, each pair of loss and index once."""
    facts = [own for _, own in problem.points.values() if own["critical"]]
    known = np.array(sorted({(own["loss"], own["index"]) for own in facts}))
    return CriticalPointSearches(points=tuple(reports), losses=known[:, 0], indices=known[:, 1])


def _deep(
    key: jax.Array, scale: _Scale, say: Callable[[str], None], progress: bool | None
) -> dict[str, CriticalPointSearches]:
    """Searches on the deep linear autoencoder with each method, and with Newton-MR on decomposed Hessians."""
    problem = problems.linear_autoencoder(16, 4)
    system, starts = problem.system("{}"), _starts(problem, max(scale.deep.values()), key)
    found: dict[str, CriticalPointSearches] = {}
    for name, count in scale.deep.items():
        say(f"linear autoencoder 16-4-16: {count} searches, {name}")
        method: FinderMethod = "newton_mr" if "mr" in name else "gnm" if name == "gnm" else "damped_newton"
        steps, dense = scale.gnm_steps if method == "gnm" else 500, name != "newton_mr"
        reports = find_critical_points(system, starts[:count], method, dense=dense, max_steps=steps, progress=progress)
        found[name] = _searched(problem, reports)
    return found


def _quartic(progress: bool | None) -> dict[str, CriticalPointSearches]:
    """Newton-MR on the quartic: to the minimum, to a gradient-flat point, and there with an exact inverse."""
    problem = problems.quartic()
    found = {}
    for name, starts, rcond in (("minimum", _TO_MINIMUM, 1e-4), ("flat", _TO_FLAT, 1e-4), ("exact", _TO_FLAT, 1e-10)):
        points = [np.array(start) for start in starts]
        reports = find_critical_points(problem.system(), points, rcond=rcond, progress=progress)
        found[f"quartic_{name}"] = _searched(problem, reports)
    return found


def _digits(key: jax.Array, scale: _Scale, progress: bool | None) -> CriticalPointSearches:
    """Newton-MR on an autoencoder with Swish units and biases, of digits pooled to 4 by 4."""
    images = np.asarray(data.load("digits").x_train, np.float64)[: scale.images]
    x = images.reshape(-1, 4, 2, 4, 2).mean(axis=(2, 4)).reshape(-1, 16)
    net = arch.fc(1, _HIDDEN, 16, activation=arch.Silu(), b_std=0.0, param="standard")
    reports: list[CPReport] = []
    for i in range(min(scale.digits, _DESCENTS)):
        own, count = named_key(key, i), len(range(i, scale.digits, _DESCENTS))
        params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), net.init(own, (16,)))
        system = System(net.apply, params, x, x, reduction="mean")
        starts = loss_uniform_starts(system, num=count, lr=0.1, steps=2 * _STEPS, key=own, progress=False)
        reports += find_critical_points(system, list(starts), dense=False, progress=progress)
    return CriticalPointSearches(points=tuple(reports), losses=np.empty(0), indices=np.empty(0, int))


# Claims.


def _map_claims(found: CriticalPointSearches) -> tuple[StudyClaim, ...]:
    runs, good = len(found.points), found.found
    near = [float(found.losses[np.abs(found.losses - own.loss).argmin()]) for own in good]
    indices = [{own.index for own, loss in zip(good, near, strict=True) if loss == value} for value in set(near)]
    flat = f"searches, {sum(own.status is PointStatus.GRADIENT_FLAT for own in found.points)} end gradient-flat"
    half = "On the linear autoencoder 6-2-6 at least half of the searches by Newton-MR succeed."
    many = "The searches on 6-2-6 find at least 6 of the 12 different losses of critical points."
    alike = "On 6-2-6 critical points of equal loss have equal index."
    values = f"{len(indices)} of {len(set(found.losses.tolist()))}"
    return (
        _all("map_success", half, [own.status.ok for own in found.points], flat, needed=-(-runs // 2)),
        _exact("map_exact", "6-2-6", [found]),
        claim("map_values", many, value=len(indices), low=6, published=_NO_NUMBER, measured=values),
        _all("map_alike", alike, [len(own) == 1 for own in indices], "losses at which searches ended"),
    )


def _exact(name: str, net: str, searches: Sequence[CriticalPointSearches]) -> StudyClaim:
    statement = f"Every success on {net} is within {CLOSE:g} of an analytic loss and has the index of a point there."
    return _all(name, statement, [some.is_known(own) for some in searches for own in some.found], "successes")


def _zero_claims() -> tuple[StudyClaim, ...]:
    problem = problems.linear_autoencoder(16, 4)
    zero = find_critical_points(problem.system("{}"), [problem.params("{}")], max_steps=1)[0]
    loss, share = "The loss of 16-4-16 at zero is about 8.5.", "At zero half of the Hessian's eigenvalues are negative."
    return (
        claim("zero_loss", loss, value=zero.loss, low=8.45, high=8.55, published="about 8.5"),
        claim("zero_index", share, value=zero.fraction, low=0.5, high=0.5, published="0.5"),
    )


def _rate(method: str, found: dict[str, CriticalPointSearches], *, enough: bool) -> StudyClaim:
    rate, stderr = RATES[method]
    runs, good = len(found[method].points), found[method].found
    words = f"{len(good)} of {runs}" + ("" if enough else f", {_FEW}")
    words += f"; at {len({round(own.loss, 4) for own in good})} different losses"
    if (other := found.get(f"{method}_decomposed")) is not None:
        words += f"; {len(other.found)} of {len(other.points)} with Hessians decomposed and truncated at 1e-4"
    statement = f"On 16-4-16, {_WORDS[method]} succeeds in {rate:.0%} of searches"
    printed = f"{rate * 100:.0f} ± {stderr * 100:.0f} %"
    return _share(f"rate_{method}", statement, (len(good), runs if enough else 0), (rate, stderr), (printed, words))


def _share(
    name: str, statement: str, counts: tuple[int, int], rate: tuple[float, float], words: tuple[str, str]
) -> StudyClaim:
    """A share, accepted within two standard errors of its difference from the published one; open without trials."""
    (number, runs), (share, stderr), (printed, measured) = counts, rate, words
    far = 2 * (stderr**2 + share * (1 - share) / max(runs, 1)) ** 0.5
    return claim(
        name,
        f"{statement}, to two standard errors of the difference.",
        value=number / runs if runs else None,
        low=max(share - far, 0.0),
        high=min(share + far, 1.0),
        published=printed,
        measured=measured,
    )


def _cutoff(cutoff: float, searches: Sequence[CriticalPointSearches], *, enough: bool) -> StudyClaim:
    passed = [(some, own) for some in searches for own in some.points if own.trace.min() < cutoff]
    far = [(np.abs(some.losses - own.loss).min(), own.status is PointStatus.LIMIT) for some, own in passed]
    off = [own for own in far if own[0] > CLOSE]
    words = f"{len(off)} of {len(passed)} that pass"
    words += f", by at most {max(off)[0]:.1g}; {sum(limit for _, limit in off)} of them ran out of steps" if off else ""
    return claim(
        f"cutoff_{cutoff:.0e}".replace("-", "_"),
        f"A cutoff of {cutoff:g} on |g|^2 takes points for critical that are not: some of the searches on linear "
        f"autoencoders that pass it end more than {CLOSE:g} from every analytic loss.",
        value=len(off) if enough and passed else None,
        low=1,
        published="cutoffs of 1e-8 and above distort the map; " + _NO_NUMBER,
        measured=words if enough else f"{words}, {_FEW}",
    )


def _quartic_claims(found: dict[str, CriticalPointSearches]) -> tuple[StudyClaim, ...]:
    to_minimum, to_flat, exact = (found[f"quartic_{name}"].points for name in ("minimum", "flat", "exact"))
    reach = "Three starts reach the minimum (-3, 0) of the quartic, with |g|^2 < 1e-20, in at most 12 steps."
    flat = "Three more end within 0.005 of the gradient-flat point (sqrt 2, 0), |g|^2 11.1 to 11.3, and are called so."
    hides = "With an exact inverse the same three stall at |g|^2 > 11 with r near 0: it hides what they are."
    far = [float(np.linalg.norm(own.w - [2**0.5, 0.0])) for own in to_flat]
    reached = [own.g2 < 1e-20 and own.num_steps <= 12 and np.allclose(own.w, [-3, 0], atol=1e-8) for own in to_minimum]
    named = [own.status is PointStatus.GRADIENT_FLAT and 11.1 <= own.g2 <= 11.3 for own in to_flat]
    stalled = [own.status is PointStatus.STALLED and own.g2 > 11 and own.r < 1e-3 for own in exact]
    near = [one and distance < 5e-3 for one, distance in zip(named, far, strict=True)]
    return (
        _all("quartic_minimum", reach, reached, f"in at most {max(own.num_steps for own in to_minimum)} steps"),
        _all("quartic_flat", flat, near, f"within {max(far):.1g}"),
        _all("quartic_exact", hides, stalled, f"with r at most {max(own.r for own in exact):.1g}"),
    )


def _digits_claims(found: CriticalPointSearches | None) -> tuple[StudyClaim, ...]:
    kinds = [] if found is None else [own.status for own in found.points]
    good, flat, runs = kinds.count(PointStatus.CRITICAL), kinds.count(PointStatus.GRADIENT_FLAT), len(kinds)
    words = f"{good} of {runs} critical, {flat} gradient-flat" if runs else "left out of the quick study"
    said = ("14 % below 1e-10 and 28 % in gradient-flat regions after 500 steps, on MNIST at 4 by 4", words)
    net = f"On a Swish autoencoder 16-{_HIDDEN}-16"
    more = f"{net} more searches by Newton-MR end gradient-flat than critical."
    return (
        _share("digits_critical", f"{net} 14 % of searches by Newton-MR succeed", (good, runs), (0.14, 0.035), said),
        _share("digits_flat", f"{net} 28 % of them end gradient-flat", (flat, runs), (0.28, 0.045), said),
        claim("digits_more", more, value=flat - good if runs else None, low=1, published=said[0], measured=words),
    )


def _all(name: str, statement: str, held: Sequence[Any], words: str, *, needed: int | None = None) -> StudyClaim:
    """A claim that something holds in all trials, or in as many as are needed; open where there was none."""
    number, trials = int(np.sum(held)), len(held)
    return claim_of_count(
        name,
        statement,
        held=number,
        trials=max(trials, 1),
        needed=max(trials, 1) if needed is None else needed,
        undecided=0 if trials else 1,
        published=_NO_NUMBER,
        measured=f"{number} of {trials} {words}",
    )
