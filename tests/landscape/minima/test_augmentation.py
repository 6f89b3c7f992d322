"""A model with exponential neurons: values against loops in NumPy, the identity, and three systems of coordinates."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from widescape.core.errors import NonFiniteError, ShapeError
from widescape.core.precision import call_in_float64
from widescape.curvature import System
from widescape.landscape.minima.augmentation import augment_exp, augmented_loss

LAM = 0.03


def net(theta, x):
    return jnp.tanh(x @ theta["U"]) @ theta["V"]


@pytest.fixture
def theta(rng):
    return {"U": rng.standard_normal((3, 4)), "V": rng.standard_normal((4, 2))}


@pytest.fixture
def data(rng):
    return rng.standard_normal((5, 3)), rng.standard_normal((5, 2))


MODELS = {coords: augment_exp(net, dx=3, dy=2, coords=coords) for coords in ("raw", "scaled")}
LOSSES = {coords: augmented_loss(model, "square", LAM) for coords, model in MODELS.items()}


def point(theta, rng):
    """Variables at random, in raw coordinates."""
    return {"theta": theta, "a": rng.standard_normal(2), "b": rng.standard_normal(2), "W": rng.standard_normal((2, 3))}


def as_scaled(q):
    return {"theta": q["theta"], "c": q["a"] * np.exp(q["b"]), "b": q["b"], "W": q["W"]}


@partial(jax.jit, static_argnums=0)
def slope(objective, q, x, y):
    return jax.grad(objective)(q, x, y)


def gradient(objective, q, x, y):
    return call_in_float64(slope, objective, q, x, y)


@partial(jax.jit, static_argnums=0)
def both(objective, q, x, y):
    return objective.both(q, x, y)


def test_outputs_and_objective_are_those_of_a_loop_over_examples_and_outputs(theta, data, rng):
    x, y = data
    q = point(theta, rng)
    outputs = np.tanh(x @ theta["U"]) @ theta["V"]
    added = np.array([[q["a"][k] * np.exp(q["W"][k] @ u + q["b"][k]) for k in range(2)] for u in x])
    for coords, own in (("raw", q), ("scaled", as_scaled(q))):
        np.testing.assert_allclose(MODELS[coords].contribution(own, x), added, rtol=1e-13)
        np.testing.assert_allclose(MODELS[coords].apply(own, x), outputs + added, rtol=1e-12)
        np.testing.assert_allclose(MODELS[coords].amplitudes(own), q["a"], rtol=1e-14)
        value = np.mean(np.sum((outputs + added - y) ** 2, axis=1) / 2) + LAM * np.sum(q["a"] ** 2)
        assert LOSSES[coords](own, x, y) == pytest.approx(value, rel=1e-13)
        assert MODELS[coords].strip(own) is theta


@pytest.mark.claim("kawaguchi2019elimination/I2")
@pytest.mark.parametrize("coords", ["raw", "scaled"])
def test_where_the_amplitude_is_zero_the_objective_is_the_loss_exactly(coords, theta, data, rng):
    x, y = data
    start = MODELS[coords].init(None, theta) | {"b": rng.standard_normal(2)}
    alone = call_in_float64(both, LOSSES[coords], start, x, y)
    assert alone[0] == alone[1]
    assert LOSSES[coords](start, x, y) == pytest.approx(
        np.mean(np.sum((np.tanh(x @ theta["U"]) @ theta["V"] - y) ** 2, axis=1) / 2), rel=1e-13
    )


@pytest.mark.claim("kawaguchi2019elimination/I1")
@pytest.mark.claim("kawaguchi2019elimination/T1")
def test_the_gradient_obeys_the_identity_and_is_at_least_what_a_demands(theta, data, rng, measured):
    x, y = data
    defects, slack = [], []
    for size in (1e-3, 0.1, 1.0, 2.0):
        for _ in range(5):
            q = point(theta, rng)
            q = {**q, "a": size * q["a"]}
            g = gradient(LOSSES["raw"], q, x, y)
            scale = np.abs(q["a"] * g["a"]) + np.abs(g["b"])
            defects.append(np.max(np.abs(q["a"] * g["a"] - g["b"] - 2 * LAM * q["a"] ** 2) / scale))
            norm = np.sqrt(sum(np.sum(leaf**2) for leaf in jax.tree.leaves(g)))
            slack.append(norm / np.max(2 * LAM * q["a"] ** 2 / np.sqrt(1 + q["a"] ** 2)))
    assert max(defects) <= 1e-12
    assert min(slack) >= 1
    measured(f"identity to {max(defects):.1g} relative at 20 points; gradient {min(slack):.2g} times its bound or more")


def test_the_gradient_reaches_its_bound_for_one_sample_on_which_the_slope_in_b_balances_a():
    # f = 0, u = 0, y = 0, square loss: dL/da = a E^2 + 2 lam a, dL/db = a^2 E^2. The bound is reached where
    # (da, db) is parallel to (a, -1), which needs negative S: here a constant loss slope does it.
    model = augment_exp(lambda theta, x: 0 * x * theta, dx=1, dy=1)
    a, lam = 0.7, 0.2
    rate = -2 * lam * a / (1 + a * a)  # then da = rate + 2 lam a = a * (2 lam a^2)/(1 + a^2), db = a * rate
    objective = augmented_loss(model, lambda q, y: rate * jnp.sum(q), lam)
    q = {"theta": np.zeros(()), "a": np.array([a]), "b": np.zeros(1), "W": np.zeros((1, 1))}
    g = gradient(objective, q, np.zeros((1, 1)), np.zeros((1, 1)))
    assert np.hypot(g["a"][0], g["b"][0]) == pytest.approx(2 * lam * a**2 / np.sqrt(1 + a**2), rel=1e-14)


@pytest.mark.claim("kawaguchi2019elimination/I3")
def test_three_coordinates_give_one_objective_and_gradients_by_the_chain_rule(theta, data, rng, measured):
    x, y = data
    q = point(theta, rng)
    mean, std = x.mean(axis=0), x.std(axis=0)
    centered = augment_exp(net, dy=2, center=x)
    moved = {**q, "W": q["W"] * std, "b": q["b"] + q["W"] @ mean}
    raw, scaled, shifted = (
        gradient(objective, own, x, y)
        for objective, own in (
            (LOSSES["raw"], q),
            (LOSSES["scaled"], as_scaled(q)),
            (augmented_loss(centered, "square", LAM), moved),
        )
    )
    value = LOSSES["raw"](q, x, y)
    assert LOSSES["scaled"](as_scaled(q), x, y) == pytest.approx(value, rel=1e-13)
    assert augmented_loss(centered, "square", LAM)(moved, x, y) == pytest.approx(value, rel=1e-13)
    pairs = [
        (scaled["c"], np.exp(-q["b"]) * raw["a"]),
        (scaled["b"], raw["b"] - q["a"] * raw["a"]),
        (scaled["W"], raw["W"]),
        (scaled["theta"]["U"], raw["theta"]["U"]),
        (shifted["a"], raw["a"]),
        (shifted["b"], raw["b"]),
        (shifted["W"] * std + raw["b"][:, None] * mean, raw["W"]),
    ]
    worst = max(np.max(np.abs(ours - theirs)) / np.max(np.abs(theirs)) for ours, theirs in pairs)
    assert worst <= 1e-12
    measured(f"largest relative difference {worst:.1g}")


@pytest.mark.claim("kawaguchi2019elimination/P1")
def test_scaled_coordinates_survive_an_offset_of_2000_and_raw_ones_refuse_it(theta, data, rng, measured):
    x, y = data
    q = {"theta": theta, "c": rng.standard_normal(2), "b": np.full(2, 2000.0), "W": rng.standard_normal((2, 3))}
    g = gradient(LOSSES["scaled"], q, x, y)
    assert np.isfinite(LOSSES["scaled"](q, x, y))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(g))
    assert np.abs(g["c"]).min() > 0
    assert MODELS["scaled"].amplitudes(q).tolist() == [0.0, 0.0]
    lost = {"theta": theta, "a": np.ones(2), "b": q["b"], "W": q["W"]}
    with pytest.raises(NonFiniteError, match="scaled"):
        LOSSES["raw"](lost, x, y)
    with pytest.raises(NonFiniteError, match="scaled"):
        MODELS["raw"].contribution(lost | {"a": np.zeros(2)}, x)  # 0 times infinity
    measured(f"objective {LOSSES['scaled'](q, x, y):.4g} and gradient finite at b = 2000")


def test_clipping_is_counted_and_touches_only_large_exponents(theta, data):
    x = data[0]
    q = {"theta": theta, "a": np.ones(2), "b": np.array([0.0, 1.0]), "W": np.zeros((2, 3))}
    clipped = augment_exp(net, dx=3, dy=2, clip=0.5)
    assert clipped.clipped(q, x) == 5
    assert MODELS["raw"].clipped(q, x) == 0
    np.testing.assert_allclose(clipped.contribution(q, x), np.tile(np.exp([[0.0, 0.5]]), (5, 1)), rtol=1e-15)


def test_variables_start_with_zero_amplitudes_and_gaussian_weights_of_the_scale(key):
    model = augment_exp(net, dx=400, dy=50, w_scale=0.3)
    q = model.init(key, {"U": np.ones(2, np.float32)})
    assert not q["a"].any()
    assert not q["b"].any()
    assert abs(q["W"].std() / 0.3 - 1) < 5 / np.sqrt(2 * q["W"].size)
    assert abs(q["W"].mean()) < 5 * 0.3 / np.sqrt(q["W"].size)
    assert q["W"].dtype == q["theta"]["U"].dtype == np.float64
    assert (model.init(None, 0.0)["W"] == model.init(jax.random.key(0), 0.0)["W"]).all()
    assert set(augment_exp(net, dx=1, dy=1, coords="scaled").init(key, 0.0)) == {"theta", "c", "b", "W"}


@pytest.mark.claim("liang2018adding/V1")
def test_the_polynomial_hinge_objective_is_the_sum_over_examples_with_half_a_penalty_divided_by_m(rng):
    x, y = rng.standard_normal((6, 2)), rng.choice([-1.0, 1.0], (6, 1))
    model = augment_exp(lambda theta, x: x @ theta, dx=2, dy=1)
    q = {"theta": rng.standard_normal((2, 1)), "a": np.array([0.8]), "b": np.array([0.1]), "W": np.array([[0.3, 0.2]])}
    lam = 0.05
    outputs = x @ q["theta"] + q["a"] * np.exp(x @ q["W"].T + q["b"])
    total = np.sum(np.maximum(0.0, 1.0 - y * outputs) ** 3) + (2 * 6 * lam) / 2 * q["a"][0] ** 2
    assert augmented_loss(model, "poly_hinge", lam)(q, x, y) == pytest.approx(total / 6, rel=1e-13)


def test_a_system_brings_its_features_and_outputs_and_equal_models_are_equal(theta, data):
    x, y = data
    system = System(net, theta, x, y)
    model = augment_exp(system)
    assert (model.dx, model.dy) == (3, 2)
    assert model == MODELS["raw"]
    assert hash(model) == hash(MODELS["raw"])
    pictures = augment_exp(lambda theta, x: x[:, 0, :1], dx=6, dy=1)
    assert pictures.contribution(pictures.init(None, 0.0), np.ones((4, 2, 3))).shape == (4, 1)
    mapped = augment_exp(System(net, theta, x, y), feature_map=first_column)
    assert mapped.dx == 1


def first_column(x):
    return x[:, :1]


def test_arguments_that_do_not_fit_are_refused(theta, data):
    x, y = data
    model, objective = MODELS["raw"], LOSSES["raw"]
    q = model.init(None, theta)
    with pytest.raises(TypeError, match="`f`"):
        augment_exp(3, dx=1, dy=1)
    with pytest.raises(TypeError, match="`dx`"):
        augment_exp(net, dy=1)
    with pytest.raises(ValueError, match="`dy`"):
        augment_exp(net, dx=1, dy=0)
    with pytest.raises(ShapeError, match="`dy`"):
        augment_exp(System(net, theta, x, y), dy=3)
    with pytest.raises(ShapeError, match="`dx`"):
        augment_exp(net, dx=2, dy=2, center=x)
    with pytest.raises(ValueError, match="`coords`"):
        augment_exp(net, dx=1, dy=1, coords="polar")
    with pytest.raises(ValueError, match="`w_scale`"):
        augment_exp(net, dx=1, dy=1, w_scale=0.0)
    for lam in (0.0, -1.0, np.inf):
        with pytest.raises(ValueError, match="`lam`"):
            augmented_loss(model, "square", lam)
    with pytest.raises(TypeError, match="`model`"):
        augmented_loss(net, "square")
    with pytest.raises(ValueError, match="`dy`"):
        augmented_loss(augment_exp(net, dx=3, dy=1), "square")(augment_exp(net, dx=3, dy=1).init(None, theta), x, y)
    with pytest.raises(ShapeError, match="`y`"):
        objective(q, x, y[:, :1])
    with pytest.raises(ShapeError, match="`y`"):
        jax.jit(objective)(q, x, y[:, :1])
    with pytest.raises(ShapeError, match="`y`"):
        objective(q, x, y[:3])
    with pytest.raises(TypeError, match="`x` is a dict"):
        objective(q, {"x": x}, y)
    with pytest.raises(TypeError, match="`x` is a list"):
        model.apply(q, x.tolist())
    with pytest.raises(TypeError, match="complex"):
        model.init(None, 1j * np.ones(2))
    assert model.init(None, {"U": np.ones(2, int)})["theta"]["U"].dtype == np.float64
    with pytest.raises(ShapeError, match="features"):
        objective(q, x[:, :2], y)
    with pytest.raises(ValueError, match="examples"):
        objective(q, x[:0], y[:0])
    with pytest.raises(ValueError, match="`x`"):
        objective(q, np.where(x == x[0, 0], np.nan, x), y)
    with pytest.raises(ValueError, match="`y`"):
        objective(q, x, np.full_like(y, np.inf))
    with pytest.raises(ValueError, match="`q`"):
        objective(q | {"b": np.array([0.0, np.nan])}, x, y)
    with pytest.raises(TypeError, match="one number"):
        augmented_loss(model, lambda q, y: (q - y) ** 2)(q, x, y)
    with pytest.raises(TypeError, match="`q`"):
        objective(as_scaled(q), x, y)
    with pytest.raises(ShapeError, match="'W'"):
        objective(q | {"W": np.zeros((3, 2))}, x, y)
