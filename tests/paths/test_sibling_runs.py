"""Siblings that share more steps end closer together; without noise they are equal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from widescape.core.random import named_key
from widescape.curvature import System
from widescape.paths.sibling_runs import Instability, instability

ROOT = jax.random.key(5)


def sign(key, step):
    """Plus or minus one for a step, by its key alone."""
    return 1.0 if jax.random.bernoulli(jax.random.fold_in(key, step)) else -1.0


def into_wells(w, key, start, stop):
    """The first step leaves the ridge of a double well to a random side; later ones roll down."""
    for step in range(start, stop):
        w = w + 0.5 * sign(key, step) if step == 0 else w - 0.1 * 4 * w * (w**2 - 1)
    return w


def double_well(w):
    return jnp.sum((w**2 - 1) ** 2)


def walk(w, key, start, stop):
    for step in range(start, stop):
        w = w + sign(key, step)
    return w


def test_siblings_that_share_the_choice_of_a_well_are_connected():
    found = instability(into_wells, double_well, np.zeros(1), [0, 1, 5], ROOT, stop=60, pairs=8)
    parted = np.array(
        [sign(named_key(ROOT, "sibling", i, 0), 0) != sign(named_key(ROOT, "sibling", i, 1), 0) for i in range(8)]
    )
    assert 0 < parted.sum() < 8
    np.testing.assert_allclose(found.barriers[0], parted.astype(float), atol=1e-6)
    np.testing.assert_allclose(found.barriers[1:], 0, atol=1e-6)
    assert found.stable.tolist() == [False, True, True]
    assert found.first_stable_k == 1
    np.testing.assert_allclose(found.end_losses, 0, atol=1e-6)


def test_siblings_are_runs_from_the_start_that_share_their_first_steps():
    """A concave loss: the barrier of the mean is |w1 - w0|^2 / 4, at the middle."""
    ks, stop = [1, 4, 6], 9
    found = instability(walk, lambda w: -jnp.sum(w**2), np.array([0.3]), ks, ROOT, stop=stop)
    for row, k in enumerate(ks):
        shared = 0.3 + sum(sign(named_key(ROOT, "shared"), step) for step in range(k))
        ends = [shared + sum(sign(named_key(ROOT, "sibling", 0, i), step) for step in range(k, stop)) for i in range(2)]
        mean = -(ends[0] ** 2 + ends[1] ** 2) / 2
        inside = 0.0 if ends[0] * ends[1] <= 0 else -(min(abs(ends[0]), abs(ends[1])) ** 2)
        assert found.barrier[row] == pytest.approx(inside - mean, rel=1e-6, abs=1e-6)
        np.testing.assert_allclose(found.end_losses[row, 0], -np.square(ends), rtol=1e-12)


@pytest.mark.parametrize("kind", ["mean", "chord", "max"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_siblings_without_noise_have_no_barrier_at_all(rng, kind, dtype):
    x, y = rng.normal(size=(20, 3)).astype(dtype), rng.normal(size=20).astype(dtype)
    params = {"in": rng.normal(size=(3, 6)).astype(dtype), "out": rng.normal(size=6).astype(dtype)}
    system = System(lambda p, x: jnp.tanh(x @ p["in"]) @ p["out"], params, x, y, reduction="mean")

    def descend(p, key, start, stop):
        w = system.vector(p)
        for _ in range(start, stop):
            w = w - 0.1 * system.grad(w)
        return system.unravel(w)

    found = instability(descend, system, params, [0, 3], kind=kind, stop=6)
    assert found.barrier.tolist() == [0.0, 0.0]
    assert found.end_losses[0, 0, 0] == found.end_losses[1, 0, 1] < system.value()


def test_no_shared_step_is_trained_twice():
    calls = []

    def record(w, key, start, stop):
        calls.append((start, stop, str(jax.random.key_data(key))))
        return w

    instability(record, double_well, np.zeros(1), [7, 2, 0, 2], stop=10, pairs=2)
    key = str(jax.random.key_data(named_key(jax.random.key(0), "shared")))
    assert [call[:2] for call in calls if call[2] == key] == [(0, 2), (2, 7)]
    siblings = [call for call in calls if call[2] != key]
    assert [call[:2] for call in siblings] == [(0, 10)] * 4 + [(2, 10)] * 4 + [(7, 10)] * 4
    assert len({call[2] for call in siblings}) == 4


def test_siblings_that_share_all_steps_are_equal_and_train_nothing():
    found = instability(walk, lambda w: -jnp.sum(w**2), np.zeros(2), [5, 0], ROOT)
    assert found.stop == 5
    assert found.ks.tolist() == [0, 5]
    assert found.barrier[1] == 0


def test_a_function_that_writes_into_its_arguments_harms_nothing():
    start = {"w": np.array([0.3])}

    def in_place(p, key, first, stop):
        p["w"] += walk(np.zeros(1), key, first, stop)
        return p

    def loss(p):
        return -jnp.sum(p["w"] ** 2)

    found = instability(in_place, loss, start, [0, 2], ROOT, stop=5)
    pure = instability(lambda p, *rest: {"w": walk(p["w"], *rest)}, loss, start, [0, 2], ROOT, stop=5)
    assert start["w"] == 0.3
    np.testing.assert_allclose(found.barrier, pure.barrier, rtol=1e-12)


def test_several_pairs_give_a_mean_and_its_standard_error():
    one = instability(walk, lambda w: -jnp.sum(w**2), np.zeros(1), [0], ROOT, stop=6)
    many = instability(walk, lambda w: -jnp.sum(w**2), np.zeros(1), [0], ROOT, stop=6, pairs=5)
    assert many.barriers.shape == (1, 5)
    assert many.barriers[0, 0] == one.barrier[0]
    assert many.barrier[0] == pytest.approx(many.barriers.mean(), rel=1e-15)
    assert many.stderr[0] == pytest.approx(many.barriers.std(ddof=1) / np.sqrt(5), rel=1e-15)
    assert one.stderr is None
    assert (one.evidence("barrier").kind, many.evidence("barrier").kind) == ("sampled", "estimate")


def test_stability_stands_on_a_barrier_that_is_searched_for():
    """A wall narrower than the distance of the positions goes unseen: the verdict is no identity."""

    def apart(w, key, start, stop):
        return w + sign(key, 0)

    def wall(w):
        return jnp.exp(-((jnp.sum(w) - 0.123456) ** 2) / 1e-12)

    key = next(k for k in map(jax.random.key, range(20)) if _parted(k))
    found = instability(apart, wall, np.zeros(1), [0], key, stop=1)
    assert abs(found.end_losses).max() < 1e-9
    assert found.barrier[0] < 0.02 < wall(0.123456)
    assert found.first_stable_k == 0
    assert (found.evidence("stable").kind, found.evidence("first_stable_k").kind) == ("sampled", "sampled")


def _parted(root):
    return len({float(sign(named_key(root, "sibling", 0, i), 0)) for i in range(2)}) == 2


def test_another_key_draws_other_siblings():
    def ends(key):
        return instability(walk, lambda w: -jnp.sum(w**2), np.zeros(1), [0], key, stop=16).end_losses.ravel().tolist()

    assert ends(ROOT) == ends(ROOT)
    assert len({tuple(ends(jax.random.key(i))) for i in range(3)}) > 1


def test_nothing_is_stable_below_a_threshold_that_no_barrier_meets():
    found = instability(walk, lambda w: -jnp.sum(w**2), np.zeros(1), [0, 2], ROOT, stop=7, threshold=-1.0)
    assert not found.stable.any()
    assert found.first_stable_k is None


@pytest.mark.parametrize("pairs", [1, 3])
def test_instability_prints_draws_and_loads_bit_for_bit(tmp_path, pairs):
    found = instability(into_wells, double_well, np.zeros(1), [0, 1], ROOT, stop=8, pairs=pairs)
    assert len(str(found).splitlines()) < 20
    assert Instability.load(found.save(tmp_path / "instability")) == found
    (chart,) = found.charts()
    np.testing.assert_array_equal(chart.series[0].y, found.barrier)
    assert (chart.series[0].low is None) == (pairs == 1)


def test_arguments_of_instability_that_do_not_fit_are_refused():
    def run(train_fn=walk, ks=(0, 1), **rest):
        return instability(train_fn, double_well, np.zeros(1), ks, **rest)

    with pytest.raises(ValueError, match="nothing would be trained apart"):
        run(ks=[3])
    with pytest.raises(ValueError, match="nothing would be trained apart"):
        run(ks=[0], stop=0)
    with pytest.raises(ValueError, match="`ks` goes up to 9"):
        run(ks=[0, 9], stop=5)
    with pytest.raises(ValueError, match="`ks` is -1"):
        run(ks=[-1, 2])
    with pytest.raises(TypeError, match=r"`ks` is 0\.5"):
        run(ks=[0.5, 2])
    with pytest.raises(ValueError, match="`ks` is empty"):
        run(ks=[])
    with pytest.raises(TypeError, match="`train_fn` is 3"):
        run(train_fn=3)
    with pytest.raises(ValueError, match="`pairs` is 0"):
        run(pairs=0)
    with pytest.raises(FloatingPointError):
        run(train_fn=lambda w, key, start, stop: w + 1e200)
