"""Sharpness: by the Hessian, and by the gain of a first-order step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from specimens import relu_net
from widescape.core.errors import NonFiniteError, ShapeError
from widescape.curvature import System
from widescape.landscape.local_sharpness import Sharpness, SharpnessStatus, sharpness


def small_system(chunk: int | None = None) -> System:
    rng = np.random.default_rng(5)
    params = {"b": rng.normal(size=10), "w": rng.normal(size=(3, 10))}
    x, y = rng.normal(size=(7, 3)), rng.normal(size=7)
    return System(lambda p, x: jnp.tanh(x @ p["w"]) @ p["b"], params, x, y, chunk=chunk)


@pytest.mark.claim("liu2020loss/C11")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sam_on_a_quadratic_at_a_unit_vector_gains_h_times_1_plus_rho_squared_minus_1_over_2(dtype, measured):
    h = np.array([0.7, 5.0, 2.0])
    worst = 0.0
    for rho in (0.05, 0.5, 2.0):
        found = sharpness(lambda w: w @ (h * w) / 2, np.eye(3, dtype=dtype)[0], "sam", rho=rho)
        expected = h[0] * ((1 + rho) ** 2 - 1) / 2
        worst = max(worst, abs(float(found) / expected - 1))
        assert found.status is SharpnessStatus.OK
        assert (found.kind, found.rho, found.resid) == ("sam", rho, None)
        assert found.loss == pytest.approx(h[0] / 2, rel=1e-15)
    measured(f"relative error {worst:.1g}")
    assert worst < 1e-14


def test_both_gains_are_those_of_their_first_order_steps(rng):
    h, w = rng.uniform(0.5, 2, size=5), rng.normal(size=5)
    loss = lambda w: w @ (h * w) / 2  # noqa: E731
    gradient = h * w
    steps = {
        "sam": 0.3 * gradient / np.linalg.norm(gradient),
        "asam": 0.3 * w**2 * gradient / np.linalg.norm(np.abs(w) * gradient),
    }
    for kind, step in steps.items():
        gain = (w + step) @ (h * (w + step)) / 2 - w @ (h * w) / 2
        assert float(sharpness(loss, w, kind, rho=0.3)) == pytest.approx(gain, rel=1e-13)
    assert np.linalg.norm(steps["asam"] / w) == pytest.approx(0.3, rel=1e-13)


def test_the_usual_radii_are_5_hundredths_for_sam_and_a_half_for_asam():
    system = small_system()
    for kind, rho in (("sam", 0.05), ("asam", 0.5)):
        assert sharpness(system, kind=kind) == sharpness(system, kind=kind, rho=rho)


@pytest.mark.claim("liu2020loss/I8")
@pytest.mark.parametrize("factor", [3.7, 1e-2])
def test_asam_does_not_change_when_relu_layers_are_rescaled_against_each_other_and_sam_does(rng, measured, factor):
    x, y = rng.normal(size=(10, 4)), rng.normal(size=10)
    first, second = rng.normal(size=(4, 8)), rng.normal(size=(8, 1))
    here, there = (System(relu_net, [a * first, second / a], x, y) for a in (1.0, factor))
    assert there.value() == pytest.approx(here.value(), rel=1e-12)
    gaps = {
        kind: float(sharpness(there, kind=kind)) / float(sharpness(here, kind=kind)) - 1 for kind in ("sam", "asam")
    }
    small = {a: float(sharpness(a, kind="asam", rho=1e-4)) / 1e-4 for a in (here, there)}
    assert small[there] == pytest.approx(small[here], rel=1e-8)
    assert small[here] == pytest.approx(np.linalg.norm(here.flat * here.grad()), rel=1e-2)
    measured(f"rescaled by {factor:g}: asam changes by {gaps['asam']:.1g}, sam by {gaps['sam']:.2g}, relative")
    assert abs(gaps["asam"]) < 1e-10
    assert abs(gaps["sam"]) > 0.3


def test_the_hessian_counts_by_its_largest_and_not_by_its_largest_absolute_eigenvalue():
    h = np.concatenate([[-9.0, 4.0], np.linspace(-1, 1, 40)])
    found = sharpness(lambda w: w @ (h * w) / 2, np.ones(42))
    assert found.status is SharpnessStatus.OK
    assert found.value == pytest.approx(4, rel=1e-14)
    assert found.resid < 1e-6
    assert found.evidence("value").side == "lower"
    assert found.loss == pytest.approx(h.sum() / 2, rel=1e-14)
    assert float(sharpness(lambda w: -w @ w / 2, np.ones(3))) == pytest.approx(-1, rel=1e-14)


def test_the_hessian_is_that_of_the_loss_at_the_point_that_is_given():
    system = small_system()
    elsewhere = system.flat + 0.2

    steps = 1e-5 * np.eye(40)
    slopes = [(system.grad(elsewhere + step) - system.grad(elsewhere - step)) / 2e-5 for step in steps]
    dense = np.linalg.eigvalsh(np.stack(slopes))
    assert float(sharpness(system, elsewhere)) == pytest.approx(dense[-1], rel=1e-8)
    assert float(sharpness(system, system.unravel(elsewhere))) == pytest.approx(dense[-1], rel=1e-8)


@pytest.mark.parametrize("kind", ["hessian", "asam"])
def test_functions_chunks_nesting_and_single_precision_do_not_change_sharpness(kind):
    system = small_system()
    loss = lambda p: jnp.sum((system.f(p, system.x) - system.y) ** 2) / 2  # noqa: E731
    turned = System(
        lambda p, x: system.f({"w": p[0], "b": p[1][0]}, x),
        (system.params["w"], [system.params["b"]]),
        system.x,
        system.y,
    )
    narrow = System(system.f, jax.tree.map(np.float32, system.params), system.x.astype("f"), system.y.astype("f"))
    expected = float(sharpness(system, kind=kind))
    for other in (small_system(chunk=3), turned):
        assert float(sharpness(other, kind=kind)) == pytest.approx(expected, rel=1e-10)
    assert float(sharpness(loss, system.params, kind)) == pytest.approx(expected, rel=1e-10)
    assert float(sharpness(narrow, kind=kind)) == pytest.approx(expected, rel=1e-5)


def test_without_a_gradient_there_is_no_gain_and_the_status_says_so():
    loss = lambda w: w[0] ** 2 + w[1]  # noqa: E731
    for kind, w in (("sam", np.zeros(1)), ("asam", np.array([1.0, 0.0]))):
        flat = (lambda w: w[0] ** 2) if kind == "sam" else (lambda w: (w[0] - 1) ** 2 + w[1])
        found = sharpness(flat, w, kind)
        assert found.value == 0.0
        assert found.status is SharpnessStatus.STATIONARY
    assert sharpness(loss, np.zeros(2), "sam").status is SharpnessStatus.OK


def test_a_function_of_low_precision_is_told_by_its_status():
    h = np.linspace(1, 2, 60)
    found = sharpness(lambda w: jnp.sum(jnp.tanh((h * w).astype(jnp.float32)) ** 2), np.full(60, 0.3))
    assert found.status in (SharpnessStatus.INEXACT, SharpnessStatus.NOT_CONVERGED)
    assert found.resid > 0


def test_what_has_no_sharpness_is_refused():
    system = small_system()
    with pytest.raises(ValueError, match="the sharpness of the Hessian has no radius"):
        sharpness(system, rho=0.1)
    with pytest.raises(ValueError, match="`rho` is 0"):
        sharpness(system, kind="sam", rho=0.0)
    with pytest.raises(ValueError, match="`kind` is 'trace'"):
        sharpness(system, kind="trace")
    with pytest.raises(ShapeError, match="params"):
        sharpness(system, np.ones(3))
    with pytest.raises(ValueError, match="targets"):
        sharpness(System(system.f, system.params, system.x), kind="sam")
    with pytest.raises(NonFiniteError, match="NaN or infinite"):
        sharpness(lambda w: -jnp.sqrt(w[0]), np.array([0.01]), "sam")


def test_a_sharpness_prints_and_saves(tmp_path):
    found = sharpness(small_system(), kind="asam")
    assert Sharpness.load(found.save(tmp_path / "sharpness.zip")) == found
    assert found.evidence("value").kind == "exact"
    assert len(str(found).splitlines()) < 20
