"""Points of small problems are called what they are."""

from functools import cache

import jax.numpy as jnp
import numpy as np
import pytest

from widescape.core.errors import NonDifferentiableWarning, PrecisionError
from widescape.landscape import problems
from widescape.landscape.minima import classification
from widescape.landscape.minima.augmentation import augment_exp
from widescape.landscape.minima.bases import augmented_basis, model_basis
from widescape.landscape.minima.classification import PointKind, PointReport, classify_point
from widescape.landscape.minima.gradient_flat import flatness
from widescape.landscape.minima.losses import group_residual

PRODUCT = problems.linear_product()
QUARTIC = problems.quartic()
TRAP = problems.affine_trap()


@cache
def basis(problem):
    return model_basis(problem.system())


@cache
def classified(problem, at):
    """With the gradient basis."""
    phi, outer = basis(problem)
    return classify_point(problem.objective, problem.params(at), phi=phi, Q=outer)


@cache
def curved(problem, at):
    """By the Hessian alone."""
    return classify_point(problem.objective, problem.params(at))


def residuals(problem, at):
    return group_residual(problem.system(at).F(), problem.X, problem.y, problem.loss)


@pytest.mark.claim("kawaguchi2019elimination/C1")
def test_the_scalar_cubic_has_a_candidate_and_a_maximum(measured):
    cubic = problems.scalar_cubic()
    low, high = curved(cubic, "minimum"), curved(cubic, "maximum")
    assert low.kind is PointKind.LOCAL_MIN_CANDIDATE
    assert high.kind is PointKind.STRICT_SADDLE
    np.testing.assert_allclose([low.value, high.value], [16 / 9, 64 / 9], rtol=1e-14)
    np.testing.assert_allclose([low.lambda_min, high.lambda_min], [16 / 3, -32 / 3], rtol=1e-14)
    measured(f"L {low.value:.6f} and {high.value:.6f}, curvature {low.lambda_min:.6f} and {high.lambda_min:.6f}")


@pytest.mark.claim("kawaguchi2019elimination/C2")
def test_the_dead_region_is_a_candidate_with_one_curved_direction(measured):
    found = curved(problems.dead_region(), "dead")
    assert found.kind is PointKind.LOCAL_MIN_CANDIDATE
    np.testing.assert_allclose(found.eigs, [0] * 6 + [2], rtol=0, atol=1e-14)
    measured(f"Hessian eigenvalues {found.eigs[-1]:.12g} and six zeros to {np.abs(found.eigs[:-1]).max():.1e}")


@pytest.mark.claim("kawaguchi2019elimination/C3")
@pytest.mark.slow
def test_the_affine_trap_is_a_candidate_and_with_the_added_neuron_a_degenerate_saddle(measured):
    plain = classified(TRAP, "trap")
    assert plain.kind is PointKind.LOCAL_MIN_CANDIDATE
    np.testing.assert_allclose(plain.eigs, [0] * 5 + [3.5, 19.25], rtol=0, atol=1e-12)
    model = augment_exp(TRAP.f, dx=1, dy=1)
    phi, outer = augmented_basis(model, TRAP.loss, 0.01, TRAP.X, TRAP.y)

    def objective(q):
        return outer(phi(q))

    zero = {**model.init(None, TRAP.params("trap")), "W": np.zeros((1, 1))}
    added = classify_point(objective, zero, phi=phi, Q=outer)
    assert added.kind is PointKind.DEGENERATE_SADDLE
    assert added.lambda_min >= -1e-14
    assert added.gap == pytest.approx(0.5, abs=1e-12)
    assert added.witness_value < 0.5
    away = classify_point(objective, {**zero, "W": np.ones((1, 1))})
    assert away.kind is PointKind.NOT_STATIONARY
    assert away.grad_norm == pytest.approx(0.3620538, abs=5e-8)
    assert away.lambda_min == pytest.approx(-0.630822, abs=5e-7)
    for delta in (0.1, 1.0):
        bend, spread = np.cosh(delta) - 1, 1 + 2 * np.cosh(2 * delta) + 0.03
        lower = classify_point(objective, {**zero, "a": np.array([bend / spread]), "W": np.array([[delta]])})
        assert lower.value == pytest.approx(0.5 - bend**2 / (3 * spread), abs=1e-14)
    assert lower.value == pytest.approx(0.4885074008, abs=5e-11)
    measured(
        f"top eigenvalues {plain.eigs[-2]:.10g} and {plain.eigs[-1]:.10g}; at w = 1 slope {-away.grad_norm:.7f} and "
        f"lambda_min {away.lambda_min:.6f}; along the path {lower.value:.10f}"
    )


