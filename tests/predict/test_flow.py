"""Training in function space: closed forms, their ends, and step-by-step references."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import linalg

from widescape import arch, kernels, predict
from widescape.core.errors import IllConditionedError, NonFiniteError, ShapeError

K2, Y2 = np.array([[2.0, 1.0], [1.0, 2.0]]), np.array([1.0, 0.0])


def problem(m: int = 8, M: int = 3, C: int = 2, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Kernels between training and test points of one random linear model, and targets."""
    r = np.random.default_rng(seed)
    features = r.normal(size=(m + M, 2 * m))
    K = features @ features.T / m
    return K[:m, :m], r.normal(size=(m, C)), K[m:, :m], K[m:, m:]


def nngp_blocks(m: int = 8, M: int = 3, seed: int = 1) -> predict.Covariances:
    K, _, cross, test = problem(m, M, seed=seed)
    return predict.Covariances(K, cross, test)


@pytest.mark.claim("lee2020finite/C6")
@pytest.mark.claim("lee2020finite/P7")
def test_flow_on_a_two_by_two_kernel(measured) -> None:
    flow = predict.GradientFlow(K2, Y2)
    np.testing.assert_allclose(flow.train(2.0), [0.791167, 0.159046], atol=1e-6)
    assert flow.test(2.0, np.array([[1.0, 0.5]]))[0] == pytest.approx(0.395583, abs=1e-6)
    assert flow.test(None, np.array([[1.0, 0.5]]))[0] == pytest.approx(0.5, abs=1e-12)
    measured(f"{flow.train(2.0).round(6).tolist()}")
    # By hand: eigenvalues 1 and 3, n = 2, so the modes keep exp(-1) and exp(-3) of their residuals.
    keep = np.exp([-1.0, -3.0])
    u = np.array([[1.0, 1.0], [-1.0, 1.0]]) / 2**0.5
    np.testing.assert_allclose(flow.train(2.0), u @ ((1 - keep) * (u.T @ Y2)), rtol=1e-14)


@pytest.mark.claim("lee2020finite/C7")
@pytest.mark.parametrize("momentum", [0.0, 0.7])
def test_descent_converges_below_and_diverges_above_the_largest_rate(momentum: float) -> None:
    K, y, _, _ = problem()
    largest = predict.max_learning_rate(K, 2, momentum)
    assert largest == pytest.approx(2 * 16 * (1 + momentum) / np.linalg.eigvalsh(K)[-1])
    below = predict.discrete_gd(K, y, 0.99 * largest, [0, 200, 200_000], momentum=momentum)
    above = predict.discrete_gd(K, y, 1.01 * largest, [0, 200, 2000], momentum=momentum)
    errors_below, errors_above = (np.abs(outputs - y).max(axis=(1, 2)) for outputs in (below, above))
    assert errors_below[1] < errors_below[0]
    assert errors_below[2] < 1e-6
    assert errors_above[2] > 1e6
    with pytest.raises(NonFiniteError, match="max_learning_rate"):
        predict.discrete_gd(K, y, 1.01 * largest, 10**9, momentum=momentum)


@pytest.mark.claim("lee2020finite/I11")
@pytest.mark.parametrize("reg", [0.0, 0.3])
def test_flow_ends_at_the_cholesky_solution_and_starts_at_the_prior(reg: float) -> None:
    K, y, cross, _ = problem()
    prior = nngp_blocks()
    flow = predict.GradientFlow(K, y, reg)
    gp = predict.GP(K, y, reg=reg, kind="ntk")
    ends = gp.mean_cov(cross, prior=prior)
    for t in (None, np.inf, 1e9):
        np.testing.assert_allclose(flow.test(t, cross), gp.mean(cross), rtol=1e-9)
        mean, cov = flow.ensemble(t, cross, prior)
        np.testing.assert_allclose(mean, ends.mean, rtol=1e-9)
        np.testing.assert_allclose(cov, ends.cov, rtol=1e-8)
    np.testing.assert_allclose(flow.train(None), K @ gp.weights, rtol=1e-10)
    np.testing.assert_allclose(flow.train(1e9), flow.train(None), rtol=1e-9, atol=1e-12)
    mean, cov = flow.ensemble(0.0, cross, prior)
    assert (mean == 0).all()
    np.testing.assert_array_equal(cov, prior.test)
    assert (flow.train(0.0) == 0).all()


