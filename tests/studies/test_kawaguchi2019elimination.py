"""What the theorem says at known points, how training fails, and verdicts that follow from both."""

import dataclasses

import jax
import numpy as np
import pytest

from study_claims import claims
from widescape.landscape import MonitorStatus, problems
from widescape.landscape.minima.census import CensusStatus
from widescape.studies import catalog, kawaguchi2019elimination
from widescape.studies.study import Study, Verdict

pytestmark = pytest.mark.slow

REPRODUCED, NOT_REPRODUCED, INCONCLUSIVE = Verdict.REPRODUCED, Verdict.NOT_REPRODUCED, Verdict.INCONCLUSIVE
SAID = []


@pytest.fixture(scope="module")
def study():
    return catalog.run("kawaguchi2019elimination", quick=True, progress=False, say=SAID.append)


def test_all_that_the_quick_study_runs_is_reproduced_and_it_says_what_it_left_out(study, tmp_path):
    verdicts = {name: own.verdict for name, own in claims(study).items()}
    left_out = ["digits_loss", "digits_error", "digits_escaping"]
    assert [name for name, verdict in verdicts.items() if verdict is not REPRODUCED] == left_out
    assert all(claims(study)[name].undecided == claims(study)[name].trials == 6 for name in left_out)
    assert all("not run" in claims(study)[name].measured for name in left_out)
    assert [line.split(":")[0] for line in SAID[1:]] == ["teacher 0", "teacher 3"]
    assert "points of small problems" in SAID[0]
    assert study.figures == ("teacher_0", "teacher_3")
    assert {chart.name for chart in study.charts()} == {
        f"teacher_{i}-{name}" for i in (0, 3) for name in ("hidden_loss", "added_term", "final_loss")
    }
    assert Study.load(study.save(tmp_path / "study.zip")) == study
    assert all(own.published for own in study.claims)


def test_the_neuron_removes_the_bad_minimum_and_leaves_least_squares_without_any(study):
    results, found = study.results, claims(study)
    gaps = {"trap": 0.0, "trap_neuron": 1 / 2, "line_neuron": 1 / 18, "trap_decay": 0.0, "chain": 1.0}
    ranks = {"trap": (2, 3), "trap_neuron": (4, 4), "line_neuron": (4, 4), "trap_decay": (5, 6), "chain": (1, 1)}
    for name, gap in gaps.items():
        point, own = results[name], found[f"{name}_gap"]
        assert own.value == point.gap == pytest.approx(gap, abs=1e-12)
        assert (point.pgb.rank, point.pgb.M) == ranks[name]
        assert point.index == 0
        assert (point.witness_value is not None) == (gap > 0)
        assert (own.low, own.high) == (pytest.approx(gap - 1e-12), pytest.approx(gap + 1e-12))
    assert problems.affine_trap().value("trap") == 0.5
    assert problems.affine_trap().value("optimum") == 0.0
    other = {**results, "trap": results["trap_neuron"], "chain": dataclasses.replace(results["chain"], gap=0.999)}
    changed = {own.name: own.verdict for own in kawaguchi2019elimination._point_claims(other)}
    assert [name for name, verdict in changed.items() if verdict is NOT_REPRODUCED] == [
        "kinds",
        "trap_gap",
        "chain_gap",
    ]


