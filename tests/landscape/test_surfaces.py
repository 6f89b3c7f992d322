"""The loss along lines and over planes of parameters."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from specimens import relu_net
from widescape.core.chart import Chart, Surface
from widescape.core.errors import NonFiniteError, ShapeError
from widescape.curvature import System
from widescape.landscape.descent import gradient_descent
from widescape.landscape.directions import project_trajectory, random_direction
from widescape.landscape.surfaces import LossSurface, Profile, surface_1d, surface_2d

TS = np.linspace(-0.5, 2, 7)
YS = np.linspace(-1, 1, 5)


def bowl(rng: np.random.Generator, p: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """An indefinite matrix A and a vector b, for the loss w A w / 2 - b w."""
    matrix = rng.normal(size=(p, p))
    return matrix + matrix.T, rng.normal(size=p)


def quadratic(matrix, vector):
    return lambda w: w @ matrix.astype(w.dtype) @ w / 2 - vector.astype(w.dtype) @ w


def tanh_net(params, x):
    for weight, bias in params[:-1]:
        x = jnp.tanh(x @ weight + bias[None])
    weight, bias = params[-1]
    return (x @ weight + bias[None])[:, 0]


def chebyshev_problem(seed: int) -> System:
    """Degree 4 on 20 points by a tanh network 1-50-50-1; weights N(0, 1/fan_in), biases 0, mean of half squares."""
    rng, widths = np.random.default_rng(seed), (1, 50, 50, 1)
    params = [(rng.normal(size=(m, n)) / m**0.5, np.zeros(n)) for m, n in pairwise(widths)]
    x = np.linspace(-1, 1, 20)
    return System(tanh_net, params, x[:, None], 8 * x**4 - 8 * x**2 + 1, reduction="mean")


def small_system(rng: np.random.Generator, chunk: int | None = None) -> System:
    params = {"b": rng.normal(size=3), "w": rng.normal(size=(2, 3))}
    x, y = rng.normal(size=(7, 2)), rng.normal(size=7)
    return System(lambda p, x: jnp.sum(jnp.tanh(x @ p["w"] + p["b"][None]), axis=1), params, x, y, chunk=chunk)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_quadratic_has_its_values_and_its_curvature_along_a_line(rng, dtype):
    (a, b), w, d = bowl(rng), rng.normal(size=6), rng.normal(size=6)
    profile = surface_1d(quadratic(a, b), w.astype(dtype), d.astype(dtype), TS)
    rtol = 1e-13 if dtype == "float64" else 2e-5
    points = w + TS[:, None] * d
    expected = np.einsum("ti,ij,tj->t", points, a, points) / 2 - points @ b
    np.testing.assert_allclose(profile.loss, expected, rtol=rtol, atol=rtol)
    assert np.asarray(profile).shape == TS.shape
    assert profile.center == pytest.approx(w @ a @ w / 2 - b @ w, rel=rtol)
    assert profile.curvature == pytest.approx(d @ a @ d, rel=rtol)
    assert profile.length == pytest.approx(np.linalg.norm(d), rel=rtol)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_quadratic_has_its_values_over_a_plane(rng, dtype):
    (a, b), w, plane = bowl(rng), rng.normal(size=6), rng.normal(size=(2, 6))
    surface = surface_2d(quadratic(a, b), w.astype(dtype), *plane.astype(dtype), TS, YS)
    rtol = 1e-13 if dtype == "float64" else 2e-5
    points = w + TS[:, None, None] * plane[0] + YS[None, :, None] * plane[1]
    expected = np.einsum("xyi,ij,xyj->xy", points, a, points) / 2 - points @ b
    np.testing.assert_allclose(np.asarray(surface), expected, rtol=rtol, atol=rtol)
    assert surface.center == pytest.approx(w @ a @ w / 2 - b @ w, rel=rtol)
    i, j = np.unravel_index(np.argmin(expected), expected.shape)
    assert surface.lowest == pytest.approx(expected[i, j], rel=rtol)
    assert surface.lowest_at.tolist() == [TS[i], YS[j]]
    np.testing.assert_allclose(surface.lengths, np.linalg.norm(plane, axis=1), rtol=rtol)
    assert surface.cosine == pytest.approx(plane[0] @ plane[1] / np.prod(surface.lengths), rel=10 * rtol)


def test_the_default_grid_has_51_points_of_minus_1_to_1_and_holds_the_center(rng):
    (a, b), w, plane = bowl(rng), rng.normal(size=6), rng.normal(size=(2, 6))
    profile, surface = surface_1d(quadratic(a, b), w, plane[0]), surface_2d(quadratic(a, b), w, *plane)
    np.testing.assert_allclose(profile.ts, np.arange(-25, 26) / 25, rtol=1e-15, atol=1e-16)
    assert profile.ts[25] == 0
    assert surface.loss.shape == (51, 51)
    assert surface.loss[25, 25] == surface.center == pytest.approx(profile.center, rel=1e-14)
    np.testing.assert_allclose(surface.loss[:, 25], profile.loss, rtol=1e-12)


def test_functions_systems_trees_and_flat_vectors_agree(rng):
    system = small_system(rng)
    loss = lambda p: jnp.sum((system.f(p, system.x) - system.y) ** 2) / 2  # noqa: E731
    d1, d2 = (random_direction(system, ignore_1d=False, key=jax.random.key(i)) for i in (1, 2))
    of_system = surface_2d(system, None, d1, d2, TS, YS)
    of_function = surface_2d(loss, system.params, d1, d2, TS, YS)
    of_vectors = surface_2d(system, system.flat, system.vector(d1), system.vector(d2), TS, YS)
    np.testing.assert_allclose(of_function.loss, of_system.loss, rtol=1e-13)
    assert of_vectors == of_system
    assert surface_1d(loss, system.params, d1).curvature == pytest.approx(
        surface_1d(system, None, d1).curvature, rel=1e-12
    )


def test_the_point_is_the_one_that_is_given_and_not_that_of_the_system(rng):
    system, d = small_system(rng), rng.normal(size=9)
    elsewhere = system.flat + 0.3
    profile = surface_1d(system, elsewhere, d, TS)
    np.testing.assert_allclose(profile.loss, [system.value(elsewhere + t * d) for t in TS], rtol=1e-13)
    assert profile.curvature == pytest.approx(d @ system.hvp(d, elsewhere), rel=1e-13)


def test_chunks_of_data_and_nesting_of_parameters_do_not_change_a_surface(rng):
    system, plane = small_system(np.random.default_rng(3)), rng.normal(size=(2, 9))
    whole = surface_2d(system, None, *plane, TS, YS)
    cut = surface_2d(small_system(np.random.default_rng(3), chunk=3), None, *plane, TS, YS)
    np.testing.assert_allclose(cut.loss, whole.loss, rtol=1e-13)
    params, directions = system.params, [system.unravel(d) for d in plane]
    turn = lambda p: (p["w"], [p["b"]])  # noqa: E731
    other = System(lambda p, x: system.f({"w": p[0], "b": p[1][0]}, x), turn(params), system.x, system.y)
    turned = surface_2d(other, turn(params), turn(directions[0]), turn(directions[1]), TS, YS)
    np.testing.assert_allclose(turned.loss, whole.loss, rtol=1e-13)
    np.testing.assert_allclose(turned.lengths, whole.lengths, rtol=1e-13)


@pytest.mark.claim("liu2020loss/I7")
@pytest.mark.parametrize(("axis", "factor"), [(-1, 3.7), (0, 3.7), (-1, 1e-3)])
def test_filter_normalized_surfaces_do_not_change_when_relu_layers_are_rescaled_against_each_other(
    rng, measured, axis, factor
):
    x, y = rng.normal(size=(10, 4)), rng.normal(size=10)
    first, second = rng.normal(size=(4, 8)), rng.normal(size=(8, 1))
    grid = np.linspace(-1, 1, 7)

    def picture(params, norm):
        directions = (random_direction(params, norm, filter_axis=axis, key=jax.random.key(i)) for i in (1, 2))
        return surface_2d(System(relu_net, params, x, y), params, *directions, grid, grid).loss

    rescaled = [factor * first, second / factor]
    kept = {norm: picture([first, second], norm) for norm in ("filter", "layer", None)}
    gaps = {norm: float(np.max(np.abs(picture(rescaled, norm) / kept[norm] - 1))) for norm in kept}
    measured(
        f"factor {factor:g}, filters along axis {axis}: relative change {gaps['filter']:.1g}, without {gaps[None]:.1g}"
    )
    assert gaps["filter"] < 1e-12  # asked for: 1e-6
    assert gaps["layer"] < 1e-12
    assert gaps[None] > 0.5


@pytest.mark.slow
@pytest.mark.claim("liu2020loss/E5")
def test_the_endpoint_of_monotone_descent_is_lowest_and_differences_there_agree_with_the_hessian(measured):
    seed = 0
    while True:
        system = chebyshev_problem(seed)
        run = gradient_descent(system, 2 / 80, 20_000)
        if (np.diff(run.loss) <= 0).all():  # an endpoint at the edge of stability is no minimum
            break
        seed += 1
        assert seed < 5
    end = system.unravel(run.w)
    d1, d2 = (random_direction(end, filter_axis=-1, key=jax.random.key(i)) for i in (1, 2))
    surface, profile = surface_2d(system, end, d1, d2), surface_1d(system, end, d1)
    assert surface.loss.shape == (51, 51)
    assert surface.lowest == surface.center == pytest.approx(run.loss[-1], rel=1e-12)
    assert surface.lowest_at.tolist() == [0.0, 0.0]
    assert np.count_nonzero(surface.loss == surface.lowest) == 1
    assert profile.loss.min() == profile.center
    gaps = []
    for d in (d1, d2):
        step = 1e-3
        near = surface_1d(system, end, d, np.array([-step, step]))
        gaps.append((near.loss.sum() - 2 * near.center) / step**2 / near.curvature - 1)
    worst = max(map(abs, gaps))
    measured(
        f"seed {seed}, final loss {run.loss[-1]:.2g}, highest on the plane {surface.loss.max():.2g}, gap {worst:.1g}"
    )
    assert worst < 1e-4  # asked for: 2%


def test_a_trajectory_is_projected_about_the_center_and_drawn_on_the_surface(rng):
    system, plane = small_system(rng), rng.normal(size=(2, 9))
    run = gradient_descent(system, 0.02, 30, keep_every=10)
    surface = surface_2d(system, run.w, *plane, trajectory=run, note="Gaussian, not normalized")
    reference = project_trajectory(run, *plane)
    assert np.array_equal(surface.trajectory, reference.coordinates)
    assert surface.explained == reference.explained
    (chart,) = surface.charts()
    assert isinstance(chart, Surface)
    assert np.array_equal(chart.path.x, surface.trajectory[:, 0])
    assert "Gaussian, not normalized" in chart.caption
    assert f"{surface.explained:.1%} of its squared distances" in chart.caption
    moved = surface_2d(system, None, *plane, trajectory=run)
    np.testing.assert_allclose(moved.trajectory[0], 0, atol=1e-14)


def test_losses_over_decades_are_drawn_on_a_logarithmic_axis(rng):
    w = np.array([0.01, 0.0])
    steep = surface_2d(lambda w: w @ w, w, *np.eye(2), trajectory=np.ones((2, 2)))
    flat = surface_1d(lambda w: 1 + w @ w, w, np.ones(2))
    signed = surface_1d(lambda w: w[0] ** 3, w, np.ones(2))
    assert steep.charts()[0].z_scale == "log"
    assert flat.charts()[0].y_scale == signed.charts()[0].y_scale == "linear"


def test_results_print_draw_and_save(rng, tmp_path):
    (a, b), plane = bowl(rng), rng.normal(size=(2, 6))
    surface = surface_2d(quadratic(a, b), np.zeros(6), *plane, TS, YS)
    profile = surface_1d(quadratic(a, b), np.zeros(6), plane[0], TS, note="a row of noise")
    for result, kind in ((surface, Surface), (profile, Chart)):
        (chart,) = result.charts()
        assert isinstance(chart, kind)
        assert chart.to_dict()["name"] == chart.name
        assert len(str(result).splitlines()) < 20
    assert surface.charts()[0].points[0].label == "center"
    assert surface.charts()[0].path is None
    assert "a row of noise" in profile.charts()[0].caption
    beside = surface_2d(quadratic(a, b), np.zeros(6), *plane, TS + 5, YS).charts()[0]
    assert beside.points == ()
    assert LossSurface.load(surface.save(tmp_path / "surface.zip")) == surface
    assert Profile.load(profile.save(tmp_path / "profile.zip")) == profile
    assert np.asarray(surface, dtype=np.float32).dtype == np.float32


def test_directions_and_grids_that_do_not_fit_are_refused(rng):
    system, d = small_system(rng), np.ones(9)
    with pytest.raises(ValueError, match="`d2` is zero"):
        surface_2d(system, None, d, np.zeros(9))
    with pytest.raises(ShapeError, match=r"`d` holds arrays of shapes \(\(8,\),\)"):
        surface_1d(system, None, np.ones(8))
    with pytest.raises(ShapeError, match=r"`d` holds arrays of shapes \(\)"):
        surface_1d(system, None, None)
    with pytest.raises(ShapeError, match="`d1` holds arrays"):
        surface_2d(system, None, {"w": np.ones((3, 2)), "b": np.ones(3)}, d)
    with pytest.raises(ValueError, match=r"`d\['w'\]` has 6 entries that are NaN"):
        surface_1d(system, None, {"w": np.full((2, 3), np.nan), "b": np.ones(3)})
    with pytest.raises(ValueError, match="`ys` does not rise"):
        surface_2d(system, None, d, d, YS, YS[::-1].copy())
    with pytest.raises(ShapeError, match="`xs` has shape"):
        surface_2d(system, None, d, d, np.zeros(1), YS)
    with pytest.raises(ValueError, match="`ts` has 1 entries"):
        surface_1d(system, None, d, np.array([0.0, np.inf]))
    with pytest.raises(ValueError, match="collinear"):
        surface_2d(system, None, d, 2 * d, trajectory=np.zeros((2, 9)))
    assert surface_2d(system, None, d, -d, TS, YS).cosine == pytest.approx(-1, rel=1e-15)
    with pytest.raises(ShapeError, match="points of `trajectory` have 4"):
        surface_2d(system, None, d, rng.normal(size=9), trajectory=np.zeros((2, 4)))


def test_a_loss_that_is_infinite_and_a_system_without_targets_are_refused():
    with pytest.raises(NonFiniteError, match="NaN or infinite"):
        surface_1d(lambda w: jnp.log(w[0]), np.ones(2), np.ones(2))
    with pytest.raises(ValueError, match="targets"):
        surface_1d(System(lambda w, x: x @ w, np.ones(2), np.eye(2)), None, np.ones(2))
    with pytest.raises(TypeError, match="params"):
        surface_1d(lambda w: w[0], None, np.ones(2))
