"""Indices of similarity on known data and noise, and whether they find the layer of a network from another seed."""

import math

import numpy as np
import pytest

from widescape.core.chart import HeatMap
from widescape.studies import catalog
from widescape.studies import kornblith2019similarity as paper
from widescape.studies.study import Study, Verdict


@pytest.fixture(scope="module")
def quick():
    said = []
    study = catalog.run("kornblith2019similarity", quick=True, say=said.append, progress=False)
    assert len(said) == 3
    return study


def claims(study):
    return {own.name: own for own in study.claims}


@pytest.mark.slow
def test_known_values_and_invariances_are_met_and_noise_is_alike_by_the_biased_index_alone(quick):
    found = claims(quick)
    for name in ("demonstration", "other_indices", "ranks", "alignment", "orthogonal_maps", "invertible_maps",
                 "not_invertible_maps", "itself", "two_routes", "bias", "debiased"):  # fmt: skip
        assert found[name].verdict is Verdict.REPRODUCED, name
    assert found["demonstration"].measured == "0.55761, 0.51346, 0.65483"
    assert found["bias"].value == pytest.approx(100 / 149, abs=0.02)
    assert 0 < found["bias"].stderr < 0.005
    assert abs(found["debiased"].value) < 0.015


@pytest.mark.slow
def test_two_networks_leave_the_counts_open_and_deeper_ones_are_not_trained(quick):
    found = claims(quick)
    for name in paper.MEASURES:
        own = found[f"corresponding_{name}"]
        assert (own.trials, own.undecided) == (30, 27)
        assert own.verdict is Verdict.INCONCLUSIVE
    assert found["corresponding_deep"].measured == "not run at this size"
    assert found["corresponding_deep"].undecided == 50
    assert not any(name.startswith("deep") for name in quick.results)


@pytest.mark.slow
def test_counts_are_those_of_the_largest_entries_of_rows(quick):
    found = claims(quick)
    for name in paper.MEASURES:
        matrix = quick.results[f"{name}_0_1"].matrix
        assert matrix.shape == (3, 3)
        held = sum(int(np.argmax(row)) == i for i, row in enumerate(matrix))
        assert found[f"corresponding_{name}"].value == (held if name == "cka" else 3 - held)
        assert f"{held} of 3 layers" in found[f"corresponding_{name}"].measured
    means = [np.diag(quick.results[f"width_{width}_0_1"].matrix).mean() for width in paper.WIDTHS]
    assert found["width"].value == int(np.sum(np.diff(means) > 0)) == 2
    assert f"{means[0]:.2f} at width 16" in found["width"].measured
    assert quick.results["cka_0_1"].num_samples == 1797


@pytest.mark.slow
def test_the_study_shows_a_heat_map_for_each_index_and_comes_back_from_its_file(quick, tmp_path):
    charts = quick.charts()
    assert all(isinstance(chart, HeatMap) for chart in charts)
    assert [chart.name for chart in charts] == [f"{name}_0_1-layer-similarity" for name in paper.MEASURES]
    assert Study.load(quick.save(tmp_path / "study.zip")) == quick


def test_a_known_value_that_is_off_by_a_unit_of_its_last_place_is_not_met():
    for value, verdict in ((0.557612, Verdict.REPRODUCED), (0.55762, Verdict.NOT_REPRODUCED)):
        assert paper._meets("E", "S.", (value, 1.0), (0.55761, 1.0), 5).verdict is verdict


def test_the_share_of_layers_that_must_be_found():
    own = paper._finds({}, paper.DEPTH)
    assert (own.low, own.trials) == (math.ceil(0.8 * 30), 30)
    assert paper._finds({}, paper.DEEP).trials == 50