def test_gaps_and_indices_of_the_linear_network_and_escape_values_are_those_of_closed_forms(study):
    results, found = study.results, claims(study)
    rows = {
        "_": (7, 6),
        "_1": (2.5, 2),
        "_2": (5, 3),
        "_3": (6.5, 4),
        "_1_2": (0, 0),
        "_1_3": (0, 1),
        "_2_3": (0, 2),
    }
    for at, (gap, index) in rows.items():
        assert results[f"basis{at}"].gap == pytest.approx(gap, abs=1e-12)
        assert results[f"hessian{at}"].index == index
    assert (found["product"].value, found["product"].trials) == (7, 7)
    for name, field, value in (("basis_1_3", "gap", 2.0), ("hessian_2_3", "index", 0)):
        other = {**results, name: dataclasses.replace(results[name], **{field: value})}
        own = {own.name: own for own in kawaguchi2019elimination._point_claims(other)}["product"]
        assert (own.value, own.verdict) == (6, NOT_REPRODUCED)
    for name, value in (("trap", 5 / 12), ("dead", 1 / 3)):
        assert found[f"escape_{name}"].value == pytest.approx(value, rel=1e-13)
        assert results[f"escape_{name}"].at_infinity
    # residuals (-1, 2, -1)/6 at x = (0, 1/2, 1) and e^(w x) = (1, u, u^2), of which the amplitude takes its share
    u = np.geomspace(1e-8, 1e8, 10_001)
    share = (1 - u) ** 4 / 36 / (1 + u**2 + u**4) / 3
    assert 1 / 18 - share.max() == pytest.approx(found["escape_line"].value, abs=1e-9)
    assert found["escape_line"].value < results["escape_line"].loss - 0.009


def test_with_a_soft_label_the_neurons_vanish_and_with_a_hard_one_never(study):
    results, found = study.results, claims(study)
    p = np.array([0.9, 0.05, 0.05])
    assert found["soft_label"].value == results["label_soft"].best_loss == pytest.approx(-p @ np.log(p), abs=1e-8)
    assert results["label_soft"].contribution[-1] < 1e-6
    far = results["label_hard_far"]
    assert far.residual[-1] < 1e-8
    assert far.contribution[-1] < 1e-6
    assert not far.assumptions
    running = dataclasses.replace(results["label_soft"], status=results["label_hard_far"].status)
    soft, hard = kawaguchi2019elimination._label_claims({**results, "label_soft": running})
    assert (soft.verdict, hard.verdict) == (INCONCLUSIVE, REPRODUCED)
    vanished = dataclasses.replace(far, statuses=(*far.statuses[:-1], results["label_soft"].status))
    soft, hard = kawaguchi2019elimination._label_claims({**results, "label_hard_far": vanished})
    assert (soft.verdict, hard.verdict, hard.value) == (REPRODUCED, NOT_REPRODUCED, 1)


@pytest.mark.claim("kawaguchi2019elimination/X1")
def test_each_teacher_counts_where_its_census_is_within_the_limits(study, measured):
    censuses, found = [study.results[f"teacher_{i}"] for i in (0, 3)], claims(study)
    held = {
        "teacher_loss": [np.median(c.augmented_loss) >= 10 * np.median(c.plain_loss) for c in censuses],
        "teacher_added": [np.mean(c.contribution > 0.1) >= 0.8 for c in censuses],
        "teacher_escaping": [sum(s == "escaping" for s in c.augmented_status) >= 40 for c in censuses],
        "teacher_vanished": [sum(s == "vanished" for s in c.augmented_status) <= 5 for c in censuses],
        "scaled_ratio": [1 <= np.median(c.scaled_modified / c.scaled_loss) <= 1.05 for c in censuses],
        "scaled_hidden": [0.95 <= np.median(c.scaled_hidden) <= 1 for c in censuses],
        "scaled_success": [abs(sum(c.scaled_loss < 0.01) - sum(c.plain_loss < 0.01)) <= 5 for c in censuses],
    }
    assert list(held) == list(kawaguchi2019elimination.LIMITS)
    for name, each in held.items():
        assert (found[name].value, found[name].trials) == (sum(each), 2)
    assert all(len(c.plain_loss) == 50 and c.plain_median >= 1e-3 for c in censuses)
    measured(
        "; ".join(f"{name}: {found[name].measured.split('; ', 1)[1]}" for name in ("teacher_loss", "scaled_ratio"))
    )


