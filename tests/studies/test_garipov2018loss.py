"""Curves and bands between two networks stay as low as their ends, and those in a valley are the best ones."""

import dataclasses

import jax
import numpy as np
import pytest

from study_claims import claims
from widescape.studies import catalog, garipov2018loss
from widescape.studies.study import Study, Verdict


@pytest.fixture(scope="module")
def study():
    return catalog.run("garipov2018loss", quick=True, progress=False)


@pytest.mark.slow
@pytest.mark.claim("garipov2018loss/E3")
def test_a_bezier_curve_between_two_networks_is_as_low_as_its_ends(study, measured):
    curve = study.results["digits_bezier_0"]
    end = max(curve.loss[0], curve.loss[-1])
    assert len(curve.loss) == 61
    assert 0.001 < end < 0.1
    assert curve.loss.max() <= 1.2 * end + 0.02
    assert curve.line_loss.max() >= end + 0.5
    np.testing.assert_array_equal(curve.line_loss[[0, -1]], curve.loss[[0, -1]])
    assert claims(study)["digits_bezier"].verdict is Verdict.REPRODUCED
    measured(
        f"at most {curve.loss.max():.3g} on the curve, {end:.3g} at its ends, {curve.line_loss.max():.3g} on the "
        "straight line"
    )


@pytest.mark.slow
def test_every_claim_is_reproduced_and_says_what_its_paths_say(study, tmp_path):
    found = claims(study)
    assert list(found) == [
        "valley_bezier_point",
        "valley_bezier_loss",
        "valley_polychain_point",
        "valley_polychain_loss",
        "valley_line",
        "digits_line",
        "digits_bezier",
        "digits_polychain",
        "digits_band",
    ]
    assert all(own.verdict is Verdict.REPRODUCED for own in study.claims)
    assert all(found[f"digits_{name}"].trials == 1 for name in ("line", "bezier", "polychain", "band"))
    band, curve = study.results["digits_band_0"], study.results["digits_bezier_0"]
    np.testing.assert_array_equal(band.pivots[[0, -1]], curve.control[[0, -1]])
    assert band.saddle == band.dense.max() <= 1.2 * max(band.dense[0], band.dense[-1]) + 0.02
    assert f"{band.saddle:.3g}" in found["digits_band"].measured
    assert {chart.name.split("-")[0] for chart in study.charts()} == set(study.figures)
    assert Study.load(study.save(tmp_path / "study.zip")) == study


def test_the_best_curves_of_the_valley_are_those_of_calculus():
    """The chain through (0, h) has mean loss int_0^1 (h t - 2 t + t^2)^2 dt, least at h = 5/4; the parabola has 0."""
    t = np.linspace(0, 1, 2001)
    heights = np.linspace(1, 1.5, 501)
    means = [np.trapezoid((h * t - 2 * t + t**2) ** 2, t) for h in heights]
    best = garipov2018loss._BEST["polychain"]
    assert heights[np.argmin(means)] == pytest.approx(best[1], abs=1e-9)
    assert min(means) == pytest.approx(garipov2018loss._LOSSES["polychain"], abs=1e-6)
    x, y = 2 * t - 1, 2 * t * (1 - t) * garipov2018loss._BEST["bezier"][1]
    assert np.abs(garipov2018loss._valley(np.array([x, y]))).max() < 1e-12


@pytest.mark.slow
def test_paths_that_are_too_high_are_not_counted(study):
    curve, band = study.results["digits_bezier_0"], study.results["digits_band_0"]
    end = max(curve.loss[0], curve.loss[-1])
    high = dataclasses.replace(curve, max=1.2 * end + 0.0201)
    just = dataclasses.replace(curve, max=1.2 * end + 0.0199)
    own = garipov2018loss._as_low("bezier", [just, high])
    assert (own.value, own.trials, own.verdict) == (1, 2, Verdict.NOT_REPRODUCED)
    top = dataclasses.replace(band, saddle=0.5)
    assert garipov2018loss._as_low("band", [top]).verdict is Verdict.NOT_REPRODUCED
    flat = dataclasses.replace(curve, line_loss=curve.line_loss * 0 + end + 0.49 * (curve.t > 0) * (curve.t < 1))
    assert garipov2018loss._line_claim([curve, flat]).value == 1
    apart = dataclasses.replace(curve, control=curve.control[:, :2] * 0 + np.array([0.0, 1.99]))
    assert garipov2018loss._valley_claims(apart)[0].verdict is Verdict.NOT_REPRODUCED


def test_batches_go_through_all_rows_in_a_new_order_each_epoch():
    rows = np.arange(250, dtype=np.float32)[:, None], np.arange(250)
    batches = garipov2018loss._batches(rows, np.random.default_rng(0))
    epochs = [[next(batches)[1] for _ in range(2)] for _ in range(2)]
    seen = [np.concatenate(own) for own in epochs]
    assert all(len(set(own.tolist())) == 200 for own in seen)
    assert (seen[0] != seen[1]).any()
    x, y = next(batches)
    np.testing.assert_array_equal(x[:, 0], y)


def test_the_networks_start_as_he_draws_them_and_a_seed_gives_other_rows_than_the_next():
    x, y = garipov2018loss._training_rows(0)
    assert (x.shape, x.dtype, len(y)) == ((1437, 64), np.float32, 1437)
    assert (x.min(), x.max()) == (0, 1)
    assert not np.array_equal(x, garipov2018loss._training_rows(1)[0])
    params = garipov2018loss._NETWORK.init(jax.random.key(0), (64,), dtype="float32")
    for layer in (own for own in params if own):
        weights = np.asarray(layer["w"])
        assert abs(np.mean(weights**2) * len(weights) / 2 - 1) < 5 * (2 / weights.size) ** 0.5
        assert not np.asarray(layer["b"]).any()
