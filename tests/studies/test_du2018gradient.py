"""Two-layer ReLU networks: the wider, the closer to their limit, the fewer flips, the shorter moves, the faster."""

import dataclasses

import numpy as np
import pytest

from study_claims import claims
from widescape.landscape import relu_gram
from widescape.studies import catalog, du2018gradient
from widescape.studies.study import Study, Verdict

WIDTHS = (250, 1000, 4000, 16_000)
SMALL = (20, 80)


@pytest.fixture(scope="module")
def study():
    return catalog.run("du2018gradient", quick=True, progress=False)


@pytest.fixture(scope="module")
def runs():
    """One draw of 40 points at the widths of the study, in as few steps as the claims can read."""
    key = du2018gradient.jax.random.key(3)
    return [du2018gradient._descents(key, "points", 0, 40, WIDTHS[:2], 200)]


@pytest.mark.slow
@pytest.mark.claim("du2018gradient/E1")
def test_the_quick_study_reproduces_the_powers_the_eigenvalues_and_the_rate(study, measured):
    found = claims(study)
    proved = ("lam_min_path", "decay", "move_bound")
    for name in (*proved, "flips", "max_move", "rate", "gram"):
        assert found[name].verdict is Verdict.REPRODUCED, found[name]
    for name in proved:
        assert found[name].value == found[name].trials == 12
    assert all(found[f"lam_min_{m}"].verdict is not Verdict.NOT_REPRODUCED for m in WIDTHS)
    measured(f"flips {found['flips'].measured}; moves {found['max_move'].measured}; rate {found['rate'].measured}")


@pytest.mark.slow
def test_the_claims_say_what_the_kept_runs_say(study):
    found, kept = claims(study), [study.results[f"width_{m}"] for m in WIDTHS]
    for m, run in zip(WIDTHS, kept, strict=True):
        assert run.w.shape == (m, 40)
        assert len(run.loss) == 201
        assert run.lr == pytest.approx(1 / run.lam_max_limit, rel=1e-12)
        promised = (1 - run.lr * run.lam_min_limit / 2) ** np.arange(201) * run.loss[0]
        assert (run.loss <= promised * (1 + 1e-9)).all()
    powers = np.polyfit(np.log(WIDTHS), np.log([run.flips[-1] for run in kept]), 1)
    assert abs(powers[0] - found["flips"].value) < 0.1  # of one draw beside the mean
    assert len({run.lam_min_limit for run in kept}) == 1  # the same data at every width
    for name in ("wider_faster", "wider_fewer_flips", "wider_shorter_moves"):
        assert found[name].trials == 6
    assert [len(study.results[f"experiment_{m}"].loss) for m in (100, 400, 1600)] == [101] * 3


@pytest.mark.slow
def test_the_study_prints_and_shows_its_runs_and_comes_back_from_its_file(study, tmp_path):
    assert len(str(study).splitlines()) < 20
    assert len(study.table()) == 14
    assert [chart.name.split("-")[0] for chart in study.charts()[::3]] == [
        "width_250",
        "width_16000",
        "experiment_1600",
    ]
    assert Study.load(study.save(tmp_path / "study.zip")) == study


@pytest.mark.slow
def test_decay_is_held_against_the_theorem_step_by_step(runs):
    run = runs[0][250]
    assert du2018gradient._decays_as_proved(run)
    promised = (1 - run.lr * run.lam_min_limit / 2) ** np.arange(201) * run.loss[0]
    for step in (1, 77, 200):
        loss = run.loss.copy()
        loss[step] = promised[step] * 1.001
        assert not du2018gradient._decays_as_proved(dataclasses.replace(run, loss=loss))


@pytest.mark.slow
def test_runs_that_break_a_claim_are_not_counted(runs, monkeypatch):
    monkeypatch.setattr(du2018gradient, "WIDTHS", WIDTHS[:2])
    wrong = dataclasses.replace(runs[0][250], lam_min=runs[0][250].lam_min * 0.4, max_move=np.full(11, 100.0))
    broken = [{250: wrong, 1000: runs[0][1000]}, runs[0]]
    path = du2018gradient._eigenvalues(broken)[-1]
    assert (path.value, path.trials, path.verdict) == (3, 4, Verdict.NOT_REPRODUCED)
    bound = du2018gradient._decays(broken)[1]
    assert (bound.value, bound.trials, bound.verdict) == (3, 4, Verdict.NOT_REPRODUCED)
    steps = np.arange(201)
    slow, fast = (dataclasses.replace(runs[0][m], loss=base**steps) for m, base in ((250, 0.9), (1000, 0.8)))
    runs, swapped = [{250: slow, 1000: fast}], [{250: fast, 1000: slow}]
    assert [own.value for own in du2018gradient._ordered(swapped, 40)] == [0, 0, 0]
    assert [own.value for own in du2018gradient._ordered(runs, 40)] == [1, 1, 1]


@pytest.mark.slow
def test_the_rate_is_read_above_the_rounding_of_the_loss(runs):
    run = runs[0][1000]
    factor, predicted = du2018gradient._factors(run)
    assert predicted == (1 - run.lr * run.lam_min_limit) ** 2
    steps = np.arange(201)
    exact = dataclasses.replace(run, loss=np.maximum(0.5**steps, 1e-32))  # at rounding from step 107 on
    assert du2018gradient._factors(exact)[0] == pytest.approx(0.5, rel=1e-12)
    assert abs(factor - predicted) < 0.05


def test_points_are_on_the_unit_sphere_and_a_seed_gives_others_than_the_next():
    key = du2018gradient.jax.random.key
    x, y = du2018gradient._inputs(key(0), "points", 0, 40)
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, rtol=1e-14)
    assert np.linalg.eigvalsh(relu_gram(x))[0] > 0
    for other in (du2018gradient._inputs(key(1), "points", 0, 40), du2018gradient._inputs(key(0), "points", 1, 40)):
        assert (other[0] != x).all()
        assert (other[1] != y).all()
    few = [du2018gradient._descents(key(seed), "points", 0, 10, SMALL, 10) for seed in (0, 0, 1)]
    assert few[0] == few[1]
    assert few[0][20].loss[-1] != few[2][20].loss[-1]
    assert few[0][20].lr == few[0][80].lr