@pytest.mark.claim("kawaguchi2019elimination/C4")
def test_the_origin_of_a_product_is_a_strict_or_a_degenerate_saddle(measured):
    two, three = curved(problems.linear_chain(2), "origin"), classified(problems.linear_chain(3), "origin")
    assert two.kind is PointKind.STRICT_SADDLE
    np.testing.assert_allclose(two.eigs, [-2, 2], rtol=1e-15)
    assert three.kind is PointKind.DEGENERATE_SADDLE
    assert not three.eigs.any()
    measured(f"eigenvalues {two.eigs.tolist()} at depth 2; all zero at depth 3, gap {three.gap:.12g}")


@pytest.mark.claim("kawaguchi2019elimination/C5")
def test_the_linear_network_has_its_losses_and_indices(measured):
    for at, (_, facts) in PRODUCT.points.items():
        found = curved(PRODUCT, at)
        assert found.value == pytest.approx(facts["loss"], rel=1e-13)
        assert found.index == facts["index"]
        saddle = facts["index"] > 0
        assert found.kind is (PointKind.STRICT_SADDLE if saddle else PointKind.LOCAL_MIN_CANDIDATE)
    lows = [curved(PRODUCT, at).lambda_min for at in ("{1,3}", "{2,3}")]
    np.testing.assert_allclose(lows, [-1, -2], rtol=1e-13)
    measured(f"losses and indices of seven points; lambda_min {lows[0]:.12g} at {{1,3}} and {lows[1]:.12g} at {{2,3}}")


@pytest.mark.claim("kawaguchi2019elimination/C6")
def test_least_squares_with_the_added_neuron_has_no_negative_curvature(measured):
    line = problems.linear_regression()
    model = augment_exp(line.f, dx=1, dy=1)
    phi, outer = augmented_basis(model, line.loss, 0.01, line.X, line.y)
    zero = {**model.init(None, line.params()), "W": np.zeros((1, 1))}
    added = classify_point(lambda q: outer(phi(q)), zero)
    assert added.lambda_min >= -1e-14
    assert added.grad_norm <= 1e-14
    measured(f"with the neuron lambda_min {added.lambda_min:.1e} at a gradient of {added.grad_norm:.1e}")


@pytest.mark.claim("kawaguchi2019elimination/C7")
def test_the_decayed_trap_is_a_candidate():
    found = curved(problems.decayed_affine_trap(), "trap")
    assert found.kind is PointKind.LOCAL_MIN_CANDIDATE
    assert found.index == 0


@pytest.mark.claim("kawaguchi2019elimination/I8")
def test_the_index_does_not_change_under_orthogonal_reparameterization(measured):
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(12, 12)))[0]
    system = PRODUCT.system("{}")

    def rotated(v):
        return PRODUCT.objective(system.operators.unravel(rotation @ v))

    worst, seen = 0.0, []
    for at in PRODUCT.points:
        w = system.vector(PRODUCT.params(at))
        own, turned = curved(PRODUCT, at), classify_point(rotated, rotation.T @ w)
        assert turned.index == own.index
        seen.append(own.index)
        worst = max(worst, float(np.abs(turned.eigs - own.eigs).max()))
    assert worst <= 1e-12
    measured(f"indices {sorted(seen)} at seven points unchanged, eigenvalues to {worst:.1e}")


@pytest.mark.claim("kawaguchi2019elimination/P9")
def test_a_deep_linear_origin_is_a_candidate_to_the_hessian_alone(measured):
    problem = problems.linear_chain(3)
    alone = curved(problem, "origin")
    assert alone.kind is PointKind.LOCAL_MIN_CANDIDATE
    assert alone.gap is None
    assert classified(problem, "origin").kind is PointKind.DEGENERATE_SADDLE
    measured(
        f"depth 3: candidate by the Hessian alone, degenerate saddle with gap {classified(problem, 'origin').gap:.12g}"
    )


def test_a_gradient_in_the_kernel_of_the_hessian_is_gradient_flat_and_never_critical():
    flat = classify_point(QUARTIC.objective, QUARTIC.params("flat_right"))
    assert flat.kind is PointKind.GRADIENT_FLAT
    assert flat.grad_norm**2 == pytest.approx((9 - 4 * 2**0.5) ** 2, rel=1e-12)
    assert flat.r == pytest.approx(1.0)
    assert flat.r_H < 5e-4
    assert not flat.kind.ok


def test_a_useless_step_of_a_search_makes_a_stalled_point():
    near = np.array([2**0.5 + 1e-3, 0.0])
    slope = np.array([near[0] ** 3 - 6 * near[0] + 9, 0.0])
    exact = np.array([-slope[0] / (3 * near[0] ** 2 - 6), 0.0])
    assert classify_point(QUARTIC.objective, near, step=exact).kind is PointKind.STALLED
    assert classify_point(QUARTIC.objective, np.array([1.0, 0.3])).kind is PointKind.NOT_STATIONARY


