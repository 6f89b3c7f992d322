"""The quadratic Taylor model: derivatives of its risk, searches, certificates, the choice of lam, random signs."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from widescape import arch
from widescape.core.errors import AssumptionWarning, DtypeError, NonFiniteError, ShapeError
from widescape.features import (
    LamSelection,
    QuadraticFit,
    QuadraticProblem,
    SignRandomizedFit,
    fit_quadratic_taylor,
    fit_sign_randomized,
    gates,
    l24_norm,
    quadratic_outputs,
    second_order,
    second_order_certificate,
    select_lam,
    sign_mean,
    two_layer_terms,
)

CURVED = {"relu3": lambda z: np.maximum(z, 0), "square": np.ones_like}


def small(rng: np.random.Generator, n: int = 20, k: int = 3, m: int = 4) -> tuple[np.ndarray, ...]:
    """H, y, W0, a and a point W."""
    signs = np.where(np.arange(m) % 2 == 0, 1.0, -1.0)
    return rng.normal(size=(n, k)), rng.normal(size=n), rng.normal(size=(m, k)), signs, rng.normal(size=(m, k))


def obvious_risk(H, y, W0, a, activation, reg, lam, loss):
    """The risk, neuron by neuron."""
    second = CURVED[activation](H @ W0.T)

    def risk(W):
        m = len(W)
        outputs = sum(a[r] * second[:, r] * (H @ W[r]) ** 2 for r in range(m)) / (2 * m**0.5)
        power, scale = (2, lam) if reg == "l24" else (1, lam / m**0.5)
        return jnp.mean(loss(outputs, y)) + scale * sum((W[r] @ W[r]) ** power for r in range(m))

    return risk


def huber(p, y):
    return jnp.where(jnp.abs(p - y) <= 1, (p - y) ** 2 / 2, jnp.abs(p - y) - 0.5)


LOSSES = {
    "squared": lambda p, y: (p - y) ** 2,
    "huber": huber,
    "logistic": lambda p, y: jnp.log1p(jnp.exp(-y * p)),
}


@pytest.mark.claim("chen2020hierarchical/C2")
def test_the_l24_norm_of_two_rows():
    assert l24_norm([[3, 4], [0, 1]]) == pytest.approx(626**0.25, rel=1e-15)
    assert l24_norm([[3e200, 4e200], [0, 1e200]]) == pytest.approx(1e200 * 626**0.25, rel=1e-14)
    assert l24_norm(np.zeros((2, 3))) == 0


@pytest.mark.claim("chen2020hierarchical/C8")
@pytest.mark.parametrize("activation", ["relu3", "square", arch.Softplus()])
def test_at_zero_the_gradient_vanishes_and_the_model_is_even_and_quadratic_in_its_weights(rng, activation):
    H, y, W0, a, W = small(rng)
    problem = QuadraticProblem(H, y, W0, a, activation=activation, lam=0.1, dtype="float64")
    assert not problem.gradient(np.zeros_like(W)).any()

    def f(weights):
        return quadratic_outputs(H, weights, W0, a, activation=activation)

    np.testing.assert_array_equal(f(W), f(-W))
    np.testing.assert_allclose(f(3 * W), 9 * f(W), rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(f(W), two_layer_terms(W0, a, W, H, activation)[2], rtol=1e-12, atol=1e-14)


@pytest.mark.claim("chen2020hierarchical/C9")
def test_over_all_signs_the_quadratic_model_keeps_its_value(rng):
    H, _, W0, a, W = small(rng, m=6)
    once = quadratic_outputs(H, W, W0, a, activation="relu3")
    for signs in product((1.0, -1.0), repeat=6):
        again = quadratic_outputs(H, np.array(signs)[:, None] * W, W0, a, activation="relu3")
        np.testing.assert_array_equal(again, once)


@pytest.mark.parametrize(
    ("activation", "reg", "loss"),
    [("relu3", "l24", "squared"), ("square", "nuclear", "huber"), ("relu3", "nuclear", "logistic")],
)
def test_value_gradient_and_hessian_are_those_of_automatic_differentiation(rng, activation, reg, loss):
    H, y, W0, a, W = small(rng, n=11, k=2, m=4)
    y = np.sign(y) if loss == "logistic" else y
    V = rng.normal(size=W.shape)
    with jax.enable_x64(True):
        risk = obvious_risk(H, y, W0, a, activation, reg, 0.3, LOSSES[loss])
        together = jax.jit(lambda at: (risk(at), jax.grad(risk)(at), jax.hessian(risk)(at)))
        value, slope, second = map(np.asarray, together(W))
    problem = QuadraticProblem(H, y, W0, a, activation=activation, reg=reg, lam=0.3, loss=loss, dtype="float64")
    own = QuadraticProblem(H, y, W0, a, activation=activation, reg=reg, lam=0.3, loss=LOSSES[loss], dtype="float64")
    for found in (problem, own):
        assert found.value(W) == pytest.approx(float(value), rel=1e-13)
        np.testing.assert_allclose(found.gradient(W), slope, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(found.product(W, V), np.einsum("abcd,cd->ab", second, V), rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(problem.hessian(W), second.reshape(8, 8), rtol=1e-11, atol=1e-12)
    single = problem.at(dtype="float32")
    np.testing.assert_allclose(single.gradient(W), slope, rtol=2e-5, atol=2e-5)
    assert single.at(lam=0.0).penalty(W) == 0.0


def test_the_smallest_curvature_by_lanczos_is_that_of_the_dense_hessian(rng, monkeypatch):
    H, y, W0, a, W = small(rng, n=30, k=5, m=8)
    problem = QuadraticProblem(H, y, W0, a, lam=0.01)
    dense = second_order_certificate(problem, W)
    assert dense.evidence("min_hess_eig").kind == "exact"
    monkeypatch.setattr(second_order, "DENSE_UP_TO", 0)
    found = second_order_certificate(problem, W)
    assert found.evidence("min_hess_eig").side == "upper"
    assert dense.min_hess_eig < -0.1
    assert found.min_hess_eig == pytest.approx(dense.min_hess_eig, rel=1e-8)
    assert found.min_hess_eig >= dense.min_hess_eig - 1e-12
    assert dense.objective == pytest.approx(dense.loss + 0.01 * dense.l24**4, rel=1e-14)


def planted(rng: np.random.Generator, n: int = 400, k: int = 3, noise: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """A quadratic form of rank two of Gaussian rows, with noise."""
    H = rng.normal(size=(n, k))
    return H, H[:, 0] ** 2 - 0.5 * H[:, 1] ** 2 + noise * rng.normal(size=n)


@pytest.mark.claim("chen2020hierarchical/I5")
@pytest.mark.parametrize("solver", ["lbfgs", "adam"])
def test_one_seed_gives_one_fit_bit_for_bit_and_another_seed_another(rng, solver):
    H, y = planted(rng)
    _, _, W0, a, _ = small(rng)
    fits = [fit_quadratic_taylor(H, y, W0, a, lam=1e-3, solver=solver, max_iter=20, seed=s) for s in (3, 3, 4)]
    assert fits[0] == fits[1]
    assert fits[0].W.tobytes() != fits[2].W.tobytes()


@pytest.mark.parametrize("reg", ["l24", "nuclear"])
def test_adam_comes_near_the_point_that_lbfgs_finds(rng, reg):
    H, y = planted(rng, n=800)  # three batches, and rows to spare
    _, _, W0, a, _ = small(rng, m=6)
    shared = {"activation": "square", "reg": reg, "lam": 0.01}
    exact = fit_quadratic_taylor(H, y, W0, a, **shared, dtype="float64", tol=1e-7, max_iter=500)
    near = fit_quadratic_taylor(H, y, W0, a, **shared, solver="adam", max_iter=300)
    assert exact.status == "ok"
    assert exact.objective <= near.objective < 1.005 * exact.objective
    assert near.status == "out_of_steps"
    assert near.history[-1] < 0.1 * near.history[0]


def test_adam_in_float64_differs_from_float32_by_its_rounding_alone(rng):
    H, y = planted(rng)
    _, _, W0, a, _ = small(rng)
    shared = {"lam": 1e-3, "solver": "adam", "max_iter": 5}
    single, double = (fit_quadratic_taylor(H, y, W0, a, **shared, dtype=dtype) for dtype in ("float32", "float64"))
    assert (single.W.astype(np.float32) == single.W).all()
    assert not (double.W.astype(np.float32) == double.W).all()
    np.testing.assert_allclose(single.W, double.W, atol=1e-4)
    problem = QuadraticProblem(H, y, W0, a, lam=1e-3, dtype="float64")
    assert double.history[-1] == pytest.approx(problem.value(double.W), rel=1e-14)


@pytest.mark.parametrize("solver", ["lbfgs", "adam"])
def test_what_a_fit_says_of_its_last_point_is_computed_in_float64(rng, solver):
    H, y = planted(rng)
    _, _, W0, a, _ = small(rng)
    fit = fit_quadratic_taylor(H, y, W0, a, lam=1e-3, solver=solver, max_iter=30)
    double = QuadraticProblem(H, y, W0, a, lam=1e-3, dtype="float64")
    residual = quadratic_outputs(H, fit.W, W0, a, activation="relu3") - y
    assert fit.loss == pytest.approx(np.mean(residual**2), rel=1e-13)
    assert fit.objective == pytest.approx(fit.loss + 1e-3 * l24_norm(fit.W) ** 4, rel=1e-13)
    assert fit.grad_norm == pytest.approx(np.linalg.norm(double.gradient(fit.W)), rel=1e-12)
    assert "dtype" in fit.evidence("history").note


def test_the_status_goes_by_the_gradient_in_float64(rng):
    """Between the norms of the gradient in float32 and in float64, to either side."""
    H, y = planted(rng)
    _, _, W0, a, _ = small(rng)
    shared = {"activation": "square", "lam": 1e-2}
    single = QuadraticProblem(H, y, W0, a, **shared)
    statuses = set()
    for W in rng.normal(size=(8, *W0.shape)):
        rounded, exact = (float(np.linalg.norm(p.gradient(W))) for p in (single, single.at(dtype="float64")))
        tol = (rounded + exact) / 2
        fit = fit_quadratic_taylor(H, y, W0, a, **shared, start=W, max_iter=0, tol=tol)
        assert fit.grad_norm == exact
        assert fit.status == ("ok" if exact < rounded else "precision")
        statuses.add(str(fit.status))
    assert len(statuses) == 2
    assert 'raise `tol`, or `dtype` if it is "float32"' in type(fit.status).PRECISION.value


def test_integer_targets_are_numbers_and_booleans_are_refused(rng):
    H, y = planted(rng)
    _, _, W0, a, _ = small(rng)
    labels = np.sign(y).astype(int)
    for loss in ("squared", "logistic"):
        once, again = (
            fit_quadratic_taylor(H, t, W0, a, lam=1e-2, loss=loss, max_iter=3) for t in (labels, labels.astype(float))
        )
        assert once == again
    assert QuadraticProblem(H, labels.tolist(), W0, a, lam=1e-2).y.dtype == np.float64
    with pytest.raises(DtypeError, match="`y` has dtype bool"):
        fit_quadratic_taylor(H, y > 0, W0, a, lam=1e-2)


def test_auto_takes_adam_only_for_large_problems(rng, monkeypatch):
    H, y = planted(rng)
    _, _, W0, a, _ = small(rng)
    assert fit_quadratic_taylor(H, y, W0, a, lam=1e-3, solver="auto", max_iter=2).solver == "lbfgs"
    monkeypatch.setattr("widescape.features.quadratic_fit.LBFGS_UP_TO", H.size * 4 - 1)
    assert fit_quadratic_taylor(H, y, W0, a, lam=1e-3, solver="auto", max_iter=2).solver == "adam"


def test_a_fit_says_whether_steps_or_digits_ran_out(rng):
    H, y = planted(rng)
    _, _, W0, a, _ = small(rng)
    shared = {"activation": "square", "lam": 1e-2}
    short = fit_quadratic_taylor(H, y, W0, a, **shared, max_iter=3)
    assert (short.status.name, short.iterations, len(short.history)) == ("OUT_OF_STEPS", 3, 4)
    rounded = fit_quadratic_taylor(H, y, W0, a, **shared, max_iter=1000, tol=1e-12)
    assert rounded.status == "precision"
    assert 1e-12 < rounded.grad_norm < 1e-3
    double = fit_quadratic_taylor(H, y, W0, a, **shared, max_iter=1000, tol=1e-8, dtype="float64", certify=True)
    assert double.status == "ok"
    assert double.grad_norm <= 1e-8
    assert double.certificate.grad_norm == pytest.approx(double.grad_norm, rel=1e-6)
    assert double.objective == pytest.approx(rounded.objective, rel=1e-5)
    assert (np.diff(double.history) <= 1e-15).all()
    loose = fit_quadratic_taylor(H, y, W0, a, **shared, max_iter=1000, tol=1e-2, dtype="float64")
    assert loose.status == "ok"
    assert loose.history.tolist() == double.history[: loose.iterations + 1].tolist()
    assert loose.iterations < double.iterations


def saddle_on_a_line(m: int) -> tuple[np.ndarray, ...]:
    """Rows with one feature each, and a start along the first: no gradient ever leaves that line, even by rounding."""
    H = np.array([[1.5, 0], [0.5, 0], [-1, 0], [0, 1.5], [0, 0.5], [0, -1]])
    y = H[:, 0] ** 2 + 2 * H[:, 1] ** 2
    H, y = np.repeat(H, 2, axis=0), np.repeat(y, 2)
    return H, y, np.ones((m, 2)), np.ones(m), np.stack([np.linspace(0.5, 1, m), np.zeros(m)], axis=1)


def test_negative_curvature_leads_away_from_a_saddle_that_no_gradient_leaves():
    H, y, W0, a, start = saddle_on_a_line(3)
    shared = {"activation": "square", "lam": 1e-3, "dtype": "float64", "start": start, "max_iter": 300, "tol": 1e-6}
    stuck = fit_quadratic_taylor(H, y, W0, a, **shared, certify=True)
    assert stuck.status == "ok"
    assert not stuck.W[:, 1].any()
    assert stuck.certificate.min_hess_eig < -0.1
    away = fit_quadratic_taylor(H, y, W0, a, **shared, escape_saddles=True, certify=True)
    assert away.status == "ok"
    assert away.escapes >= 1
    assert away.objective < 0.1 * stuck.objective
    assert away.certificate.min_hess_eig >= -(1e-6**0.5)
    shared["max_iter"] = stuck.iterations
    assert fit_quadratic_taylor(H, y, W0, a, **shared, escape_saddles=True).status == "saddle"


@pytest.mark.claim("chen2020hierarchical/P5")
def test_starts_at_a_saddle_are_refused(rng):
    H, y, W0, a, W = small(rng)
    for start in (np.zeros_like(W), W * np.array([[1.0], [0.0], [1.0], [1.0]])):
        with pytest.raises(ValueError, match=r"saddle of the quadratic model; fill zero rows"):
            fit_quadratic_taylor(H, y, W0, a, lam=0.1, start=start)
    with pytest.raises(ValueError, match=r"`init_scale` is 0.0; W = 0 is an exact saddle"):
        fit_quadratic_taylor(H, y, W0, a, lam=0.1, init_scale=0)


@pytest.mark.claim("chen2020hierarchical/P6")
@pytest.mark.parametrize(
    "activation",
    ["relu", arch.Relu(), arch.LeakyRelu(), arch.Sign(), jax.nn.relu, lambda t: jnp.where(t > 0, 1.0, 0.0)],
)
def test_activations_without_curvature_are_refused_with_the_ways_out(rng, activation):
    H, y, W0, a, _ = small(rng)
    with pytest.raises(ValueError, match=r'vanishes almost everywhere.*"relu3".*"square"'):
        fit_quadratic_taylor(H, y, W0, a, lam=0.1, activation=activation)


def test_gates_that_are_all_zero_on_the_data_are_refused(rng):
    H, y, W0, a, _ = small(rng)
    with pytest.raises(ValueError, match="zero at all pre-activations"):
        QuadraticProblem(np.abs(H), y, -np.abs(W0), a, lam=0.1)
    with pytest.raises(NonFiniteError, match="NaN or infinite"):
        gates(H, W0, a, jnp.sqrt)


def test_arguments_that_do_not_fit_are_named(rng):
    H, y, W0, a, W = small(rng)
    with pytest.raises(ValueError, match=r"`lam` is -1.0; it must be a number that is not negative"):
        fit_quadratic_taylor(H, y, W0, a, lam=-1)
    with pytest.raises(ShapeError, match=r"`y` has shape \(19,\)"):
        fit_quadratic_taylor(H, y[1:], W0, a, lam=0.1)
    with pytest.raises(ShapeError, match=r"`W0` has shape \(4, 2\)"):
        fit_quadratic_taylor(H, y, W0[:, 1:], a, lam=0.1)
    with pytest.raises(ShapeError, match="`a` has 3 entries"):
        fit_quadratic_taylor(H, y, W0, a[1:], lam=0.1)
    with pytest.raises(ValueError, match=r"`a` must be a vector of \+1 and -1"):
        fit_quadratic_taylor(H, y, W0, 2 * a, lam=0.1)
    with pytest.raises(ShapeError, match=r"`start` has shape \(3, 3\)"):
        fit_quadratic_taylor(H, y, W0, a, lam=0.1, start=W[1:])
    with pytest.raises(DtypeError, match="`H` has dtype int64"):
        fit_quadratic_taylor(H.astype(np.int64), y, W0, a, lam=0.1)
    with pytest.raises(ValueError, match="labels -1 and"):
        fit_quadratic_taylor(H, y, W0, a, lam=0.1, loss="logistic")
    with pytest.raises(ValueError, match="`loss` is 'hinge'"):
        fit_quadratic_taylor(H, y, W0, a, lam=0.1, loss="hinge")
    with pytest.raises(ShapeError, match="entry by entry"):
        fit_quadratic_taylor(H, y, W0, a, lam=0.1, loss=lambda p, t: jnp.sum((p - t) ** 2))
    with pytest.raises(NonFiniteError, match="at the start"):
        fit_quadratic_taylor(H, y, W0, a, lam=0.1, start=1e30 * W)
    with pytest.warns(UserWarning, match="all targets are 1"):
        fit_quadratic_taylor(H, np.ones(20), W0, a, lam=0.1, max_iter=1)


@pytest.mark.claim("chen2020hierarchical/P7")
def test_a_choice_at_the_edge_of_the_grid_warns_and_one_inside_does_not(rng):
    H, y = planted(rng, noise=1.0)
    _, _, W0, a, _ = small(rng)
    shared = {"W0": W0, "a": a, "activation": "square", "max_iter": 40}
    grid = [1.0, 1e-6, 1e-3, 1e-2]
    inside = select_lam(H[:60], y[:60], H[60:], y[60:], grid, **shared)
    assert not inside.at_edge
    assert inside.grid.tolist() == sorted(grid)
    alone = fit_quadratic_taylor(H[:60], y[:60], W0, a, lam=inside.lam, activation="square", max_iter=40)
    assert alone == inside.fit
    predicted = quadratic_outputs(H[60:], inside.fit.W, W0, a, activation="square")
    assert inside.validation.min() == pytest.approx(np.mean((predicted - y[60:]) ** 2), rel=1e-12)
    for ends, word in (([0.3, 1.0, 3.0], "smallest"), ([1e-9, 1e-8, 1e-3], "largest")):
        with pytest.warns(UserWarning, match=f"is the {word} of the grid"):
            assert select_lam(H[:60], y[:60], H[60:], y[60:], ends, **shared).at_edge
    assert not select_lam(H[:60], y[:60], H[60:], y[60:], [0.1], **shared).at_edge


@pytest.mark.claim("chen2020hierarchical/P8")
def test_fewer_than_five_rows_for_a_feature_warn(rng):
    H, y = planted(rng)
    _, _, W0, a, _ = small(rng)
    with pytest.warns(AssumptionWarning, match="14 rows for 3 features"):
        select_lam(H[:14], y[:14], H[14:], y[14:], [1e-2], W0=W0, a=a, max_iter=2)
    select_lam(H[:15], y[:15], H[15:], y[15:], [1e-2], W0=W0, a=a, max_iter=2)
    with pytest.warns(AssumptionWarning, match="14 rows for 3 features") as caught:
        fit_quadratic_taylor(H[:14], y[:14], W0, a, lam=1e-2, max_iter=2)
    assert [warning.filename for warning in caught] == [__file__]
    with pytest.warns(UserWarning, match="14 rows for 3 features|end of the grid|of the grid") as caught:
        select_lam(H[:14], y[:14], H[14:], y[14:], [1e-2, 1e-1], W0=W0, a=a, max_iter=2)
    assert sum(warning.category is AssumptionWarning for warning in caught) == 1


def test_weights_whose_validation_loss_is_no_number_are_not_chosen(rng):
    H, y = planted(rng)
    _, _, W0, a, _ = small(rng)

    def holed(outputs, t):
        """NaN where targets of the validation set meet small outputs, as a large `lam` has them."""
        return jnp.where((t > 100) & (jnp.abs(outputs) < 0.1), jnp.nan, (outputs - t % 100) ** 2)

    rows = np.array([[1.0, 0.5, 0.0], [1.5, 0.5, 0.0]])
    shared = {"W0": W0, "a": a, "activation": "square", "loss": holed, "max_iter": 40}
    with pytest.warns(UserWarning, match="NaN or infinite at `lam` 1000; none") as caught:
        found = select_lam(H, y, rows, [100.8, 102.1], [1e-4, 1e-3, 1e3], **shared)
    assert {w.filename for w in caught} == {__file__}
    assert found.lam < 1
    assert np.isposinf(found.validation[2])
    with pytest.raises(NonFiniteError, match="at every `lam`"):
        select_lam(H, y, rows, [100.8, 102.1], [1e3, 1e4], **shared)


def test_a_warm_start_goes_from_the_largest_weight_down(rng):
    H, y = planted(rng)
    _, _, W0, a, _ = small(rng)
    shared = {"W0": W0, "a": a, "activation": "square", "dtype": "float64", "tol": 1e-7, "max_iter": 500}
    data = H[:200], y[:200], H[200:], y[200:], [1e-3, 1e-2, 1e-1]
    with pytest.warns(UserWarning, match="smallest"):
        warm = select_lam(*data, **shared, warm_start=True)
    with pytest.warns(UserWarning, match="smallest"):
        cold = select_lam(*data, **shared)
    assert warm.statuses == cold.statuses == ("ok", "ok", "ok")
    np.testing.assert_allclose(warm.training, cold.training, rtol=1e-6)
    assert warm.fit.iterations < cold.fit.iterations
    with pytest.raises(ValueError, match="no meaning for the convex solver"):
        select_lam(*data, **shared, warm_start=True, solver="convex")


def test_the_sign_mean_is_the_mean_of_the_network_over_all_signs(rng):
    H, _, W0, a, W = small(rng, m=6)
    for activation, phi in (("relu", lambda t: np.maximum(t, 0)), (arch.Softplus(), lambda t: np.logaddexp(t, 0))):
        networks = [phi(H @ (W0 + np.array(s)[:, None] * W).T) @ a / 6**0.5 for s in product((1, -1), repeat=6)]
        found = sign_mean(H, W, W0, a, activation=activation)
        np.testing.assert_allclose(found, np.mean(networks, axis=0), rtol=1e-12, atol=1e-13)


def test_steps_with_random_signs_evaluate_the_network_at_signs_and_fit_what_is_even(rng):
    H, y = planted(rng, n=200, noise=0.0)
    W0, a = rng.normal(size=(4, 3)), np.repeat([1.0, -1.0], 4)
    W0 = np.concatenate([W0, W0])  # the network is zero at the start
    shared = {"activation": "square", "lam": 1e-4, "seed": 1}
    run = fit_sign_randomized(H, y, W0, a, **shared, steps=600, rate=0.05, init_scale=1.0, dtype="float64")
    again = fit_sign_randomized(H, y, W0, a, **shared, steps=600, rate=0.05, init_scale=1.0, dtype="float64")
    assert run == again
    assert run.status == "ok"
    assert run.steps == len(run.history) == 600
    assert run.loss == pytest.approx(np.mean((sign_mean(H, run.W, W0, a, activation="square") - y) ** 2), rel=1e-12)
    assert run.loss < 0.2 * np.mean(y**2)
    start = rng.normal(size=(8, 3))
    first = fit_sign_randomized(H, y, W0, a, **shared, start=start, steps=1, dtype="float64").history[0]
    risks = [
        np.mean((((H @ (W0 + np.array(s)[:, None] * start).T) ** 2 / 2) @ a / 8**0.5 - y) ** 2)
        for s in product((1, -1), repeat=8)
    ]
    assert np.min(np.abs(np.array(risks) + 1e-4 * l24_norm(start) ** 4 - first)) < 1e-12 * first
    wild = fit_sign_randomized(H, y, W0, a, **shared, steps=200, rate=1e12)
    assert wild.status == "diverged"
    assert np.isfinite(wild.W).all()


def test_results_print_chart_save_and_load(rng, tmp_path):
    H, y = planted(rng)
    _, _, W0, a, _ = small(rng)
    fit = fit_quadratic_taylor(H, y, W0, a, lam=1e-2, max_iter=5, certify=True)
    with pytest.warns(UserWarning, match="of the grid"):
        chosen = select_lam(H[:200], y[:200], H[200:], y[200:], [1e-2, 1e-1], W0=W0, a=a, max_iter=5)
    signs = fit_sign_randomized(H, y, W0, a, lam=1e-2, steps=3)
    for result, kind in ((fit, QuadraticFit), (chosen, LamSelection), (signs, SignRandomizedFit)):
        assert len(str(result).splitlines()) < 20
        assert result.charts()[0].series
        assert kind.load(result.save(tmp_path / "result")) == result
