"""At critical points layers add up to the loss; values that training reaches fall with width and depth."""

import dataclasses

import numpy as np
import pytest

from study_claims import claims
from widescape.studies import catalog, kawaguchi2018depth
from widescape.studies.study import Study, Verdict

SAID = []


@pytest.fixture(scope="module")
def study():
    SAID.clear()
    return catalog.run("kawaguchi2018depth", quick=True, progress=False, say=SAID.append)


def verdict_of(held):
    return Verdict.REPRODUCED if held else Verdict.NOT_REPRODUCED


@pytest.mark.slow
@pytest.mark.claim("kawaguchi2018depth/D5")
def test_verdicts_of_the_sweep_follow_from_its_values(study, measured):
    sweep, found = study.results["sweep"], claims(study)
    medians = np.median(sweep.values, axis=2)
    assert sweep.values.shape == (2, 6, 3)
    for i in range(2):
        rises = int(np.sum(medians[i, 1:] > medians[i, :-1]))
        ratio = medians[i, 5] / medians[i, 0]
        assert found[f"width_{i + 1}"].value == rises
        assert found[f"width_{i + 1}"].verdict is verdict_of(rises <= 1)
        assert found[f"fall_{i + 1}"].value == pytest.approx(ratio, rel=1e-12)
        assert found[f"fall_{i + 1}"].verdict is verdict_of(ratio <= 0.1)
        assert f"{medians[i, 5]:.3g}" in found[f"fall_{i + 1}"].measured
    deeper = medians[1, 2:] <= medians[0, 2:]
    assert (found["depth"].value, found["depth"].trials) == (deeper.sum(), 4)
    assert found["depth"].verdict is verdict_of(deeper.all())
    assert all(
        found[name].verdict is Verdict.REPRODUCED for name in ("width_1", "width_2", "fall_1", "fall_2", "depth")
    )
    measured(found["depth"].measured)


@pytest.mark.slow
def test_the_identity_holds_in_the_median_where_runs_converged(study):
    sweep, found = study.results["sweep"], claims(study)
    defects = sweep.defects[0][sweep.grad_norms[0] < 1e-5]
    assert found["identity_sweep"].value == np.median(defects) <= 1e-8
    assert f"largest {defects.max():.1e}; {defects.size} of 18 runs" in found["identity_sweep"].measured
    assert found["identity_sweep"].verdict is Verdict.REPRODUCED
    assert found["identity"].value <= 1e-10
    assert "of 12 searches converged" in found["identity"].measured


@pytest.mark.slow
def test_contributions_add_up_at_each_point_that_is_kept(study):
    kept = [own for name, own in study.results.items() if name.startswith("depth_")]
    assert kept
    for own in kept:
        assert own.grad_norm < 1e-9
        assert (own.values >= 0).all()
        assert own.running[0] - own.values.sum() == pytest.approx(own.predicted, abs=1e-12 * own.running[0])
        assert own.names[-1] == "output"
    trap = study.results["trap"]
    assert (round(trap.predicted, 12), trap.rank) == (0.75, 2)


@pytest.mark.slow
def test_a_quick_study_leaves_the_digits_open_and_reproduces_all_else(study, tmp_path):
    found = claims(study)
    assert list(found) == [
        "trap",
        "trap_rank",
        "identity",
        "nonnegative",
        "order_sum",
        "order_terms",
        "output_first",
        "identity_sweep",
        "width_1",
        "width_2",
        "fall_1",
        "fall_2",
        "depth",
        "digits_width_1",
        "digits_width_2",
        "digits_depth",
    ]
    left_out = [name for name, own in found.items() if own.verdict is Verdict.INCONCLUSIVE]
    assert left_out == ["digits_width_1", "digits_width_2", "digits_depth"]
    assert all(own.verdict is Verdict.REPRODUCED for name, own in found.items() if name not in left_out)
    assert [line.split(":")[0] for line in SAID[:3]] == ["contributions of layers"] * 3
    assert SAID[3] == "sweep over depths 1 and 2 and widths 1 to 6, 3 starts"
    assert {chart.name.split("-")[0] for chart in study.charts()} == set(study.figures)
    assert Study.load(study.save(tmp_path / "study.zip")) == study


@pytest.mark.slow
def test_values_that_do_not_fall_are_not_reproduced(study):
    sweep = study.results["sweep"]
    rising = dataclasses.replace(sweep, median=sweep.median[:, ::-1])
    found = {own.name: own for own in kawaguchi2018depth._sweep_claims(rising)}
    assert all(found[name].verdict is Verdict.NOT_REPRODUCED for name in ("width_1", "width_2", "fall_1", "fall_2"))
    swapped = dataclasses.replace(sweep, median=sweep.median[::-1])
    assert kawaguchi2018depth._deeper("depth", "points", swapped).verdict is Verdict.NOT_REPRODUCED
    wrong = dataclasses.replace(sweep, defects=sweep.defects + 1e-7)
    assert kawaguchi2018depth._identity_in(wrong).verdict is Verdict.NOT_REPRODUCED
    never = dataclasses.replace(sweep, grad_norms=sweep.grad_norms + 1.0)
    assert kawaguchi2018depth._identity_in(never).verdict is Verdict.INCONCLUSIVE


@pytest.mark.slow
def test_contributions_that_depend_on_the_order_are_seen(study):
    own = study.results["depth_1_width_1"]
    other = dataclasses.replace(own, names=own.names[::-1], values=own.values[::-1] + np.array([0.1, 0.2]))
    found = {claim.name: claim for claim in kawaguchi2018depth._order_claims([[own, other]])}
    assert found["order_sum"].value == pytest.approx(0.3 / own.running[0])
    assert found["order_sum"].verdict is Verdict.NOT_REPRODUCED
    assert found["order_terms"].value == pytest.approx(0.2 / own.running[0])
    assert found["output_first"].value == pytest.approx((own.values[0] + 0.2) / own.running[0])
    below = dataclasses.replace(own, values=own.values - 10.0)
    assert kawaguchi2018depth._order_claims([[below, other]])[0].verdict is Verdict.NOT_REPRODUCED
    open_ones = [kawaguchi2018depth._identity([], 3), *kawaguchi2018depth._order_claims([])]
    assert all(claim.verdict is Verdict.INCONCLUSIVE for claim in open_ones)


@pytest.mark.slow
def test_the_images_are_digits_pooled_by_fours():
    x, y = kawaguchi2018depth._images(np.random.default_rng(0))
    assert (x.shape, y.shape, x.dtype) == ((100, 16), (100, 10), np.float64)
    assert 0 <= x.min() < x.max() <= 1
    np.testing.assert_array_equal(y.sum(axis=1), 1)
    assert not np.array_equal(x, kawaguchi2018depth._images(np.random.default_rng(1))[0])
