"""The loss on a line rises by the height of its bumps, and not at all where outputs turn by less than a right angle."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specimens import bowl
from widescape.core.errors import DtypeError, NonFiniteError, ShapeError
from widescape.curvature import System
from widescape.landscape.interpolation import (
    GaussLength,
    MLIReport,
    gauss_length,
    interpolate,
    mli_report,
    weight_distance,
)


def report(*losses, tol=0.0):
    return mli_report(np.linspace(0, 1, len(losses)), np.asarray(losses, float), tol)


# The loss on the line.


def test_the_loss_of_a_quadratic_on_a_line_is_the_closed_form():
    alphas, losses = interpolate(bowl, np.array([1.0, 2.0]), np.array([0.0, 1.0]), n=9)
    np.testing.assert_allclose(alphas, np.arange(9) / 8, rtol=0)
    np.testing.assert_allclose(losses, (1 - alphas) ** 2 + (2 - alphas) ** 2, rtol=1e-14)


def test_by_default_there_are_50_positions():
    alphas, losses = interpolate(bowl, np.ones(1), np.zeros(1))
    assert len(alphas) == len(losses) == 50
    assert (alphas[0], alphas[-1]) == (0.0, 1.0)


def test_a_system_and_a_function_of_its_parameters_have_the_same_losses(rng):
    x, y = rng.normal(size=(6, 3)), rng.normal(size=6)
    start, end = {"w": rng.normal(size=3)}, {"w": rng.normal(size=3)}
    system = System(lambda p, x: jnp.tanh(x @ p["w"]), start, x, y)
    alphas, losses = interpolate(system, start, end, n=7)
    by_hand = [((np.tanh(x @ ((1 - a) * start["w"] + a * end["w"])) - y) ** 2).sum() / 2 for a in alphas]
    np.testing.assert_allclose(losses, by_hand, rtol=1e-12)
    np.testing.assert_allclose(
        interpolate(lambda p: jnp.sum((jnp.tanh(x @ p["w"]) - y) ** 2) / 2, start, end, n=7).losses, losses, rtol=1e-12
    )
    np.testing.assert_allclose(interpolate(system, start["w"], end["w"], n=7).losses, losses, rtol=0)


def test_one_end_in_float64_asks_for_float64():
    ends = np.array([1.0], np.float32), np.array([1 / 3])
    assert interpolate(bowl, *ends, n=2).losses[1] == pytest.approx(1 / 9, rel=1e-15)
    assert interpolate(bowl, ends[1], ends[0], n=2).losses[0] == pytest.approx(1 / 9, rel=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_refreshed_parameters_are_those_of_the_loss_at_each_position(dtype):
    """A running scale that has to be the mean square of the units, estimated anew at each position."""
    x = np.array([1.0, 2.0, 4.0], dtype)

    def normalized(p):
        return jnp.sum((x * p["w"] / jnp.sqrt(p["scale"]) - 1) ** 2)

    def refresh(p):
        assert isinstance(p["w"], np.ndarray)
        return {"w": p["w"], "scale": jnp.mean((x * p["w"]) ** 2)}

    start, end = ({"w": np.asarray(w, dtype), "scale": np.asarray(1.0, dtype)} for w in (2.0, 5.0))
    rtol = 1e-13 if dtype == np.float64 else 1e-5
    expected = ((x / np.sqrt(np.mean(x.astype(float) ** 2)) - 1) ** 2).sum()
    np.testing.assert_allclose(interpolate(normalized, start, end, n=5, refresh=refresh).losses, expected, rtol=rtol)
    stale = interpolate(normalized, start, end, n=5).losses
    assert abs(stale - expected).min() > 0.1


def test_a_refresh_that_changes_nothing_changes_no_loss(rng):
    start, end = rng.normal(size=4), rng.normal(size=4)
    plain = interpolate(bowl, start, end, n=6)
    np.testing.assert_allclose(interpolate(bowl, start, end, n=6, refresh=lambda p: p).losses, plain.losses, rtol=1e-14)


def test_progress_is_shown_where_it_is_asked_for(capfd):
    interpolate(bowl, np.ones(1), np.zeros(1), n=3, refresh=lambda p: p, progress=True)
    interpolate(bowl, np.ones(1), np.zeros(1), n=3, progress=True)
    assert capfd.readouterr().err.count("losses") >= 2
    interpolate(bowl, np.ones(1), np.zeros(1), n=3, progress=False)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("other", [{"v": np.ones(2)}, {"w": np.ones(3)}, [np.ones(2)], np.ones(3)])
def test_ends_of_different_structure_are_refused(other):
    tree = {"w": np.ones(2)}
    with pytest.raises(ShapeError):
        interpolate(lambda p: bowl(p["w"]), tree, other)
    with pytest.raises(ShapeError):
        gauss_length(lambda p, x: x @ p["w"], tree, other, np.ones((4, 2)))
    with pytest.raises(ShapeError):
        weight_distance(tree, other)
    with pytest.raises(ShapeError):
        interpolate(lambda p: bowl(p["w"]), tree, tree, refresh=lambda p: other)


def test_arguments_of_a_line_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="`n` is 1"):
        interpolate(bowl, np.ones(1), np.ones(1), n=1)
    with pytest.raises(TypeError, match="give a System, or a function"):
        interpolate(1.0, np.ones(1), np.ones(1))
    with pytest.raises(ValueError, match="needs targets"):
        interpolate(System(lambda w, x: x @ w, np.ones(1), np.ones((1, 1))), np.ones(1), np.ones(1))
    with pytest.raises(NonFiniteError, match="infinite"):
        interpolate(lambda w: jnp.log(jnp.sum(w)), np.ones(1), -np.ones(1))


# Heights and bumps.


@pytest.mark.claim("lucas2021monotonic/G3")
def test_the_worked_example_has_height_one_half_and_bumps_of_5_and_2_tenths(measured):
    own = report(3, 2, 2.5, 1, 1.2)
    assert not own.monotonic
    assert (own.delta, own.rel_delta) == (0.5, 0.5 / 3)
    np.testing.assert_allclose(own.bumps, [[0.25, 0.75, 0.5], [0.75, 1.0, 0.2]], rtol=1e-14)
    measured("height 0.5, bumps 0.5 and 0.2")


@pytest.mark.parametrize(
    ("losses", "bumps"),
    [
        ((2, 1), []),
        ((1, 1), []),
        ((1, 2), [(0, 1, 1)]),
        ((1, 2, 0), [(0, 1, 1)]),
        ((1, 2, 1), [(0, 1, 1)]),
        ((1, 2, 3, 2), [(0, 1, 2)]),
        ((3, 1, 1, 2, 1, 2), [(0.4, 0.8, 1), (0.8, 1, 1)]),
        ((4, 3, 3.5, 3.2, 3.4, 2), [(0.2, 1, 0.5)]),
    ],
)
def test_bumps_start_at_the_least_loss_and_end_where_it_is_reached_again(losses, bumps):
    np.testing.assert_allclose(report(*losses).bumps, np.reshape(bumps, (-1, 3)), rtol=1e-14)


def by_definition(losses):
    heights = [losses[j] - min(losses[: i + 1]) for j in range(len(losses)) for i in range(j)]
    return max(0.0, *heights)


@given(st.lists(st.integers(0, 6).map(float), min_size=2, max_size=12), st.integers(0, 6).map(float))
def test_the_height_is_that_of_the_highest_bump_and_of_the_definition(losses, tol):
    own, strict = report(*losses, tol=tol), report(*losses)
    assert own.delta == strict.delta == by_definition(losses)
    assert own.delta == max(strict.bumps[:, 2], default=0.0)
    assert own.monotonic == (own.delta <= tol) == (len(own.bumps) == 0)
    assert strict.monotonic == (np.diff(losses) <= 0).all()
    assert own.bumps.tolist() == [row for row in strict.bumps.tolist() if row[2] > tol]


def test_heights_are_relative_to_the_size_of_the_first_loss():
    assert report(-2, -1).rel_delta == 0.5
    assert report(0, -1).rel_delta == 0.0
    assert report(0, 1).rel_delta == np.inf


def test_the_chart_shows_the_loss_and_marks_what_lies_above_the_least_before():
    (chart,) = report(3, 2, 2.5, 1, 1.2).charts()
    assert chart.y_scale == "log"
    assert chart.series[0].y.tolist() == [3, 2, 2.5, 1, 1.2]
    assert (chart.series[1].x.tolist(), chart.series[1].y.tolist()) == ([0.5, 1.0], [2.5, 1.2])
    (chart,) = report(3, 2, 2.5, 0, 1.2, tol=0.6).charts()
    assert (chart.y_scale, chart.series[1].x.tolist()) == ("linear", [1.0])
    assert len(report(2, 1).charts()[0].series) == 1


def test_a_report_prints_and_comes_back_from_its_file(tmp_path):
    own = report(3, 2, 2.5, 1, 1.2)
    assert MLIReport.load(own.save(tmp_path / "report.zip")) == own
    assert len(str(own).splitlines()) < 20
    assert own.evidence("delta").note


@pytest.mark.parametrize(
    ("alphas", "losses", "tol", "kind", "reason"),
    [
        (np.arange(3.0), np.ones(2), 0.0, ShapeError, r"`alphas` has shape \(3,\) and `losses` \(2,\)"),
        (np.ones((2, 1)), np.ones((2, 1)), 0.0, ShapeError, "two vectors"),
        (np.arange(1.0), np.ones(1), 0.0, ShapeError, "at least 2"),
        (np.zeros(2), np.ones(2), 0.0, ValueError, "do not increase"),
        (np.arange(2.0), np.array([1.0, np.nan]), 0.0, ValueError, "`losses` has 1 entries"),
        (np.array([0.0, np.inf]), np.ones(2), 0.0, ValueError, "`alphas` has 1 entries"),
        (np.arange(2), np.ones(2), 0.0, DtypeError, "`alphas` has dtype int"),
        (np.arange(2.0), np.ones(2), -0.1, ValueError, "`tol` is -0.1"),
        (np.arange(2.0), np.ones(2), None, TypeError, "`tol` is None"),
    ],
)
def test_losses_that_are_no_line_are_refused(alphas, losses, tol, kind, reason):
    with pytest.raises(kind, match=reason):
        mli_report(alphas, losses, tol)


# How far outputs turn.


def on_circle(angle):
    """Outputs on the unit circle, at an angle that is a function of the one parameter, times x."""
    return lambda w, x: jnp.stack([jnp.cos(angle(w) * x), jnp.sin(angle(w) * x)], axis=1)


@pytest.mark.claim("lucas2021monotonic/G1")
@pytest.mark.parametrize("angle", [lambda w: w, lambda w: w + 0.5 * w**2, jnp.exp])
def test_a_circular_path_through_an_angle_has_that_gauss_length(angle, measured):
    phi = np.array([1e-3, 0.5, np.pi / 2, np.pi, 7.0])
    through = float(angle(1.0) - angle(0.0))
    own = gauss_length(on_circle(angle), np.array(0.0), np.array(1.0), phi / through)
    error = abs(own.length - phi).max()
    assert error < 1e-4
    assert own.mean == pytest.approx(phi.mean(), abs=1e-4)
    assert (own.turning <= own.length + 1e-9).all()
    np.testing.assert_allclose(own.turning, phi, rtol=0.02)
    assert own.sign_changes is None
    measured(f"largest error {error:.1e} over angles to 7 at n = 200")


def test_the_length_is_the_turning_of_tangents_by_differences_on_a_fine_grid(rng):
    first, second = ((rng.normal(size=(3, 8)), rng.normal(size=(8, 2))) for _ in range(2))
    x = rng.normal(size=(5, 3))
    own = gauss_length(lambda p, x: jnp.tanh(x @ p[0]) @ p[1], first, second, x, n=2000)
    alphas = np.linspace(0, 1, 40_001)
    path = np.stack(
        [np.tanh(x @ ((1 - a) * first[0] + a * second[0])) @ ((1 - a) * first[1] + a * second[1]) for a in alphas]
    )
    bearing = np.unwrap(np.arctan2(*np.moveaxis(np.diff(path, axis=0), 2, 0)[::-1]), axis=0)
    expected = abs(np.diff(bearing, axis=0)).sum(axis=0)
    np.testing.assert_allclose(own.length, expected, rtol=1e-4)
    np.testing.assert_allclose(own.turning, expected, rtol=1e-3)
    assert expected.max() > 1


@pytest.mark.claim("lucas2021monotonic/G2")
def test_a_model_linear_in_its_parameters_does_not_turn(rng, measured):
    x, ends = rng.normal(size=(6, 4)), (rng.normal(size=(4, 3)), rng.normal(size=(4, 3)))
    own = gauss_length(lambda w, x: jnp.sin(x) @ w, *ends, x)
    assert own.length.max() == 0.0
    assert own.turning.max() < 1e-12
    assert own.skipped.sum() == 0
    assert own.sufficient
    measured(f"length {own.length.max():.0e} of a linear model; one output: 0, with 0, 1 and 2 sign changes found")


@pytest.mark.claim("lucas2021monotonic/G2")
def test_one_output_has_length_0_and_its_turns_are_counted():
    """z = x_1 a + x_2 a^2 + x_3 a^3 with derivatives that vanish nowhere, at 0.3, and at 0.2 and 0.7."""
    x = np.array([[1.0, 0.0, 0.0], [-0.6, 1.0, 0.0], [3 * 0.14, -1.5 * 0.9, 1.0]])
    own = gauss_length(lambda a, x: x @ jnp.stack([a, a**2, a**3]), np.array(0.0), np.array(1.0), x)
    assert own.length.tolist() == [0.0, 0.0, 0.0]
    assert own.sign_changes.tolist() == [0, 1, 2]
    np.testing.assert_allclose(own.turning, [0.0, np.pi, 2 * np.pi], atol=1e-12)
    assert not own.sufficient
    flat = gauss_length(lambda a, x: x @ jnp.stack([a, a**2, a**3]), np.array(0.0), np.array(1.0), x[:1])
    assert flat.sufficient


def test_a_column_of_outputs_counts_as_one_output():
    own = gauss_length(lambda a, x: ((a - 0.3) ** 2 * x)[:, None], np.array(0.0), np.array(1.0), np.ones(2))
    assert own.sign_changes.tolist() == [1, 1]


def test_a_turn_at_a_position_of_the_grid_is_counted_once():
    own = gauss_length(lambda a, x: (a - 0.5) ** 2 * x, np.array(0.0), np.array(1.0), np.ones(1), n=3)
    assert own.sign_changes.tolist() == [1]
    assert own.skipped.tolist() == [1]


def test_a_kink_and_a_reversal_have_no_length_but_turn():
    def kinked(a, x):
        return jnp.stack([a * x, jax.nn.relu(a - 0.4) * x], axis=1)

    def reversed_(a, x):
        return jnp.stack([(a - 0.4) ** 2 * x, 2 * (a - 0.4) ** 2 * x], axis=1)

    for f, angle in ((kinked, np.pi / 4), (reversed_, np.pi)):
        own = gauss_length(f, np.array(0.0), np.array(1.0), np.ones(1))
        assert own.length[0] < 1e-10
        assert own.turning[0] == pytest.approx(angle, abs=1e-9)


def test_at_a_kink_no_length_is_no_guarantee_but_the_turning_says_so():
    """z = |alpha - 0.4| (1, 2) ends at its target, has Gauss length 0, and its loss rises after the kink."""

    def kinked(a, x):
        return jnp.abs(a - 0.4) * x

    x = np.array([[1.0, 2.0]])
    own = gauss_length(kinked, np.array(0.0), np.array(1.0), x)
    line = interpolate(System(kinked, np.array(0.0), x, 0.6 * x), np.array(0.0), np.array(1.0))
    assert own.length[0] == 0.0
    assert own.turning[0] == pytest.approx(np.pi)
    assert not own.sufficient
    assert line.losses[-1] < 1e-30
    assert mli_report(*line).delta > 0.3


def test_outputs_that_stay_where_they_are_contribute_nothing_and_are_counted():
    own = gauss_length(lambda w, x: x * w, np.array(1.0), np.array(3.0), np.array([[1.0, 2.0], [0.0, 0.0]]), n=20)
    assert own.skipped.tolist() == [0, 20]
    assert own.length.tolist() == own.turning.tolist() == [0.0, 0.0]
    still = gauss_length(lambda w, x: x * w, np.array(1.0), np.array(1.0), np.ones((2, 2)), n=20)
    assert still.skipped.tolist() == [20, 20]
    assert still.sufficient


@pytest.mark.parametrize(("dtype", "atol"), [(np.float32, 1e-4), (np.float64, 1e-12)])
def test_lengths_do_not_depend_on_the_scale_of_outputs_and_follow_the_precision_asked_for(dtype, atol):
    for scale in (1e-6, 1.0, 1e6):
        circle = on_circle(lambda w: w)
        own = gauss_length(
            lambda w, x, s=scale, f=circle: s * f(w, x), np.array(0, dtype), np.array(1, dtype), np.array([2.0], dtype)
        )
        np.testing.assert_allclose(own.length, 2.0, atol=atol)
        assert own.length.dtype == np.float64


def test_a_system_gives_its_function_and_inputs():
    f, x = on_circle(lambda w: w), np.array([0.5, 2.0])
    own = gauss_length(f, np.array(0.0), np.array(1.0), x, n=20)
    assert gauss_length(System(f, np.array(0.0), x), np.array(0.0), np.array(1.0), n=20) == own


def test_the_result_is_the_array_of_lengths_draws_itself_and_comes_back_from_its_file(tmp_path):
    own = gauss_length(on_circle(lambda w: w), np.array(0.0), np.array(1.0), np.array([2.0, 0.5]), n=20)
    assert np.array_equal(np.asarray(own), own.length)
    copied = np.array(own)
    copied[0] = 0.0
    assert own.length[0] > 1
    assert np.asarray(own, np.float32).dtype == np.float32
    (chart,) = own.charts()
    np.testing.assert_allclose(chart.series[0].y, [0.5, 2.0], rtol=1e-12)
    assert chart.markers[0].value == np.pi / 2
    assert GaussLength.load(own.save(tmp_path / "lengths.zip")) == own


def test_arguments_of_a_gauss_length_that_do_not_fit_are_refused():
    f, one = on_circle(lambda w: w), np.array(1.0)
    with pytest.raises(TypeError, match="leave out `x`"):
        gauss_length(System(f, one, np.ones(2)), one, one, np.ones(2))
    with pytest.raises(TypeError, match="`x` is needed"):
        gauss_length(f, one, one)
    with pytest.raises(TypeError, match="`f` is 3"):
        gauss_length(3, one, one, np.ones(2))
    with pytest.raises(ValueError, match="`n` is 1"):
        gauss_length(f, one, one, np.ones(2), n=1)
    with pytest.raises(NonFiniteError, match="derivative"):
        gauss_length(lambda w, x: jnp.sqrt(w) * x, np.array(0.0), one, np.ones(2))


# The sufficient condition.


def small_network(params, x):
    return jnp.tanh(x @ params["first"] + params["bias"][None]) @ params["second"]


def drawn(seed):
    """Two networks, from the same one to rather different ones, and inputs."""
    rng = np.random.default_rng(seed)
    shapes = {"first": (3, 6), "bias": (6,), "second": (6, 2)}
    start = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    distance = rng.choice([0.05, 0.2, 0.5, 1.5])
    end = {name: start[name] + distance * rng.normal(size=shape) for name, shape in shapes.items()}
    return start, end, rng.normal(size=(4, 3))


def turning_and_line(seed):
    """The line to a network that fits its targets: they are its outputs, so that the loss ends at 0."""
    start, end, x = drawn(seed)
    goal = System(small_network, end, x).F()
    alphas, losses = interpolate(System(small_network, start, x, goal), start, end, n=100)
    return gauss_length(small_network, start, end, x), alphas, losses


@pytest.mark.claim("lucas2021monotonic/G4")
@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_outputs_that_turn_by_less_than_a_right_angle_make_the_loss_monotone(seed):
    own, alphas, losses = turning_and_line(seed)
    assert losses[-1] < 1e-8
    if own.sufficient:
        assert mli_report(alphas, losses, tol=1e-13 * losses[0]).monotonic


@pytest.mark.claim("lucas2021monotonic/G4")
def test_the_condition_is_met_by_some_networks_and_others_rise(measured):
    lines = [turning_and_line(seed) for seed in range(100)]
    met = [own.sufficient for own, _, _ in lines]
    falls = [mli_report(alphas, losses, 1e-13 * losses[0]).monotonic for _, alphas, losses in lines]
    assert sum(met) >= 20
    assert sum(fall for own, fall in zip(met, falls, strict=True) if own) == sum(met)
    assert not all(falls)
    measured(f"met by {sum(met)} of 100 random lines, all monotone; {100 - sum(falls)} of the others rise")


def test_the_formula_of_the_condition_is_the_slope_of_the_loss():
    """dL/dalpha = -sum_i int_alpha^1 <z_i'(s), z_i'(alpha)> ds where the line ends at the targets."""
    start, end, x = drawn(3)
    goal = System(small_network, end, x).F()
    system = System(small_network, start, x, goal)
    w, direction = system.flat, system.vector(end) - system.flat
    alphas = np.linspace(0, 1, 401)
    speeds = np.stack([system.jvp(direction, w + a * direction) for a in alphas])
    for i in (0, 100, 300):
        inner = (speeds[i:] * speeds[i][None]).sum(axis=(1, 2))
        formula = -((inner[1:] + inner[:-1]) / 2 * np.diff(alphas[i:])).sum()
        assert formula == pytest.approx(system.grad(w + alphas[i] * direction) @ direction, rel=1e-4)


# Distances.


@given(st.integers(0, 1000), st.floats(0.1, 10))
def test_the_distance_is_that_of_all_entries_together(seed, scale):
    rng = np.random.default_rng(seed)
    p0, p1 = ({"a": rng.normal(size=(2, 3)), "b": [rng.normal(size=4)]} for _ in range(2))
    first, second = (np.concatenate([p["a"].ravel(), p["b"][0]]) for p in (p0, p1))
    expected = np.linalg.norm(second - first)
    assert weight_distance(p0, p1, normalized=False) == pytest.approx(expected, rel=1e-13)
    assert weight_distance(p0, p1) == pytest.approx(expected / np.linalg.norm(first), rel=1e-13)
    scaled = [jax.tree.map(lambda leaf: scale * leaf, p) for p in (p0, p1)]
    assert weight_distance(*scaled) == pytest.approx(weight_distance(p0, p1), rel=1e-12)


def test_distances_that_are_none_are_refused():
    with pytest.raises(ValueError, match="normalized=False"):
        weight_distance(np.zeros(2), np.ones(2))
    assert weight_distance(np.zeros(2), np.array([3.0, 4.0]), normalized=False) == 5.0
    with pytest.raises(ValueError, match="`p1` has 1 entries"):
        weight_distance(np.ones(2), np.array([1.0, np.nan]))
    with pytest.raises(DtypeError, match="`p0` has dtype int"):
        weight_distance(np.ones(2, int), np.ones(2))
    with pytest.raises(ShapeError, match="no arrays"):
        weight_distance({}, {})
