"""The sharpness along descent is the largest eigenvalue of the Hessian, and its threshold is where descent turns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from widescape.core.errors import NonFiniteError, ShapeError
from widescape.curvature import System
from widescape.curvature.segment import as_system
from widescape.landscape.descent import DescentStatus, gradient_descent
from widescape.landscape.edge import SharpnessTrace, Stability, rising, stability, stability_threshold, track_sharpness

OPTIMIZERS = ("gd", "polyak", "nesterov")


def half_square(w):
    return jnp.sum(w**2) / 2


def spectral_radius(lr, curvature, optimizer, beta):
    """Of one step on curvature w^2 / 2, as a map of (w, w before)."""
    a = lr * curvature
    if optimizer == "gd":
        return abs(1 - a)
    top = [1 + beta - a, -beta] if optimizer == "polyak" else [(1 - a) * (1 + beta), -(1 - a) * beta]
    return np.max(np.abs(np.linalg.eigvals(np.array([top, [1.0, 0.0]]))))


# The threshold.


@given(st.floats(1e-3, 1e3), st.sampled_from(OPTIMIZERS), st.floats(0, 0.99))
def test_the_recursion_contracts_below_the_threshold_and_expands_above(lr, optimizer, beta):
    threshold = stability_threshold(lr, optimizer, beta)
    assert (
        spectral_radius(lr, 0.999 * threshold, optimizer, beta)
        < 1
        < spectral_radius(lr, 1.001 * threshold, optimizer, beta)
    )
    assert spectral_radius(lr, 0.1 * threshold, optimizer, beta) < 1


@pytest.mark.claim("liu2020loss/C12")
def test_descent_converges_at_098_of_the_threshold_and_diverges_at_102(measured):
    found = []
    system = as_system(half_square, np.array([1.0]))  # curvature 1: its share of the threshold is set by the rate
    for optimizer in OPTIMIZERS:
        below, above = (
            gradient_descent(system, share * stability_threshold(1.0, optimizer), 400, optimizer=optimizer)
            for share in (0.98, 1.02)
        )
        assert below.status is DescentStatus.OK
        assert below.loss[-1] < 1e-10 * below.loss[0]
        assert above.loss[-1] > 1e10 * above.loss[0]
        found.append(f"{optimizer} {below.loss[-1] / below.loss[0]:.0e} and {above.loss[-1] / above.loss[0]:.0e}")
    measured("loss after 400 steps over that at the start, at 0.98 and 1.02: " + ", ".join(found))


def test_momentum_zero_has_the_threshold_of_plain_descent():
    assert stability_threshold(0.3, "polyak", 0.0) == stability_threshold(0.3, "nesterov", 0.0) == 2 / 0.3


# The sharpness.


def mixed(w):
    """Largest curvature 3, and -50 along a direction in which descent stands still."""
    return (jnp.sum(jnp.concatenate([jnp.full(1, 3.0), jnp.full(1, -50.0), jnp.linspace(0.1, 2.0, 38)]) * w**2)) / 2


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_sharpness_is_the_largest_eigenvalue_and_not_the_largest_magnitude(optimizer):
    start = np.ones(40)
    start[1] = 0.0
    run = track_sharpness(mixed, 0.1, 30, every=10, params=start, optimizer=optimizer, momentum=0.5)
    np.testing.assert_allclose(run.sharpness, 3.0, rtol=1e-9)
    assert run.threshold == stability_threshold(0.1, optimizer, 0.5)
    np.testing.assert_array_equal(run.ratio, run.sharpness / run.threshold)
    assert run.converged.all()
    assert (run.resid <= 1e-6 * 3).all()
    assert run.verdict == "stable"
    assert run.evidence("sharpness").side == "lower"


def test_a_concave_loss_has_a_negative_sharpness():
    run = track_sharpness(lambda w: -2.0 * jnp.sum(w**2), 0.1, 2, every=1, params=np.zeros(3))
    np.testing.assert_allclose(run.sharpness, -4.0)
    np.testing.assert_allclose(run.late_ratio, -0.2)


def two_layers(params, x):
    return jnp.tanh(x @ params["w"]) @ params["v"]


def network(dtype=np.float64):
    r = np.random.default_rng(5)
    params = {"w": r.normal(size=(4, 10)).astype(dtype), "v": r.normal(size=10).astype(dtype)}
    return System(two_layers, params, r.normal(size=(15, 4)).astype(dtype), r.normal(size=15).astype(dtype))


@jax.jit
def assembled(points, x, y):
    """The Hessian of the network's loss at each point."""

    def loss(flat):
        v, hidden = flat[:10], flat[10:].reshape(4, 10)
        return jnp.sum((jnp.tanh(x @ hidden) @ v - y) ** 2) / 2

    return jax.vmap(jax.hessian(loss))(points)