def test_zero_group_residuals_or_a_full_basis_make_a_global_minimum():
    zero = residuals(TRAP, "optimum")
    assert classify_point(TRAP.system("optimum"), None, group_residual=zero).kind is PointKind.GLOBAL_MINIMUM
    chain = problems.linear_chain(3)
    by_basis = classified(chain, "optimum")
    assert by_basis.kind is PointKind.GLOBAL_MINIMUM
    assert by_basis.residual is None
    assert curved(chain, "optimum").kind is PointKind.LOCAL_MIN_CANDIDATE
    trapped = classify_point(TRAP.system("trap"), None, group_residual=residuals(TRAP, "trap"))
    assert trapped.kind is PointKind.LOCAL_MIN_CANDIDATE
    assert trapped.residual == pytest.approx(2.0)  # of the middle one: 2 times the residual 1


def test_a_large_hessian_is_searched_for_its_smallest_eigenvalue():
    weights = np.linspace(1.0, 2.0, 2100)
    weights[7] = -0.5

    def bowl(w):
        return jnp.sum(weights * w**2)

    found = classify_point(bowl, np.zeros(2100))
    assert found.kind is PointKind.STRICT_SADDLE
    assert found.lambda_min == pytest.approx(-1.0, rel=1e-8)
    assert found.evidence("lambda_min").side == "upper"
    assert found.index is None
    assert found.charts() == ()


def shrunk(s):
    """The trap with both units rescaled: the same function, whose kinks are at distances of about s."""
    own = TRAP.params("trap")
    return {**own, "w": s * own["w"], "beta": s * own["beta"], "v": own["v"] / s}


@pytest.mark.parametrize("s", [0.003, 0.001])
def test_a_local_minimum_with_kinks_within_eps_is_no_degenerate_saddle(s):
    phi, outer = basis(TRAP)
    found = classify_point(TRAP.objective, shrunk(s), phi=phi, Q=outer)
    assert found.kind is PointKind.LOCAL_MIN_CANDIDATE
    assert abs(found.gap) <= 1e-12
    assert found.pgb.n_crossed > 0


def product_of_all(w):
    return jnp.prod(w)[None]


@pytest.mark.parametrize(("size", "target"), [(1e-9, 1.0), (1.0, 3e-5)])
def test_saddles_of_small_losses_are_no_global_minima(size, target):
    def outer(z):
        return size * (z[0] - target) ** 2

    def objective(w):
        return outer(product_of_all(w))

    small = np.full((1, 1), 1e-9)  # below tol_r, as sums of small gradients are
    found = classify_point(objective, np.zeros(3), phi=product_of_all, Q=outer, group_residual=small)
    assert found.kind is PointKind.DEGENERATE_SADDLE
    assert found.gap == pytest.approx(size * target**2, rel=1e-9, abs=0)
    assert found.witness_distance <= 0.03
    deep = classify_point(
        lambda w: outer(product_of_all(w)), np.zeros(6), phi=product_of_all, Q=outer, group_residual=small
    )
    assert deep.kind is not PointKind.GLOBAL_MINIMUM  # whether or not the decrease is seen


def test_a_witness_contradicts_small_group_residuals_where_there_is_no_gap():
    def beside_a_constant(w):
        return jnp.stack([jnp.prod(w), 1.0])

    def outer(z):
        return jnp.sum((z - 1.0) ** 2)

    found = classify_point(
        lambda w: outer(beside_a_constant(w)), np.zeros(3), phi=beside_a_constant, Q=outer, group_residual=[[0.0]]
    )
    assert np.isnan(found.gap)
    assert found.witness_value < 1
    assert found.kind is PointKind.LOCAL_MIN_CANDIDATE


def test_a_gap_at_eps_is_confirmed_at_a_tenth_of_it(monkeypatch):
    """Certificates at eps / 10 are made to find nothing, as where eps exceeds the radius of a minimum."""
    lengths, certified = [], classification.certificate_at

    def blind(inner, outer, moves, eps, n_dirs, **rest):
        lengths.append(eps)
        return certified(inner, outer, moves, eps, n_dirs if eps == 1e-2 else 0, **rest)

    monkeypatch.setattr(classification, "certificate_at", blind)
    chain = problems.linear_chain(3)
    phi, outer = basis(chain)
    found = classify_point(chain.objective, chain.params("origin"), phi=phi, Q=outer)
    assert lengths == [1e-2, 1e-3]
    assert found.gap == pytest.approx(1.0)
    assert found.kind is PointKind.LOCAL_MIN_CANDIDATE


def itself(w):
    return w


def softened(z):
    return jnp.logaddexp(0.0, -z[0]) + (z[1] - 1.0) ** 2


