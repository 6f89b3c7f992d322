"""The first certified step of runs with a known answer, promises that are broken on purpose, and MNIST."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from specimens import product
from widescape.arch import Dense, Frozen, Sequential, Tanh
from widescape.core.errors import NotCertifiable, ShapeError
from widescape.curvature import System
from widescape.curvature.spectrum import tangent_kernel
from widescape.landscape.certificate import CertificateStatus, certify_pl_star
from widescape.landscape.descent import gradient_descent
from widescape.landscape.first_step import FirstStepStatus, check_certificate, first_certified_step
from widescape.landscape.norm_propagation import network_bound


def hyperbola(start=(3.0, 1.0)):
    """F = w1 w2 with target 1: the kernel is |w|^2, the second derivative 1, and h = 8 |F - 1|/|w|^2 for descent."""
    return System(product, np.array(start), np.zeros(1), np.ones(1))


def h_of(points):
    return 8 * np.abs(points[:, 0] * points[:, 1] - 1) / (points**2).sum(axis=1)


@pytest.fixture
def run():
    return gradient_descent(hyperbola(), 0.01, 40, keep_every=2)


def test_the_first_certified_step_is_where_h_first_reaches_one(run):
    found = first_certified_step(hyperbola(), run, hessian_bound=1.0)
    h = h_of(run.snapshots)
    first = int(np.argmax(h <= 1))
    assert first > 1
    assert found.status is FirstStepStatus.OK
    assert found.step == run.snapshot_steps[first]
    np.testing.assert_allclose(found.h, h[: first + 1], rtol=1e-9)
    np.testing.assert_array_equal(found.steps, run.snapshot_steps[: first + 1])
    np.testing.assert_allclose(found.loss, run.loss[found.steps], rtol=1e-12)
    assert found.loss_share == pytest.approx(run.loss[found.step] / run.loss[0], rel=1e-12)
    later = run.snapshots[first:]
    distances = np.linalg.norm(later - later[0], axis=1)
    assert (found.num_later, found.num_inside) == (len(later) - 1, len(later) - 1)
    assert found.max_distance == pytest.approx(distances.max(), rel=1e-9)
    assert found.min_eigenvalue == pytest.approx((later**2).sum(axis=1).min(), rel=1e-9)
    assert found.certificate == certify_pl_star(hyperbola(), later[0], hessian_bound=1.0)


def test_runs_arrays_lists_and_other_precisions_are_the_same_points(run):
    system, points = hyperbola(), run.snapshots
    answer = first_certified_step(system, run, hessian_bound=1.0)
    for given, steps in (
        (points, run.snapshot_steps),
        (list(points), run.snapshot_steps),
        (points, list(run.snapshot_steps)),
    ):
        assert first_certified_step(system, given, steps=steps, hessian_bound=1.0) == answer
    counted = first_certified_step(system, points, hessian_bound=1.0)
    assert counted.step == list(run.snapshot_steps).index(answer.step)
    assert first_certified_step(system, run, steps=run.snapshot_steps * 10, hessian_bound=1.0).step == 10 * answer.step
    trees = System(lambda p, x: p["a"] * p["b"], {"a": np.ones(1), "b": np.ones(1)}, np.zeros(1), np.ones(1))
    listed = first_certified_step(trees, [{"a": p[:1], "b": p[1:]} for p in points], hessian_bound=1.0)
    np.testing.assert_allclose(listed.h, counted.h, rtol=1e-12)
    single = System(product, np.ones(2, np.float32), np.zeros(1, np.float32), np.ones(1, np.float32))
    np.testing.assert_allclose(first_certified_step(single, points, hessian_bound=1.0).h, counted.h, rtol=1e-12)


def test_nothing_certified_gives_the_last_point_and_how_far_it_is(run):
    found = first_certified_step(hyperbola(), run.snapshots[:3], hessian_bound=1.0)
    assert (found.status, found.step, found.loss_share) == (FirstStepStatus.NEVER, None, None)
    assert (found.num_later, found.num_inside, found.max_distance, found.min_eigenvalue) == (0, 0, None, None)
    np.testing.assert_allclose(found.h, h_of(run.snapshots[:3]), rtol=1e-9)
    assert found.certificate.status is CertificateStatus.CURVED
    assert len(found.charts()[0].markers) == 1


def test_a_first_point_that_is_certified_ends_the_search():
    found = first_certified_step(hyperbola(), np.array([[2.0, 0.5], [2.0, 0.6]]), hessian_bound=1.0)
    assert (found.step, found.loss_share) == (0, None)  # it starts at a solution
    near = first_certified_step(hyperbola(), np.array([[2.0, 0.51], [2.0, 0.6]]), hessian_bound=1.0)
    assert (near.step, near.loss_share, len(near.h)) == (0, 1.0, 1)


def test_a_singular_point_is_passed_over():
    found = first_certified_step(hyperbola(), np.array([[0.0, 0.0], [1.0, 1.01]]), hessian_bound=1.0)
    assert found.h[0] == float("inf")
    assert found.step == 1


@pytest.mark.parametrize(("point", "h"), [((0.0, 0.0), float("inf")), ((2.0, 0.5), 0.0)])
def test_without_a_finite_and_positive_h_there_is_nothing_to_draw(point, h):
    found = first_certified_step(hyperbola(), np.array([point]), hessian_bound=1.0)
    assert found.h.tolist() == [h]
    assert found.charts() == ()


def test_a_wrong_curvature_bound_is_found_out():
    points = np.array([[3.0, 1.0], [2.3, 0.5]])
    honest = first_certified_step(hyperbola(), points, hessian_bound=1.0)
    assert (honest.status, honest.step) == (FirstStepStatus.UNCHECKED, 1)  # it is the last point
    wrong = first_certified_step(hyperbola(), points, hessian_bound=0.01)
    assert (wrong.status, wrong.step, wrong.num_inside) == (FirstStepStatus.BROKEN, 0, 1)
    assert wrong.min_eigenvalue == pytest.approx(2.3**2 + 0.5**2, rel=1e-9)
    assert wrong.min_eigenvalue < wrong.certificate.mu


def test_points_outside_the_ball_break_no_promise():
    points = np.array([[1.0, 1.01], [0.1, 0.1]])
    found = first_certified_step(hyperbola(), points, hessian_bound=1.0)
    assert found.status is FirstStepStatus.UNCHECKED
    assert (found.num_later, found.num_inside) == (1, 0)
    assert found.max_distance == pytest.approx(np.linalg.norm(points[1] - points[0]), rel=1e-12)
    assert found.min_eigenvalue == pytest.approx(1.0 + 1.01**2, rel=1e-9)


def test_a_bound_for_each_point_is_asked_at_that_point(run):
    asked = []

    def around(point):
        asked.append(point)
        return lambda radius: 1.0

    found = first_certified_step(hyperbola(), run, hessian_bound=around, per_point=True)
    plain = first_certified_step(hyperbola(), run, hessian_bound=1.0)
    assert found.step == plain.step
    np.testing.assert_allclose(found.h, plain.h, rtol=1e-9)
    np.testing.assert_array_equal(np.stack(asked), run.snapshots[: len(asked)])


def test_options_reach_the_certificate(run):
    steps = {}
    for name, options in {
        "plain": {},
        "flow": {"flow": True},
        "integrated": {"integrated": True},
        "slow": {"lr": 1e-3},
    }.items():
        found = first_certified_step(hyperbola(), run, hessian_bound=1.0, **options)
        steps[name] = found.step
        point = run.snapshots[list(run.snapshot_steps).index(found.step)]
        assert found.certificate == certify_pl_star(hyperbola(), point, hessian_bound=1.0, **options)
    h = h_of(run.snapshots)
    assert steps["flow"] == steps["integrated"] == run.snapshot_steps[np.argmax(h <= 2)] < steps["plain"]
    assert steps["slow"] < steps["plain"]


@pytest.mark.parametrize(
    ("points", "options", "error", "match"),
    [
        (np.ones((3, 4)), {}, ShapeError, "params_seq"),
        (np.ones((0, 2)), {}, ShapeError, "params_seq"),
        (np.ones((3, 2)), {"steps": [0, 1]}, ShapeError, "steps"),
        (17, {}, TypeError, "params_seq"),
        (SimpleNamespace(snapshots=None, snapshot_steps=None), {}, ShapeError, "keep_every"),
        (np.array([[np.nan, 1.0]]), {}, ValueError, "NaN"),
    ],
)
def test_points_that_do_not_fit_are_refused(points, options, error, match):
    with pytest.raises(error, match=match):
        first_certified_step(hyperbola(), points, hessian_bound=1.0, **options)


def test_another_loss_than_the_square_is_refused():
    labels = System(lambda w, x: x @ w, np.ones((2, 2)), np.eye(2), np.array([0, 1]), loss="cross_entropy")
    with pytest.raises(NotCertifiable):
        first_certified_step(labels, np.ones((2, 4)))


def checked(system, certificate, steps=200, **options):
    return check_certificate(system, certificate, steps, **options)


def test_descent_from_a_certified_point_is_held_against_loss_ball_and_eigenvalue():
    system = hyperbola((2.0, 0.4))
    certificate = certify_pl_star(system, hessian_bound=1.0)
    found = checked(system, certificate, looks=10)
    w, lr, path = np.array([2.0, 0.4]), certificate.lr_max, []
    for _ in range(201):
        path.append(w)
        w = w - lr * (w[0] * w[1] - 1) * w[::-1]
    path = np.array(path)
    looked = path[found.steps]
    assert found.holds
    assert (found.num_steps, found.lr, found.rate) == (200, lr, certificate.rate)
    assert found.steps.tolist() == list(range(0, 201, 20))
    np.testing.assert_allclose(found.loss[:8], (path[:8, 0] * path[:8, 1] - 1) ** 2 / 2, rtol=1e-9)
    np.testing.assert_allclose(found.bound, found.loss[0] * certificate.rate ** np.arange(201), rtol=1e-12)
    assert found.max_distance == pytest.approx(np.linalg.norm(looked - looked[0], axis=1).max(), rel=1e-9)
    assert found.min_eigenvalue == pytest.approx((looked**2).sum(axis=1).min(), rel=1e-9)
    assert (found.radius, found.mu) == (certificate.radius, certificate.mu)
    assert found.measured_rate < found.rate
    assert [series.label for series in found.charts()[0].series] == ["measured", "promised at most"]


def test_the_measured_rate_is_the_factor_of_a_linear_function():
    system = System(lambda w, x: x @ w, np.zeros(2), np.diag([1.0, 2.0]), np.ones(2))
    certificate = certify_pl_star(system, hessian_bound=0.0)
    assert checked(system, certificate, 40).measured_rate == pytest.approx(0.5625, rel=1e-9)
    assert checked(system, certificate, 5000).measured_rate == pytest.approx(0.5625, rel=1e-6)


@pytest.mark.parametrize("claim", ["rate", "radius", "mu"])
def test_a_certificate_that_promises_too_much_is_found_out(claim):
    system = hyperbola((2.0, 0.4))
    good = certify_pl_star(system, hessian_bound=1.0)
    truth = checked(system, good)
    times = np.arange(1, 10)
    tight = {
        "rate": ((truth.loss[1:10] / truth.loss[0]) ** (1 / times)).max(),
        "radius": truth.max_distance,
        "mu": truth.min_eigenvalue,
    }[claim]
    to_safety = -1 if claim == "mu" else 1
    assert truth.holds
    assert checked(system, replace(good, **{claim: float(tight * (1 + 0.01 * to_safety))})).holds
    assert not checked(system, replace(good, **{claim: float(tight * (1 - 0.01 * to_safety))})).holds


def test_a_learning_rate_that_diverges_is_found_out():
    system = hyperbola((2.0, 0.4))
    wrong = replace(certify_pl_star(system, hessian_bound=1.0), lr=1.2)
    assert not checked(system, wrong).holds


def test_a_check_starts_at_the_point_that_it_is_given():
    system = hyperbola()
    point = np.array([2.0, 0.4])
    certificate = certify_pl_star(system, point, hessian_bound=1.0)
    assert checked(system, certificate, params=point).holds
    with pytest.raises(ValueError, match="give that point"):
        checked(system, certificate)


def test_a_bound_around_one_point_is_refused_for_a_run():
    with pytest.raises(ValueError, match="per_point"):
        first_certified_step(hyperbola(), np.array([[1.0, 1.01], [0.1, 0.1]]), hessian_bound=lambda radius: 1.0)


def test_a_solution_is_certified_and_its_check_holds_though_all_is_rounding():
    system = hyperbola()
    point = np.array([2.0, float(np.asarray(system.y)[0]) / 2.0])
    certificate = certify_pl_star(system, point, hessian_bound=1.0)
    assert certificate.certified
    assert checked(system, certificate, params=point).holds


def test_a_certificate_at_a_given_rate_is_checked_at_that_rate():
    system = hyperbola((2.0, 0.49))
    certificate = certify_pl_star(system, hessian_bound=1.0, lr=0.3)
    assert certificate.certified
    assert certificate.lr_max < 0.3
    found = checked(system, certificate)
    assert (found.lr, found.holds) == (0.3, True)


def test_a_certificate_that_certifies_nothing_cannot_be_checked():
    system = hyperbola()
    with pytest.raises(ValueError, match="certifies nothing"):
        check_certificate(system, certify_pl_star(system, hessian_bound=1.0), 5)
    good = certify_pl_star(hyperbola((2.0, 0.49)), hessian_bound=1.0)
    for options in ({"steps": 0}, {"steps": 5, "looks": 0}):
        with pytest.raises(ValueError, match=r"steps|looks"):
            check_certificate(hyperbola((2.0, 0.49)), good, **options)


# MNIST: 100 images, centered, on the unit sphere, parity as target, rotated to their span.


@pytest.fixture(scope="module")
def parity(mnist):
    x = mnist.x_train[:100].reshape(100, -1).astype(np.float64)
    x = x - x.mean(axis=0)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    _, values, axes = np.linalg.svd(x, full_matrices=False)
    x = x @ axes[values > 1e-10 * values[0]].T
    return x * x.shape[1] ** 0.5, np.where(mnist.y_train[:100] % 2 == 0, 1.0, -1.0)[:, None]


def doubled_network(parity, *, frozen, width=4096):
    """One hidden layer of tanh, its second half a copy whose output weights have the other sign: F(w_0) = 0."""
    x, y = parity
    half = np.random.default_rng(0).normal(size=(x.shape[1], width // 2))
    out = np.repeat([1.0, -1.0], width // 2)[:, None]
    net = Sequential(Dense(width), Tanh(), Frozen(Dense(1)) if frozen else Dense(1))
    return System(net.apply, ({"w": np.concatenate([half, half], axis=1)}, {}, {"w": out}), x, y)


def searched(system, steps):
    """Descent at .8 of 1/lambda_max, its first certified step, and that of the integrated form."""
    lr = 0.8 / np.linalg.eigvalsh(tangent_kernel(system, progress=False))[-1]
    run = gradient_descent(system, lr, steps, keep_every=10)
    return run, first_certified_step(system, run), first_certified_step(system, run, integrated=True)


def obeyed(system, run, found, steps):
    """Descent after the certified step, taken by the library and held against the promises here."""
    assert found.status is FirstStepStatus.OK
    assert found.certificate.rigorous
    start = run.snapshots[list(run.snapshot_steps).index(found.step)]
    check = check_certificate(system, found.certificate, steps, params=start, looks=10)
    assert check.holds
    assert check.num_steps == steps
    assert (check.loss <= check.loss[0] * (1 - check.lr * check.mu) ** np.arange(steps + 1) * (1 + 1e-9)).all()
    assert check.max_distance <= found.certificate.radius
    assert check.min_eigenvalue >= found.certificate.mu
    assert check.measured_rate <= check.rate
    return check


def figures(found, integrated, check):
    c = found.certificate
    return (
        f"h {found.h[0]:.0f} at the start; certified at step {found.step} (integrated {integrated.step}), |r| "
        f"{c.residual:.2g}, R {c.radius:.2g} (went {check.max_distance:.2g}), mu {c.mu:.2g} (smallest eigenvalue "
        f"{check.min_eigenvalue:.2g}), rate {check.measured_rate:.4f} below {check.rate:.4f}"
    )


@pytest.mark.slow
@pytest.mark.claim("norm_propagation/demo-a")
def test_a_wide_network_with_a_frozen_output_is_certified_after_some_steps_and_obeys(parity, measured):
    system = doubled_network(parity, frozen=True)
    assert network_bound(system.f.__self__, system.params, system.x)(0.0) == pytest.approx(0.0442924, abs=1e-6)
    run, found, integrated = searched(system, 300)
    assert found.h[0] > 100
    assert 200 <= found.step <= 300
    assert integrated.step < found.step
    check = obeyed(system, run, found, 500)
    measured(figures(found, integrated, check))


@pytest.mark.slow
@pytest.mark.claim("norm_propagation/demo-b")
def test_the_same_network_with_both_layers_trained_is_certified_later_and_obeys(parity, measured):
    system = doubled_network(parity, frozen=False)
    run, found, integrated = searched(system, 600)
    assert found.h[0] > 100
    assert 350 <= found.step <= 600
    assert integrated.step < found.step
    check = obeyed(system, run, found, 500)
    measured(figures(found, integrated, check))


@pytest.mark.slow
@pytest.mark.claim("norm_propagation/deeper")
@pytest.mark.parametrize(("depth", "width", "steps"), [(2, 1024, 750), (3, 512, 700)])
def test_deeper_networks_are_certified_late_and_obey(parity, depth, width, steps, measured):
    x, y = parity
    net = Sequential(*(Dense(width, w_std=1.5), Tanh()) * depth, Dense(1))
    params = net.init(jax.random.key(0), x.shape[1:], dtype="float64")
    system = System(net.apply, params, x, y)
    lr = 0.8 / np.linalg.eigvalsh(tangent_kernel(system, progress=False))[-1]
    run = gradient_descent(system, lr, steps, keep_every=50)
    found = first_certified_step(system, run)
    assert found.h[0] > 1000
    assert found.step is not None
    assert found.step > 0
    check = obeyed(system, run, found, 200)
    measured(
        f"{depth} x {width}: beta(0) {network_bound(net, params, x)(0.0):.3g}, "
        f"h {found.h[0]:.0f} at the start, certified at step {found.step} of every 50, |r| "
        f"{found.certificate.residual:.2g}, R {found.certificate.radius:.2g}, rate {check.measured_rate:.4f} below "
        f"{check.rate:.6f}"
    )