def dense_sharpness(system, points):
    """The largest eigenvalue of the assembled Hessian at each point, in double precision."""
    with jax.enable_x64(True):
        hessians = assembled(*(np.asarray(a, np.float64) for a in (points, *system.arrays)))
    return np.linalg.eigvalsh(np.asarray(hessians))[:, -1]


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float64, 1e-10), (np.float32, 1e-4)])
def test_the_sharpness_of_a_network_is_that_of_its_assembled_hessian_at_every_record(dtype, rtol):
    system = network(dtype)
    run = track_sharpness(system, 0.02, 100, every=10)
    path = gradient_descent(system, 0.02, 100, keep_every=10)
    np.testing.assert_allclose(run.sharpness, dense_sharpness(system, path.snapshots), rtol=rtol)
    assert np.ptp(run.sharpness) > 0.1 * run.sharpness[0]
    np.testing.assert_array_equal(run.steps, path.snapshot_steps)
    np.testing.assert_array_equal(run.loss, path.loss[path.snapshot_steps])
    assert run.rises == np.mean(np.diff(path.loss) > 0)
    assert run.converged.all()


@pytest.mark.parametrize("optimizer", ["polyak", "nesterov"])
def test_without_momentum_every_method_is_plain_descent(optimizer):
    plain = track_sharpness(network(), 0.02, 20, every=5)
    other = track_sharpness(network(), 0.02, 20, every=5, optimizer=optimizer, momentum=0.0)
    np.testing.assert_allclose(other.sharpness, plain.sharpness, rtol=1e-9)
    np.testing.assert_allclose(other.loss, plain.loss, rtol=1e-11)
    assert other.threshold == plain.threshold
    assert other.optimizer == optimizer


def test_fewer_steps_than_between_records_give_both_ends():
    run = track_sharpness(network(), 0.02, 7, every=100)
    assert run.steps.tolist() == [0, 7]
    assert run.spearman == 0
    assert track_sharpness(network(), 0.02, 7, every=3).steps.tolist() == [0, 3, 6, 7]


def test_the_key_moves_nothing_but_rounding_and_the_same_key_nothing():
    first, again, other = (track_sharpness(network(), 0.02, 10, every=5, key=jax.random.key(k)) for k in (1, 1, 2))
    assert first == again
    np.testing.assert_allclose(other.sharpness, first.sharpness, rtol=1e-9)


# Verdicts of runs.


def quadratic(share, steps=60, start=1.0):
    """A run on a quadratic whose curvature is a share of the threshold."""
    return track_sharpness(half_square, 2 * share, steps, every=2, params=np.array([start, start]))


@pytest.mark.parametrize("share", [0.3, 0.89, 0.95, 0.99])
def test_a_quadratic_below_the_threshold_is_stable_and_never_an_edge(share):
    run = quadratic(share, steps=400)
    assert run.verdict == "stable"
    assert run.rises == run.loss_rises == run.spearman == 0
    np.testing.assert_allclose(run.ratio, share)


@pytest.mark.parametrize("share", [1.02, 1.1, 1.5])
def test_a_quadratic_above_the_threshold_is_divergent_before_it_overflows(share):
    run = quadratic(share)
    assert run.verdict == "divergent"
    assert run.rises == 1
    assert run.steps[-1] == 60


