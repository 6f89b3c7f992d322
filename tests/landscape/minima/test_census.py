"""The census: each run is that of the single trainers, and the failure mode at full size."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from widescape.core.errors import AssumptionWarning, ShapeError
from widescape.core.random import named_key
from widescape.curvature import System
from widescape.landscape import problems
from widescape.landscape.minima.augmentation import augment_exp
from widescape.landscape.minima.augmented_training import train_augmented, train_scaled
from widescape.landscape.minima.census import EliminationCensus, elimination_census
from widescape.landscape.minima.losses import mean_loss

TRAP = problems.affine_trap()
ADAM = optax.adam(2e-2)


def line(theta, x):
    return x @ theta


@pytest.mark.slow
def test_each_run_of_a_census_is_that_of_the_single_trainers(key, tmp_path):
    starts = TRAP.starts(3)
    census = elimination_census(TRAP.f, TRAP.loss, starts, TRAP.X, TRAP.y, opt=ADAM, steps=300, every=100, key=key)
    model = augment_exp(TRAP.system())
    for s in range(3):
        theta = jax.tree.map(lambda leaf, s=s: leaf[s], starts)
        start = model.init(named_key(key, s), theta)
        alone = train_augmented(model, TRAP.loss, start, (TRAP.X, TRAP.y), opt=ADAM, steps=300, every=100)
        assert census.augmented_loss[s] == pytest.approx(alone.loss[-1], rel=1e-9)
        assert census.augmented_modified[s] == pytest.approx(alone.modified_loss[-1], rel=1e-9)
        assert census.contribution[s] == pytest.approx(alone.contribution[-1], rel=1e-9)
        assert census.augmented_status[s] is alone.status
        np.testing.assert_allclose(census.history_b[:, s], alone.b.max(axis=1), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(census.history_a[:, s], np.abs(alone.a).max(axis=1), rtol=1e-9, atol=1e-12)
    scaled = train_scaled(TRAP.objective, theta, opt=ADAM, steps=300, every=100)
    assert census.scaled_loss[2] == pytest.approx(scaled.loss[-1], rel=1e-9)
    assert census.scaled_modified[2] == pytest.approx(scaled.modified_loss[-1], rel=1e-9)
    assert abs(census.scaled_hidden[2]) == pytest.approx(scaled.contribution[-1], rel=1e-9)
    with jax.enable_x64(True):
        slope, q = jax.jit(jax.grad(lambda p: mean_loss(TRAP.loss, TRAP.f(p, TRAP.X), TRAP.y))), theta
        state = ADAM.init(jax.tree.map(jnp.asarray, q))
        for _ in range(300):
            updates, state = ADAM.update(slope(q), state, q)
            q = optax.apply_updates(q, updates)
    assert census.plain_loss[2] == pytest.approx(TRAP.value(jax.tree.map(np.asarray, q)), rel=1e-9)
    assert census.steps.tolist() == [0, 100, 200, 300]
    assert census.status.ok
    assert EliminationCensus.load(census.save(tmp_path / "census")) == census
    assert [chart.name for chart in census.charts()] == ["hidden_loss", "added_term", "final_loss"]
    finals = census.charts()[2].series
    assert [series.label for series in finals] == ["alone", "with added neurons", "with a scaled loss"]
    assert census.share("escaping") == sum(status == "escaping" for status in census.augmented_status) / 3
    assert census.plain_median == np.median(census.plain_loss)


def below_zero(output, target):
    return jnp.sum((output - target) ** 2) - 1.0


def scaled_line(theta, x):
    return theta * x


def test_a_census_takes_a_system_and_inputs_of_one_axis(key):
    x, y, starts = np.array([1.0, 2.0]), np.array([1.0, 2.0]), np.array([0.5, 1.0])
    options = {"opt": ADAM, "steps": 2, "every": 1, "key": key}
    ours = elimination_census(scaled_line, "square", starts, x, y, **options)
    theirs = elimination_census(System(scaled_line, 0.0, x, y), None, starts, **options)
    assert ours == theirs


def test_a_run_that_overflows_keeps_its_last_finite_numbers_and_leaves_the_others_alone():
    x, y = np.array([[1.0], [2.0]]), np.array([[1.0], [2.0]])
    kinked = np.array([[[0.5]], [[300.0]]])

    def quadratic(theta, x):
        return x @ theta**2

    census = elimination_census(quadratic, "square", kinked, x, y, opt=0.02, steps=200, every=10)
    alone = elimination_census(quadratic, "square", kinked[[0, 0]], x, y, opt=0.02, steps=200, every=10)
    assert not census.status.ok
    assert census.augmented_status[1] == "overflowed"
    assert census.scaled_status[1] == "overflowed"
    assert np.isfinite(census.history_modified).all()
    assert census.augmented_loss[0] == pytest.approx(alone.augmented_loss[0], rel=1e-12)
    assert alone.status.ok


def test_arguments_that_do_not_fit_are_refused():
    x, y = np.array([[1.0], [2.0]]), np.array([[1.0], [2.0]])

    good = np.ones((2, 1, 1))

    def run(starts=good, x=x, y=y, **options):
        return elimination_census(line, "square", starts, x, y, **{"steps": 2, "opt": ADAM, **options})

    with pytest.raises(ShapeError, match="`starts`"):
        run(starts=np.ones(()))
    with pytest.raises(ShapeError, match="`starts`"):
        run(starts={"a": np.ones((2, 1)), "b": np.ones((3, 1))})
    with pytest.raises(ShapeError, match="`X`"):
        run(x=np.ones(()))
    with pytest.raises(TypeError, match="`x` is a list"):
        run(x=[[1.0], [2.0]])
    with pytest.raises(TypeError, match="X, loss, y are None"):
        elimination_census(line, None, good)
    with pytest.raises(TypeError, match="brings loss"):
        elimination_census(TRAP.system(), TRAP.loss, TRAP.starts(2))
    with pytest.raises(ValueError, match="`every`"):
        run(every=0)
    with pytest.raises(ValueError, match="`tol`"):
        run(tol=0.0)
    with pytest.raises(TypeError, match="complex"):
        run(starts=1j * good)
    with pytest.raises(ShapeError, match="`y`"):
        run(y=np.ones(3))
    with pytest.raises(ValueError, match="`lam`"):
        run(lam=0.0)
    with pytest.raises(ValueError, match="`steps`"):
        run(steps=0)
    with pytest.raises(ValueError, match="zero gradient"):
        run(opt=optax.adamw(1e-2))


@pytest.mark.slow
def test_starts_that_overflow_are_refused_and_assumptions_that_fail_warned_about():
    x, y, good = np.array([[1.0], [2.0]]), np.array([[1.0], [2.0]]), np.ones((2, 1, 1))
    with pytest.raises(ValueError, match="start 1 is NaN or infinite"):
        elimination_census(line, "square", np.array([1.0, 1e200]).reshape(2, 1, 1), x, y, steps=2, opt=ADAM)
    with pytest.warns(AssumptionWarning, match="different target") as seen:
        elimination_census(line, "square", good, np.ones((2, 1)), y, steps=2, opt=ADAM)
    assert seen[0].filename == __file__
    with pytest.warns(AssumptionWarning, match="fell to"):
        elimination_census(line, below_zero, good.astype(int), x, y, steps=2, opt=ADAM)


@pytest.mark.slow
@pytest.mark.claim("kawaguchi2019elimination/X1")
@pytest.mark.parametrize("seed", [0, 3])
def test_added_neurons_hide_the_loss_of_most_runs_and_escape_to_infinity(seed, measured):
    problem = problems.relu_teacher(seed)
    census = elimination_census(problem.f, problem.loss, problem.starts(50), problem.X, problem.y)
    assert census.status.ok
    assert census.plain_median >= 1e-3
    assert census.augmented_median >= 10 * census.plain_median
    assert census.contribution_share >= 0.8
    assert census.share("escaping") >= 0.8
    assert census.share("vanished") <= 0.1
    assert 1 <= census.scaled_ratio_median <= 1.05
    assert 0.95 <= census.scaled_hidden_median <= 1
    solved = [np.mean(losses < 0.01) for losses in (census.plain_loss, census.scaled_loss)]
    assert abs(solved[0] - solved[1]) <= 0.1
    measured(
        f"teacher {seed}: median L {census.plain_median:.3g} alone, {census.augmented_median:.3g} with neurons at an "
        f"objective of {census.augmented_modified_median:.2g}; G > 0.1 in {census.contribution_share:.0%}, escaping "
        f"{census.share('escaping'):.0%}; scaled loss over L {census.scaled_ratio_median:.3f}, "
        f"a e^b = {census.scaled_hidden_median:.3f}"
    )
