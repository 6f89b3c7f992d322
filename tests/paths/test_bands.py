"""A chain that descends across itself ends on the path of least loss, and its maximum is a saddle."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

from widescape.core.errors import DtypeError, NonFiniteError, ShapeError
from widescape.core.result import Result
from widescape.curvature import System
from widescape.curvature.segment import as_system, losses_on_segment
from widescape.paths.band_steps import tangents_of
from widescape.paths.bands import PUBLISHED_CYCLES, BandStatus, NEBResult, _Chain, _inserted, auto_neb, neb
from widescape.paths.polyline import PiecewiseLinearPath

INF = float("inf")
ENDS = np.array([-1.0, 0.0]), np.array([1.0, 0.0])


def bent(w):
    """Two minima of loss 0, joined by a parabola with a saddle of 1; the straight line has 6."""
    return (w[0] ** 2 - 1) ** 2 + 5 * (w[1] - (1 - w[0] ** 2)) ** 2


def ring(w):
    return 100 * (jnp.sum(w**2) - 1) ** 2


def trough(w):
    """A straight valley along the first axis whose floor is not flat."""
    return (w[0] ** 2 - 1) ** 2 + 0.3 * w[0] + 4 * w[1] ** 2


def gap_lengths(chain):
    return np.linalg.norm(np.diff(chain, axis=0), axis=1)


# One step, in the obvious way.


def dense_step(chain, velocity, losses, gradients, *, shares, lr, momentum, decay, spring):
    """One update of all inner pivots, pivot by pivot; losses and gradients are functions of one."""
    if np.isinf(spring):
        chain = dense_respaced(chain, shares)
    value = [losses(x) for x in chain]
    after, speeds = chain.copy(), np.zeros_like(chain)
    total = gap_lengths(chain).sum()
    for i in range(1, len(chain) - 1):
        ahead, behind = chain[i + 1] - chain[i], chain[i] - chain[i - 1]
        tau_ahead, tau_behind = ahead / np.linalg.norm(ahead), behind / np.linalg.norm(behind)
        if value[i - 1] < value[i] < value[i + 1]:
            tau = tau_ahead
        elif value[i - 1] > value[i] > value[i + 1]:
            tau = tau_behind
        else:
            differences = abs(value[i + 1] - value[i]), abs(value[i - 1] - value[i])
            if value[i + 1] > value[i - 1]:
                tau = max(differences) * tau_ahead + min(differences) * tau_behind
            else:
                tau = min(differences) * tau_ahead + max(differences) * tau_behind
            tau = tau / np.linalg.norm(tau)
        g = gradients(chain[i]) + decay * chain[i]
        g = g - (g @ tau) * tau
        if np.isfinite(spring):
            g = (
                g
                + spring
                * ((np.linalg.norm(behind) - shares[i - 1] * total) - (np.linalg.norm(ahead) - shares[i] * total))
                * tau
            )
        speeds[i] = momentum * velocity[i] + g
        after[i] = chain[i] - lr * speeds[i]
    return after, speeds


def dense_respaced(chain, shares):
    lengths = gap_lengths(chain)
    reached = np.concatenate([[0], np.cumsum(lengths)])
    goals = np.concatenate([[0], np.cumsum(shares)[:-1] * reached[-1], [reached[-1]]])
    return np.column_stack([np.interp(goals, reached, column) for column in chain.T])


def hilly(w, xp=jnp):
    return 1.5 * xp.sum(w[1:] ** 2) + 0.2 * xp.sin(4 * w[0]) + 0.3 * w[0] * w[1]


def hilly_gradient(w):
    slope = 3 * w
    slope[0] = 0.8 * np.cos(4 * w[0]) + 0.3 * w[1]
    slope[1] += 0.3 * w[0]
    return slope


@pytest.mark.parametrize("spring", [INF, 0.7])
@pytest.mark.parametrize("steps", [1, 3, 60])
def test_steps_are_those_of_the_dense_recipe(rng, spring, steps):
    """Neighbors both higher, both lower and on either side; unequal gaps; momentum, decay; several calls."""
    start = np.column_stack([np.linspace(-2, 2, 8) + 0.1 * rng.normal(size=8), rng.normal(size=(8, 2))])
    start[[0, -1], 1:] = 0.0
    heights = np.array([hilly(w, np) for w in start])
    turns = np.diff(heights)[1:] * np.diff(heights)[:-1]
    assert (turns > 0).any()
    assert (turns < 0).any()
    found = neb(
        hilly, start[0], start[-1], pivots=start, steps=steps, lr=0.02, momentum=0.8, weight_decay=0.05, spring=spring
    )
    shares = gap_lengths(start) / gap_lengths(start).sum()
    chain, velocity = start, np.zeros_like(start)
    for _ in range(steps):
        chain, velocity = dense_step(
            chain, velocity, lambda w: hilly(w, np), hilly_gradient, shares=shares, lr=0.02, momentum=0.8,
            decay=0.05, spring=spring,
        )  # fmt: skip
    expected = dense_respaced(chain, shares) if np.isinf(spring) else chain
    assert found.cycle == 1
    np.testing.assert_allclose(found.pivots, expected, rtol=1e-6 if steps == 60 else 1e-9, atol=1e-9)


def test_equal_neighbors_weigh_both_directions_equally():
    """At the top of a symmetric corner the tangent is level, so the whole vertical gradient remains."""
    start = np.array([[-1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    found = neb(lambda w: 2 * w[1] + 3 * w[1] ** 2, start[0], start[-1], pivots=start, steps=1, lr=0.01)
    np.testing.assert_allclose(found.pivots[1], [0.0, 1 - 0.01 * 8], atol=1e-12)


def test_where_the_loss_is_flat_nothing_moves():
    start = np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 0.0]])
    found = neb(lambda w: 0 * w[0] + 1.0, start[0], start[-1], pivots=start, steps=5, lr=1.0)
    np.testing.assert_allclose(found.pivots, start, atol=1e-14)
    assert (found.saddle, found.t_saddle, found.cycle) == (1.0, 0.0, 0)


def test_on_a_plateau_the_tangent_bisects_the_units_along_both_gaps():
    units = jnp.array([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    tangents = tangents_of(units, jnp.ones(4))
    np.testing.assert_allclose(tangents, [[0.5**0.5, 0.5**0.5], [0.0, 0.0]], rtol=1e-6)


# The chain.


@pytest.mark.claim("draxler2018essentially/C4")
def test_the_saddle_of_a_bent_double_well_is_1_where_the_straight_line_has_6(measured):
    found = auto_neb(bent, *ENDS, cycles=((1000, 0.01),) * 3)
    assert found.status is BandStatus.OK
    assert found.saddle == pytest.approx(1.0, abs=0.02)
    assert found.line_saddle == pytest.approx(6.0, abs=1e-12)
    assert found.t_saddle == pytest.approx(0.5, abs=0.02)
    middle = found.path(0.5)
    np.testing.assert_allclose(middle, [0.0, 1.0], atol=0.02)
    measured(f"saddle {found.saddle:.4f}, straight line {found.line_saddle:.4f}")


def test_the_chain_follows_the_path_of_steepest_descent_from_the_saddle():
    """The gradient of the loss is along the chain, so each half solves w' = -grad L from (0, 1)."""

    def downhill(_, w):
        x, off = w[0], 5 * (w[1] - (1 - w[0] ** 2))
        return [-(4 * x * (x**2 - 1) + 4 * x * off), -2 * off]

    course = integrate.solve_ivp(downhill, (0, 30), [1e-6, 1.0], rtol=1e-10, atol=1e-12).y
    found = neb(bent, *ENDS, num_pivots=21, steps=1500, lr=0.005)
    x, y = found.pivots.T
    np.testing.assert_allclose(y, np.interp(np.abs(x), *course), atol=0.02)
    assert np.abs(y - (1 - x**2)).max() > 0.05


