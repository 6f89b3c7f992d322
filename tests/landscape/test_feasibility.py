"""Trapping balls solved by hand: quadratics, polynomials and the one-parameter parabola whose solution is known."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from widescape.landscape.feasibility import Problem, Solution, solve, solve_integrated

GROWTHS = {
    "linear": (lambda r: 0.02 + 0.05 * r, lambda r: 0.02 * r + 0.025 * r**2),
    "from zero": (lambda r: 0.04 * r**2, lambda r: 0.04 * r**3 / 3),
    "exponential": (lambda r: 0.01 * np.exp(2 * r), lambda r: 0.005 * (np.exp(2 * r) - 1)),
    "a jump": (lambda r: 0.03 if r <= 1.7 else 50.0, lambda r: 0.03 * r if r <= 1.7 else 0.051 + 50.0 * (r - 1.7)),
}
SCALES = st.floats(1e-3, 1e3)


def problem(h, *, lam_min=1.7, lam_max=9.0, residual=0.8, flow=False, callable_=False, **options):
    """A constant curvature at which h is as given."""
    beta = h * lam_min / (4 * (1 if flow else 2) * residual)
    return Problem(residual, lam_min, lam_max, (lambda r: beta) if callable_ else beta, flow, **options)


def allowed(asked, radius):
    """R (sqrt(lambda) - R beta(R))."""
    return radius * (asked.lam_min**0.5 - radius * asked.beta(radius))


def loss_smoothness(asked, lost, beta):
    return (asked.lam_max**0.5 + lost) ** 2 + beta * asked.residual


@pytest.mark.parametrize("flow", [True, False])
@pytest.mark.parametrize("h", [1e-9, 0.2, 0.999, 1 - 1e-12])
def test_a_constant_curvature_gives_the_quadratic_formula(h, flow):
    asked = problem(h, flow=flow)
    found, c = solve(asked), 1 if flow else 2
    root = (asked.lam_min**0.5 + np.sqrt(max(asked.lam_min - 4 * c * asked.curvature * asked.residual, 0))) / 2
    assert found.h == pytest.approx(h, rel=1e-12)
    assert found.mu == pytest.approx(root**2, rel=1e-7)
    assert found.radius == pytest.approx(c * asked.residual / root, rel=1e-7)
    assert found.smoothness == pytest.approx(
        loss_smoothness(asked, found.radius * asked.curvature, asked.curvature), rel=1e-12
    )


@pytest.mark.parametrize("flow", [True, False])
@pytest.mark.parametrize("h", [0.1, 0.7, 1.0 - 1e-9])
def test_a_function_that_is_constant_gives_what_the_constant_gives(h, flow):
    plain, wrapped = (solve(problem(h, flow=flow, callable_=c)) for c in (False, True))
    assert wrapped.h == pytest.approx(plain.h, rel=1e-9)
    assert wrapped.radius == pytest.approx(plain.radius, rel=2e-5)  # at h = 1 the root is double
    assert wrapped.mu == pytest.approx(plain.mu, rel=1e-4)
    if h < 0.9:
        assert wrapped.radius == pytest.approx(plain.radius, rel=1e-9)


@pytest.mark.parametrize("callable_", [True, False])
@pytest.mark.parametrize("h", [1 + 1e-6, 1.5, 80.0])
def test_above_one_nothing_traps_and_h_says_how_far_it_is(h, callable_):
    found = solve(problem(h, callable_=callable_))
    assert (found.radius, found.mu) == (None, 0.0)
    assert found.h == pytest.approx(h, rel=1e-8)


@pytest.mark.parametrize("flow", [True, False])
@pytest.mark.parametrize("growth", list(GROWTHS))
def test_a_growing_curvature_gives_the_smallest_root_and_the_largest_product(growth, flow):
    beta = GROWTHS[growth][0]
    asked = Problem(0.3, 1.0, 4.0, beta, flow)
    fine = np.linspace(1e-6, 12.0, 1_200_001)
    values = np.array([allowed(asked, r) for r in fine]) if growth == "a jump" else fine * (1 - fine * beta(fine))
    needed = (1 if flow else 2) * 0.3
    found = solve(asked)
    assert found.h == pytest.approx(needed / values.max(), rel=1e-6 if growth != "a jump" else 2e-5)
    first = int(np.argmax(values >= needed))
    exact = brentq(lambda r: allowed(asked, r) - needed, fine[first - 1], fine[first])
    assert found.radius == pytest.approx(exact, rel=1e-7)
    assert found.mu == pytest.approx((1 - exact * beta(exact)) ** 2, rel=1e-6)
    assert found.beta == pytest.approx(beta(exact), rel=1e-6)


@settings(max_examples=60)
@given(h=st.floats(0.5, 1.5), growth=st.sampled_from(["linear", "from zero", "exponential"]))
def test_a_ball_traps_exactly_if_h_is_at_most_one(h, growth):
    assume(abs(h - 1) > 1e-8)
    shape = GROWTHS[growth][0]
    once = solve(Problem(1.0, 1.0, 4.0, shape))
    found = solve(Problem(h / once.h, 1.0, 4.0, shape))
    assert found.h == pytest.approx(h, rel=1e-8)
    assert (found.radius is not None) == (h < 1)


@settings(max_examples=60)
@given(length=SCALES, output=SCALES, h=st.floats(0.01, 1.2), integrated=st.booleans())
def test_h_does_not_see_the_units_of_parameters_and_outputs(length, output, h, integrated):
    solver = solve_integrated if integrated else solve
    plain = problem(h)
    scaled = Problem(
        plain.residual * output,
        plain.lam_min * (output / length) ** 2,
        plain.lam_max * (output / length) ** 2,
        plain.curvature * output / length**2,
    )
    one, other = solver(plain), solver(scaled)
    assert other.h == pytest.approx(one.h, rel=1e-9)
    if h < 0.99:
        assert other.radius == pytest.approx(one.radius * length, rel=1e-9)
        assert other.mu == pytest.approx(one.mu * (output / length) ** 2, rel=1e-9)
        assert other.smoothness == pytest.approx(one.smoothness * (output / length) ** 2, rel=1e-9)


@pytest.mark.parametrize("callable_", [True, False])
@pytest.mark.parametrize(("share", "h"), [(0.05, 0.02), (0.05, 1.2), (0.5, 0.9), (1.0, 0.02), (1.5, 0.02), (1.9, 1e-4)])
def test_a_learning_rate_stretches_the_path_by_two_over_two_less_its_smoothness(share, h, callable_):
    asked = problem(h, callable_=callable_)
    lr = share / loss_smoothness(asked, 0.0, asked.beta(0.0))
    found = solve(problem(h, callable_=callable_, lr=lr))

    def missing(radius):
        beta = asked.beta(radius)
        kept = asked.lam_min**0.5 - radius * beta
        return radius * kept * (2 - lr * loss_smoothness(asked, radius * beta, beta)) - 2 * asked.residual

    start = asked.residual / asked.lam_min**0.5
    grid = np.linspace(start * 0.9, start * 40, 40_001)
    first = int(np.argmax([missing(r) >= 0 for r in grid]))
    assert found.radius == pytest.approx(brentq(missing, grid[first - 1], grid[first]), rel=1e-8)
    assert found.h == pytest.approx(h, rel=1e-8)  # that of 1/smoothness


@pytest.mark.parametrize("integrated", [True, False])
def test_a_smaller_learning_rate_certifies_up_to_twice_the_residual(integrated):
    solver = solve_integrated if integrated else solve
    h = 3.9 if integrated else 1.95
    assert solver(problem(h)).radius is None
    found = solver(problem(h, lr=1e-4))
    assert found.radius is not None
    assert found.h == pytest.approx(h / 2 if integrated else h, rel=1e-2)


@pytest.mark.parametrize("radius", ["tight", "paper"])
@pytest.mark.parametrize("h", [0.0, 1e-6])
@pytest.mark.parametrize("integrated", [True, False])
def test_from_two_over_the_smoothness_on_nothing_traps(radius, h, integrated):
    solver = solve_integrated if integrated else solve
    for lr in (2 / 9.0, 0.5, 1e6):
        assert solver(problem(h, lr=lr, radius=radius)).radius is None


def test_near_two_over_the_smoothness_the_radius_of_the_paper_is_too_small_and_not_taken():
    tight = solve(problem(0.0, lr=1.999 / 9.0))
    paper = solve(problem(0.0, lr=1.999 / 9.0, radius="paper"))
    assert tight.radius == pytest.approx(2000 * 0.8 / 1.7**0.5, rel=1e-8)
    assert paper.radius == pytest.approx(tight.radius, rel=1e-8)
    assert tight.radius / 100 > 2 * 9.0**0.5 * 0.8 / 1.7


@pytest.mark.parametrize("flow", [True, False])
def test_the_radius_of_the_paper_solves_its_own_equation_and_is_no_smaller(flow):
    asked = problem(0.1, flow=flow, radius="paper")
    found, tight = solve(asked), solve(problem(0.1, flow=flow))
    assert found.radius == pytest.approx(2 * (found.smoothness * asked.residual**2) ** 0.5 / found.mu, rel=1e-9)
    assert found.mu == pytest.approx((asked.lam_min**0.5 - found.radius * asked.curvature) ** 2, rel=1e-12)
    assert found.radius > tight.radius
    assert solve(problem(0.999, radius="paper")).radius is None


@pytest.mark.parametrize("flow", [True, False])
@pytest.mark.parametrize("h", [1e-9, 0.4, 1.0, 1.99])
def test_integrated_over_a_constant_curvature_h_is_half_and_the_path_the_quadratic_formula(h, flow):
    asked = problem(h, flow=flow)
    found, c = solve_integrated(asked), 1 if flow else 2
    kept = np.sqrt(asked.lam_min - 2 * c * asked.curvature * asked.residual)
    assert found.h == pytest.approx(h / 2, rel=1e-12)
    assert found.mu == pytest.approx(kept**2, rel=1e-9)
    assert found.radius == pytest.approx((asked.lam_min**0.5 - kept) / asked.curvature, rel=1e-5)
    assert found.smoothness == pytest.approx(
        loss_smoothness(asked, asked.lam_min**0.5 - kept, asked.curvature), rel=1e-9
    )


@pytest.mark.parametrize("callable_", [True, False])
@pytest.mark.parametrize("h", [2.0, 2.01, 40.0])
def test_integrated_from_two_on_nothing_is_certified(h, callable_):
    found = solve_integrated(problem(h, callable_=callable_))
    assert (found.radius, found.mu) == (None, 0.0)
    assert found.h == pytest.approx(h / 2, rel=1e-2)
    assert found.h >= h / 2 - 1e-12


@pytest.mark.parametrize("flow", [True, False])
@pytest.mark.parametrize("growth", list(GROWTHS))
def test_integrated_over_a_growing_curvature_errs_little_and_to_the_safe_side(growth, flow):
    beta, lost = GROWTHS[growth]
    asked = Problem(0.3, 1.0, 4.0, beta, flow)
    fine = np.linspace(0.0, 6.0, 600_001)
    used = np.array([lost(s) for s in fine]) if growth == "a jump" else lost(fine)
    gained = np.concatenate([[0], np.cumsum((1 - (used[1:] + used[:-1]) / 2) * np.diff(fine))])
    needed, positive = (1 if flow else 2) * 0.3, used < 1
    found = solve_integrated(asked)
    at = int(np.argmax(gained >= needed))
    assert positive[at]
    assert fine[at] - 1e-5 <= found.radius <= fine[at] * 1.02
    assert (1 - lost(fine[at])) ** 2 * 0.97 <= found.mu <= (1 - lost(fine[at])) ** 2 + 1e-5
    assert needed / gained[positive].max() * (1 - 1e-5) <= found.h <= needed / gained[positive].max() * 1.02


@pytest.mark.parametrize("growth", list(GROWTHS))
def test_integrated_is_never_worse_but_for_its_sums(growth):
    asked = Problem(0.3, 1.0, 4.0, GROWTHS[growth][0])
    assert solve_integrated(asked).h <= solve(asked).h * 1.01
    assert solve_integrated(asked).radius <= solve(asked).radius * 1.02


@pytest.mark.parametrize("slope", [0.7, 3.0])
@pytest.mark.parametrize("reach", [0.1, 0.6, 0.95, 0.999])
def test_for_a_parabola_the_integrated_certificate_of_flow_is_the_truth(slope, reach):
    # F(w) = slope w - bend w^2/2 climbs to slope^2/(2 bend); a target beyond has no solution.
    bend = 0.4
    target = reach * slope**2 / (2 * bend)
    solution = (slope - np.sqrt(slope**2 - 2 * bend * target)) / bend
    found = solve_integrated(Problem(target, slope**2, slope**2, bend, flow=True))
    assert found.h == pytest.approx(reach, rel=1e-12)
    assert found.radius == pytest.approx(solution, rel=1e-9)
    assert found.mu == pytest.approx((slope - bend * solution) ** 2, rel=1e-9)
    beyond = Problem(1.001 * slope**2 / (2 * bend), slope**2, slope**2, bend, flow=True)
    assert solve_integrated(beyond).radius is None


@pytest.mark.parametrize("solver", [solve, solve_integrated])
@pytest.mark.parametrize("curvature", [0.0, 0.5, lambda r: 0.5 + r])
def test_at_a_solution_the_ball_is_the_point(solver, curvature):
    found = solver(Problem(0.0, 1.7, 9.0, curvature))
    beta = curvature(0.0) if callable(curvature) else curvature
    assert found == Solution(0.0, 0.0, 1.7, pytest.approx(9.0), beta)


@pytest.mark.parametrize("solver", [solve, solve_integrated])
@pytest.mark.parametrize("curvature", [0.0, lambda r: 0.0])
def test_without_curvature_the_ball_is_that_of_a_linear_function(solver, curvature):
    found = solver(Problem(0.8, 1.7, 9.0, curvature))
    assert found.h == pytest.approx(0.0, abs=1e-8)
    assert found.mu == pytest.approx(1.7, rel=1e-12)
    assert found.radius == pytest.approx(2 * 0.8 / 1.7**0.5, rel=1e-2 if solver is solve_integrated else 1e-8)
    assert found.radius >= 2 * 0.8 / 1.7**0.5 * (1 - 1e-12)
    assert found.smoothness == pytest.approx(9.0, rel=1e-12)


def test_a_curvature_that_becomes_infinite_is_approached_from_below():
    def explodes(radius):
        return 0.01 if radius < 3.0 else float("inf")

    found = solve(Problem(0.5, 1.0, 4.0, explodes))
    assert found.radius == pytest.approx(solve(Problem(0.5, 1.0, 4.0, 0.01)).radius, rel=1e-8)
    assert solve(Problem(2.0, 1.0, 4.0, explodes)).radius is None
    assert solve_integrated(Problem(0.5, 1.0, 4.0, explodes)).radius == pytest.approx(1.005, rel=0.02)
