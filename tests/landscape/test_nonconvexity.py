"""Oracles: the worked example of two products, one-parameter losses, and quadratic maps of known rank."""

import jax
import numpy as np
import pytest

from specimens import linear, quadratic, tanh_net
from widescape.core.errors import ShapeError
from widescape.curvature import System
from widescape.landscape.nonconvexity import NonconvexityProbe, nonconvexity_probe
from widescape.landscape.pl import pl_trajectory

STAR = np.array([1.0, 1.0, 0.0, 0.0])


def two_products(w, x):
    return (w[0] * w[1] + w[2] * w[3])[None]


def cube(w, x):
    return w**3


def hessian(system, w):
    return np.stack([system.hvp(v, w) for v in np.eye(system.num_params)])


@pytest.mark.claim("liu2020loss/C3")
def test_w1_w2_plus_w3_w4_is_nonconvex_beside_its_solutions(measured):
    system = System(two_products, STAR, np.zeros(1), np.ones(1))
    off = np.linalg.eigvalsh(hessian(system, np.array([1.1, 1, 0, 0])))
    np.testing.assert_allclose(off, [-0.1, -0.09958499, 0.1, 2.30958499], atol=5e-9)
    on = np.linalg.eigvalsh(hessian(system, STAR))
    np.testing.assert_allclose(on, [0, 0, 0, 2], atol=1e-14)
    assert pl_trajectory(system, np.array([[1.1, 1, 0, 0]])).sharpness[0] == pytest.approx(2.30958499, abs=5e-9)

    found = nonconvexity_probe(system)
    assert system.value() == 0
    assert found.nonconvex
    assert found.ranks.tolist() == [4]
    assert found.needed_rank == 2
    assert found.smallest == found.eigenvalues.min() < 0
    measured(f"spectrum off the solutions {np.round(off, 8).tolist()}, on them {np.round(on, 8).tolist()}; rank 4 > 2")


def test_eigenvalues_are_those_at_both_ends_of_each_direction():
    w, y = 1.2, 0.5
    system = System(cube, np.array([w]), np.zeros(1), np.array([y]))
    places = np.array([0.1, 0.4, 2.0])
    found = nonconvexity_probe(system, n_directions=3, ts=places)
    second = lambda v: 9 * v**4 + (v**3 - y) * 6 * v  # noqa: E731
    assert found.eigenvalues.shape == (6, 3)
    signs = np.sign(found.eigenvalues[:, 2] - second(w - 2.0) - 1e-6)
    for sign, row, opposite in zip(signs, found.eigenvalues, np.roll(found.eigenvalues, 3, axis=0), strict=True):
        np.testing.assert_allclose(row, second(w + sign * places), rtol=1e-12)
        np.testing.assert_allclose(opposite, second(w - sign * places), rtol=1e-12)
    assert found.smallest == pytest.approx(min(second(w - places).min(), second(w + places).min()), rel=1e-12)


def test_directions_are_unit_vectors_of_many_kinds():
    # at the origin L = (|w|^2/2 - 1)^2/2, whose Hessian t away along d is (t^2/2 - 1) I + t^2 d d^T
    system = System(quadratic, np.zeros(5), np.eye(5)[None], np.ones(1))
    found = nonconvexity_probe(system, ts=[0.5, 1.0, 2.0])
    np.testing.assert_allclose(found.eigenvalues, np.tile([0.125 - 1, 0.5 - 1, 1.0], (8, 1)), rtol=1e-12)
    tilted = np.diag([1.0, 2.0, 3.0, 4.0, 5.0])[None]
    rows = nonconvexity_probe(System(quadratic, np.zeros(5), tilted, np.ones(1)), ts=1.0).eigenvalues[:, 0]
    assert len(set(np.round(rows, 9))) == 4
    np.testing.assert_allclose(rows[:4], rows[4:], rtol=1e-10)


@pytest.mark.parametrize(("n", "p"), [(3, 5), (6, 2), (20, 60)])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_a_linear_system_has_no_negative_curvature(rng, n, p, reduction):
    x = rng.normal(size=(n, p)) * np.logspace(0, -3, n)[:, None]
    system = System(linear, rng.normal(size=p), x, rng.normal(size=n), reduction=reduction)
    found = nonconvexity_probe(system, ts=[1e-3, 10.0])
    assert not found.nonconvex
    assert abs(found.smallest) <= found.tol or found.smallest > 0
    assert found.ranks.tolist() == [0] * min(n, 8)
    assert found.needed_rank == 2 * n
    largest = np.linalg.eigvalsh(x.T @ x)[-1] / (n if reduction == "mean" else 1)
    assert found.tol == pytest.approx(1e-8 * largest, rel=1e-5)