@pytest.mark.claim("draxler2018essentially/P8")
def test_the_dense_maximum_is_far_above_pivots_that_cut_a_corner(measured):
    """Pivots on a circle at angles of 60 degrees: between them the chord is at radius cos 30, of loss 100 / 16."""
    angles = np.pi * (1 - np.arange(4) / 3)
    start = np.column_stack([np.cos(angles), np.sin(angles)])
    found = neb(ring, start[0], start[-1], pivots=start, steps=50, lr=1e-4)
    assert found.pivot_losses.max() < 1e-20
    assert found.saddle == found.dense.max() == pytest.approx(100 / 16, rel=1e-9)
    measured(f"pivots at most {found.pivot_losses.max():.1g}, dense maximum {found.saddle:.3f}")


@pytest.mark.claim("draxler2018essentially/P8")
def test_a_ridge_between_two_pivots_is_seen_by_the_dense_evaluation_alone():
    def ridge(w):
        return w[1] ** 2 + 10 * jnp.exp(-(((w[0] - 0.375) / 0.01) ** 2))

    found = neb(ridge, np.array([0.0, 0.0]), np.array([1.0, 0.0]), num_pivots=5, steps=20, lr=0.01)
    assert found.pivot_losses.max() < 1e-30
    assert found.saddle == pytest.approx(10.0)
    assert found.t_saddle == 0.375