def test_a_run_above_the_threshold_that_never_moves_is_undecided():
    run = quadratic(1.05, start=0.0)
    assert run.verdict == "undecided"
    assert run.status is Stability.UNDECIDED
    assert not run.status.ok
    assert run.charts()[1].y_scale == "linear"


def test_a_loss_that_overflows_is_divergent_and_keeps_the_records_before():
    run = track_sharpness(lambda w: jnp.sum(w**4), 1.0, 50, every=1, params=np.array([3.0]))
    assert run.verdict == "divergent"
    assert not run.status.ok
    assert 3 <= len(run.steps) < 20
    assert run.steps.tolist() == list(range(len(run.steps)))
    for values in (run.sharpness, run.ratio, run.loss, run.resid):
        assert np.isfinite(values).all()
        assert len(values) == len(run.steps)
    np.testing.assert_allclose(run.sharpness, 12 * (run.loss / 1) ** 0.5, rtol=1e-9)


def test_records_end_where_the_hessian_of_a_diverging_run_overflows():
    start, rate = 1e-3, 0.707 / (1e3 * np.sinh(1.0))  # one step to 1000 w = -706, where the loss is about 1e306
    run = track_sharpness(lambda w: jnp.sum(jnp.cosh(1e3 * w)), rate, 5, every=1, params=np.array([start]))
    assert run.verdict == "divergent"
    assert run.steps.tolist() == [0]
    np.testing.assert_allclose(run.sharpness, 1e6 * np.cosh(1.0))


def product(w):
    """(u.v)^2 / (2 m) with u and v of m = 64 entries."""
    return (w[:64] @ w[64:]) ** 2 / 128


@pytest.mark.parametrize(
    ("rate", "verdict"), [(1.0, "stable"), (2.5, "catapult"), (3.5, "catapult"), (4.5, "divergent")]
)
def test_a_product_of_vectors_is_catapulted_between_two_and_four(rate, verdict):
    w = np.random.default_rng(1).normal(size=128)
    run = track_sharpness(product, rate * 64 / (w @ w), 150, every=5, params=w)
    assert run.verdict == verdict
    assert (run.ratio[0] > 1) == (rate > 2)


# Verdicts by the rules.

STEPS = np.arange(0, 300, 10)  # thirty records, the last ten from step 200 on
FALL = np.exp(-np.arange(291) / 100)


def bumpy(scale):
    """The falling loss with a rise every fourth step."""
    return FALL * (1 + scale * (np.arange(291) % 4 == 3))


ONCE = np.where(np.arange(291) == 150, 2 * FALL, FALL)
LEAP = np.where((np.arange(291) > 2) & (np.arange(291) < 50), 3.0, FALL)
RISE = np.linspace(0.2, 0.8, 30)


@pytest.mark.parametrize(
    ("ratio", "loss", "verdict"),
    [
        (RISE, FALL, "sharpening"),
        (np.linspace(0.2, 0.95, 30), FALL, "sharpening"),
        (np.linspace(0.2, 1.1, 30), FALL, "sharpening"),  # reaches 1 in the last third only
        (np.minimum(2 * RISE, 1.0), bumpy(0.1), "edge"),
        (np.minimum(2 * RISE, 1.0), bumpy(1e-15), "undecided"),
        (np.minimum(2 * RISE, 1.09), bumpy(0.1), "edge"),
        (np.minimum(2 * RISE, 1.11), bumpy(0.1), "undecided"),
        (np.minimum(2 * RISE, 1.0), ONCE, "edge"),  # one rise, after the ratio has reached 1
        (np.minimum(2 * RISE, 1.0), np.where(np.arange(291) == 50, 2 * FALL, FALL), "undecided"),  # or before
        (np.minimum(2 * RISE, 0.99), ONCE, "stable"),
        (np.full(30, 0.91), bumpy(0.1), "edge"),
        (np.full(30, 0.89), bumpy(0.1), "stable"),
        (np.full(30, 0.95), FALL, "stable"),
        (RISE[::-1], FALL, "stable"),
        (np.minimum(RISE, 0.5), FALL, "stable"),  # rose, and settled below
        (np.full(30, 1.2), FALL, "undecided"),
        (3.2 * RISE[::-1], FALL, "undecided"),  # still above 1 where the last third begins
        (2.5 * RISE[::-1], FALL, "stable"),  # also there, but its median is below 0.9
        (1.5 * RISE[::-1], FALL, "stable"),  # above 1 at first, but the loss never rose
        (1.5 * RISE[::-1], LEAP, "catapult"),
        (1.5 * RISE[::-1], np.maximum(LEAP, 1.0), "stable"),  # the loss does not fall below where it began
        (np.full(30, 0.5), np.linspace(1, 5, 291), "divergent"),
        (np.full(30, 0.5), np.linspace(-1, 3, 291), "divergent"),
        (np.full(30, 0.5), np.linspace(1, 1.9, 291), "stable"),
        (np.full(30, 0.5), np.linspace(-1, -0.4, 291), "stable"),
        (np.concatenate([np.linspace(0.2, 1.05, 15), np.linspace(0.2, 0.8, 15)]), FALL, "stable"),  # reached 1 before
    ],
)  # fmt: skip
def test_each_rule_says_its_verdict(ratio, loss, verdict):
    status = stability(STEPS, ratio, loss)
    assert status.verdict == verdict
    assert status is Stability[verdict.upper()]
    assert stability(STEPS, ratio, loss, overflowed=True) is Stability.DIVERGENT


