"""Annexes and dropout, a path and the straight line: one figure holds what each result says."""

import dataclasses

import numpy as np
import pytest

from paths_results import condition, path, system
from widescape.core.result import Result
from widescape.paths.barriers import barrier
from widescape.paths.dropout import dropout_stability
from widescape.paths.profiles import evaluate_path
from widescape.paths.side_by_side import LayerLosses, PathLosses


@pytest.fixture(scope="module")
def layers():
    return LayerLosses(condition=condition(0), dropout=dropout_stability(system(0), draws=3))


@pytest.fixture(scope="module")
def losses():
    ends = path().points[0], path().points[-1]
    return PathLosses(
        profile=evaluate_path(system(0), path(), 3), line=barrier(system(0), *ends, num=5), levels={"dropout": 0.7}
    )


def test_the_layers_chart_has_the_losses_of_annexes_and_masks_and_the_networks_own(layers):
    (chart,) = layers.charts()
    annexes, dropout = chart.series
    assert (annexes.label, dropout.label) == ("annexes", "dropout")
    np.testing.assert_array_equal(annexes.y, layers.condition.losses)
    np.testing.assert_allclose(dropout.y[1:], layers.dropout.losses, rtol=1e-12)
    assert [marker.value for marker in chart.markers] == [layers.condition.net_loss]


def test_masks_that_keep_more_than_half_have_no_line(layers):
    kept = dataclasses.replace(layers, dropout=dropout_stability(system(0), keep=0.75, draws=3))
    assert [own.label for own in kept.charts()[0].series] == ["annexes"]


def test_the_paths_chart_has_both_paths_and_the_levels(losses):
    (chart,) = losses.charts()
    constructed, straight = chart.series
    np.testing.assert_array_equal(constructed.x, losses.profile.s)
    np.testing.assert_array_equal(constructed.y, losses.profile.loss)
    np.testing.assert_array_equal(straight.y, losses.line.loss)
    assert [(marker.label, marker.value) for marker in chart.markers] == [("dropout", 0.7)]


def test_both_come_back_from_their_files(layers, losses, tmp_path):
    for i, own in enumerate((layers, losses)):
        assert Result.load(own.save(tmp_path / f"{i}.zip")) == own
