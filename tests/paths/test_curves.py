"""Trained curves: their coefficients, the closed form over a bent valley, saddles, and what training keeps."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import integrate, optimize, special

from widescape.core.errors import DtypeError, NonFiniteError, ShapeError
from widescape.curvature import System
from widescape.paths import curves
from widescape.paths.curves import Curve, CurveStatus, coefficients, fit_curve
from widescape.paths.profiles import evaluate_path

ENDS = np.array([-1.0, 0.0]), np.array([1.0, 0.0])


def valley(w):
    return (w[1] - (1 - w[0] ** 2)) ** 2


def ring(w):
    return (w[0] ** 2 + w[1] ** 2 - 1) ** 2


def by_hand(kind, t, num):
    """Coefficients one by one: Bernstein polynomials, or the neighbors' shares."""
    row = np.zeros(num)
    if kind == "bezier":
        for j in range(num):
            row[j] = special.binom(num - 1, j) * (1 - t) ** (num - 1 - j) * t**j
    else:
        left = min(int(t * (num - 1)), num - 2)
        row[left + 1] = t * (num - 1) - left
        row[left] = 1 - row[left + 1]
    return row


# The families of curves.


@pytest.mark.parametrize("kind", ["bezier", "polychain"])
@pytest.mark.parametrize("num", [3, 4, 7])
def test_coefficients_are_those_of_the_definition(kind, num):
    ts = np.linspace(0, 1, 41)
    found = coefficients(kind, ts, num)
    np.testing.assert_allclose(found, [by_hand(kind, t, num) for t in ts], atol=1e-14)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-14)
    np.testing.assert_array_equal(found[[0, -1]], np.eye(num)[[0, -1]])
    assert (found >= 0).all()


@pytest.mark.parametrize("kind", ["bezier", "polychain"])
def test_traced_coefficients_are_those_of_arrays_in_their_own_precision(kind):
    t = jnp.asarray(0.3, jnp.float32)
    found = jax.jit(lambda t: coefficients(kind, t, 5))(t)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(np.asarray(found), by_hand(kind, 0.3, 5), rtol=3e-6, atol=1e-7)


