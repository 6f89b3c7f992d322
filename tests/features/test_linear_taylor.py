"""The linear Taylor model: ridge regression on tangent features, whichever way it is solved."""

import jax
import numpy as np
import pytest

from widescape import arch, kernels, predict
from widescape.core.errors import ConditioningWarning, DtypeError, IllConditionedError, NonFiniteError, ShapeError
from widescape.features.linear_taylor import (
    LinearTaylorStatus,
    fit_linear_taylor,
    infinite_linear_taylor,
    linear_taylor_kernel,
    linear_taylor_outputs,
    taylor_weights,
)

RNG = np.random.default_rng(0)
H, TEST = RNG.normal(size=(40, 3)), RNG.normal(size=(15, 3))
Y = np.stack([np.sin(H[:, 0]), H[:, 1] * H[:, 2]], axis=1)
W0, A = taylor_weights(10, 3, seed=1)


def test_the_kernel_is_that_of_the_gradients_of_the_finite_network():
    def f(w, h):
        return jax.nn.gelu(h @ w.T, approximate=False) @ A / len(A) ** 0.5

    measured = kernels.empirical_ntk(f, W0, H, TEST)
    np.testing.assert_allclose(linear_taylor_kernel(H, TEST, W0, arch.Gelu()), measured / 3, rtol=1e-10, atol=1e-12)


def test_dual_predictions_are_those_of_kernel_regression():
    fit = fit_linear_taylor(H[:20], Y[:20], W0, A, reg=1e-2, solver="dual")
    gp = predict.GP(linear_taylor_kernel(H[:20], H[:20], W0), Y[:20], reg=1e-2)
    expected = gp.mean(linear_taylor_kernel(TEST, H[:20], W0))
    np.testing.assert_allclose(linear_taylor_outputs(TEST, W0, A, fit.W), expected, rtol=1e-9, atol=1e-11)
    assert fit.status == LinearTaylorStatus.SOLVED
    assert fit.residual < 1e-12


@pytest.mark.claim("chen2020hierarchical/I2")
@pytest.mark.parametrize("solver", ["primal", "cg"])
@pytest.mark.parametrize("n", [20, 40])
def test_all_solvers_give_the_same_predictions(solver, n):
    one = fit_linear_taylor(H[:n], Y[:n], W0, A, reg=1e-2, solver="dual")
    other = fit_linear_taylor(H[:n], Y[:n], W0, A, reg=1e-2, solver=solver, tol=1e-11)
    outputs = [linear_taylor_outputs(TEST, W0, A, fit.W) for fit in (one, other)]
    np.testing.assert_allclose(*outputs, atol=1e-8)
    assert other.residual < 1e-9


@pytest.mark.claim("chen2020hierarchical/I3")
def test_predictions_are_linear_in_the_targets():
    def outputs(y):
        return linear_taylor_outputs(TEST, W0, A, fit_linear_taylor(H, y, W0, A, reg=0.1).W)

    np.testing.assert_allclose(outputs(2 * Y[:, 0] - 3 * Y[:, 1]), 2 * outputs(Y[:, 0]) - 3 * outputs(Y[:, 1]))
    np.testing.assert_allclose(outputs(Y), np.stack([outputs(Y[:, 0]), outputs(Y[:, 1])], axis=1))


@pytest.mark.claim("chen2020hierarchical/I1")
def test_permuting_neurons_leaves_predictions_unchanged():
    order = np.random.default_rng(3).permutation(len(A))
    fits = [fit_linear_taylor(H, Y, w, a, reg=0.1) for w, a in ((W0, A), (W0[order], A[order]))]
    np.testing.assert_allclose(
        linear_taylor_outputs(TEST, W0, A, fits[0].W),
        linear_taylor_outputs(TEST, W0[order], A[order], fits[1].W),
        atol=1e-10,
    )


@pytest.mark.parametrize(("n", "solver"), [(20, "dual"), (40, "primal"), (20, "primal"), (40, "dual")])
def test_leave_one_out_is_what_refitting_without_each_example_gives(n, solver):
    h, y, regs = H[:n], Y[:n], (1e-2, 1.0)
    fit = fit_linear_taylor(h, y, W0, A, reg=regs, solver=solver)
    kernel = linear_taylor_kernel(h, h, W0)
    scale = np.trace(kernel) / n

    def loss(reg):
        left = []
        for i in range(n):
            rest = np.arange(n) != i
            gp = predict.GP(kernel[np.ix_(rest, rest)], y[rest], reg=reg * scale, reg_scale="absolute")
            left.append(gp.mean(kernel[i, rest][None])[0] - y[i])
        return np.mean(np.square(left))

    losses = [loss(reg) for reg in regs]
    assert fit.reg == regs[int(np.argmin(losses))]
    assert fit.loo_mse == pytest.approx(min(losses), rel=1e-8)
    assert fit.at_edge


