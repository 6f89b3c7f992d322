"""Critical points of autoencoders: successes are analytic points, rates are counts, and what is open is called so."""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from study_claims import claims
from widescape.landscape import PointStatus, problems
from widescape.studies import catalog, frye2019critical
from widescape.studies.study import Study, Verdict

SAID: list[str] = []
DEEP = ("newton_mr", "damped_newton", "gnm")
OPEN = (
    *(f"rate_{name}" for name in DEEP),
    "cutoff_1e_08",
    "cutoff_1e_06",
    "digits_critical",
    "digits_flat",
    "digits_more",
)
REPRODUCED, NOT_REPRODUCED, INCONCLUSIVE = Verdict.REPRODUCED, Verdict.NOT_REPRODUCED, Verdict.INCONCLUSIVE


@pytest.fixture(scope="module")
def study():
    return catalog.run("frye2019critical", quick=True, progress=False, say=SAID.append)


def analytic(dim, hidden):
    """Losses and indices of the critical points, from the sets of kept directions."""
    found = set()
    for bits in range(2**dim):
        kept = [i + 1 for i in range(dim) if bits >> i & 1]
        if len(kept) <= hidden:
            dropped = set(range(1, dim + 1)) - set(kept)
            index = sum(j > i for i in kept for j in dropped) + (hidden - len(kept)) * len(dropped)
            found.add((sum(dropped) / dim, index))
    return found


def ends_there(point, known, close=1e-6):
    return any(abs(point.loss - loss) <= close and point.index == index for loss, index in known)


# The quick study.


@pytest.mark.slow
@pytest.mark.claim("frye2019critical/X2")
def test_the_map_of_a_linear_autoencoder_holds_analytic_points_only(study, measured):
    found, points, known = claims(study), study.results["map"].points, analytic(6, 2)
    good = [own for own in points if own.g2 < 1e-10]
    assert len(points) == 60
    assert found["map_success"].value == len(good) >= 30
    assert found["map_exact"].value == found["map_exact"].trials == len(good)
    assert all(ends_there(own, known) for own in good)
    by_loss = {}
    for own in good:
        by_loss.setdefault(round(own.loss, 5), set()).add(own.index)
    assert found["map_values"].value == len(by_loss) >= 6
    assert found["map_alike"].value == found["map_alike"].trials == len(by_loss)
    assert all(len(indices) == 1 for indices in by_loss.values())
    for name in ("map_success", "map_exact", "map_values", "map_alike"):
        assert found[name].verdict is REPRODUCED
    measured(f"{found['map_success'].measured}, {found['map_values'].measured} losses")


@pytest.mark.slow
def test_the_known_points_of_the_maps_are_those_of_the_sets_of_directions(study):
    for name, sizes in (("map", (6, 2)), *((name, (16, 4)) for name in DEEP)):
        own, known = study.results[name], np.array(sorted(analytic(*sizes)))
        np.testing.assert_allclose(own.losses, known[:, 0], rtol=1e-14)
        np.testing.assert_array_equal(own.indices, known[:, 1])


@pytest.mark.slow
def test_every_success_on_the_deep_autoencoder_is_analytic_with_its_whole_index(study):
    found, known = claims(study), analytic(16, 4)
    points = [own for name in DEEP for own in study.results[name].points]
    good = [own for own in points if own.g2 < 1e-10]
    assert found["deep_exact"].value == found["deep_exact"].trials == len(good)
    assert all(ends_there(own, known) for own in good)
    for own in points:
        assert own.eigs.shape == (128,)
        assert own.index == np.sum(own.eigs < -1e-5) == round(128 * own.fraction)
        assert own.evidence("index").kind == "exact"
    assert found["zero_loss"].value == pytest.approx(8.5, rel=1e-14)
    assert found["zero_index"].value == 0.5
    for name in ("deep_exact", "zero_loss", "zero_index"):
        assert found[name].verdict is REPRODUCED


@pytest.mark.slow
@pytest.mark.claim("frye2019critical/C10")
def test_the_quartic_has_one_minimum_and_a_trap(study, measured):
    found = claims(study)
    minimum, flat, exact = (study.results[f"quartic_{name}"].points for name in ("minimum", "flat", "exact"))
    for own in minimum:
        np.testing.assert_allclose(own.w, [-3.0, 0.0], atol=1e-10)
        assert own.num_steps <= 12
        assert own.g2 < 1e-20
    for own in flat:
        np.testing.assert_allclose(own.w, [2**0.5, 0.0], atol=5e-3)
        assert 11.1 < own.g2 < 11.3
        assert own.status is PointStatus.GRADIENT_FLAT
    assert all(own.status is PointStatus.STALLED and own.g2 > 11 and own.r < 1e-3 for own in exact)
    for name in ("minimum", "flat", "exact"):
        assert (found[f"quartic_{name}"].value, found[f"quartic_{name}"].verdict) == (3, REPRODUCED)
    measured(f"{found['quartic_minimum'].measured}; {found['quartic_flat'].measured}")