def test_a_straight_valley_leaves_the_chain_where_it_is():
    start = np.column_stack([np.linspace(-1, 1, 7), np.zeros(7)])
    for spring in (INF, 1.0):
        found = neb(trough, start[0], start[-1], num_pivots=7, steps=300, lr=0.02, spring=spring)
        np.testing.assert_allclose(found.pivots, start, atol=1e-12)


def bowed(size=9):
    """A chain away from a straight valley, with unequal gaps."""
    t = np.linspace(0, 1, size) ** 1.5
    return np.column_stack([2 * t - 1, np.sin(np.pi * t)]).round(12)


def test_an_infinite_spring_keeps_the_shares_that_the_gaps_had_at_the_start():
    start = bowed()
    found = neb(trough, start[0], start[-1], pivots=start, steps=100, lr=0.02)
    lengths = gap_lengths(found.pivots)
    assert found.cycle == 1
    assert lengths.sum() < 0.9 * gap_lengths(start).sum()
    np.testing.assert_allclose(lengths / lengths.sum(), gap_lengths(start) / gap_lengths(start).sum(), rtol=0.02)


def test_a_chain_from_the_line_is_spaced_equally_after_every_run():
    found = neb(bent, *ENDS, num_pivots=12, steps=400, lr=0.005)
    np.testing.assert_allclose(gap_lengths(found.pivots), gap_lengths(found.pivots).mean(), rtol=0.01)


def test_a_finite_spring_keeps_the_pivots_apart_and_a_weak_one_lets_them_slide():
    """The chain bends away from the line unevenly, because the valley does."""

    def hook(w):
        return 5 * (w[1] - (1 - w[0] ** 4)) ** 2 + w[0] ** 2

    spreads = []
    for spring in (1e-6, 1.0):
        found = neb(hook, *ENDS, num_pivots=9, steps=2000, lr=0.003, momentum=0.5, spring=spring)
        assert found.cycle == 1
        lengths = gap_lengths(found.pivots)
        spreads.append(lengths.std() / lengths.mean())
    assert spreads[1] < 0.01
    assert spreads[0] > 0.1, spreads


def test_of_the_start_and_the_ends_of_cycles_the_chain_with_the_lowest_maximum_is_returned():
    start = np.array([ENDS[0], [0.0, 1.05], ENDS[1]])
    found = neb(bent, *ENDS, pivots=start, steps=1, lr=10.0, momentum=0.0)
    assert found.history[1, 2] > found.history[0, 2] == found.saddle
    assert found.cycle == 0
    np.testing.assert_array_equal(found.pivots, start)
    better = neb(bent, *ENDS, pivots=start, steps=1, lr=0.01, momentum=0.0)
    assert better.cycle == 1
    assert better.saddle == better.history[1, 2] < better.history[0, 2]


# Insertion.


def test_the_first_cycle_inserts_three_pivots_and_doubling_the_middle_of_each_gap():
    found = auto_neb(bent, *ENDS, cycles=((5, 0.001),) * 3, insertion="double")
    assert found.history[:, 1].tolist() == [2, 5, 9, 17]


def test_adaptive_insertion_adds_nothing_where_the_pivots_tell_the_loss():
    def tent(w):
        return 1 - jnp.abs(w[0]) + w[1] ** 2

    found = auto_neb(tent, *ENDS, cycles=((1, 1e-6),) * 3)
    assert found.history[:, 1].tolist() == [2, 5, 5, 5]