@pytest.mark.claim("lee2020finite/I12")
@pytest.mark.parametrize("t", [0.0, 2.0, None])
def test_a_centered_ensemble_has_no_spread_and_the_same_mean(t: float | None) -> None:
    K, y, cross, _ = problem()
    flow = predict.GradientFlow(K, y, 0.1)
    mean, cov = flow.ensemble(t, cross)
    assert (cov == 0).all()
    np.testing.assert_allclose(mean, flow.ensemble(t, cross, nngp_blocks()).mean, rtol=1e-14)


def test_the_spread_of_an_ensemble_is_that_of_sampled_networks() -> None:
    K, y, cross, _ = problem()
    prior = nngp_blocks()
    flow = predict.GradientFlow(K, y[:, 0], 0.2, 1.5)
    r = np.random.default_rng(3)
    joint = np.block([[prior.train, prior.cross.T], [prior.cross, prior.test]])
    draws = r.multivariate_normal(np.zeros(11), joint, size=20_000, method="eigh")
    finals = np.array([flow.test(2.0, cross, d[:8], d[8:]) for d in draws[:4000]])
    mean, cov = flow.ensemble(2.0, cross, prior)
    stderr = np.sqrt(np.diag(cov) / len(finals))
    assert (np.abs(finals.mean(0) - mean) < 4.5 * stderr).all()
    ratio = finals.var(axis=0, ddof=1) / np.diag(cov)
    assert (np.abs(ratio - 1) < 4.5 * np.sqrt(2 / len(finals))).all()


def test_training_only_the_readout_ends_at_the_posterior() -> None:
    K, y, cross, test = problem()
    prior = predict.Covariances(K, cross, test)
    flow = predict.GradientFlow(K, y)
    mean, cov = predict.GP(K, y).mean_cov(cross, test)
    end = flow.ensemble(None, cross, prior)
    np.testing.assert_allclose(end.mean, mean, rtol=1e-10)
    np.testing.assert_allclose(end.cov, cov, rtol=1e-8, atol=1e-10)
    # At a finite time: K_** - K_* U diag((1 - exp(-2 w t/n))/w) U^T K_*^T.
    w, U = np.linalg.eigh(K)
    expected = test - cross @ U @ np.diag(-np.expm1(-2 * w * 3.0 / 16) / w) @ U.T @ cross.T
    np.testing.assert_allclose(flow.ensemble(3.0, cross, prior).cov, expected, rtol=1e-10)


@pytest.mark.parametrize("reg", [0.0, 0.4])
def test_flow_is_the_matrix_exponential_of_the_regularized_equation(reg: float) -> None:
    # Parameters: w' = -(1/n) (J^T (f - y) + noise (w - w_0)), a linear equation solved by expm.
    r = np.random.default_rng(4)
    J, J_test, f0, f0_test = r.normal(size=(5, 7)), r.normal(size=(2, 7)), r.normal(size=5), r.normal(size=2)
    y = r.normal(size=5)
    flow = predict.GradientFlow(J @ J.T, y, reg, 0.7, reg_scale="absolute")
    A, b = (J.T @ J + reg * np.eye(7)) / 5, J.T @ (y - f0) / 5
    t = 3.0
    moved = linalg.expm(np.block([[-0.7 * A, 0.7 * b[:, None]], [np.zeros((1, 8))]]) * t)[:7, 7]
    np.testing.assert_allclose(flow.train(t, f0), f0 + J @ moved, rtol=1e-11)
    np.testing.assert_allclose(flow.test(t, J_test @ J.T, f0, f0_test), f0_test + J_test @ moved, rtol=1e-11)