@pytest.mark.slow
def test_what_the_quick_study_cannot_decide_is_open(study):
    found = claims(study)
    assert all(found[name].verdict is INCONCLUSIVE and found[name].value is None for name in OPEN)
    assert {name for name, own in found.items() if own.verdict is INCONCLUSIVE} == set(OPEN)
    for name in DEEP:
        good = sum(own.g2 < 1e-10 for own in study.results[name].points)
        assert found[f"rate_{name}"].measured.startswith(f"{good} of {len(study.results[name].points)}, too few")


@pytest.mark.slow
def test_the_study_shows_loss_against_index_and_comes_back_from_its_file(study, tmp_path):
    assert [chart.name for chart in study.charts()] == [f"{name}-index" for name in ("map", *DEEP)]
    known, *ends = study.charts()[0].series
    assert known.label == "analytic"
    assert set(zip(known.y, np.round(24 * known.x), strict=True)) == analytic(6, 2)
    own = next(series for series in ends if series.label == "critical")
    good = [point for point in study.results["map"].points if point.g2 < 1e-10]
    np.testing.assert_array_equal(own.y, [point.loss for point in good])
    np.testing.assert_array_equal(own.x, [point.index / 24 for point in good])
    assert len(str(study).splitlines()) < 20
    assert Study.load(study.save(tmp_path / "study.zip")) == study
    assert [line.split(":")[0] for line in SAID] == [
        "quartic",
        "linear autoencoder 6-2-6",
        *["linear autoencoder 16-4-16"] * 3,
    ]


# Claims that could come out otherwise.


def point(loss, index, *, g2=1e-20, trace=(1.0,), status=PointStatus.CRITICAL):
    return SimpleNamespace(loss=loss, index=index, g2=g2, trace=np.array(trace), status=status)


def searches(*points):
    """What the claims read of searches, on 6-2-6."""
    known = np.array(sorted(analytic(6, 2)))
    made = object.__new__(frye2019critical.CriticalPointSearches)
    for name, value in (("points", points), ("losses", known[:, 0]), ("indices", known[:, 1])):
        object.__setattr__(made, name, value)
    return made


@pytest.mark.slow
def test_successes_at_no_analytic_point_are_not_counted():
    good, off, other = point(3.5, 12), point(3.5 + 2e-6, 12), point(3.5, 11)
    own = frye2019critical._exact("map_exact", "6-2-6", [searches(good, off), searches(good, other)])
    assert (own.value, own.trials, own.verdict) == (2, 4, NOT_REPRODUCED)
    failed = point(1.0, 3, status=PointStatus.STALLED)
    none = frye2019critical._exact("map_exact", "6-2-6", [searches(failed)])
    assert (none.value, none.verdict) == (0, INCONCLUSIVE)
    success, exact, values, alike = frye2019critical._map_claims(searches(good, other, failed, failed, failed))
    assert [own.verdict for own in (success, exact, values, alike)] == [NOT_REPRODUCED] * 4
    assert [own.value for own in (success, exact, values, alike)] == [2, 1, 1, 0]


@pytest.mark.slow
@pytest.mark.parametrize(("method", "held"), [("newton_mr", 16), ("damped_newton", 9), ("gnm", 7)])
def test_a_rate_is_held_against_the_published_one_with_the_scatter_of_both(method, held):
    rate, stderr = frye2019critical.RATES[method]
    counts = {}
    for good in range(21):
        some = [point(3.5, 12)] * good + [point(3.5, 12, status=PointStatus.STALLED)] * (20 - good)
        own = frye2019critical._rate(method, {method: searches(*some)}, enough=True)
        within = abs(good / 20 - rate) <= 2 * np.hypot(stderr, np.sqrt(rate * (1 - rate) / 20))
        assert own.verdict is (REPRODUCED if within else NOT_REPRODUCED)
        counts[good] = within
    assert counts[held]
    assert not counts[0]
    assert not counts[20]


