"""Residual models at critical points of full rank are the joint convex optimum, and others have an escape."""

import dataclasses

import jax
import numpy as np
import pytest

from study_claims import claims
from widescape.studies import catalog, kawaguchi2018resnets
from widescape.studies.study import Study, Verdict

SAID = []


@pytest.fixture(scope="module")
def study():
    SAID.clear()
    return catalog.run("kawaguchi2018resnets", quick=True, progress=False, say=SAID.append)


@pytest.mark.slow
@pytest.mark.claim("kawaguchi2018resnets/R2")
def test_ten_starts_end_at_the_joint_optimum_and_below_linear(study, measured):
    searches, found = study.results["one_layer"], claims(study)
    ended = [own for own, norm in zip(searches.reports, searches.grad_norms, strict=True) if norm < 1e-6]
    assert len(ended) == 10
    assert max(abs(own.L - own.L_joint) for own in ended) <= 1e-6
    assert max(own.L / own.L_linear for own in ended) <= 0.99
    for name in ("joint", "linear", "helps"):
        own = found[f"one_layer_{name}"]
        assert (own.value, own.trials, own.verdict) == (10, 10, Verdict.REPRODUCED)
    assert f"10 of {len(searches.reports)} starts converged" in found["one_layer_joint"].measured
    measured(found["one_layer_joint"].measured)


@pytest.mark.slow
@pytest.mark.claim("kawaguchi2018resnets/R1")
def test_the_degenerate_point_has_the_derived_numbers(study):
    report, point = study.results["degenerate"], study.results["degenerate_point"]
    values = report.L, report.L_linear, report.L_joint, point.lambda_min
    np.testing.assert_allclose(values, [1.7083333, 1.1231231, 0.1857689, -1.1420791], atol=1e-7)
    assert report.rank == 0
    assert report.escape_value < report.L < 1.71
    escape = claims(study)["degenerate_escape"]
    assert escape.value == report.L - report.escape_value
    assert escape.verdict is Verdict.REPRODUCED
    closed = dataclasses.replace(report, escape_value=None)
    assert kawaguchi2018resnets._degenerate_claims(closed, point)[1].verdict is Verdict.INCONCLUSIVE
    moved = dataclasses.replace(point, grad_norm=1e-13)
    assert kawaguchi2018resnets._degenerate_claims(report, moved)[0].verdict is Verdict.NOT_REPRODUCED


@pytest.mark.slow
def test_rank_decides_which_critical_points_are_joint_optima(study):
    searches, found = study.results["saddles"], claims(study)
    assert (searches.grad_norms < 1e-6).all()
    pairs = list(zip(searches.reports, searches.lambda_min, strict=True))
    saddles = [own for own, curve in pairs if own.rank == 1 and curve < -1e-5]
    lacking = [own for own, _ in pairs if own.rank == 0]
    assert saddles
    assert lacking
    assert max(abs(own.gap_joint) for own in saddles) <= 1e-6
    assert all(own.L > own.L_linear > own.L_joint and own.escape_value < own.L for own in lacking)
    assert found["full_rank_saddles"].trials == len(saddles)
    assert found["rank_deficient"].trials == len(lacking)


@pytest.mark.slow
@pytest.mark.claim("kawaguchi2018resnets/R4")
def test_separable_labels_are_compared_under_a_cap(study):
    ends, found = study.results["separable"].reports, claims(study)
    assert len(ends) == 4
    assert all(own.status == "capped" and own.L_joint <= own.L <= own.L_linear for own in ends)
    assert all(own.status == "ok" for own in study.results["overlapping"].critical)
    assert found["entropy_capped"].value == found["entropy_between"].value == 4


@pytest.mark.slow
def test_a_quick_study_leaves_two_layers_open_and_reproduces_all_else(study, tmp_path):
    found = claims(study)
    assert list(found) == [
        "degenerate",
        "degenerate_escape",
        "one_layer_joint",
        "one_layer_linear",
        "one_layer_helps",
        "two_layers_joint",
        "two_layers_linear",
        "two_layers_helps",
        "full_rank_saddles",
        "rank_deficient",
        "entropy_joint",
        "entropy_capped",
        "entropy_between",
    ]
    left_out = [name for name, own in found.items() if own.verdict is Verdict.INCONCLUSIVE]
    assert left_out == ["two_layers_joint", "two_layers_linear", "two_layers_helps"]
    assert all(own.verdict is Verdict.REPRODUCED for name, own in found.items() if name not in left_out)
    assert len(SAID) == 4
    assert SAID[1] == "tanh features: at most 30 starts until 10 converge"
    assert {chart.name.split("-")[0] for chart in study.charts()} == set(study.figures)
    assert Study.load(study.save(tmp_path / "study.zip")) == study


@pytest.mark.slow
def test_gaps_are_counted_and_searches_that_do_not_converge_stay_open(study):
    searches = study.results["one_layer"]
    setting = kawaguchi2018resnets._Setting(hidden=1, dz=2, points=60, wanted=10, starts=30)

    def verdicts(changed):
        return [own.verdict for own in kawaguchi2018resnets._minima_claims("x", "x", changed, setting)]

    first, *others = searches.reports
    apart = dataclasses.replace(first, gap_joint=2e-6)
    changed = dataclasses.replace(searches, reports=(apart, *others))
    assert verdicts(changed) == [Verdict.NOT_REPRODUCED, Verdict.REPRODUCED, Verdict.REPRODUCED]
    worse = dataclasses.replace(first, gap_linear=1e-8, L=first.L_linear)
    changed = dataclasses.replace(searches, reports=(worse, *others))
    assert verdicts(changed) == [Verdict.REPRODUCED, Verdict.NOT_REPRODUCED, Verdict.NOT_REPRODUCED]
    norms = np.where(np.arange(len(searches.reports)) == 0, 1.0, searches.grad_norms)
    valley = dataclasses.replace(searches, grad_norms=norms)
    assert verdicts(valley) == [Verdict.INCONCLUSIVE] * 3
    assert "1 did not, as along a valley" in kawaguchi2018resnets._ended(valley)


@pytest.mark.slow
def test_saddles_off_the_joint_optimum_and_closed_escapes_are_counted(study):
    searches = study.results["saddles"]
    off = [dataclasses.replace(own, gap_joint=1e-3, escape_value=None) for own in searches.reports]
    own = kawaguchi2018resnets._saddle_claims(dataclasses.replace(searches, reports=tuple(off)))
    assert [claim.verdict for claim in own] == [Verdict.NOT_REPRODUCED] * 2
    assert [claim.value for claim in own] == [0, 0]


@pytest.mark.slow
def test_models_of_equal_units_have_equal_features():
    setting = kawaguchi2018resnets._Setting(hidden=1, dz=3, points=20, wanted=1, starts=1)
    key = jax.random.key(0)
    x, y = kawaguchi2018resnets._regression(setting, key)
    system, starts = kawaguchi2018resnets._system(x, y, setting, key, 1)
    assert np.std(y) == pytest.approx(1.0)
    gradient = system.unravel(system.grad(system.vector(kawaguchi2018resnets._equal_units(starts[0]))))
    for leaf in (gradient["R"], *jax.tree.leaves(gradient["u"])):
        np.testing.assert_allclose(leaf, np.repeat(leaf[:, :1], 3, axis=1), atol=1e-15)
