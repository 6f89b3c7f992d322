"""Losses of one example, their derivatives summed over equal inputs, and whether they attain their minima."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from widescape.core.errors import DtypeError, NonFiniteError, ShapeError
from widescape.landscape.minima.losses import (
    as_loss,
    attained,
    group_residual,
    groups_of,
    mean_loss,
    output_gradients,
    targets_like,
)


def huber(output, target):
    distance = jnp.abs(output[0] - target)
    return jnp.where(distance < 1, distance**2 / 2, distance - 0.5)


def value(loss, outputs, y):
    with jax.enable_x64(True):
        return float(mean_loss(loss, jnp.asarray(outputs), jnp.asarray(y)))


def test_named_losses_are_their_formulas(rng):
    F, y = rng.normal(size=(5, 3)), rng.normal(size=(5, 3))
    np.testing.assert_allclose(value("square", F, y), ((F - y) ** 2).sum(axis=1).mean() / 2, rtol=1e-14)
    labels, p = rng.integers(3, size=5), softmax(F, axis=1)
    expected = -np.log(p[np.arange(5), labels]).mean()
    np.testing.assert_allclose(value("cross_entropy", F, labels), expected, rtol=1e-13)
    np.testing.assert_allclose(value("cross_entropy", F, np.eye(3)[labels]), expected, rtol=1e-13)
    signs = np.sign(F[:, 0])
    hinge = np.maximum(0, 1 - F[:, 0] * signs) ** 3
    np.testing.assert_allclose(value("poly_hinge", F[:, 0], signs), hinge.mean(), rtol=1e-13)


def test_losses_are_refused_by_what_is_wrong_with_them():
    with pytest.raises(TypeError, match="`loss` is 3"):
        as_loss(3)
    with pytest.raises(ValueError, match="choose one of 'square'"):
        as_loss("hinge")
    with pytest.raises(TypeError, match="must return one number"):
        mean_loss(lambda q, t: q - t, np.ones((2, 3)), np.ones((2, 3)))


def test_targets_fit_the_outputs(rng):
    F = rng.normal(size=(4, 1))
    assert targets_like([1.0, 2, 3, 4], F, "square").shape == (4, 1)
    assert targets_like(np.arange(4), rng.normal(size=(4, 4)), "cross_entropy").dtype.kind == "i"
    assert targets_like(np.ones(4, np.float32), F, huber).dtype == np.float64
    with pytest.raises(ShapeError, match="one target for each of 4"):
        targets_like(np.ones(3), F, huber)
    with pytest.raises(ShapeError, match=r"outputs have shape \(4, 1\)"):
        targets_like(np.ones((4, 2)), F, "square")
    with pytest.raises(ValueError, match="NaN or infinite"):
        targets_like([1.0, np.inf, 0, 0], F, huber)
    with pytest.raises(ValueError, match="no examples"):
        targets_like(np.ones(0), np.ones((0, 1)), "square")


def test_equal_inputs_share_a_group_in_the_order_of_appearance():
    X = np.array([[2.0, 0.0], [1.0, 0.0], [2.0, -0.0], [0.0, 0.0], [1.0, 0.0]])
    assert groups_of(X).tolist() == [0, 1, 0, 2, 1]
    assert groups_of(X[:, :, None]).tolist() == [0, 1, 0, 2, 1]
    assert groups_of(np.full((3, 2), 7.0)).tolist() == [0, 0, 0]


@pytest.mark.claim("kawaguchi2019elimination/P8")
def test_near_duplicates_are_one_group_only_within_the_tolerance():
    X = np.array([[0.0], [1e-6], [1.0], [2.5e-6], [1.0 + 1e-9]])
    assert groups_of(X).tolist() == [0, 1, 2, 3, 4]
    assert groups_of(X, 1e-8).tolist() == [0, 1, 2, 3, 2]
    assert groups_of(X, 2e-6).tolist() == [0, 0, 1, 0, 1]  # the first and fourth through the second
    F, y = np.array([1.0, -1.0, 0, 0, 0]), np.zeros(5)
    assert np.abs(group_residual(F, X, y, "square")).max() == 1
    assert np.abs(group_residual(F, X, y, "square", x_tol=2e-6)).max() == 0


def test_group_residuals_are_sums_of_output_derivatives(rng):
    X = np.repeat(rng.normal(size=(3, 2)), [2, 1, 3], axis=0)[[0, 2, 1, 3, 4, 5]]
    F, labels = rng.normal(size=(6, 3)), rng.integers(3, size=6)
    derivatives = softmax(F, axis=1) - np.eye(3)[labels]
    groups = [[0, 2], [1], [3, 4, 5]]
    expected = np.array([derivatives[group].sum(axis=0) for group in groups])
    np.testing.assert_allclose(group_residual(F, X, labels, "cross_entropy"), expected, atol=1e-14)
    np.testing.assert_allclose(output_gradients("cross_entropy", F, labels), derivatives, atol=1e-14)
    single = group_residual(F.astype(np.float32), X, labels, "cross_entropy")
    assert single.dtype == np.float64


def test_group_residuals_vanish_exactly_at_the_minimum_over_all_functions(rng):
    X, y = np.array([[0.0], [0.0], [1.0]]), rng.normal(size=3)
    fitted = np.array([y[:2].mean(), y[:2].mean(), y[2]])
    assert np.abs(group_residual(fitted, X, y, "square")).max() < 1e-15
    assert np.abs(group_residual(fitted + np.array([0, 0, 0.1]), X, y, "square")).max() > 0.09


def test_group_residuals_refuse_what_does_not_fit():
    X, y = np.ones((3, 1)), np.ones(3)
    with pytest.raises(ShapeError, match="`F` holds 2 examples and `X` 3"):
        group_residual(np.ones(2), X, y, "square")
    with pytest.raises(ValueError, match="`F` has 1 entries"):
        group_residual(np.array([1.0, np.nan, 1.0]), X, y, "square")
    with pytest.raises(ValueError, match="`x_tol` is -1"):
        group_residual(y, X, y, "square", x_tol=-1.0)
    with pytest.raises(DtypeError, match="`X` has dtype complex"):
        groups_of(np.ones((3, 1), complex))
    with pytest.raises(DtypeError, match="`y` holds complex"):
        group_residual(y, X, 1j * y, "square")
    with pytest.raises(ShapeError, match="`F` has shape"):
        group_residual(np.ones((3, 1, 1)), X, y, "square")
    with pytest.raises(ValueError, match="hinge takes -1 and 1"):
        group_residual(y, X, 0 * y, "poly_hinge")
    with pytest.raises(ValueError, match="at least one example"):
        groups_of(np.ones((0, 1)))
    with pytest.raises(NonFiniteError, match="derivative"):
        group_residual(np.zeros(3), X, y, lambda q, t: jnp.sqrt(q[0]))


SOFT = np.array([[0.9, 0.05, 0.05], [1 / 3] * 3, [1 - 2e-6, 1e-6, 1e-6]])


@pytest.mark.parametrize(
    ("loss", "y", "num_outputs", "expected"),
    [
        ("square", [1e6, -3.0], 1, True),
        ("cross_entropy", SOFT, 3, True),
        ("cross_entropy", [0, 1, 2], 3, False),
        ("cross_entropy", np.eye(3), 3, False),
        ("cross_entropy", [[0.5, 0.5, 0.0]], 3, False),
        ("poly_hinge", [1, -1], 1, True),
        (huber, [0.0, 0.5, 100.0, -1e4], 1, True),
        (lambda q, t: jax.nn.softplus(-q[0] * t), [1.0, -1.0], 1, False),
        (lambda q, t: jax.nn.softplus(q[0]) - t * q[0], [0.5, 0.01, 0.999], 1, True),
        (lambda q, t: jax.nn.softplus(q[0]) - t * q[0], [0.0, 1.0], 1, False),
        (lambda q, t: jnp.exp(-q[0] * t), [1.0, -1.0], 1, False),
        (lambda q, t: jnp.where(q[0] > 0, 1 / (1 + jnp.abs(q[0])), 1 - q[0] + q[0] ** 2), [1.0], 1, False),
        (lambda q, t: jnp.sum((q - t) ** 2), [[0.0, 1e5], [1e3, 3.0]], 2, True),
        (lambda q, t: (q[0] - t) ** 4, [0.0, 30.0], 1, True),
        (lambda q, t: (q[0] - t) ** 8, [0.0, 1.0], 1, True),
        (lambda q, t: 1e-7 * (q[0] - t) ** 2, [1.0, 1e3], 1, True),
        (lambda q, t: jax.nn.softplus(-1000 * q[0] * t), [1.0, -1.0], 1, False),
        (lambda q, t: q[0] + 0.0 * t, [1.0], 1, False),
    ],
)
def test_minima_are_attained_or_not(loss, y, num_outputs, expected):
    assert attained(loss, np.asarray(y), num_outputs).tolist() == [expected] * len(y)


def test_each_example_is_told_apart():
    y = np.array([[1.0, 0, 0], [0.9, 0.05, 0.05], [1.0, 0, 0], [0.0, 0.5, 0.5]])
    assert attained("cross_entropy", y, 3).tolist() == [False, True, False, False]


@pytest.mark.parametrize(
    "y",
    [np.array([0, 2]), np.array([-1, 0]), np.array([0.0, 1.0]), np.ones((2, 2)), np.array([[2.0, -1.0], [0.0, 1.0]])],
)
def test_labels_outside_of_the_classes_and_rows_that_are_no_distributions_are_refused(y):
    with pytest.raises(ValueError, match="`y`"):
        group_residual(np.zeros((2, 2)), np.arange(2.0)[:, None], y, "cross_entropy")