@pytest.mark.parametrize("momentum", [0.0, 0.6])
@pytest.mark.parametrize("reg", [0.0, 0.4])
def test_descent_takes_the_steps_of_a_loop_over_parameters(momentum: float, reg: float) -> None:
    r = np.random.default_rng(5)
    J, J_test, f0, f0_test = r.normal(size=(5, 7)), r.normal(size=(2, 7)), r.normal(size=5), r.normal(size=2)
    y, lr = r.normal(size=5), 0.3
    w, before = np.zeros(7), np.zeros(7)
    for _ in range(17):
        gradient = (J.T @ (f0 + J @ w - y) + reg * w) / 5
        w, before = w - lr * gradient + momentum * (w - before), w
    options = {"momentum": momentum, "reg": reg, "reg_scale": "absolute", "f0_train": f0}
    trained = predict.discrete_gd(J @ J.T, y, lr, 17, **options)
    np.testing.assert_allclose(trained, f0 + J @ w, rtol=1e-11)
    tested = predict.discrete_gd(J @ J.T, y, lr, [0, 17], K_test=J_test @ J.T, f0_test=f0_test, **options)
    np.testing.assert_allclose(tested, [f0_test, f0_test + J_test @ w], rtol=1e-11)


@given(st.floats(1e-3, 0.9), st.sampled_from([1, 7, 1000]))
def test_small_steps_are_the_flow(share: float, steps: int) -> None:
    K, y, cross, _ = problem()
    t = share * predict.max_learning_rate(K, 2)
    flow = predict.GradientFlow(K, y).test(t, cross)
    descent = predict.discrete_gd(K, y, t / (1000 * steps), 1000 * steps, K_test=cross)
    np.testing.assert_allclose(descent, flow, atol=3e-3 / steps)


@pytest.mark.claim("lee2020finite/P5")
def test_zero_eigenvalues_move_linearly_in_time_and_what_is_clipped_is_counted() -> None:
    features = np.random.default_rng(6).normal(size=(6, 2))
    K = features @ features.T  # rank two
    flow = predict.GradientFlow(K, np.ones(6))
    assert 0 < flow.clipped <= 4
    outputs = flow.train([0.0, 1.0, 1e3, 1e6])
    assert np.isfinite(outputs).all()
    projection = features @ np.linalg.lstsq(features, np.ones(6), rcond=None)[0]
    np.testing.assert_allclose(outputs[-1], projection, atol=1e-9)
    # A test point with a component outside of the training span grows linearly along zero modes: P_t -> K_* t/n.
    zero = predict.GradientFlow(np.diag([1.0, 0.0]), np.array([1.0, 1.0]))
    assert zero.test(4.0, np.array([[0.0, 1.0]]))[0] == pytest.approx(2.0, rel=1e-14)
    assert predict.discrete_gd(np.diag([1.0, 0.0]), np.ones(2), 0.5, 8, K_test=np.array([[0.0, 1.0]]))[0] == 2.0
    with pytest.raises(IllConditionedError, match="below zero by more than rounding"):
        predict.GradientFlow(np.diag([1.0, -1e-3]), np.ones(2)).train(1.0)
    with pytest.raises(IllConditionedError):
        flow.test(None, K)


def test_rounding_is_judged_by_the_precision_in_which_a_kernel_came() -> None:
    features = np.random.default_rng(8).normal(size=(300, 5)).astype(np.float32)
    K = features @ features.T
    assert np.linalg.eigvalsh(K.astype(np.float64))[0] < -1e-8
    assert np.isfinite(predict.discrete_gd(K, np.ones(300), 0.1, 10)).all()
    with pytest.raises(IllConditionedError, match="does not help"):
        predict.discrete_gd(K.astype(np.float64), np.ones(300), 0.1, 10)


def test_tiny_eigenvalues_lose_no_digits() -> None:
    w = np.array([1e-18, 1e-9, 1.0])
    flow = predict.GradientFlow(np.diag(w), np.ones(3))
    tau = 2.0 / 3
    np.testing.assert_allclose(flow.train(2.0), -np.expm1(-w * tau), rtol=1e-14)
    np.testing.assert_allclose(predict.discrete_gd(np.diag(w), np.ones(3), 2.0, 1), w * tau, rtol=1e-14)


