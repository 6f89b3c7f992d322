"""The escape value is the infimum over an added exponential neuron, found where it lies and bounded from above."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial import ConvexHull
from scipy.special import log_softmax

from widescape.core.errors import DtypeError, NonFiniteError, ShapeError
from widescape.landscape.minima.escape import EscapeReport, escape_value, separating
from widescape.landscape.minima.losses import group_residual

X = np.array([[-1.0], [0.0], [1.0]])
Y = np.array([1.0, 0.0, 2.0])
DEAD = np.array([1.0, 1.0, 1.0])  # outputs of C2
TRAP = np.array([0.5, 1.0, 1.5])  # outputs of C3
SOFT = np.array([[0.9, 0.05, 0.05], [0.2, 0.3, 0.5]])


def squared(output, target):
    return jnp.sum((output - target) ** 2)


def reproduced(report, F, inputs):
    """F plus the neuron of the report, in NumPy."""
    return F + report.c * np.exp(inputs @ report.W.T - report.shift)


def half_square(outputs, y):
    return float(((outputs - y) ** 2).sum(axis=1).mean() / 2)


def cross_entropy(outputs, y):
    return float(-(y * log_softmax(outputs, axis=1)).sum(axis=1).mean())


@pytest.mark.claim("kawaguchi2019elimination/C2")
def test_the_dead_region_escapes_to_one_third(measured):
    report = escape_value(DEAD, X, Y, squared)
    np.testing.assert_allclose([report.loss, report.value, report.drop], [2 / 3, 1 / 3, 1 / 3], rtol=1e-13)
    measured(f"escape value {report.value:.15g}")
    np.testing.assert_allclose(escape_value(DEAD, X, Y, "square").value, 1 / 6, rtol=1e-13)


@pytest.mark.claim("kawaguchi2019elimination/C3")
def test_the_affine_trap_escapes_to_five_twelfths_at_infinity_only(measured):
    report = escape_value(TRAP, X, Y, squared)
    np.testing.assert_allclose([report.loss, report.value], [1 / 2, 5 / 12], rtol=1e-13)
    assert report.at_infinity
    w = np.linspace(-40, 40, 4001)
    e = np.exp(np.outer(w, X[:, 0]) - np.abs(w)[:, None])
    gains = (e @ (TRAP - Y)) ** 2 / (e**2).sum(axis=1)
    assert (gains[np.abs(w) < 10] < 1 / 4 - 1e-5).all()
    measured(f"escape value {report.value:.15g}, |w| = {abs(report.W[0, 0]):.3g}")


@pytest.mark.claim("kawaguchi2019elimination/C8")
def test_a_penalty_on_the_absolute_amplitude_keeps_zero_a_minimum_and_a_square_does_not(measured):
    neuron = np.exp(0.3 * X[:, 0])
    with jax.enable_x64(True):
        slope = float(jax.grad(lambda a: ((DEAD - Y + a * neuron) ** 2).mean())(0.0))
    np.testing.assert_allclose(slope, 2 / 3 * (1 - np.exp(0.3)), rtol=1e-14)
    assert round(slope, 5) == -0.23324
    a = np.linspace(-0.5, 0.5, 10001)
    fitted = (((DEAD - Y)[:, None] + np.outer(neuron, a)) ** 2).mean(axis=0)
    assert np.argmin(fitted + 0.5 * np.abs(a)) == 5000  # a = 0
    assert a[np.argmin(fitted + 0.01 * a**2)] > 0.05
    measured(f"data slope {slope:.6f}, against 0.5")


@pytest.mark.claim("kawaguchi2019elimination/T3")
def test_the_escape_value_is_below_the_loss_wherever_a_group_residual_is_not_zero(rng):
    inputs = np.repeat(rng.normal(size=(4, 2)), [1, 2, 1, 2], axis=0)
    y = rng.normal(size=6)
    means = np.array([y[0], *[y[1:3].mean()] * 2, y[3], *[y[4:].mean()] * 2])
    for scale in (0.0, 1e-3, 1.0):
        for i in range(4):
            off = np.isin(np.arange(6), [[0], [1, 2], [3], [4, 5]][i])
            F = means + scale * off
            report = escape_value(F, inputs, y, "square")
            residual = np.abs(group_residual(F, inputs, y, "square")).max()
            if scale == 0:
                assert residual < 1e-14
                assert report.value == report.loss
                assert not report.c.any()
                assert not report.W.any()
                assert not report.at_infinity
            else:
                assert residual > scale / 2
                assert report.drop > 1e-3 * scale**2
                assert report.value < report.loss
    opposite = means + np.array([0, 1.0, -1.0, 0, 1.0, -1.0])  # residuals that cancel within their groups
    assert escape_value(opposite, inputs, y, "square").drop == 0


def test_an_isolated_group_wins_its_mean_residual(rng):
    """With all residual on one exposed group the infimum is known: |e_w| >= |e_w on the group|, so no w does better."""
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.3, 0.3]])
    inputs, y = np.repeat(corners, [2, 1, 2, 1], axis=0), rng.normal(size=6)
    F = y + np.array([2.0, 1.0, 0, 0, 0, 0])
    report = escape_value(F, inputs, y, "square")
    np.testing.assert_allclose(report.drop, (3.0**2 / 2) / 12, rtol=1e-13)
    assert report.at_infinity
    inside = escape_value(y + np.array([0, 0, 0, 0, 0, 1.0]), inputs, y, "square")
    assert 0 < inside.drop < 1 / 12 - 1e-3  # not exposed, so it cannot be isolated


def test_every_exposed_point_bounds_the_value(rng):
    for _ in range(3):
        inputs, F, y = rng.normal(size=(12, 2)), rng.normal(size=(12, 1)), rng.normal(size=(12, 1))
        report = escape_value(F, inputs, y, "square")
        exposed = ConvexHull(inputs).vertices
        assert report.drop >= ((F - y)[exposed] ** 2).max() / 24 - 1e-14
        np.testing.assert_allclose(half_square(reproduced(report, F, inputs), y), report.value, rtol=1e-13)


def test_a_dense_grid_of_directions_finds_no_more(rng):
    w = np.linspace(-60, 60, 60001)
    for _ in range(5):
        inputs, residual = rng.normal(size=(9, 1)), rng.normal(size=9)
        e = np.outer(w, inputs[:, 0])
        e = np.exp(e - e.max(axis=1, keepdims=True))
        best = ((e @ residual) ** 2 / (e**2).sum(axis=1)).max() / 18
        drop = escape_value(residual, inputs, np.zeros(9), "square").drop
        assert drop >= best - 1e-14
        np.testing.assert_allclose(drop, best, rtol=1e-5)  # the grid's spacing


def test_a_residual_that_is_an_exponential_is_removed_at_its_own_direction():
    inputs = np.linspace(-1, 1, 9)[:, None]
    report = escape_value(3 * np.exp(1.5 * inputs[:, 0]), inputs, np.zeros(9), "square")
    assert report.value < 1e-12
    assert not report.at_infinity
    np.testing.assert_allclose(report.W, [[1.5]], rtol=1e-5)
    np.testing.assert_allclose(report.c * np.exp(-report.shift), [-3], rtol=1e-5)


def test_outputs_are_independent_under_the_square_loss(rng):
    inputs, F, y = rng.normal(size=(9, 1)), rng.normal(size=(9, 2)), rng.normal(size=(9, 2))
    both = escape_value(F, inputs, y, "square")
    alone = [escape_value(F[:, k], inputs, y[:, k], "square") for k in range(2)]
    np.testing.assert_allclose(both.value, sum(r.value for r in alone), rtol=1e-12)
    np.testing.assert_allclose(half_square(reproduced(both, F, inputs), y), both.value, rtol=1e-13)


def test_the_value_does_not_change_under_affine_maps_of_the_inputs(rng):
    inputs, F, y = rng.normal(size=(12, 2)), rng.normal(size=(12, 1)), rng.normal(size=(12, 1))
    moved = 1e3 * inputs @ np.array([[2.0, 1.0], [0.0, 1.0]]) + np.array([[50.0, -7.0]])
    ends = [escape_value(F, x, y, "square") for x in (inputs, moved)]
    np.testing.assert_allclose(ends[0].value, ends[1].value, rtol=1e-8)


@pytest.mark.claim("kawaguchi2019elimination/I4")
def test_the_escape_value_is_at_most_the_loss_and_the_profile_at_any_amplitude_and_direction(rng):
    inputs, F, y = rng.normal(size=(12, 2)), rng.normal(size=(12, 1)), rng.normal(size=(12, 1))
    report = escape_value(F, inputs, y, "square")
    assert report.value <= report.loss
    for scale in (0.1, 1, 10):
        for _ in range(300):
            e = inputs @ rng.normal(size=(2, 1)) * scale
            e = np.exp(e - e.max())
            c = -((F - y).T @ e) / (e**2).sum()
            assert report.value <= half_square(F + c * e, y) + 1e-14
            assert report.value <= half_square(F + rng.normal() * e, y) + 1e-14


@pytest.mark.slow
@pytest.mark.claim("kawaguchi2019elimination/I4")
def test_coupled_outputs_reach_the_least_cross_entropy_of_two_points(rng):
    """Three exponentials of either sign give any logits at two points, up to a constant at each."""
    inputs, F = np.array([[0.0], [1.0]]), rng.normal(size=(2, 3))
    report = escape_value(F, inputs, SOFT, "cross_entropy", restarts=40)
    entropy = -(SOFT * np.log(SOFT)).sum(axis=1).mean()
    np.testing.assert_allclose(report.loss, cross_entropy(F, SOFT), rtol=1e-13)
    np.testing.assert_allclose(report.value, entropy, rtol=1e-10)
    np.testing.assert_allclose(cross_entropy(reproduced(report, F, inputs), SOFT), report.value, rtol=1e-12)
    for _ in range(200):
        added = rng.normal(size=(1, 3)) * np.exp(inputs * rng.normal(size=(1, 3)) * 3)
        assert report.value <= cross_entropy(F + added, SOFT) + 1e-14
    hard = np.eye(3)[[0, 2]]
    assert (
        escape_value(F, inputs, hard, "cross_entropy", restarts=40).value < 1e-6
    )  # not attained: 0 at infinite amplitudes


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["huber", "exponential", "poly_hinge"])
def test_losses_without_curvature_or_minimum_are_escaped_too(rng, loss):
    def huber(output, target):
        distance = jnp.abs(output[0] - target)
        return jnp.where(distance < 1, distance**2 / 2, distance - 0.5)

    losses = {"huber": huber, "exponential": lambda q, t: jnp.exp(-q[0] * t), "poly_hinge": "poly_hinge"}
    y = np.array([1.0, -1.0, 1.0, -1.0])
    inputs, F = np.arange(4.0)[:, None], -5.0 * y * np.array([1.0, 0, 0, 0])
    report = escape_value(F, inputs, y, losses[loss])
    floor = {"huber": 1.5, "exponential": 3.0, "poly_hinge": 3.0}[loss] / 4  # what the other three points keep
    assert report.value <= floor + 1e-6
    assert report.value < report.loss - 1


def test_one_example_is_fitted_exactly():
    report = escape_value([4 / 3], [[2.0]], [0.0], squared)
    assert report.loss == pytest.approx(16 / 9)
    assert report.value == pytest.approx(0, abs=1e-28)


def test_separating_directions_exist_for_exposed_points_only(rng):
    points = rng.normal(size=(30, 2))
    exposed = set(ConvexHull(points).vertices.tolist())
    for i in range(30):
        normal = separating(points, i)
        assert (normal is not None) == (i in exposed)
        if normal is not None:
            np.testing.assert_allclose(((points[i] - np.delete(points, i, 0)) @ normal).min(), 1, rtol=1e-9)
    line = np.array([[0.0, 0], [1, 0], [2, 0]])
    assert separating(line, 1) is None
    np.testing.assert_allclose(separating(line, 2), [1, 0], atol=1e-12)


def test_the_report_prints_saves_and_is_the_same_for_the_same_key(tmp_path):
    report = escape_value(DEAD, X, Y, "square", key=jax.random.key(3))
    assert report == escape_value(DEAD, X, Y, "square", key=jax.random.key(3))
    assert EscapeReport.load(report.save(tmp_path / "escape.result")) == report
    assert report.evidence("value").side == "upper"
    assert len(str(report).splitlines()) < 20
    assert report.c.dtype == report.W.dtype == np.float64


def test_arguments_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match=r"`F` holds 3 examples and `X` has shape \(2, 1\)"):
        escape_value(DEAD, X[:2], Y, "square")
    with pytest.raises(ShapeError, match="`y` has shape"):
        escape_value(DEAD, X, Y[:2], "square")
    with pytest.raises(ShapeError, match="outputs"):
        escape_value(np.ones((3, 1, 1)), X, Y, "square")
    with pytest.raises(DtypeError, match="`F` has dtype complex"):
        escape_value(1j * DEAD, X, Y, "square")
    with pytest.raises(ValueError, match="`X` has 1 entries"):
        escape_value(DEAD, np.array([[0.0], [np.nan], [1.0]]), Y, "square")
    with pytest.raises(ValueError, match="`restarts` is 0"):
        escape_value(DEAD, X, Y, "square", restarts=0)
    with pytest.raises(ValueError, match="choose one of"):
        escape_value(DEAD, X, Y, "absolute")
    with pytest.raises(TypeError, match="one number"):
        escape_value(np.ones((3, 2)), X, np.ones((3, 2)), lambda q, t: (q - t) ** 2)
    with pytest.raises(NonFiniteError, match="the loss at `F`"):
        escape_value(DEAD, X, Y, lambda q, t: jnp.log(-q[0] * t**2))


def test_whole_numbers_are_numbers():
    places = np.array([[-1], [0], [1]])
    assert escape_value(np.ones(3, int), places, [1, 0, 2], "square", restarts=4) == escape_value(
        np.ones(3), 1.0 * places, [1.0, 0.0, 2.0], "square", restarts=4
    )


def test_directions_that_no_input_spans_do_not_matter(rng):
    turned = np.linalg.qr(rng.normal(size=(6, 6)))[0][:1]
    flat, own = (escape_value(DEAD, places, Y, "square", restarts=20) for places in (X, X @ turned))
    assert own.value == pytest.approx(flat.value, rel=1e-9)
    assert own.W.shape == (1, 6)