@pytest.mark.parametrize("kind", ["bezier", "polychain"])
def test_without_training_a_curve_is_the_straight_line(kind):
    curve = fit_curve(valley, *ENDS, kind=kind, n_inner=3, steps=0)
    np.testing.assert_allclose(curve.loss, curve.line_loss, rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(curve.control, np.linspace(ENDS[0], ENDS[1], 5), rtol=1e-15)
    assert curve.max == pytest.approx(1, rel=1e-15)
    assert curve.history.shape == (0,)


def test_curves_share_a_program_per_optimizer_object_and_per_rate():
    system = System(lambda w, x: x @ w, np.zeros(2), np.ones((3, 2)), np.ones(3))

    def programs(*optimizers):
        before = curves._advance._cache_size()
        for optimizer in optimizers:
            fit_curve(system, *ENDS, optimizer=optimizer, steps=2, num=2)
        return curves._advance._cache_size() - before

    one = optax.sgd(0.1)
    assert programs(one, one, one) == 1
    assert programs(0.07, 0.07, np.float64(0.07)) == 1
    assert programs(optax.sgd(0.1), optax.sgd(0.1)) == 2
    assert "a new one is compiled anew" in " ".join(fit_curve.__doc__.split())


@pytest.mark.parametrize("kind", ["bezier", "polychain"])
def test_positions_on_a_curve_are_combinations_of_its_control_points(kind):
    curve = fit_curve(valley, *ENDS, kind=kind, n_inner=2, steps=50, init_noise=0.5, stratified=True)
    for t in (0.0, 0.2, 0.5, 0.77, 1.0):
        expected = by_hand(kind, t, 4) @ curve.control
        np.testing.assert_allclose(curve(t), expected, rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(curve.loss, [valley(by_hand(kind, t, 4) @ curve.control) for t in curve.t], rtol=1e-10)


# The closed form.


def decaying(steps):
    return optax.sgd(optax.cosine_decay_schedule(0.5, steps))


@pytest.mark.claim("garipov2018loss/C3")
@pytest.mark.parametrize(
    ("kind", "stratified", "height", "within", "mean"),
    [
        ("bezier", True, 2.0, 0.005, 0.0),
        ("bezier", False, 2.0, 0.03, 0.0),
        ("polychain", True, 1.25, 0.005, 0.0125),
        ("polychain", False, 1.25, 0.03, 0.0125),
    ],
)
def test_a_curve_over_a_bent_valley_is_the_closed_form(kind, stratified, height, within, mean, measured):
    steps = 3000
    curve = fit_curve(valley, *ENDS, kind=kind, steps=steps, stratified=stratified, optimizer=decaying(steps), num=2001)
    inner = curve.control[1]
    np.testing.assert_allclose(inner, [0, height], atol=within)
    expected = integrate.trapezoid(curve.loss, curve.t)
    assert expected == pytest.approx(mean, abs=5e-4)
    assert curve.mean == pytest.approx(mean, abs=1e-3)
    assert curve.line_loss.max() == 1.0
    assert curve.status is CurveStatus.OK
    draws = "16 positions a step" if stratified else "one"
    measured(f"{kind}, {draws}: ({inner[0]:.4f}, {inner[1]:.4f}), mean loss {expected:.5f}")


def test_the_polychain_at_its_best_height_has_mean_loss_one_eightieth():
    best = optimize.minimize_scalar(
        lambda h: integrate.quad(lambda u: (h * (1 - u) - (1 - u * u)) ** 2, 0, 1)[0], bounds=(0, 3), method="bounded"
    )
    assert (best.x, best.fun) == (pytest.approx(1.25, abs=1e-5), pytest.approx(0.0125, abs=1e-9))


def test_the_schedule_of_the_paper_reaches_the_valley_too():
    curve = fit_curve(valley, *ENDS, lr=0.05, steps=2000, stratified=True)
    np.testing.assert_allclose(curve.control[1], [0, 2], atol=0.005)


def test_the_schedule_of_the_paper_is_constant_then_linear_then_constant():
    """Slope one at every step: an update of plain descent is the rate; momentum adds its geometric sum."""
    steps, lr = 100, 0.3
    optimizer, velocity = curves._paper_schedule(lr, steps), 0.0
    state = optimizer.init(jnp.zeros(1))
    for step in range(steps):
        update, state = optimizer.update(jnp.ones(1), state)
        velocity = 0.9 * velocity + 1
        share = 1.0 if step <= 50 else max(0.01, 1 - 0.99 * (step / steps - 0.5) / 0.4)
        assert float(update[0]) == pytest.approx(-lr * share * velocity, abs=1e-6 * lr * velocity)


@pytest.mark.claim("garipov2018loss/P2")
def test_noise_leaves_a_saddle_on_which_descent_stays(measured):
    """Opposite ends on a circle of zero loss: on the line between them the slope points along it, by symmetry."""
    options = {"optimizer": optax.sgd(0.1), "steps": 600, "stratified": True}
    still = fit_curve(ring, *ENDS, **options)
    assert (still.control[:, 1] == 0).all()
    assert still.max == pytest.approx(1.0, abs=0.01)  # the height of the ridge, near a position of the curve
    left = fit_curve(ring, *ENDS, init_noise=0.05, **options)

    def mean_loss(h):
        return integrate.quad(lambda t: ring((2 * t - 1, 2 * t * (1 - t) * h)), 0, 1)[0]

    best = optimize.minimize_scalar(mean_loss, bounds=(0.5, 4), method="bounded", options={"xatol": 1e-9})
    assert abs(left.control[1, 1]) == pytest.approx(best.x, abs=0.03)
    assert left.control[1, 0] == pytest.approx(0, abs=0.03)
    assert left.max < 0.2
    measured(f"largest loss without noise {still.max:.3f}, with noise {left.max:.3f}")


# What is trained.


def test_a_step_descends_along_the_slope_at_the_drawn_position(rng):
    """One step of plain descent with a penalty, against the derivative written out."""
    start, end, rate, decay = rng.normal(size=2), rng.normal(size=2), 0.1, 0.7
    curve = fit_curve(valley, start, end, n_inner=2, steps=1, optimizer=rate, weight_decay=decay, init_noise=0.3)
    before = fit_curve(valley, start, end, n_inner=2, steps=0, init_noise=0.3).control
    change = (before - curve.control)[1:-1] / rate
    ts = optimize.brentq(lambda t: _share(change, t), 1e-6, 1 - 1e-6)
    w = by_hand("bezier", ts, 4) @ before
    slope = 2 * (w[1] - (1 - w[0] ** 2)) * np.array([2 * w[0], 1]) + decay * w
    np.testing.assert_allclose(change, by_hand("bezier", ts, 4)[1:-1, None] * slope, rtol=1e-6)
    assert curve.history == pytest.approx(valley(w), rel=1e-6)


def _share(change, t):
    """The inner coefficients are in the ratio (1 - t) : t, which gives the drawn position away."""
    first, second = (float(part @ change.sum(axis=0)) for part in change)
    return second * (1 - t) - first * t


def test_stratified_positions_lie_one_in_each_part():
    program = curves._Program(None, None, "bezier", 16)
    drawn = np.stack([curves._positions(program, jax.random.key(0), step, jnp.float32) for step in range(50)])
    assert (np.floor(drawn * 16) == np.arange(16)).all()
    np.testing.assert_allclose(np.mean(drawn * 16 % 1), 0.5, atol=5 / np.sqrt(12 * drawn.size))


def test_a_penalty_pulls_the_curve_toward_zero():
    ends = np.array([-1.0, 1.0]), np.array([1.0, 1.0])
    free = fit_curve(lambda w: 0 * w[0], *ends, steps=300, optimizer=0.3, weight_decay=0.5, stratified=True)
    # the penalty is a quadratic of the inner height h: E (1 - c + c h)^2 with c = 2t(1-t), E c = 1/3 and E c^2 = 2/15
    assert free.control[1, 1] == pytest.approx(1 - (1 / 3) / (2 / 15), abs=0.05)
    assert free.max == 0


def test_noise_is_in_units_of_the_root_mean_square_difference_of_the_ends():
    start = np.zeros(4000)
    end = np.full(4000, 3.0)
    curve = fit_curve(lambda w: jnp.sum(w**2), start, end, steps=0, init_noise=0.2)
    noise = curve.control[1] - 1.5
    assert noise.std() == pytest.approx(0.6, rel=5 / np.sqrt(2 * 4000))
    assert abs(noise.mean()) < 5 * 0.6 / np.sqrt(4000)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ends_are_bit_for_bit_the_given_ones(rng, dtype):
    ends = [{"w": rng.normal(size=(3, 2)).astype(dtype), "b": [rng.normal(size=2).astype(dtype)]} for _ in range(2)]

    def loss(p):
        return jnp.sum((p["w"] @ p["b"][0] - 1) ** 2)

    curve = fit_curve(loss, *ends, n_inner=2, steps=20)
    for given, found in zip((ends[0], ends[1]), (curve(0.0), curve(1.0)), strict=True):
        assert jax.tree.structure(given) == jax.tree.structure(found)
        for x, y in zip(jax.tree.leaves(given), jax.tree.leaves(found), strict=True):
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)
    assert len(curve.points) == 4
    np.testing.assert_array_equal(curve.points[-1]["w"], ends[1]["w"])
    assert curve.loss[0] == pytest.approx(float(loss(ends[0])), rel=1e-5)


def test_a_system_and_a_function_of_its_parameters_train_the_same_curve(rng):
    x, y = rng.normal(size=(6, 3)), rng.normal(size=6)
    trees = [{"w": rng.normal(size=3)} for _ in range(2)]
    system = System(lambda p, x: jnp.tanh(x @ p["w"]), trees[0], x, y)

    def loss(p):
        return jnp.sum((jnp.tanh(x @ p["w"]) - y) ** 2) / 2

    one = fit_curve(system, trees[0]["w"], trees[1]["w"], steps=40)
    two = fit_curve(loss, *trees, steps=40)
    np.testing.assert_allclose(one.control, two.control, rtol=1e-10)
    np.testing.assert_allclose(one(0.3)["w"], two(0.3)["w"], rtol=1e-10)


def test_the_key_alone_decides_the_draws():
    def curve(key, **rest):
        return fit_curve(valley, *ENDS, key=key, steps=20, **rest)

    np.testing.assert_array_equal(curve(None).control, curve(jax.random.key(0)).control)
    assert (curve(jax.random.key(1)).history != curve(jax.random.key(2)).history).any()


def test_pieces_of_training_join_without_a_seam(monkeypatch):
    whole = fit_curve(valley, *ENDS, steps=70)
    monkeypatch.setattr(curves.Still, "room", 16)
    pieces = fit_curve(valley, *ENDS, steps=70)
    np.testing.assert_allclose(pieces.history, whole.history, rtol=1e-12)
    np.testing.assert_allclose(pieces.control, whole.control, rtol=1e-12)


def test_another_curve_compiles_nothing(rng):
    fit_curve(valley, *ENDS, steps=30)
    before = curves._advance._cache_size()
    fit_curve(valley, ENDS[1], rng.normal(size=2), steps=30, key=jax.random.key(3), weight_decay=0.1)
    assert curves._advance._cache_size() == before


# Batches.


def on_batch(w, batch):
    return jnp.mean((batch["x"] @ w - batch["y"]) ** 2) * batch["on"]


def on_average(w, batches):
    return np.mean([np.mean((batch["x"] @ w - batch["y"]) ** 2) * batch["on"] for batch in batches])


def drawn_batches(rng, count, dtype=np.float64):
    return [
        {"x": rng.normal(size=(4, 2)).astype(dtype), "y": rng.normal(size=4).astype(dtype), "on": np.array(1, dtype)}
        for _ in range(count)
    ]


def test_equal_batches_train_as_none_do(rng):
    (batch,) = drawn_batches(rng, 1)
    one = fit_curve(on_batch, *ENDS, batches=itertools.repeat(batch), steps=40, init_noise=0.3)
    two = fit_curve(lambda w: on_batch(w, batch), *ENDS, steps=40, init_noise=0.3)
    np.testing.assert_allclose(one.history, two.history, rtol=1e-12)
    np.testing.assert_allclose(one.control, two.control, rtol=1e-12)
    np.testing.assert_allclose(one.loss, two.loss, rtol=1e-12)


def test_each_step_takes_the_next_batch_and_lists_start_over(rng):
    """The loss of a step is that of its batch: batches are told apart by a factor."""
    count = [dict(batch, on=np.array(10.0**i)) for i, batch in enumerate(drawn_batches(rng, 1) * 3)]
    still = {"optimizer": 0.0, "steps": 7}
    plain = fit_curve(on_batch, *ENDS, batches=count[:1], **still).history
    found = fit_curve(on_batch, *ENDS, batches=count, **still).history
    np.testing.assert_allclose(found / plain, [1, 10, 100, 1, 10, 100, 1], rtol=1e-12)
    other = fit_curve(on_batch, *ENDS, batches=iter(count * 3), **still).history
    np.testing.assert_array_equal(other, found)


def test_the_reported_loss_is_the_mean_over_batches(rng):
    batches = drawn_batches(rng, 3)
    curve = fit_curve(on_batch, *ENDS, batches=batches, steps=2)
    expected = [on_average(curve.at(t), batches) for t in curve.t]
    np.testing.assert_allclose(curve.loss, expected, rtol=1e-12)
    last = drawn_batches(rng, 40)
    curve = fit_curve(on_batch, *ENDS, batches=iter(last), steps=36)
    expected = [on_average(curve.at(t), last[4:36]) for t in curve.t]
    np.testing.assert_allclose(curve.loss, expected, rtol=1e-12)


def test_another_loss_can_be_reported(rng):
    curve = fit_curve(on_batch, *ENDS, batches=iter(drawn_batches(rng, 5)), steps=5, report=valley)
    np.testing.assert_allclose(curve.loss, [valley(curve.at(t)) for t in curve.t], rtol=1e-10, atol=1e-15)
    assert curve.line_loss.max() == 1


def test_batches_of_unequal_size_train_but_have_no_mean(rng):
    batches = [*drawn_batches(rng, 2), {"x": np.ones((1, 2)), "y": np.ones(1), "on": np.array(1.0)}]
    assert fit_curve(on_batch, *ENDS, batches=batches, steps=6, report=valley).status.ok
    with pytest.raises(ShapeError, match="give `report`"):
        fit_curve(on_batch, *ENDS, batches=batches, steps=6)


def test_single_precision_stays_single(rng):
    ends = [end.astype(np.float32) for end in ENDS]
    curve = fit_curve(on_batch, *ends, batches=drawn_batches(rng, 2, np.float32), steps=3)
    assert curve.control.dtype == np.float32
    assert fit_curve(valley, *ends, steps=3).control.dtype == np.float32
    assert fit_curve(on_batch, *ends, batches=drawn_batches(rng, 2), steps=3).control.dtype == np.float64
    assert fit_curve(valley, ends[0], ENDS[1], steps=3).control.dtype == np.float64


# What can go wrong.


@pytest.mark.parametrize("kind", ["bezier", "polychain"])
def test_a_divergent_run_says_so_and_keeps_finite_points(kind):
    curve = fit_curve(valley, *ENDS, kind=kind, optimizer=100.0, steps=500)
    assert curve.status is CurveStatus.DIVERGED
    assert len(curve.history) < 500
    for name in ("control", "loss", "history", "max", "mean", "integral"):
        assert np.isfinite(getattr(curve, name)).all()
    np.testing.assert_array_equal(curve.control[[0, -1]], ENDS)


def test_a_run_that_cannot_be_measured_returns_to_its_start():
    """Past a wall the reported loss is infinite, though the trained one never is."""

    def walled(w):
        return jnp.where(w[1] > 0.5, jnp.inf, w[1])

    curve = fit_curve(valley, *ENDS, optimizer=0.3, steps=200, stratified=True, report=walled)
    assert curve.status is CurveStatus.DIVERGED
    np.testing.assert_allclose(curve.control, np.linspace(*ENDS, 3), atol=1e-15)
    np.testing.assert_array_equal(curve.loss, curve.line_loss)


def test_a_loss_that_is_not_finite_at_an_end_is_refused():
    with pytest.raises(FloatingPointError, match="first end"):
        fit_curve(lambda w: jnp.log(w[0]), np.zeros(1), np.ones(1))
    with pytest.raises(NonFiniteError, match="last end"):
        fit_curve(lambda w: jnp.log(w[0]), np.ones(1), -np.ones(1))
    with pytest.raises(FloatingPointError, match="first end"):
        fit_curve(lambda w, batch: jnp.log(w[0]) + batch, np.zeros(1), np.ones(1), batches=itertools.repeat(0.0))


def test_arguments_of_a_curve_that_do_not_fit_are_refused(rng):
    for name, bad in {"n_inner": 0, "steps": -1, "num": 1, "init_noise": -1.0, "weight_decay": -1.0, "lr": 0.0}.items():
        with pytest.raises(ValueError, match=f"`{name}` is"):
            fit_curve(valley, *ENDS, **{name: bad})
    with pytest.raises(ValueError, match="'bezier', 'polychain'"):
        fit_curve(valley, *ENDS, kind="spline")
    with pytest.raises(TypeError, match="`optimizer` is 'adam'"):
        fit_curve(valley, *ENDS, optimizer="adam")
    with pytest.raises(ShapeError, match="shape"):
        fit_curve(valley, ENDS[0], np.zeros(3))
    with pytest.raises(DtypeError, match="int"):
        fit_curve(valley, ENDS[0], np.zeros(2, int))
    system = System(lambda w, x: x @ w, ENDS[0], np.eye(2), np.zeros(2))
    with pytest.raises(TypeError, match="a function of the parameters and a batch"):
        fit_curve(system, *ENDS, batches=[1.0])
    with pytest.raises(ValueError, match="`batches` is empty"):
        fit_curve(on_batch, *ENDS, batches=[])
    with pytest.raises(ValueError, match="`batches` ended after 2 steps"):
        fit_curve(on_batch, *ENDS, batches=iter(drawn_batches(rng, 2)), steps=5)
    with pytest.raises(TypeError, match="must return one number"):
        fit_curve(lambda w, batch: w, *ENDS, batches=[np.zeros(1)])


# What comes back.


def test_the_path_along_a_curve_has_its_losses():
    curve = fit_curve(valley, *ENDS, steps=200, stratified=True)
    path = curve.path()
    assert path.num_segments == 60
    profile = evaluate_path(valley, path, 2)
    np.testing.assert_allclose(profile.loss, curve.loss, rtol=1e-10, atol=1e-14)
    assert profile.integral == pytest.approx(curve.integral, rel=1e-10)
    np.testing.assert_array_equal(path(0.0), ENDS[0])
    np.testing.assert_array_equal(path(1.0), ENDS[1])


def test_equal_ends_have_a_curve_of_no_length():
    curve = fit_curve(valley, ENDS[0], ENDS[0], steps=0, init_noise=0.5)
    assert curve.integral == curve.max == 0


def test_refreshed_parameters_are_those_of_the_reported_losses():
    curve = fit_curve(lambda w: jnp.sum(w**2), *ENDS, steps=5, num=7, refresh=lambda w: w + 1)
    np.testing.assert_allclose(curve.loss, [np.sum((curve.at(t) + 1) ** 2) for t in curve.t], rtol=1e-12)


def test_a_curve_prints_draws_and_loads_bit_for_bit(tmp_path):
    curve = fit_curve(valley, *ENDS, steps=30)
    assert len(str(curve).splitlines()) < 20
    assert len(curve.history) == 30
    losses, training = curve.charts()
    np.testing.assert_array_equal(losses.series[0].y, curve.loss)
    np.testing.assert_array_equal(losses.series[1].y, curve.line_loss)
    np.testing.assert_array_equal(training.series[0].y, curve.history)
    loaded = Curve.load(curve.save(tmp_path / "curve"))
    assert loaded == curve
    np.testing.assert_array_equal(loaded.at(0.3), curve.at(0.3))
    for copied in (loaded, dataclasses.replace(curve)):
        with pytest.raises(ValueError, match=r"system\.unravel"):
            copied(0.5)
    with pytest.raises(ValueError, match="from 0 to 1"):
        curve(1.5)