def test_several_times_are_stacked() -> None:
    K, y, cross, _ = problem()
    flow = predict.GradientFlow(K, y)
    times = np.array([0.0, 1.0, np.inf])
    np.testing.assert_array_equal(flow.train(times)[1], flow.train(1.0))
    assert flow.test(times, cross).shape == (3, 3, 2)
    assert flow.ensemble(times, cross, nngp_blocks()).cov.shape == (3, 3, 3)
    vector = predict.GradientFlow(K, y[:, 0])
    np.testing.assert_allclose(
        vector.test(times[:2], cross)[1], predict.GradientFlow(K, y[:, :1]).test(1.0, cross)[:, 0]
    )


@pytest.mark.parametrize("momentum", [None, 0.9])
def test_the_solver_meets_closed_forms(momentum: float | None) -> None:
    K, y, cross, _ = problem()
    f0 = np.random.default_rng(7).normal(size=(8, 2))

    def loss(f, y):
        return jnp.sum((f - y) ** 2) / (2 * 16)

    options = {"f0_train": f0, "momentum": momentum, "lr": 0.8}
    outputs = predict.flow(loss, K, y, [0.5, 2.0], **options)
    tested = predict.flow(loss, K, y, 2.0, K_test=cross, **options)
    if momentum is None:
        flow = predict.GradientFlow(K, y, lr=0.8)
        np.testing.assert_allclose(outputs, flow.train([0.5, 2.0], f0), rtol=1e-6)
        np.testing.assert_allclose(tested, flow.test(2.0, cross, f0), rtol=1e-6)
        return
    # A damped oscillator for each mode: r'' + (1 - b) r' + (0.8 w/n) r = 0, at rest at first.
    w, U = np.linalg.eigh(K)
    r0 = U.T @ (y - f0)
    for i in range(8):
        A = np.array([[0.0, 1.0], [-0.8 * w[i] / 16, momentum - 1]])
        expected = linalg.expm(2.0 * A)[0, 0] * r0[i]
        np.testing.assert_allclose(U[:, i] @ (y - outputs[1]), expected, rtol=1e-5, atol=1e-7)


def test_the_solver_takes_other_losses() -> None:
    labels = np.array([0, 1, 1, 0, 1, 0, 0, 1])
    K, _, _, _ = problem()

    def loss(f, y):
        return -jnp.mean(jax.nn.log_softmax(f)[jnp.arange(8), y])

    outputs = predict.flow(loss, K, labels, [1.0, 300.0], f0_train=np.zeros((8, 2)))
    steps = np.zeros((8, 2))
    with jax.enable_x64(True):
        gradient = jax.jit(jax.grad(loss))
        for _ in range(2000):
            steps -= (1.0 / 2000) * K @ np.asarray(gradient(steps, labels))
    np.testing.assert_allclose(outputs[0], steps, rtol=2e-3)
    assert (outputs[1].argmax(1) == labels).all()


def test_reg_path_is_ridge_at_each_regularizer() -> None:
    K, y, cross, _ = problem()
    for scale in ("mean_trace", "absolute"):
        for goal in (y, y[:, 0]):
            path = predict.reg_path(K, goal, cross, [1e-3, 0.1, 10.0], reg_scale=scale)
            for reg, outputs in zip([1e-3, 0.1, 10.0], path, strict=True):
                np.testing.assert_allclose(
                    outputs, predict.GP(K, goal, reg=reg, reg_scale=scale).mean(cross), rtol=1e-9
                )
    with pytest.raises(ValueError, match="regs"):
        predict.reg_path(K, y, cross, [0.0])