def test_the_usual_regularizers_are_searched_when_none_is_given():
    noisy = Y[:, 0] + 0.3 * np.random.default_rng(5).normal(size=40)
    fit = fit_linear_taylor(H, noisy, W0, A)
    assert 1e-4 < fit.reg < 10
    assert not fit.at_edge


@pytest.mark.parametrize("activation", ["relu", "relu3", "square", arch.Erf()])
def test_the_infinite_network_is_the_mean_of_finite_kernels(activation):
    h = np.random.default_rng(2).normal(size=(4, 5))
    limit = infinite_linear_taylor(activation, 0.8).kernel(h).ntk * 0.8
    draws = []
    for seed in range(200):
        w0, _ = taylor_weights(50, 5, mean_square=4.0, seed=seed)
        draws.append(linear_taylor_kernel(h, h, w0, activation))
    error = np.std(draws, axis=0, ddof=1) / 200**0.5
    assert (np.abs(np.mean(draws, axis=0) - limit) < 4.5 * error).all()


def test_symmetric_starts_make_the_network_zero():
    w0, a = taylor_weights(8, 3, symmetric=True)
    assert (np.maximum(H @ w0.T, 0) @ a == 0).all()
    assert a.sum() == 0


def test_starts_have_pre_activations_of_unit_variance():
    w0, _ = taylor_weights(20000, 4, mean_square=9.0)
    z = np.array([1.0, 2.0, 0.0, 2.0]) @ w0.T
    assert abs(np.mean(z**2) - 1) < 4 * np.std(z**2) / 20000**0.5


@pytest.mark.parametrize(("n", "solver"), [(9, "dual"), (200, "primal")])
def test_leave_one_out_without_a_regularizer_is_what_refitting_gives(n, solver):
    rng = np.random.default_rng(4)
    h = rng.normal(size=(n, 4))
    w0, a = taylor_weights(20, 4, seed=2)
    y = linear_taylor_outputs(h, w0, a, rng.normal(size=w0.shape)) + 1e-3 * rng.normal(size=n)
    slopes = (h @ w0.T > 0) * a / len(a) ** 0.5
    features = (slopes[:, :, None] * h[:, None]).reshape(n, -1) / 2
    left = [
        features[i] @ np.linalg.lstsq(np.delete(features, i, 0), np.delete(y, i), rcond=1e-13)[0] - y[i]
        for i in range(n)
    ]
    fit = fit_linear_taylor(h, y, w0, a, reg=(0.0, 10.0), solver=solver)
    assert fit.reg == 0
    assert fit.loo_mse == pytest.approx(np.mean(np.square(left)), rel=1e-6)


def test_an_example_that_alone_decides_its_output_has_no_finite_leave_one_out_loss():
    """phi(t) = t^2/2 has the tangent features (w . h) h; the last row is orthogonal to all others."""
    for seed in range(12):
        rng = np.random.default_rng(seed)
        turn = np.linalg.qr(rng.normal(size=(2, 2)))[0]
        t = np.r_[rng.normal(size=8), 0]
        h, y = np.c_[t, t == 0] @ turn, 100 * t**2 + 0.01 * (t == 0)  # fitted exactly without a regularizer
        fit = fit_linear_taylor(h, y, rng.normal(size=(1, 2)), [1.0], activation="square", reg=(0.0, 1.0))
        assert (fit.solver, fit.reg) == ("primal", 1.0)


def test_a_singular_matrix_without_a_regularizer_is_never_chosen():
    twice = np.repeat(H[:10], 2, axis=0)
    fit = fit_linear_taylor(twice, np.repeat(Y[:10, 0], 2), W0, A, reg=(0.0, 1e-6, 1.0), solver="dual")
    assert fit.reg == 1e-6
    assert np.isfinite(fit.loo_mse)
    assert fit_linear_taylor(H[:20], Y[:20], W0, A, reg=(0.0, 1e-3), solver="primal").reg == 1e-3