def test_a_flat_end_of_an_infimum_that_is_not_attained_is_no_global_minimum():
    found = classify_point(softened, np.array([33.0, 1.0]), phi=itself, Q=softened)
    assert found.pgb.rank == found.pgb.M
    assert abs(found.gap) <= 1e-14
    assert found.kind is PointKind.LOCAL_MIN_CANDIDATE


def test_a_local_minimum_of_an_outer_function_that_is_not_convex_is_refused():
    def double_well(z):
        return (z[0] ** 2 - 1) ** 2 + 0.3 * z[0]

    right = np.sort(np.roots([4, 0, -4, 0.3]).real)[-1:]
    assert classify_point(double_well, right).kind is PointKind.LOCAL_MIN_CANDIDATE
    with pytest.raises(ValueError, match="not convex"):
        classify_point(double_well, right, phi=itself, Q=double_well)


def test_parts_that_do_not_compose_to_the_loss_are_refused():
    phi, outer = basis(TRAP)
    with pytest.raises(ValueError, match="a sum over examples and the other their mean"):
        classify_point(lambda w: 3 * TRAP.objective(w), TRAP.params("trap"), phi=phi, Q=outer)
    near = classify_point(lambda w: (1 + 1e-9) * TRAP.objective(w), TRAP.params("trap"), phi=phi, Q=outer)
    assert near.kind is PointKind.LOCAL_MIN_CANDIDATE


def test_a_system_brings_its_own_parameters_to_the_basis():
    chain = problems.linear_chain(3)
    system, (phi, outer) = chain.system("origin"), basis(chain)
    for params in (None, system.flat, chain.params("origin")):
        found = classify_point(system, params, phi=phi, Q=outer)
        assert found.kind is PointKind.DEGENERATE_SADDLE
    trap, (phi, outer) = TRAP.system("optimum"), basis(TRAP)
    assert classify_point(trap, TRAP.system("trap").flat, phi=phi, Q=outer).value == 0.5


def test_kinks_are_warned_about_with_the_basis_and_without():
    at_kink = {**TRAP.params("trap"), "beta": np.array([1.0, 2.0])}  # w = 1 on x = -1
    for loss in (TRAP.objective, TRAP.system()):
        with pytest.warns(NonDifferentiableWarning, match="`L` compares"):
            classify_point(loss, at_kink)
    phi, outer = basis(TRAP)
    with pytest.warns(NonDifferentiableWarning, match="`phi` compares") as warned:
        classify_point(TRAP.objective, at_kink, phi=phi, Q=outer)
    assert len(warned) == 1


def test_a_point_is_stationary_up_to_a_squared_gradient_of_1e_10():
    def bowl(w):
        return jnp.sum(w**2)

    assert classify_point(bowl, np.array([4e-6, 0.0])).kind is PointKind.LOCAL_MIN_CANDIDATE
    assert classify_point(bowl, np.array([6e-6, 0.0])).kind is PointKind.NOT_STATIONARY


def test_the_hessian_is_formed_once_and_beyond_2000_parameters_only_where_the_gradient_vanishes(monkeypatch):
    formed, hessians = [], classification.Derivatives.hessians

    def counted(self, w):
        formed.append(len(w))
        return hessians(self, w)

    monkeypatch.setattr(classification.Derivatives, "hessians", counted)
    found = classify_point(QUARTIC.objective, np.array([1.0, 0.3]))
    assert formed == [1]
    assert (found.r, found.r_H) == pytest.approx(flatness(QUARTIC.objective, np.array([1.0, 0.3])))
    monkeypatch.setattr(classification, "top_eigs", None)
    large = classify_point(lambda w: jnp.sum(w**2), np.ones(2100))
    assert large.kind is PointKind.NOT_STATIONARY
    assert large.lambda_min is None


def test_reports_are_saved_and_drawn(tmp_path):
    found = classified(problems.linear_chain(3), "origin")
    assert PointReport.load(found.save(tmp_path / "report")) == found
    (chart,) = found.charts()
    np.testing.assert_array_equal(chart.series[0].y, found.eigs)
    assert len(str(found).splitlines()) <= 19


def test_arguments_that_do_not_fit_are_refused():
    phi, _ = basis(TRAP)
    with pytest.raises(ValueError, match="give both"):
        classify_point(TRAP.objective, TRAP.params(), phi=phi)
    with pytest.raises(ValueError, match="tol_r"):
        classify_point(TRAP.objective, TRAP.params(), tol_r=-1.0)
    with pytest.raises(ValueError, match="one row for each group"):
        classify_point(TRAP.objective, TRAP.params(), group_residual=np.zeros(3))
    with pytest.raises(PrecisionError, match="allow_float32"):
        classify_point(lambda w: jnp.sum(w**2), np.zeros(2, np.float32))
    with pytest.raises(TypeError, match="one real number"):
        classify_point(lambda w: w, np.zeros(2))