def test_a_teacher_that_misses_a_limit_is_counted_against_it_and_an_easy_one_not_at_all(study):
    own = study.results["teacher_0"]
    changes = {
        "teacher_loss": {"plain_loss": own.augmented_loss / 9.9, "scaled_loss": own.augmented_loss / 9.9},
        "teacher_added": {"contribution": np.where(np.arange(50) < 11, 0.09, own.contribution.max())},
        "teacher_escaping": {"augmented_status": 11 * (MonitorStatus.RUNNING,) + 39 * (MonitorStatus.ESCAPING,)},
        "teacher_vanished": {"augmented_status": 6 * (MonitorStatus.VANISHED,) + 44 * (MonitorStatus.ESCAPING,)},
        "scaled_ratio": {"scaled_modified": 1.051 * own.scaled_loss},
        "scaled_hidden": {"scaled_hidden": np.full(50, 0.949)},
        "scaled_success": {"scaled_loss": np.where(np.arange(50) < sum(own.plain_loss < 0.01) + 6, 0.0099, 1.0)},
    }
    for name, change in changes.items():
        missing = dataclasses.replace(own, **change)
        found = {c.name: c for c in kawaguchi2019elimination._teacher_claims({0: own, 1: missing})}
        assert (found[name].value, found[name].trials, found[name].verdict) == (1, 2, NOT_REPRODUCED)
    easy = dataclasses.replace(own, plain_loss=np.full(50, 0.00099))
    assert all(c.trials == 1 for c in kawaguchi2019elimination._teacher_claims({0: own, 2: easy}))
    assert all(c.verdict is INCONCLUSIVE for c in kawaguchi2019elimination._teacher_claims({2: easy}))
    broken = dataclasses.replace(own, status=CensusStatus.OVERFLOWED)
    both = kawaguchi2019elimination._teacher_claims({0: own, 1: broken})
    assert all((c.value, c.undecided, c.verdict) == (1, 1, INCONCLUSIVE) for c in both)


def test_teacher_1_misses_the_limits_that_the_study_names(study):
    """As its docstring says: an added term in too few runs, and a scaled loss that has not converged."""
    own = kawaguchi2019elimination._census(1, jax.random.key(0), False)
    assert 1e-3 <= own.plain_median < 2e-3
    assert own.scaled_ratio_median > 1.2
    assert own.scaled_hidden_median < 0.8
    found = kawaguchi2019elimination._teacher_claims({0: study.results["teacher_0"], 1: own})
    verdicts = {claim.name: claim.verdict for claim in found}
    assert verdicts["scaled_ratio"] is verdicts["scaled_hidden"] is NOT_REPRODUCED
    assert verdicts["teacher_loss"] is verdicts["scaled_success"] is REPRODUCED
    assert "teacher 1: 1.4" in {claim.name: claim.measured for claim in found}["scaled_ratio"]


def test_on_digits_the_neurons_take_over_what_the_network_should_learn(monkeypatch):
    monkeypatch.setattr(kawaguchi2019elimination, "PAIRS", 1)
    runs = kawaguchi2019elimination._on_digits("32_0", 32, jax.random.key(0), False)
    alone, added, test = runs["alone_32_0"], runs["neurons_32_0"], runs["test_32_0"]
    assert alone.loss[0] == pytest.approx(added.loss[0], rel=1e-12)
    assert alone.steps[-1] == added.steps[-1] == 2000
    assert added.modified_loss[-1] < 2 * alone.loss[-1]
    assert test.num_points == 500
    assert test.difference > 0.05
    pair = {**runs, **{name.replace("32", "128"): own for name, own in runs.items()}}
    assert [own.verdict for own in kawaguchi2019elimination._digit_claims(pair)] == 3 * [REPRODUCED]
    assert [own.verdict for own in kawaguchi2019elimination._digit_claims(runs)] == 3 * [INCONCLUSIVE]
    better = dataclasses.replace(alone, loss=added.loss[-1:] / 9.9)
    as_good = dataclasses.replace(test, difference=1.9 * test.difference_stderr)
    changed = {**pair, "alone_128_0": better, "test_128_0": as_good}
    found = kawaguchi2019elimination._digit_claims(changed)
    assert [(own.value, own.verdict) for own in found] == [(1, NOT_REPRODUCED), (1, INCONCLUSIVE), (2, REPRODUCED)]
    worse = dataclasses.replace(test, difference=-0.1)
    assert kawaguchi2019elimination._digit_claims({**pair, "test_32_0": worse})[1].verdict is NOT_REPRODUCED
