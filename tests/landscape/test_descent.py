"""Descent takes the steps that its formulas say, and keeps what it says it keeps."""

import jax.numpy as jnp
import numpy as np
import pytest

from widescape.core.errors import NonFiniteError, ShapeError
from widescape.curvature import System
from widescape.curvature.segment import as_system
from widescape.landscape.descent import Descent, DescentStatus, gradient_descent

CURVATURES = np.array([0.3, 1.0, 4.0])


def quadratic(w):
    return 0.5 * jnp.sum(CURVATURES * w**2)


def bowl(start=(1.0, -2.0, 0.5)):
    return as_system(quadratic, np.array(start))


def curved(params, x):
    return jnp.tanh(x @ params["w"]) @ params["v"]


def network():
    r = np.random.default_rng(5)
    params = {"w": r.normal(size=(2, 3)), "v": r.normal(size=3)}
    return System(curved, params, r.normal(size=(6, 2)), r.normal(size=6), reduction="mean")


def by_hand(system, lr, steps, *, beta=0.0, nesterov=False):
    """Parameters and losses of each step, one after the other in NumPy."""
    w = before = system.flat
    path = [w]
    for _ in range(steps):
        ahead = w + beta * (w - before)
        w, before = ahead - lr * system.grad(ahead if nesterov else w), w
        path.append(w)
    return np.array(path), np.array([system.value(w) for w in path])


def test_descent_on_a_quadratic_is_its_closed_form():
    run = gradient_descent(bowl(), 0.4, 30, keep_every=1)
    powers = (1 - 0.4 * CURVATURES)[None] ** np.arange(31)[:, None]
    path = powers * np.array([1.0, -2.0, 0.5])[None]
    np.testing.assert_allclose(run.snapshots, path, rtol=1e-12)
    np.testing.assert_allclose(run.loss, 0.5 * (path**2 @ CURVATURES), rtol=1e-12)
    assert run.status is DescentStatus.OK
    assert run.snapshot_steps.tolist() == list(range(31))


