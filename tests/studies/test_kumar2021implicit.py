"""Ranks over rounds are exact, the penalty has its gradient, and ranks in training are reported as they are."""

import numpy as np
import pytest

from widescape.studies import catalog, kumar2021implicit
from widescape.studies.study import Study, Verdict

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def study():
    return catalog.run("kumar2021implicit", quick=True, progress=False)


def claims(study):
    return {own.name: own for own in study.claims}


@pytest.mark.claim("kumar2021implicit/E2")
def test_the_table_of_ranks_is_exact_and_no_collapse_is_claimed(study, measured):
    found = claims(study)
    assert study.results["power_law"].srank.tolist() == [27, 27, 27, 26, 23, 15, 8, 8]
    assert study.results["diagonal"].srank.tolist() == [9, 9, 9, 8, 4, 1]
    assert (found["power_law"].value, found["power_law"].accepted) == (0, "exactly 0")
    assert "no collapse claimed" in found["no_collapse"].published
    assert found["no_collapse"].evidence("value").kind == "sampled"
    plain = study.results["plain"]
    assert found["no_collapse"].value == plain.srank[-1] / plain.srank[0]
    assert all(own.verdict is Verdict.REPRODUCED for own in study.claims)
    measured(f"{found['power_law'].measured}; {found['no_collapse'].measured}")


def test_both_networks_start_at_the_same_point_and_only_one_is_held_to_the_penalty(study):
    plain, penalized = study.results["plain"], study.results["penalized"]
    assert plain.steps.tolist() == penalized.steps.tolist()
    assert plain.penalty[0] == penalized.penalty[0]
    assert claims(study)["penalty_in_training"].value == penalized.penalty[-1] / plain.penalty[-1] < 0.5
    assert plain.shape == (500, 32)


def test_a_table_that_differs_is_not_reproduced():
    found = kumar2021implicit._power_law(np.random.default_rng(0))
    expected = (*kumar2021implicit.POWER_LAW[:-1], 7)
    own = kumar2021implicit._table("power_law", "S", found, expected)
    assert (own.value, own.verdict) == (1, Verdict.NOT_REPRODUCED)


def test_the_study_draws_its_table_and_traces_and_comes_back_from_its_file(study, tmp_path):
    names = [chart.name for chart in study.charts()]
    assert names == ["power_law-bootstrap-rank", "plain-rank-trace", "penalized-rank-trace"]
    assert Study.load(study.save(tmp_path / "study.zip")) == study