def test_adaptive_insertion_puts_pivots_at_the_two_highest_peaks_above_a_tenth_of_the_range():
    """Bumps between equal pivots at -1, -1/2, 0, 1/2, 1: three in one gap, one at a tenth of it, and a low one."""
    bumps = {-0.95: 1.0, -0.75: 0.5, -0.6: 0.8, 0.05: 0.3, 0.75: 0.05}

    def bumpy(w):
        return w[1] ** 2 + sum(h * jnp.exp(-(((w[0] - x) / 0.01) ** 2)) for x, h in bumps.items())

    assert auto_neb(bumpy, *ENDS, cycles=((1, 1e-9),) * 2).history[:, 1].tolist() == [2, 5, 8]
    pivots = np.column_stack([np.linspace(-1, 1, 5), np.zeros(5)])
    dense = losses_on_segment(as_system(bumpy, pivots[0]), pivots[0], pivots[-1], np.arange(41) / 40)
    places = _inserted(_Chain(pivots, dense), "adaptive", first=False)[:, 0]
    np.testing.assert_allclose(places, [-1, -0.95, -0.6, -0.5, 0, 0.05, 0.5, 1], atol=1e-12)


def test_the_published_schedule_has_fourteen_cycles_and_sixteen_thousand_steps():
    assert len(PUBLISHED_CYCLES) == 14
    assert sum(steps for steps, _ in PUBLISHED_CYCLES) == 16_000


# Parameters.


def network(params, x):
    return jnp.tanh(x @ params["W"] + params["b"][None]) @ params["v"]


@pytest.fixture
def solutions(rng):
    x, y = rng.normal(size=(12, 3)), rng.normal(size=12)
    first, second = ({"W": rng.normal(size=(3, 4)), "b": rng.normal(size=4), "v": rng.normal(size=4)} for _ in range(2))
    return x, y, first, second