@pytest.mark.parametrize("solver", ["dual", "primal"])
def test_a_regularizer_that_is_too_small_is_named_with_one_that_works(solver):
    h, y = (np.repeat(H[:10], 2, axis=0), np.repeat(Y[:10], 2, axis=0)) if solver == "dual" else (H[:20], Y[:20])
    with pytest.raises(IllConditionedError, match=r"with `reg` 0 the .* Give `reg` of at least") as refused:
        fit_linear_taylor(h, y, W0, A, reg=0.0, solver=solver)
    assert "reg_scale" not in str(refused.value)
    with pytest.warns(ConditioningWarning, match="digits of the answer"):
        fit_linear_taylor(h, y, W0, A, reg=10 * refused.value.suggested_reg, solver=solver)


def test_integer_targets_are_numbers_and_integer_representations_are_refused():
    counts = np.arange(40) % 3
    expected = fit_linear_taylor(H, counts.astype(float), W0, A, reg=0.1)
    np.testing.assert_array_equal(fit_linear_taylor(H, counts, W0, A, reg=0.1).W, expected.W)
    np.testing.assert_array_equal(fit_linear_taylor(H, counts.tolist(), W0, A, reg=0.1).W, expected.W)
    with pytest.raises(DtypeError, match=r"Convert it: `H.astype\(float\)`.$"):
        fit_linear_taylor(np.arange(120).reshape(40, 3), counts, W0, A)


class Unhashable:
    """An activation without a hash."""

    __hash__ = None

    def __call__(self, t):
        return jax.numpy.tanh(t)


def test_an_activation_without_a_hash_is_taken():
    found = linear_taylor_kernel(H, H, W0, Unhashable())
    np.testing.assert_allclose(found, linear_taylor_kernel(H, H, W0, jax.numpy.tanh), rtol=1e-12)
    limit = infinite_linear_taylor(Unhashable()).kernel(H[:3]).ntk
    np.testing.assert_allclose(limit, infinite_linear_taylor(jax.numpy.tanh).kernel(H[:3]).ntk, rtol=1e-12)


def test_numbers_that_are_not_finite_or_underflow_are_called_so():
    with pytest.raises(ValueError, match="underflow"):
        fit_linear_taylor(1e-170 * H, Y, W0, A)
    with pytest.raises(ValueError, match="`H` is zero"):
        fit_linear_taylor(0 * H, Y, W0, A)
    with pytest.raises(NonFiniteError, match="overflow; scale `H` down"):
        fit_linear_taylor(1e160 * H, Y, W0, A)
    with pytest.raises(NonFiniteError, match="first derivative of `activation` is NaN"):
        fit_linear_taylor(H, Y, W0, A, activation=jax.numpy.sqrt)


@pytest.mark.claim("chen2020hierarchical/P4")
def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="it must be even"):
        taylor_weights(7, 3)
    with pytest.raises(ShapeError, match="do not fit"):
        fit_linear_taylor(H, Y, W0[:, :2], A)
    with pytest.raises(ShapeError):
        fit_linear_taylor(H, Y[:5], W0, A)
    with pytest.raises(ShapeError, match="do not fit"):
        linear_taylor_outputs(H, W0, A, np.ones((3, 3)))
    with pytest.raises(ValueError, match="`reg` is 'best'"):
        fit_linear_taylor(H, Y, W0, A, reg="best")
    with pytest.raises(ValueError, match="`reg`"):
        fit_linear_taylor(H, Y, W0, A, reg=-1.0)
    with pytest.raises(ValueError, match="`reg` is empty"):
        fit_linear_taylor(H, Y, W0, A, reg=())
    with pytest.raises(ValueError, match="give `reg` as one number"):
        fit_linear_taylor(H, Y, W0, A, solver="cg")
    with pytest.raises(ValueError, match="first derivative of `activation` vanishes"):
        fit_linear_taylor(H, Y, W0, A, activation=arch.Sign())
    for a in (2 * A, 0 * A, np.linspace(-1, 1, len(A))):
        with pytest.raises(ValueError, match=r"vector of \+1 and -1"):
            fit_linear_taylor(H, Y, W0, a)
        with pytest.raises(ValueError, match=r"vector of \+1 and -1"):
            linear_taylor_outputs(H, W0, a, W0)
    with pytest.raises(ValueError, match=r"taylor_weights: `seed` is 4294967296; choose 0 <= seed < 2\^32"):
        taylor_weights(4, 3, seed=2**32)


def test_conjugate_gradients_say_when_they_ran_out_of_steps():
    fit = fit_linear_taylor(H, Y, W0, A, reg=1e-6, solver="cg", max_steps=2)
    assert fit.status == LinearTaylorStatus.MAX_STEPS
    assert fit.residual > 1e-6