@pytest.mark.slow
def test_a_cutoff_counts_searches_that_pass_it_on_their_way_and_end_elsewhere():
    flat = PointStatus.GRADIENT_FLAT
    at_once = point(3.5, 12, trace=(1.0, 1e-20))
    elsewhere = point(3.5 - 4e-6, 12, g2=5e-7, trace=(1.0, 5e-7), status=PointStatus.LIMIT)
    never = point(3.4, 12, g2=5e-3, trace=(1.0, 5e-3), status=flat)
    back = point(3.4, 12, g2=5e-3, trace=(1.0, 5e-7, 5e-3), status=flat)
    own = frye2019critical._cutoff(1e-6, [searches(at_once, elsewhere), searches(never, back)], enough=True)
    assert (own.value, own.verdict, own.measured) == (
        2,
        REPRODUCED,
        "2 of 3 that pass, by at most 0.07; 1 of them ran out of steps",
    )
    strict = frye2019critical._cutoff(1e-8, [searches(at_once, elsewhere, never, back)], enough=True)
    assert (strict.value, strict.verdict, strict.measured) == (0, NOT_REPRODUCED, "0 of 1 that pass")
    assert frye2019critical._cutoff(1e-8, [searches(never)], enough=True).verdict is INCONCLUSIVE


@pytest.mark.slow
def test_the_digits_claims_follow_from_the_counts():
    good, flat, limit = (point(1.0, 1, status=PointStatus[name]) for name in ("CRITICAL", "GRADIENT_FLAT", "LIMIT"))
    published = frye2019critical._digits_claims(searches(good, flat, flat, flat, *[limit] * 6))
    assert [own.value for own in published] == [0.1, 0.3, 2]
    assert [own.verdict for own in published] == [REPRODUCED] * 3
    for own, rate in zip(published[:2], (0.14, 0.28), strict=True):
        far = 2 * np.sqrt(rate * (1 - rate) * (1 / 100 + 1 / 10))
        np.testing.assert_allclose((own.low, own.high), (max(rate - far, 0), rate + far), atol=1e-3)
    for some, verdicts in (
        ([good] * 9 + [limit], [NOT_REPRODUCED, REPRODUCED, NOT_REPRODUCED]),
        ([flat] * 10, [REPRODUCED, NOT_REPRODUCED, REPRODUCED]),
        ([good, flat] * 5, [NOT_REPRODUCED, REPRODUCED, NOT_REPRODUCED]),
    ):
        assert [own.verdict for own in frye2019critical._digits_claims(searches(*some))] == verdicts


@pytest.mark.slow
def test_searches_on_digits_run_on_pooled_images_and_know_all_eigenvalues(monkeypatch):
    monkeypatch.setattr(frye2019critical, "_HIDDEN", 1)
    monkeypatch.setattr(frye2019critical, "_STEPS", 50)
    original = frye2019critical.find_critical_points
    systems = []

    def short(system, starts, **options):
        systems.append(system)
        return original(system, starts, **(options | {"max_steps": 3}))

    monkeypatch.setattr(frye2019critical, "find_critical_points", short)
    scale = dataclasses.replace(frye2019critical._QUICK, digits=2, images=30)
    own = frye2019critical._digits(jax.random.key(0), scale, False)
    assert [point.eigs.shape for point in own.points] == [(16 + 1 + 16 + 16,)] * 2
    assert systems[0].num_examples == 30
    assert (own.points[0].w != own.points[1].w).any()
    images = frye2019critical.data.load("digits").x_train
    pooled = [
        images[i, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2].mean() for i in (0, 29) for r in range(4) for c in range(4)
    ]
    np.testing.assert_allclose(np.asarray(systems[0].arrays[0])[[0, 29]].ravel(), pooled, atol=1e-6)
    (chart,) = own.charts()
    assert "analytic" not in [series.label for series in chart.series]


@pytest.mark.slow
def test_starts_come_from_all_descents_in_turn_and_from_the_seed():
    problem, key = problems.linear_autoencoder(), jax.random.key
    some, same, other = (frye2019critical._starts(problem, count, key(i)) for count, i in ((12, 0), (12, 0), (12, 1)))
    assert len(some) == 12
    for a, b, c in zip(some, same, other, strict=True):
        np.testing.assert_array_equal(a["W1"], b["W1"])
        assert (a["W1"] != c["W1"]).all()
    kept = np.array([start["W1"] @ start["W1"].T - start["W2"].T @ start["W2"] for start in some])  # by gradient flow
    apart = np.linalg.norm(kept[:, None] - kept[None], axis=(2, 3))
    assert apart[:2, 10:].argmin(axis=0).tolist() == [0, 1]
    assert max(apart[0, 10], apart[1, 11]) < 0.1 < apart[:10, :10][~np.eye(10, dtype=bool)].min()


def test_quick_and_full_exclude_each_other():
    with pytest.raises(ValueError, match="`quick` and `full` exclude each other"):
        frye2019critical.run(quick=True, full=True)