@pytest.mark.parametrize(("optimizer", "beta"), [("gd", 0.0), ("polyak", 0.7), ("nesterov", 0.7)])
def test_each_method_takes_the_steps_of_its_formula(optimizer, beta):
    system = network()
    run = gradient_descent(system, 0.5, 40, optimizer=optimizer, momentum=beta, keep_every=1)
    path, losses = by_hand(system, 0.5, 40, beta=beta, nesterov=optimizer == "nesterov")
    np.testing.assert_allclose(run.snapshots, path, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(run.loss, losses, rtol=1e-10)
    assert run.optimizer == optimizer
    assert run.momentum == beta
    assert run.snapshots.dtype == np.float64


@pytest.mark.parametrize("optimizer", ["polyak", "nesterov"])
def test_momentum_zero_is_plain_descent(optimizer):
    system = network()
    plain, other = gradient_descent(system, 0.5, 25), gradient_descent(system, 0.5, 25, optimizer=optimizer, momentum=0)
    np.testing.assert_allclose(other.loss, plain.loss, rtol=1e-12)
    np.testing.assert_allclose(other.w, plain.w, rtol=1e-12)


def test_momentum_is_not_used_by_plain_descent():
    assert gradient_descent(bowl(), 0.4, 5, momentum=0.5) == gradient_descent(bowl(), 0.4, 5)
    assert gradient_descent(bowl(), 0.4, 5).momentum == 0


@pytest.mark.parametrize("optimizer", ["gd", "polyak"])
@pytest.mark.parametrize("every", [1, 3, 4, 7, 100])
def test_snapshots_lie_on_the_same_path_however_often_they_are_taken(optimizer, every):
    system, steps = network(), 12
    path = gradient_descent(system, 0.5, steps, optimizer=optimizer, keep_every=1)
    run = gradient_descent(system, 0.5, steps, optimizer=optimizer, keep_every=every)
    assert run.snapshot_steps.tolist() == [*range(0, steps, every), steps]
    np.testing.assert_allclose(run.snapshots, path.snapshots[run.snapshot_steps], rtol=1e-12)
    np.testing.assert_allclose(run.loss, path.loss, rtol=1e-12)
    for step, w in zip(run.snapshot_steps, run.snapshots, strict=True):
        np.testing.assert_allclose(run.loss[step], system.value(w), rtol=1e-12)


def test_a_run_longer_than_one_piece_goes_on_where_it_was():
    system = network()
    run = gradient_descent(system, 0.1, 1300, optimizer="polyak", momentum=0.5)
    path, losses = by_hand(system, 0.1, 1300, beta=0.5)
    np.testing.assert_allclose(run.loss, losses, rtol=1e-8)
    np.testing.assert_allclose(run.w, path[-1], rtol=1e-8)
    assert run.snapshot_steps.tolist() == [0, 1300]


def test_no_steps_leave_the_start():
    run = gradient_descent(bowl(), 0.4, 0)
    np.testing.assert_array_equal(run.w, [1.0, -2.0, 0.5])
    np.testing.assert_allclose(run.loss, [0.5 * (0.3 + 4 + 1)])
    assert run.status.ok
    assert run.snapshot_steps.tolist() == [0]


def test_it_starts_where_it_is_told_to_flat_or_as_a_tree():
    system = network()
    start = system.flat + 0.1
    flat, tree = (gradient_descent(system, 0.5, 3, params=p) for p in (start, system.unravel(start)))
    np.testing.assert_array_equal(flat.snapshots[0], start)
    assert flat == tree


def quartic(w):
    return jnp.sum(w**4)


@pytest.mark.parametrize("every", [None, 1, 2, 3, 50])
def test_divergence_keeps_finite_losses_and_the_snapshots_that_have_one(every):
    run = gradient_descent(as_system(quartic, np.array([3.0])), 1.0, 50, keep_every=every)
    assert run.status is DescentStatus.DIVERGED
    assert not run.status.ok
    assert 2 < len(run.loss) < 20
    assert np.isfinite(run.loss).all()
    assert np.isfinite(run.snapshots).all()
    np.testing.assert_allclose(run.loss[run.snapshot_steps], np.sum(run.snapshots**4, axis=1), rtol=1e-12)
    taken = range(len(run.loss)) if every == 1 else run.snapshot_steps
    assert run.snapshot_steps.tolist() == list(taken)
    assert run.charts()[0].y_scale == "log"


def test_a_last_step_that_overflows_is_divergence_too():
    whole = gradient_descent(as_system(quartic, np.array([3.0])), 1.0, 50)
    last = len(whole.loss)  # the first step without a finite loss
    for every in (None, 1):
        run = gradient_descent(as_system(quartic, np.array([3.0])), 1.0, last, keep_every=every)
        assert run.status is DescentStatus.DIVERGED
        assert len(run.loss) == last
        assert run.snapshot_steps[-1] < last
    assert gradient_descent(as_system(quartic, np.array([3.0])), 1.0, last - 1).status.ok


def test_single_precision_stays_single_and_overflows_earlier():
    single = as_system(quartic, np.array([3.0], np.float32))
    run = gradient_descent(single, 1.0, 50, keep_every=1)
    assert run.snapshots.dtype == np.float32
    assert run.status is DescentStatus.DIVERGED
    assert len(run.loss) < len(gradient_descent(as_system(quartic, np.array([3.0])), 1.0, 50).loss)


def test_a_run_survives_saving_and_draws_at_most_two_thousand_points(tmp_path):
    run = gradient_descent(bowl(), 0.4, 3000)
    assert Descent.load(run.save(tmp_path / "run.zip")) == run
    assert len(run.charts()[0].series[0].x) == 2000
    solved = gradient_descent(bowl((0.0, 0.0, 0.0)), 0.4, 3)
    assert solved.charts()[0].y_scale == "linear"


def test_arguments_that_do_not_fit_are_refused():
    system = bowl()
    for lr in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match="`lr`"):
            gradient_descent(system, lr, 1)
    with pytest.raises(TypeError, match=r"`steps` is 2\.0"):
        gradient_descent(system, 0.1, 2.0)
    with pytest.raises(ValueError, match="`steps` is -1"):
        gradient_descent(system, 0.1, -1)
    with pytest.raises(ValueError, match="`keep_every` is 0"):
        gradient_descent(system, 0.1, 1, keep_every=0)
    with pytest.raises(ValueError, match="`optimizer` is 'adam'"):
        gradient_descent(system, 0.1, 1, optimizer="adam")
    for beta in (1.0, -0.1):
        with pytest.raises(ValueError, match="`momentum`"):
            gradient_descent(system, 0.1, 1, optimizer="polyak", momentum=beta)
    with pytest.raises(ShapeError, match="`params`"):
        gradient_descent(system, 0.1, 1, params=np.ones(4))
    with pytest.raises(ValueError, match="needs targets"):
        gradient_descent(System(lambda w, x: x @ w, np.ones(2), np.eye(2)), 0.1, 1)
    for steps in (0, 3):
        with pytest.raises(NonFiniteError, match="where descent starts"):
            gradient_descent(as_system(quartic, np.array([1e100])), 0.1, steps)