def test_a_large_network_shows_the_smallest_eigenvalue_of_its_hessian(rng):
    params = {"b": rng.normal(size=15), "w": rng.normal(size=(3, 15))}
    system = System(tanh_net, params, rng.normal(size=(5, 3)), rng.normal(size=5))
    dense = np.linalg.eigvalsh(hessian(system, system.flat))
    assert dense[0] < -0.1
    found = nonconvexity_probe(system, n_directions=1, ts=1e-9)
    np.testing.assert_allclose(found.eigenvalues, dense[0], rtol=1e-5)
    assert found.nonconvex
    elsewhere = System(tanh_net, system.unravel(system.flat + 1), system.x, system.y)
    assert nonconvexity_probe(elsewhere, system.params, n_directions=1, ts=1e-9, outputs=1) == nonconvexity_probe(
        system, n_directions=1, ts=1e-9, outputs=1
    )


def test_ranks_are_those_of_the_first_outputs_at_the_point():
    forms = np.zeros((4, 6, 6))
    for form, rank in zip(forms, (1, 0, 5, 3), strict=True):
        form[:rank, :rank] = np.diag(np.arange(1.0, rank + 1)) * (-1) ** np.arange(rank)[:, None]
    system = System(quadratic, np.ones(6), forms, np.zeros(4))
    assert nonconvexity_probe(system, n_directions=1).ranks.tolist() == [1, 0, 5, 3]
    assert nonconvexity_probe(system, n_directions=1, outputs=2).ranks.tolist() == [1, 0]
    assert nonconvexity_probe(system, n_directions=1, outputs=0).ranks is None
    assert nonconvexity_probe(system).needed_rank == 8


def test_what_counts_as_negative_may_be_chosen():
    system = System(quadratic, np.zeros(2), np.eye(2)[None], np.ones(1))  # eigenvalues from -1 up
    assert nonconvexity_probe(system, tol=0.9).nonconvex
    assert not nonconvexity_probe(system, tol=1.1).nonconvex
    assert nonconvexity_probe(system, tol=1.1).tol == 1.1
    assert nonconvexity_probe(system, tol=0.0).nonconvex


def test_keys_choose_the_directions_and_single_precision_is_probed_in_double():
    wide = System(two_products, STAR, np.zeros(1), np.ones(1))
    first, again, other = (nonconvexity_probe(wide, key=jax.random.key(k)) for k in (0, 0, 1))
    assert first == again == nonconvexity_probe(wide)
    assert (first.eigenvalues != other.eigenvalues).all()
    narrow = System(two_products, STAR.astype("f"), np.zeros(1, "f"), np.ones(1, "f"))
    assert nonconvexity_probe(narrow) == first


def test_what_cannot_be_probed_is_refused():
    system = System(two_products, STAR, np.zeros(1), np.ones(1))
    for ts in ([], [0.0], [-1.0], [float("nan")], [[0.1]]):
        with pytest.raises(ValueError, match="give positive distances"):
            nonconvexity_probe(system, ts=ts)
    with pytest.raises(ValueError, match="`n_directions` is 0"):
        nonconvexity_probe(system, n_directions=0)
    with pytest.raises(ValueError, match="`outputs` is -1"):
        nonconvexity_probe(system, outputs=-1)
    with pytest.raises(ValueError, match="`tol` is -1"):
        nonconvexity_probe(system, tol=-1.0)
    with pytest.raises(ShapeError, match="params"):
        nonconvexity_probe(system, np.ones(3))
    with pytest.raises(ValueError, match="targets"):
        nonconvexity_probe(System(two_products, STAR, np.zeros(1)))


def test_a_probe_prints_charts_and_saves(tmp_path):
    found = nonconvexity_probe(System(two_products, STAR, np.zeros(1), np.ones(1)))
    (series,) = found.charts()[0].series
    assert series.x.tolist() == [1e-3, 1e-2, 1e-1]
    np.testing.assert_array_equal(series.y, found.eigenvalues.min(axis=0))
    assert NonconvexityProbe.load(found.save(tmp_path / "probe.zip")) == found
    assert len(str(found).splitlines()) < 20