def test_a_rise_within_rounding_is_none():
    eps = 2.0**-52
    assert not rising(np.array([1.0, 1 + 32 * eps, 1.0]), eps).any()
    assert rising(np.array([1.0, 1 + 128 * eps, 1.0]), eps).tolist() == [True, False]
    assert not rising(np.array([1.0, 1e-29, 3e-29]), eps).any()
    assert rising(np.array([1.0, 1e-29, 3e-27]), eps).tolist() == [False, True]
    assert not rising(np.array([1.0, 1 + 1e-6]), 2.0**-23).any()
    assert rising(np.array([-2.0, -1.0]), eps).tolist() == [True]


# What it says, and what it refuses.


def test_a_trace_is_drawn_with_its_threshold_and_survives_saving(tmp_path):
    run = track_sharpness(network(), 0.02, 20, every=5)
    assert SharpnessTrace.load(run.save(tmp_path / "run.zip")) == run
    assert len(str(run).splitlines()) < 20
    sharpness, loss = run.charts()
    assert sharpness.markers[0].value == run.threshold == 100.0
    np.testing.assert_array_equal(sharpness.series[0].y, run.sharpness)
    assert loss.y_scale == "log"


def test_arguments_that_do_not_fit_are_refused():
    system = network()
    with pytest.raises(ValueError, match="`lr` is 0"):
        stability_threshold(0.0)
    with pytest.raises(ValueError, match="`optimizer` is 'adam'"):
        stability_threshold(0.1, "adam")
    for beta in (1.0, -0.1):
        with pytest.raises(ValueError, match="`momentum`"):
            stability_threshold(0.1, "polyak", beta)
    assert stability_threshold(0.1, "gd", 7.0) == 20
    with pytest.raises(ValueError, match="`steps` is 0"):
        track_sharpness(system, 0.1, 0)
    with pytest.raises(ValueError, match="`every` is 0"):
        track_sharpness(system, 0.1, 10, every=0)
    with pytest.raises(TypeError, match=r"`every` is 2\.5"):
        track_sharpness(system, 0.1, 10, every=2.5)
    with pytest.raises(ShapeError, match="`params`"):
        track_sharpness(system, 0.1, 10, params=np.ones(3))
    with pytest.raises(TypeError, match="`params` are needed"):
        track_sharpness(half_square, 0.1, 10)
    with pytest.raises(ValueError, match="needs targets"):
        track_sharpness(System(lambda w, x: x @ w, np.ones(2), np.eye(2)), 0.1, 1)


def test_a_hessian_that_is_infinite_where_the_loss_is_not_is_refused():
    def kinked(w):
        return jnp.sum(jnp.abs(w) ** 1.5)

    with pytest.raises(NonFiniteError):
        track_sharpness(kinked, 0.1, 2, params=np.zeros(2))