def test_kinds_ask_for_the_blocks_they_need() -> None:
    K, y, cross, test = problem()
    with pytest.raises(ValueError, match="prior"):
        predict.GP(K, y, kind="ntk").mean_cov(cross, test)
    for kind in ("nngp", "ntkgp"):
        with pytest.raises(ValueError, match="K_test_test"):
            predict.GP(K, y, kind=kind).mean_cov(cross, prior=nngp_blocks())
        assert predict.GP(K, y, kind=kind).mean_cov(cross, test).cov.shape == (3, 3)
    with pytest.raises(ValueError, match="kind"):
        predict.GP(K, y, kind="ntk-gp")


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda K, y, c: predict.GradientFlow(K, y).train(-1.0), "not negative"),
        (lambda K, y, c: predict.GradientFlow(K, y).train(1.0, f0=np.zeros(3)), "f0"),
        (lambda K, y, c: predict.GradientFlow(K, y, lr=0.0), "lr"),
        (lambda K, y, c: predict.GradientFlow(K, y, -1.0), "reg"),
        (lambda K, y, c: predict.GradientFlow(K, y).test(1.0, c[:, :4]), "K_test"),
        (lambda K, y, c: predict.GradientFlow(K, y).ensemble(1.0, c, nngp_blocks(M=4)), "prior"),
        (lambda K, y, c: predict.discrete_gd(K, y, 1.0, -1), "steps"),
        (lambda K, y, c: predict.discrete_gd(K, y, 1.0, 2.5), "steps"),
        (lambda K, y, c: predict.discrete_gd(K, y, 1.0, 2, momentum=1.0), "momentum"),
        (lambda K, y, c: predict.max_learning_rate(K, 0), "n_outputs"),
        (lambda K, y, c: predict.max_learning_rate(0 * K, 1), "largest eigenvalue"),
        (lambda K, y, c: predict.flow(lambda f, y: jnp.sum(f), K, y, [2.0, 1.0]), "rising"),
        (lambda K, y, c: predict.flow(lambda f, y: jnp.sum(f), K, y, [0.0, 1.0, 1.0]), "rising"),
        (lambda K, y, c: predict.GradientFlow(K, y).train([]), "not negative"),
        (lambda K, y, c: predict.Covariances(K, c[:, :3], np.eye(3)), "cross"),
    ],
)
def test_bad_arguments_are_refused(call, match: str) -> None:
    K, y, cross, _ = problem()
    with pytest.raises((ValueError, ShapeError), match=match):
        call(K, y, cross)


@pytest.mark.slow
@pytest.mark.claim("lee2020finite/E2")
@pytest.mark.claim("lee2020finite/E6")
def test_mnist_flow_and_ridge(mnist, measured) -> None:
    x = np.concatenate([mnist.x_train[:2000], mnist.x_test[:2000]]).reshape(4000, -1)
    x = (x - 0.1301781838) / 0.3076977187
    y = np.eye(10)[mnist.y_train[:2000]] - 0.1
    net = arch.fc(3, 512, 10, activation=arch.Relu(), w_std=2**0.5, b_std=0.1)
    K = kernels.gram(net, x[:2000], get="ntk")
    cross = kernels.gram(net, x[2000:], x[:2000], get="ntk")
    labels = mnist.y_test[:2000]
    flow = predict.GradientFlow(K, y)
    assert predict.max_learning_rate(K, 10) == pytest.approx(6.677188631, rel=1e-8)
    figures = []
    for t, accuracy, mse in ((1e2, 75.65, 4.616e-2), (1e4, 91.35, 1.170e-3), (1e6, 91.70, 0.0)):
        found = 100 * np.mean(flow.test(t, cross).argmax(1) == labels)
        train = float(np.mean((flow.train(t) - y) ** 2))
        figures.append(f"t={t:.0e}: {found:.2f}%, {train:.3e}")
        assert found == pytest.approx(accuracy, abs=0.1)
        assert train == pytest.approx(mse, rel=1e-3, abs=1e-20)
    for reg, largest in ((0.01, 0.01), (0.1, 0.06), (1.0, 0.13)):
        noise = reg * np.trace(K) / 2000
        ridge = predict.GP(K, y, reg=reg).mean(cross)
        stopped = flow.test(y.size / noise, cross)
        distance = np.linalg.norm(ridge - stopped) / np.linalg.norm(ridge)
        agreement = np.mean(ridge.argmax(1) == stopped.argmax(1))
        figures.append(f"reg={reg}: distance {distance:.4f}")
        assert distance <= largest
        assert agreement >= 0.98
    measured("; ".join(figures))
