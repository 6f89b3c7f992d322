"""Oracles: quadratic maps, whose gap is exact, and tangent kernels of a tanh network written in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from specimens import linear, product, quadratic, tanh_net
from widescape.core.errors import NotCertifiable, ShapeError
from widescape.curvature import System
from widescape.landscape.descent import gradient_descent
from widescape.landscape.linearity import LinearityGap, PathDiagnostics, linearity_gap, path_diagnostics
from widescape.landscape.second_derivative import hessian_norm


def pairs(w, x):
    """Two outputs for each example."""
    return jnp.stack([jnp.matmul(x, w) ** 2, jnp.matmul(x, w)], axis=1)


def random_net(seed=1, reduction="sum"):
    r = np.random.default_rng(seed)
    params = {"b": r.normal(size=4), "w": r.normal(size=(2, 4))}
    return System(tanh_net, params, r.normal(size=(5, 2)), r.normal(size=5), reduction=reduction)


def kernel_by_hand(system, point):
    params, x = system.unravel(point), system.x
    hidden = np.tanh(x @ params["w"])
    slopes = (1 - hidden**2) * params["b"]
    return hidden @ hidden.T + (x @ x.T) * (slopes @ slopes.T)


def on(matrices, **options):
    return System(quadratic, np.full(matrices.shape[-1], 0.3), matrices, **options)


def test_the_gap_of_a_multiple_of_the_square_is_half_its_curvature_at_every_point():
    system = on(-3.0 * np.eye(4)[None])
    for radius in (1e-2, 1.0, 50.0):
        found = linearity_gap(system, radius, n_samples=5)
        np.testing.assert_allclose(found.gaps, 1.5, rtol=1e-9)
        assert (float(found), found.radius) == (found.gaps.max(), radius)
        assert found.gaps.shape == (5,)


def test_the_gap_of_a_quadratic_map_is_at_most_half_its_norm_and_nears_it(rng):
    for p in (2, 6):
        a = rng.normal(size=(3, p, p))
        system = on(a + a.transpose(0, 2, 1))
        half = float(hessian_norm(system, iters=2000, restarts=20)) / 2
        found = linearity_gap(system, 0.7, n_samples=400)
        assert found.value <= half * (1 + 1e-9)
        assert found.value > (0.9 if p == 2 else 0.5) * half
        np.testing.assert_allclose(linearity_gap(system, 7.0, n_samples=400).gaps, found.gaps, rtol=1e-10)
    assert found.evidence("value").side == "lower"


def test_points_are_uniform_on_the_sphere():
    gaps = linearity_gap(on(np.diag([2.0, 0.0, 0.0])[None]), 0.5, n_samples=1000).gaps  # u_1^2
    variance = 3 / 15 - 1 / 9
    assert abs(gaps.mean() - 1 / 3) < 4 * np.sqrt(variance / 1000)
    assert abs(gaps.var() / variance - 1) < 0.2


def test_the_gap_is_of_all_outputs_together_and_divided_by_root_n_for_the_mean(rng):
    x, w = np.array([[3.0], [4.0]]), np.array([0.7])
    assert float(linearity_gap(System(pairs, w, x), 0.2)) == pytest.approx(np.hypot(9, 16), rel=1e-9)
    mean = System(pairs, w, x, reduction="mean")
    assert float(linearity_gap(mean, 0.2)) == pytest.approx(np.hypot(9, 16) / np.sqrt(2), rel=1e-9)
    assert float(linearity_gap(System(linear, rng.normal(size=3), rng.normal(size=(2, 3))), 1.0)) < 1e-14


def test_the_gap_is_taken_around_the_given_point():
    cube = System(lambda w, x: w**3, np.array([5.0]), np.zeros(1))
    found = linearity_gap(cube, 0.5, params=np.array([2.0]), n_samples=20)  # 3 w s^2 + s^3
    assert found.value == pytest.approx(6.5, rel=1e-10)
    assert found.gaps.min() == pytest.approx(5.5, rel=1e-10)
    first, other = (linearity_gap(random_net(), 1.0, key=jax.random.key(k)).gaps for k in (0, 1))
    np.testing.assert_array_equal(linearity_gap(random_net(), 1.0).gaps, first)
    assert (first != other).all()


def test_a_single_precision_system_is_measured_in_double():
    narrow = System(quadratic, np.full(4, 0.25, "f"), np.eye(4, dtype="f")[None])
    assert float(linearity_gap(narrow, 1e-3)) == pytest.approx(0.5, rel=1e-8)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_a_path_is_measured_as_by_hand(reduction):
    system = random_net(reduction=reduction)
    run = gradient_descent(system, 0.05, 12, keep_every=4)
    found = path_diagnostics(system, run, certify=False)
    kernels = [kernel_by_hand(system, w) for w in run.snapshots]
    center = np.eye(5) - 0.2
    length = 0.0
    for i, (w, kernel) in enumerate(zip(run.snapshots, kernels, strict=True)):
        first = kernels[0]
        assert found.cosine[i] == pytest.approx(
            np.trace(kernel @ first) / np.sqrt(np.trace(kernel @ kernel) * np.trace(first @ first)), rel=1e-12
        )
        a, b = center @ kernel @ center, center @ first @ center
        alignment = np.trace(a @ b) / np.sqrt(np.trace(a @ a) * np.trace(b @ b))
        assert found.alignment[i] == pytest.approx(alignment, rel=1e-12)
        change = np.sqrt(((kernel - first) ** 2).sum() / (first**2).sum())
        assert found.change[i] == pytest.approx(change, rel=1e-9, abs=1e-14)
        length += np.linalg.norm(w - run.snapshots[i - 1]) if i else 0.0
        assert found.path_length[i] == pytest.approx(length, rel=1e-12)
        assert found.distance[i] == pytest.approx(np.linalg.norm(w - run.snapshots[0]), rel=1e-12)
    assert found.steps.tolist() == [0, 4, 8, 12]
    assert found.straightness == pytest.approx(found.distance[-1] / length, rel=1e-12)
    assert found.change[-1] > 0
    assert abs(found.cosine[-1] - found.alignment[-1]) > 1e-6
    assert (found.h, found.first_certified, found.radius) == (None, None, None)


def test_a_straight_path_a_detour_and_no_path_at_all():
    system = System(product, np.array([3.0, 4.0]), np.zeros(1), np.ones(1))
    for points, straightness, length in (
        ([[0.0, 1.0], [0.0, 2.0], [0.0, 5.0]], 1, 4),
        ([[0.0, 1.0], [3.0, 1.0], [3.0, 5.0]], 5 / 7, 7),
        ([[0.0, 1.0], [3.0, 1.0], [0.0, 1.0]], 0, 6),
        ([[3.0, 4.0]], 1, 0),
    ):
        found = path_diagnostics(system, np.array(points), certify=False)
        assert found.straightness == pytest.approx(straightness, rel=1e-14)
        assert found.path_length[-1] == pytest.approx(length, rel=1e-14)


def test_the_running_certificate_is_that_of_every_point():
    """F = w1 w2 - 1 has K = |w|^2 and curvature 1, so that h = 8 |r| / |w|^2."""
    system = System(product, np.array([1.0, 3.0]), np.zeros(1), np.ones(1))
    run = gradient_descent(system, 0.02, 12, keep_every=1)
    found = path_diagnostics(system, run, hessian_bound=1.0)
    squares = (run.snapshots**2).sum(axis=1)
    residuals = np.abs(run.snapshots.prod(axis=1) - 1)
    np.testing.assert_allclose(found.h, 8 * residuals / squares, rtol=1e-9)
    first = int((found.h <= 1).argmax())
    assert 0 < first < 12
    assert found.first_certified == first
    root = (np.sqrt(squares[first]) + np.sqrt(squares[first] - 8 * residuals[first])) / 2
    assert found.radius == pytest.approx(2 * residuals[first] / root, rel=1e-9)
    thinned = path_diagnostics(system, gradient_descent(system, 0.02, 12, keep_every=5), hessian_bound=1.0)
    np.testing.assert_array_equal(thinned.h, found.h[[0, 5, 10, 12]])
    assert thinned.first_certified == min(step for step in (0, 5, 10, 12) if found.h[step] <= 1)

    short = path_diagnostics(system, run.snapshots[:1], hessian_bound=1.0)
    assert (short.first_certified, short.radius) == (None, None)


def test_a_kernel_that_vanished_at_the_start_has_changed_infinitely():
    system = System(product, np.zeros(2), np.zeros(1), np.ones(1))
    found = path_diagnostics(system, np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 2.0]]), hessian_bound=1.0)
    assert found.change.tolist() == [0, 0, float("inf")]
    assert found.cosine.tolist() == [1, 1, 0]
    assert found.alignment.tolist() == [1, 1, 1]  # of one residual, whose centered kernel is always zero
    assert found.h[:2].tolist() == [float("inf")] * 2
    assert found.first_certified is None
    assert found.h[2] == pytest.approx(8 / 5)


def test_long_paths_in_single_precision_add_up_in_double():
    steps = np.tile(np.array([[1000.0, 0.0], [1000.0, 2.0**-20]], "f"), (2000, 1))
    system = System(product, steps[0], np.zeros(1, "f"), np.ones(1, "f"))
    found = path_diagnostics(system, np.concatenate([[[0.0, 0.0]], steps]).astype("f"), certify=False)
    assert found.path_length[-1] == pytest.approx(1000 + 3999 * 2.0**-20, rel=1e-12)
    assert found.straightness <= 1


def test_what_cannot_be_measured_is_refused(rng):
    system = random_net()
    for radius, word in ((0.0, "positive"), (-1.0, "positive"), (float("inf"), "finite")):
        with pytest.raises(ValueError, match=f"`radius` is .*{word}"):
            linearity_gap(system, radius)
    with pytest.raises(ValueError, match="`n_samples` is 0"):
        linearity_gap(system, 1.0, n_samples=0)
    with pytest.raises(ShapeError, match="params"):
        linearity_gap(system, 1.0, params=np.ones(3))
    with pytest.raises(ShapeError, match="give flat parameters"):
        path_diagnostics(system, np.ones((2, 3)))
    labels = System(
        linear, rng.normal(size=(2, 3)), rng.normal(size=(4, 2)), np.array([0, 1, 2, 0]), loss="cross_entropy"
    )
    with pytest.raises(NotCertifiable, match="square loss"):
        path_diagnostics(labels, labels.flat[None])
    np.testing.assert_array_equal(path_diagnostics(labels, labels.flat[None], certify=False).change, 0)


def test_gaps_and_paths_print_chart_and_save(tmp_path):
    system = System(product, np.array([1.0, 3.0]), np.zeros(1), np.ones(1))
    path = path_diagnostics(system, np.array([[1.0, 3.0], [0.4, 2.5]]), hessian_bound=1.0)
    gap = linearity_gap(system, 1.0)
    assert [chart.name for chart in path.charts()] == ["kernel-path", "path-length"]
    np.testing.assert_array_equal(path.charts()[0].series[0].y, path.change)
    np.testing.assert_array_equal(path.charts()[1].series[1].y, path.distance)
    assert PathDiagnostics.load(path.save(tmp_path / "path.zip")) == path
    assert LinearityGap.load(gap.save(tmp_path / "gap.zip")) == gap
    assert max(len(str(path).splitlines()), len(str(gap).splitlines())) < 20
