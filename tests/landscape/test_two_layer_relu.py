"""The two-layer ReLU network: its limit Gram matrices, and descent on its first layer."""

import jax
import mpmath
import numpy as np
import pytest

from widescape import arch, kernels
from widescape.core.errors import DtypeError, NonFiniteError, ShapeError
from widescape.curvature import System
from widescape.landscape import (
    TwoLayerReLU,
    TwoLayerRun,
    du_width_bound,
    empirical_relu_gram,
    relu_gram,
    relu_gram_output,
    train_two_layer,
)

THREE_POINTS = np.array([[1.0, 0.0], [0.0, 1.0], [0.5**0.5, 0.5**0.5]])
WIDTHS = (250, 1000, 4000, 16000)


def on_sphere(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    x = rng.normal(size=(n, d))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def exact_grams(x: np.ndarray, y: np.ndarray) -> tuple[mpmath.mpf, mpmath.mpf]:
    """Entries of both limit Gram matrices for one pair, from 60 digits."""
    with mpmath.workdps(60):
        u, v = mpmath.matrix(x.tolist()), mpmath.matrix(y.tolist())
        inner, lengths = (u.T * v)[0], mpmath.norm(u) * mpmath.norm(v)
        theta = mpmath.acos(inner / lengths)
        first = inner * (mpmath.pi - theta) / (2 * mpmath.pi)
        output = lengths * (mpmath.sin(theta) + (mpmath.pi - theta) * mpmath.cos(theta)) / (2 * mpmath.pi)
        return first, output


def slope(widths: np.ndarray, values: np.ndarray) -> float:
    return float(np.polyfit(np.log(widths), np.log(values), 1)[0])


@pytest.mark.claim("liu2020loss/C4")
def test_three_points_have_gram_matrices_in_closed_form():
    first, output = relu_gram(THREE_POINTS), relu_gram_output(THREE_POINTS)
    np.testing.assert_allclose(first[np.triu_indices(3, 1)], [0, 0.2651650429, 0.2651650429], rtol=1e-9, atol=1e-16)
    np.testing.assert_allclose(np.linalg.eigvalsh(first), [0.125, 0.5, 0.875], rtol=1e-14)
    np.testing.assert_allclose(np.linalg.eigvalsh(output), [0.0395274, 0.3408451, 1.1196275], rtol=1e-6)


@pytest.mark.parametrize("angle", [1e-9, 1e-5, 0.3, 1.5, 2.5, np.pi - 1e-5, np.pi - 1e-9])
def test_both_gram_matrices_keep_their_digits_down_to_coincident_and_opposite_directions(angle):
    rng = np.random.default_rng(3)
    basis = np.linalg.qr(rng.normal(size=(6, 2)))[0].T
    pair = np.stack([3 * basis[0], 0.7 * (np.cos(angle) * basis[0] + np.sin(angle) * basis[1])])
    first, output = exact_grams(*pair)
    assert relu_gram(pair)[0, 1] == pytest.approx(float(first), rel=1e-14, abs=2.1e-16)
    assert relu_gram_output(pair)[0, 1] == pytest.approx(float(output), rel=1e-14, abs=2.1e-16)


def test_an_angle_of_1e_minus_9_can_be_read_off_the_gram_matrix():
    angle = 1e-9
    pair = np.array([[1.0, 0.0], [np.cos(angle), np.sin(angle)]])
    singular = np.linalg.eigvalsh(relu_gram(pair))[0]
    assert singular == pytest.approx(angle / (2 * np.pi), rel=1e-6)  # (1 - (pi - theta)/pi)/2 in the limit
    opposite = relu_gram(pair * np.array([[1.0], [-1.0]]))[0, 1]
    assert opposite == pytest.approx(-angle / (2 * np.pi), rel=1e-15)


@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_coincident_directions_make_the_gram_matrix_singular_and_its_eigenvalue_says_so(rng, factor):
    x = on_sphere(rng, 5, 4)
    together = np.vstack([x, factor * x[:1]])
    assert np.linalg.eigvalsh(relu_gram(x))[0] > 1e-3
    assert abs(np.linalg.eigvalsh(relu_gram(together))[0]) < 1e-15
    assert abs(np.linalg.eigvalsh(relu_gram_output(together))[0]) < 1e-15


def test_opposite_directions_do_not_share_active_neurons():
    first, output = relu_gram(np.array([[1.0, 2.0], [-1.0, -2.0]])), relu_gram_output(np.array([[1.0, 2], [-1, -2]]))
    np.testing.assert_allclose(first, np.diag([2.5, 2.5]), rtol=1e-15)
    np.testing.assert_allclose(output, np.diag([2.5, 2.5]), atol=1e-15)


def test_lengths_of_rows_factor_out_and_normalize_removes_them(rng):
    x, lengths = on_sphere(rng, 6, 3), np.array([0.1, 1.0, 2.0, 5.0, 30.0, 1e-3])
    scaled = lengths[:, None] * x
    for gram in (relu_gram, relu_gram_output):
        np.testing.assert_allclose(gram(scaled), lengths[:, None] * lengths * gram(x), rtol=1e-13, atol=1e-15)
        np.testing.assert_allclose(gram(scaled, normalize=True), gram(x), rtol=1e-13, atol=1e-15)
        np.testing.assert_array_equal(gram(x), gram(x).T)
    np.testing.assert_allclose(np.diag(relu_gram(scaled)), lengths**2 / 2, rtol=1e-15)


def test_both_layers_together_have_the_tangent_kernel_of_the_architecture(rng):
    x = rng.normal(size=(7, 5))
    net = arch.Sequential(arch.Dense(8, w_std=5**0.5), arch.Relu(), arch.Dense(1))
    limit = kernels.gram(net, x, get=("ntk", "nngp"))
    np.testing.assert_allclose(relu_gram(x) + relu_gram_output(x), limit.ntk, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(relu_gram_output(x), limit.nngp, rtol=1e-12, atol=1e-14)


@pytest.mark.claim("du2018gradient/K1")
def test_gram_matrices_at_initialization_approach_the_limit_as_one_over_the_root_of_the_width(measured):
    rng = np.random.default_rng(4)
    x, widths, draws = on_sphere(rng, 20, 10), np.array([100, 400, 1600, 6400]), 12
    limit = relu_gram(x)
    distances = [
        np.mean([np.linalg.norm(empirical_relu_gram(rng.normal(size=(m, 10)), x) - limit, 2) for _ in range(draws)])
        for m in widths
    ]
    found = slope(widths, np.array(distances))
    measured(f"|H(0) - H-infinity| falls with slope {found:.3f} in the width")
    assert found == pytest.approx(-0.5, abs=0.12)


@pytest.mark.claim("du2018gradient/K2")
def test_the_tangent_kernel_of_the_network_is_its_gram_matrix(measured):
    rng = np.random.default_rng(5)
    net, x = TwoLayerReLU(), np.vstack([rng.normal(size=(9, 6)), np.eye(6)[:2]])
    params = net.init(jax.random.key(1), 6, 50)
    params["w"][:5, 0] = 0.0  # on the kink for the unit vector: inactive in both
    kernel, gram = kernels.empirical_ntk(net.apply, params, x), empirical_relu_gram(params["w"], x)
    worst = np.max(np.abs(kernel - gram))
    measured(f"largest difference {worst:.1e}")
    assert worst < 1e-10


def test_a_trainable_output_adds_the_gram_matrix_of_the_hidden_layer(rng):
    net, x = TwoLayerReLU(trainable_output=True), rng.normal(size=(9, 6))
    params = net.init(None, 6, 50)
    hidden = np.maximum(x @ params["w"].T, 0)
    expected = empirical_relu_gram(params["w"], x) + hidden @ hidden.T / 50
    np.testing.assert_allclose(kernels.empirical_ntk(net.apply, params, x), expected, atol=1e-12)


def test_parameters_are_standard_normal_weights_and_signs():
    params = TwoLayerReLU().init(jax.random.key(2), 20, 5000)
    assert params["w"].dtype == params["a"].dtype == np.float64
    assert set(np.unique(params["a"])) == {-1.0, 1.0}
    assert abs(params["a"].mean()) < 4 / 5000**0.5
    assert abs(params["w"].mean()) < 4 / 100_000**0.5
    assert params["w"].var() == pytest.approx(1, abs=4 * (2 / 100_000) ** 0.5)


def test_a_system_of_the_network_has_a_gradient_in_the_first_layer_only(rng):
    net, x, y = TwoLayerReLU(), rng.normal(size=(5, 3)), rng.normal(size=5)
    params = net.init(None, 3, 7)
    w, a = params["w"], params["a"]
    system = System(net.apply, params, x, y)
    expected = np.zeros_like(w)
    for i in range(5):
        f = sum(a[r] * max(w[r] @ x[i], 0) for r in range(7)) / 7**0.5
        for r in range(7):
            expected[r] += (f - y[i]) * a[r] * x[i] * (w[r] @ x[i] > 0) / 7**0.5
    gradient = system.unravel(system.grad())
    np.testing.assert_allclose(gradient["w"], expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(gradient["a"], 0)


@pytest.mark.claim("du2018gradient/K3")
def test_a_step_for_one_datum_is_the_formula_by_hand():
    x, y, m, lr = np.array([0.6, -0.8, 0.2]), 1.5, 11, 0.3
    key = jax.random.key(7)
    start = TwoLayerReLU().init(key, 3, m)
    run = train_two_layer(x[None], np.array([y]), m, lr=lr, steps=1, key=key)
    f = sum(start["a"][r] * max(start["w"][r] @ x, 0) for r in range(m)) / m**0.5
    active = start["w"] @ x > 0
    step = np.array([-lr * (f - y) * start["a"][r] * active[r] / m**0.5 * x for r in range(m)])
    after = start["w"] + step
    f_after = sum(start["a"][r] * max(after[r] @ x, 0) for r in range(m)) / m**0.5
    np.testing.assert_allclose(run.w, after, rtol=1e-14)
    np.testing.assert_array_equal(run.a, start["a"])
    np.testing.assert_allclose(run.loss, [(f - y) ** 2 / 2, (f_after - y) ** 2 / 2], rtol=1e-13)
    np.testing.assert_allclose(run.max_move, [0, np.linalg.norm(step, axis=1).max()], rtol=1e-14)


def reference_descent(x, y, w, a, lr, steps):
    """Losses and weights of descent, in plain numpy."""
    losses, m = [], len(a)
    for _ in range(steps + 1):
        hidden = x @ w.T
        r = np.maximum(hidden, 0) @ a / m**0.5 - y
        losses.append(r @ r / 2)
        last, w = w, w - lr * ((r[:, None] * (hidden > 0)).T @ x) * a[:, None] / m**0.5
    return np.array(losses), last


@pytest.mark.claim("du2018gradient/K4")
def test_flips_are_the_share_of_changed_activations_between_0_and_1(measured):
    rng = np.random.default_rng(8)
    x, y, key = on_sphere(rng, 8, 10), 5 * rng.normal(size=8), jax.random.key(3)
    start = TwoLayerReLU().init(key, 10, 60)
    run = train_two_layer(x, y, 60, steps=23, key=key, record_every=20)
    losses, w = reference_descent(x, y, start["w"], start["a"], run.lr, 23)
    assert run.steps.tolist() == [0, 20, 23]
    np.testing.assert_allclose(run.loss, losses, rtol=1e-10)
    changed = np.mean((x @ w.T > 0) != (x @ start["w"].T > 0))
    assert run.flips[-1] == pytest.approx(changed, abs=1e-15)
    assert run.flips[0] == 0
    assert ((run.flips >= 0) & (run.flips <= 1)).all()
    assert run.lam_min[-1] == pytest.approx(np.linalg.eigvalsh(empirical_relu_gram(w, x))[0], abs=1e-12)
    measured(f"{changed:.3f} of the activations changed, as counted by hand")


def test_the_default_rate_and_the_predicted_curve_are_those_of_the_limit(rng):
    x, y, key = on_sphere(rng, 6, 8), rng.normal(size=6), jax.random.key(4)
    run = train_two_layer(x, y, 300, steps=30, key=key)
    limit, start = relu_gram(x), TwoLayerReLU().init(key, 8, 300)
    assert run.lr == pytest.approx(1 / np.linalg.eigvalsh(limit)[-1], rel=1e-13)
    assert run.lam_min_limit == pytest.approx(np.linalg.eigvalsh(limit)[0], rel=1e-12)
    residual = np.maximum(x @ start["w"].T, 0) @ start["a"] / 300**0.5 - y
    for t in range(31):
        assert run.predicted_loss[t] == pytest.approx(residual @ residual / 2, rel=1e-9, abs=1e-30)
        residual = residual - run.lr * limit @ residual


def test_descent_on_wide_networks_obeys_the_bounds_of_the_theorem(rng):
    n, d, m = 6, 12, 8000
    x, y = on_sphere(rng, n, d), rng.normal(size=n)
    lam0 = np.linalg.eigvalsh(relu_gram(x))[0]
    run = train_two_layer(x, y, m, lr=0.05 / np.linalg.eigvalsh(relu_gram(x))[-1], steps=200, record_every=50)
    time = run.lr * np.arange(201)
    assert (run.loss <= np.exp(-lam0 * time) * run.loss[0]).all()
    assert (run.loss <= (1 - run.lr * lam0 / 2) ** np.arange(201) * run.loss[0]).all()
    assert run.loss[-1] >= np.exp(-3 * np.linalg.eigvalsh(relu_gram(x))[-1] * time[-1]) * run.loss[0]
    assert (run.lam_min >= 0.75 * lam0).all()
    assert run.max_move[-1] <= n**0.5 * (2 * run.loss[0]) ** 0.5 / (m**0.5 * lam0)


def test_the_loss_of_a_wide_network_never_rises_at_the_default_rate(rng):
    run = train_two_layer(on_sphere(rng, 10, 10), rng.normal(size=10), 2000, steps=60, record_every=60)
    assert (np.diff(run.loss) < 0).all()


@pytest.mark.slow
@pytest.mark.claim("du2018gradient/E1")
@pytest.mark.parametrize("seed", [0, 1])
def test_wider_networks_flip_less_move_less_and_converge_at_the_predicted_rate(seed, measured):
    rng = np.random.default_rng(seed)
    x, y = on_sphere(rng, 40, 40), rng.normal(size=40)
    runs = [train_two_layer(x, y, m, steps=200, key=jax.random.key(seed), record_every=100) for m in WIDTHS]
    flips, moves = (slope(WIDTHS, [getattr(r, name)[-1] for r in runs]) for name in ("flips", "max_move"))
    shares = [r.lam_min[0] / r.lam_min_limit for r in runs]
    wide = runs[-1]
    ratio, predicted = (wide.loss[150] / wide.loss[100]) ** (1 / 50), (1 - wide.lr * wide.lam_min_limit) ** 2
    measured(
        f"slopes {flips:.2f} of flips ({runs[0].flips[-1]:.1%} to {wide.flips[-1]:.2%}) and {moves:.2f} of moves; "
        f"lam_min(H(0)) / lam_0 {min(shares):.3f} to {max(shares):.3f}; ratio of losses {ratio:.4f}, "
        f"predicted {predicted:.4f}"
    )
    assert -0.6 <= flips <= -0.4
    assert -0.6 <= moves <= -0.4
    assert all(0.95 <= share <= 1.03 for share in shares)
    assert ratio == pytest.approx(predicted, abs=0.03)
    assert wide.loss[-1] < 1e-31 * wide.loss[0]  # steps below the rounding of a weight, 1e-16, are not lost


def test_descent_that_leaves_the_doubles_says_so_and_keeps_what_was_finite(rng):
    x, y = on_sphere(rng, 8, 10), rng.normal(size=8)
    run = train_two_layer(x, y, 400, lr=1000.0, steps=203, record_every=7)
    assert run.status.name == "DIVERGED"
    assert 7 < len(run.loss) < 204
    assert run.loss[-1] > 1e295  # the next, about 1e6 times as large, is beyond the doubles, at most 1.8e308
    assert np.isfinite(run.loss).all()
    assert np.isfinite(run.w).all()
    assert run.steps[-1] <= len(run.loss) - 1 < run.steps[-1] + 7
    assert len(run.predicted_loss) == len(run.loss)
    assert all(np.isfinite(s.y).all() and len(s.y) for chart in run.charts() for s in chart.series)
    one = train_two_layer(x[:1], y[:1], 1, lr=1e300, steps=3)  # dead or overflowing: never NaN
    assert np.isfinite(one.loss).all()
    assert np.isfinite(one.max_move).all()


def test_a_run_prints_charts_saves_and_does_not_depend_on_the_grid(rng, tmp_path):
    x, y = on_sphere(rng, 5, 6), rng.normal(size=5)
    run = train_two_layer(x, y, 40, steps=12, key=jax.random.key(9), record_every=4, progress=False)
    assert len(str(run).splitlines()) < 20
    assert [chart.name for chart in run.charts()] == ["loss", "movement", "eigenvalue"]
    assert TwoLayerRun.load(run.save(tmp_path / "run.zip")) == run
    other = train_two_layer(x, y, 40, steps=12, key=jax.random.key(9), record_every=100)
    assert other.steps.tolist() == [0, 12]
    np.testing.assert_allclose(other.loss, run.loss, rtol=1e-12)
    np.testing.assert_allclose(other.w, run.w, rtol=1e-12)
    again = train_two_layer(x, y, 40, steps=12, key=jax.random.key(10), record_every=100)
    assert again.loss[0] != run.loss[0]


def test_the_sufficient_width_is_an_order_of_magnitude():
    assert du_width_bound(2, 0.5, 0.5) == 64 * 16 * 8
    assert du_width_bound(np.int64(2000), 0.5, 0.5) == 2000**6 * 16 * 8  # beyond 64-bit integers
    assert du_width_bound(20, 0.5, 0.1) == pytest.approx(64 * du_width_bound(10, 0.5, 0.1))
    with pytest.raises(NonFiniteError, match="beyond the largest double"):
        du_width_bound(10, 1e-90, 0.1)


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        ((0, 0.1, 0.1), ValueError, "`n`"),
        ((3.0, 0.1, 0.1), TypeError, "`n`"),
        ((3, 0.0, 0.1), ValueError, "`lam0`"),
        ((3, 0.1, 1.0), ValueError, "`delta`"),
        ((3, 0.1, 0.0), ValueError, "`delta`"),
        ((3, np.nan, 0.5), ValueError, "`lam0`"),
    ],
)
def test_widths_of_impossible_data_are_refused(bad, error, message):
    with pytest.raises(error, match=message):
        du_width_bound(*bad)


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (np.array([[1.0, 0.0], [0.0, 0.0]]), ValueError, "1 rows that are zero, the first at 1"),
        (np.ones(3), ShapeError, "at least 2 axes"),
        (np.ones((2, 2, 2)), ShapeError, "matrix"),
        (np.ones((2, 2), int), DtypeError, "dtype"),
        (np.array([[1.0, np.nan]]), ValueError, "NaN"),
        (np.array([[1e200, 1.0]]), NonFiniteError, "range of doubles"),
        (np.array([[1e-200, 0.0]]), NonFiniteError, "range of doubles"),
    ],
)
def test_inputs_without_direction_or_shape_are_refused(bad, error, message):
    attempts = (
        lambda: relu_gram(bad),
        lambda: relu_gram_output(bad),
        lambda: empirical_relu_gram(np.ones((3, 2)), bad),
        lambda: train_two_layer(bad, np.ones(len(bad)), 5, steps=1),
    )
    for attempt in attempts:
        with pytest.raises(error, match=message):
            attempt()


def test_arguments_that_do_not_fit_are_refused():
    x, y = np.eye(3), np.ones(3)
    with pytest.raises(ShapeError, match="`W` has shape"):
        empirical_relu_gram(np.ones((4, 2)), x)
    with pytest.raises(ShapeError, match="`y` has shape"):
        train_two_layer(x, np.ones(2), 5)
    with pytest.raises(ShapeError, match="`y` has shape"):
        train_two_layer(x, y[:, None], 5)
    with pytest.raises(ValueError, match="`y`"):
        train_two_layer(x, y * np.inf, 5)
    with pytest.raises(NonFiniteError, match="at the start"):
        train_two_layer(x, y * 1e200, 5)
    for name, value in (("lr", 0.0), ("lr", -1.0), ("lr", np.inf), ("steps", 0), ("record_every", 0)):
        with pytest.raises(ValueError, match=f"`{name}`"):
            train_two_layer(x, y, 5, **{name: value})
    with pytest.raises(ValueError, match="`m`"):
        train_two_layer(x, y, 0)
    with pytest.raises(ValueError, match="`d`"):
        TwoLayerReLU().init(None, 0, 5)
    with pytest.raises(TypeError, match="`m`"):
        TwoLayerReLU().init(None, 3, 5.0)