def test_a_function_of_a_tree_and_a_system_have_the_same_chain(solutions):
    x, y, first, second = solutions
    system = System(network, first, x, y, reduction="mean")
    settings = {"num_pivots": 5, "steps": 30, "lr": 0.05}
    one = neb(system, first, second, **settings)
    other = neb(lambda p: jnp.mean((network(p, x) - y) ** 2) / 2, first, second, **settings)
    flat = neb(system, system.vector(first), system.vector(second), **settings)
    in_chunks = neb(System(network, first, x, y, reduction="mean", chunk=5), first, second, **settings)
    assert one.cycle == 1
    assert np.abs(one.pivots - np.linspace(one.pivots[0], one.pivots[-1], 5)).max() > 0.1
    for same in (other, flat, in_chunks):
        np.testing.assert_allclose(same.pivots, one.pivots, rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(same.dense, one.dense, rtol=1e-9)


def test_the_path_runs_through_trees_from_exactly_one_end_to_the_other(solutions):
    x, y, first, second = solutions
    system = System(network, first, x, y)
    found = neb(system, first, second, num_pivots=4, steps=5, lr=0.001)
    assert isinstance(found.path, PiecewiseLinearPath)
    assert found.path.num_segments == 3
    for point, end in ((found.path.points[0], first), (found.path.points[-1], second)):
        for name, leaf in end.items():
            np.testing.assert_array_equal(point[name], leaf)
    middle = system.value(system.vector(found.path(found.positions[17])))
    assert middle == pytest.approx(found.dense[17], rel=1e-10)
    assert found.path(found.t_saddle)["W"].shape == (3, 4)


def test_pivots_may_be_trees(solutions):
    x, y, first, second = solutions
    system = System(network, first, x, y)
    middle = {name: 0.3 * first[name] + 0.6 * second[name] for name in first}
    chain = np.stack([system.vector(p) for p in (first, middle, second)])
    one = neb(system, first, second, pivots=[first, middle, second], steps=3, lr=1e-3)
    other = neb(system, first, second, pivots=chain, steps=3, lr=1e-3)
    np.testing.assert_array_equal(one.pivots, other.pivots)


def test_precision_is_that_of_the_ends():
    single = tuple(end.astype(np.float32) for end in ENDS)
    short = {"num_pivots": 5, "steps": 60, "lr": 0.01}
    coarse, fine = neb(bent, *single, **short), neb(bent, *ENDS, **short)
    assert (coarse.pivots.dtype, fine.pivots.dtype, coarse.dense.dtype) == (np.float32, np.float64, np.float64)
    np.testing.assert_allclose(coarse.pivots, fine.pivots, atol=1e-4)
    assert neb(bent, single[0], ENDS[1], **short).pivots.dtype == np.float64


def test_equal_ends_are_a_chain_of_length_zero():
    found = neb(bent, ENDS[0], ENDS[0], num_pivots=4, steps=10, lr=0.01)
    assert found.status.ok
    assert found.saddle == found.line_saddle == 0.0


# Batches.


def batch_loss(params, batch):
    x, y = batch
    return jnp.mean((network(params, x) - y) ** 2) / 2


def test_batches_that_hold_all_examples_move_the_chain_as_the_whole_loss_does(solutions):
    x, y, first, second = solutions
    system = System(network, first, x, y, reduction="mean")
    settings = {"num_pivots": 4, "steps": 20, "lr": 0.05}
    whole = neb(system, first, second, **settings)
    fed = neb(batch_loss, first, second, batches=[(x, y)], report=system, **settings)
    np.testing.assert_allclose(fed.pivots, whole.pivots, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(fed.dense, whole.dense, rtol=1e-9)


def test_each_step_takes_the_next_batch_and_cycles_share_the_iterator(solutions):
    x, y, first, second = solutions
    system = System(network, first, x, y, reduction="mean")
    seen = []

    def parts():
        while True:
            for i in range(0, 12, 4):
                seen.append(i)
                yield x[i : i + 4], y[i : i + 4]

    found = auto_neb(batch_loss, first, second, batches=parts(), report=system, cycles=((4, 0.05), (3, 0.01)))
    assert seen == [0, 4, 8, 0, 4, 8, 0]
    assert found.saddle < found.line_saddle
    with pytest.raises(ValueError, match="ended before step 3 of 5"):
        neb(batch_loss, first, second, batches=iter([(x, y)] * 2), report=system, num_pivots=4, steps=5, lr=0.01)


def test_batches_need_a_function_of_them_and_a_loss_to_report(solutions):
    x, y, first, second = solutions
    system = System(network, first, x, y)
    with pytest.raises(TypeError, match="`report` is needed"):
        neb(batch_loss, first, second, batches=[(x, y)])
    with pytest.raises(TypeError, match="belongs to `batches`"):
        neb(system, first, second, report=system)
    with pytest.raises(TypeError, match="function of \\(params, batch\\)"):
        neb(system, first, second, batches=[(x, y)], report=system)
    with pytest.raises(TypeError, match="for a batch"):
        neb(lambda p, batch: batch[1], first, second, batches=[(x, y)], report=system)


# What goes wrong.


def test_a_divergent_step_is_reported_and_not_returned():
    found = neb(bent, *ENDS, num_pivots=6, steps=400, lr=1.0)
    assert found.status is BandStatus.DIVERGED
    assert np.isfinite(found.pivots).all()
    assert np.isfinite(found.dense).all()
    assert found.saddle == found.dense.max() <= found.line_saddle


def test_a_schedule_ends_with_the_cycle_that_diverges_and_keeps_the_best_chain_before_it():
    found = auto_neb(bent, *ENDS, cycles=((800, 0.01), (400, 1.0), (400, 0.01)))
    assert found.status is BandStatus.DIVERGED
    assert found.history[:, 0].tolist() == [0, 1, 2]
    assert found.cycle == 1
    assert found.saddle == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize(("steps", "top"), [(1, np.inf), (5, 2.0)])
def test_a_loss_without_a_value_where_a_step_goes_counts_as_divergence(steps, top):
    """The first step leaves the domain of the logarithm; the last chain with finite losses is the start."""

    def edge(w):
        return jnp.log(1 - w[1]) + 2.0

    start = np.array([ENDS[0], [0.0, 0.5], ENDS[1]])
    found = neb(edge, *ENDS, pivots=start, steps=steps, lr=1.0)
    assert found.status is BandStatus.DIVERGED
    assert found.history[1, 2] == top
    np.testing.assert_allclose(found.pivots, start, atol=1e-12)
    for chart in found.charts():
        assert all(np.isfinite(line.y).all() for line in chart.series)


def test_an_end_whose_loss_is_not_finite_is_refused_by_name():
    def wall(w):
        return jnp.log(w[0])

    with pytest.raises(FloatingPointError, match="at `b`"):
        neb(wall, np.array([1.0, 0.0]), np.array([-1.0, 0.0]))
    with pytest.raises(FloatingPointError, match="at `a`"):
        auto_neb(wall, np.array([-1.0, 0.0]), np.array([1.0, 0.0]))
    with pytest.raises(NonFiniteError):
        neb(lambda w: jnp.log(w[0] ** 2), *ENDS, num_pivots=3)


def test_arguments_that_do_not_fit_are_refused():
    a, b = ENDS
    with pytest.raises(DtypeError):
        neb(bent, np.array([1, 0]), b)
    with pytest.raises(DtypeError):
        neb(bent, a, np.array([1, 0]))
    with pytest.raises(ShapeError):
        neb(bent, a, np.ones(3))
    with pytest.raises(ShapeError):
        auto_neb(lambda p: bent(p["w"]), {"w": a}, {"v": b})
    with pytest.raises(TypeError, match="give a System, or a function"):
        neb(1.0, a, b)
    with pytest.raises(ValueError, match="`num_pivots` is 2"):
        neb(bent, a, b, num_pivots=2)
    for name, value in {"steps": 0, "lr": 0.0, "spring": 0.0, "momentum": 1.0, "weight_decay": -1.0}.items():
        with pytest.raises(ValueError, match=f"`{name}` is"):
            neb(bent, a, b, **{name: value})
    with pytest.raises(ValueError, match="`spring` is nan"):
        neb(bent, a, b, spring=float("nan"))


def test_chains_and_schedules_that_do_not_fit_are_refused():
    a, b = ENDS
    with pytest.raises(ShapeError, match="has 2 entries"):
        neb(bent, a, b, pivots=[a, b])
    with pytest.raises(ShapeError, match="as in `num_pivots`"):
        neb(bent, a, b, pivots=[a, a, b], num_pivots=4)
    with pytest.raises(ValueError, match="start at `a`"):
        neb(bent, a, b, pivots=[b, a, a])
    with pytest.raises(ShapeError, match="flat vector"):
        neb(bent, a, b, pivots=np.ones((4, 3)))
    with pytest.raises(ValueError, match="`cycles` is empty"):
        auto_neb(bent, a, b, cycles=())
    with pytest.raises(ShapeError, match="pairs"):
        auto_neb(bent, a, b, cycles=(100, 0.1))
    with pytest.raises(ValueError, match="`insertion` is 'some'"):
        auto_neb(bent, a, b, insertion="some")


# The result.


def test_the_result_says_where_its_saddle_stands_draws_itself_and_survives_a_file(tmp_path, capfd):
    found = auto_neb(bent, *ENDS, cycles=((200, 0.01),), progress=True)
    assert "cycle 1 of 1, 5 pivots" in capfd.readouterr().err
    assert (found.evidence("saddle").kind, found.evidence("saddle").side) == ("bound", "lower")
    assert found.dense[round(found.t_saddle * (len(found.dense) - 1))] == found.saddle
    np.testing.assert_array_equal(found.pivot_losses, found.dense[::10])
    np.testing.assert_allclose(found.dense[::10], [float(bent(w)) for w in found.pivots], rtol=1e-12, atol=1e-15)
    band, cycles = found.charts()
    assert [s.label for s in band.series] == ["chain", "pivots", "straight line"]
    assert band.series[1].x.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert cycles.series[0].y.tolist() == found.history[:, 2].tolist()
    again = NEBResult.load(found.save(tmp_path / "band"))
    assert again == found
    assert isinstance(again, Result)
    with pytest.raises(ValueError, match="loaded or copied"):
        _ = again.path


def test_positions_are_those_of_the_path(rng):
    start = np.array([[0.0, 0.0], [0.1, 1.0], [3.0, 0.5], [4.0, 4.0]])
    found = neb(bent, start[0], start[-1], pivots=start, steps=1, lr=1e-9)
    points = np.stack([found.path(s) for s in found.positions])
    np.testing.assert_allclose(found.dense, [float(bent(w)) for w in points], rtol=1e-6)
    line = [float(bent((1 - s) * start[0] + s * start[-1])) for s in found.positions]
    np.testing.assert_allclose(found.line, line, rtol=1e-6)
