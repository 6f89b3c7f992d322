"""The study of the edge of stability reproduces its table, on networks whose sharpness is measured."""

import dataclasses

import numpy as np
import pytest

from widescape.studies import catalog, cohen2021edge
from widescape.studies.study import Study, Verdict


@pytest.fixture(scope="module")
def study():
    return catalog.run("cohen2021edge", quick=True)


def runs(study, threshold):
    return [run for name, run in study.results.items() if name.startswith(f"gd_{threshold}_")]


def last_half(run):
    return np.mean(run.sharpness[run.steps >= 10_000]) * run.lr / 2


@pytest.mark.slow
@pytest.mark.claim("liu2020loss/E4")
def test_sharpness_ends_at_20_and_40_and_below_80(study, measured):
    for threshold in (20, 40, 80):
        assert len(runs(study, threshold)) == 5
        for run in runs(study, threshold):
            np.testing.assert_allclose(run.threshold, threshold)
            assert run.steps.tolist() == list(range(0, 20_001, 100))
            assert run.converged.all()
    rises = [np.mean(np.diff(run.loss) > 0) for run in runs(study, 20)]
    for run, share in zip(runs(study, 20), rises, strict=True):
        assert 0.97 <= last_half(run) <= 1.03
        assert share >= 0.05
        assert run.verdict == "edge"
    at_40 = [0.97 <= last_half(run) <= 1.03 and run.rises > 0 for run in runs(study, 40)]
    at_80 = [last_half(run) < 0.9 and run.rises == 0 for run in runs(study, 80)]
    assert sum(at_40) >= 3
    assert sum(at_80) >= 3
    ends = [f"{min(map(last_half, at)):.3f} to {max(map(last_half, at)):.3f}" for at in map(_of(study), (20, 40, 80))]
    measured(
        f"sharpness lr / 2 over the last half, 5 networks each: {ends[0]} at 20 (loss rises at {min(rises):.0%} to "
        f"{max(rises):.0%} of the records), {ends[1]} at 40 ({sum(at_40)} of 5 at the edge), {ends[2]} at 80 "
        f"({sum(at_80)} of 5 below it)"
    )


def _of(study):
    return lambda threshold: runs(study, threshold)


@pytest.mark.slow
def test_every_claim_is_reproduced_and_says_what_its_runs_say(study, tmp_path):
    claims = {own.name: own for own in study.claims}
    assert list(claims) == ["thresholds", "sharpening", "edge_20", "edge_40", "below_80"]
    assert all(own.verdict is Verdict.REPRODUCED for own in study.claims)
    assert claims["thresholds"].value == claims["thresholds"].trials == 6
    assert claims["sharpening"].value == sum(run.spearman > 0.5 for t in (20, 40, 80) for run in runs(study, t))
    assert (claims["edge_20"].low, claims["edge_40"].low, claims["below_80"].low) == (5, 3, 3)
    assert len(study.charts()) == 6
    assert Study.load(study.save(tmp_path / "study.zip")) == study


def constant(ratio, **changes):
    """A trace whose ratio never changes."""
    run = cohen2021edge.track_sharpness(lambda w: w @ w / 2, 2 * ratio, 4, every=1, params=np.array([1.0]))
    return dataclasses.replace(run, **changes)


def test_runs_that_do_something_else_are_not_counted():
    away, at, noisy = constant(0.8), constant(1.0, rises=0.1, loss_rises=0.1), constant(0.8, rises=0.1)
    traces = {"gd_20_0": away, "gd_20_1": at, "gd_40_0": away, "gd_40_1": away, "gd_80_0": noisy, "gd_80_1": at}
    edge_20, edge_40 = cohen2021edge._edges(traces)
    assert (edge_20.value, edge_20.verdict) == (1, Verdict.NOT_REPRODUCED)
    assert (edge_40.value, edge_40.verdict) == (0, Verdict.NOT_REPRODUCED)
    assert cohen2021edge._settles(traces).value == 0
    sharpening = cohen2021edge._sharpening(traces)
    assert (sharpening.value, sharpening.undecided, sharpening.verdict) == (0, 2, Verdict.NOT_REPRODUCED)


def test_the_networks_are_drawn_with_variance_one_over_fan_in_and_fit_a_chebyshev_polynomial():
    system = cohen2021edge._system(0, 0)
    assert system.num_params == 2701
    assert system.double
    leaves = [np.asarray(layer[name]) for layer in system.params if layer for name in ("b", "w")]
    for biases in leaves[::2]:
        assert not biases.any()
    for weights in leaves[1::2]:
        assert abs(np.mean(weights**2) * len(weights) - 1) < 5 * (2 / weights.size) ** 0.5
    x = np.linspace(-1, 1, 20)
    np.testing.assert_allclose(system.y[:, 0], np.cos(4 * np.arccos(x)), atol=1e-14)
    np.testing.assert_allclose(system.value(), np.mean((system.F() - system.y) ** 2) / 2)
    assert (cohen2021edge._system(0, 1).flat != system.flat).any()
    assert (cohen2021edge._system(1, 0).flat != system.flat).any()
