"""Directions in the space of parameters, and projections to their planes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from widescape.arch import Dense, Sequential
from widescape.core.errors import DtypeError, ShapeError
from widescape.curvature import System
from widescape.curvature.krylov import TopEigsStatus
from widescape.landscape.descent import gradient_descent
from widescape.landscape.directions import (
    ProjectedTrajectory,
    hessian_directions,
    project_trajectory,
    random_direction,
    trajectory_directions,
)


def weights(dtype: str = "float64") -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    shapes = {"dense": (4, 3), "bias": (3,), "kernel": (2, 2, 3, 5), "scale": ()}
    return {name: np.asarray(3 * rng.normal(size=shape), dtype) for name, shape in shapes.items()}


def lengths(array: np.ndarray, axis: int) -> np.ndarray:
    return np.linalg.norm(np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1), axis=1)


def quadratic(rng: np.random.Generator, eigs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A symmetric matrix of these eigenvalues, and its eigenvectors in rows."""
    basis = np.linalg.qr(rng.normal(size=(len(eigs), len(eigs))))[0]
    return basis @ np.diag(eigs) @ basis.T, basis.T


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_each_filter_of_a_direction_is_as_long_as_its_weights(axis, key):
    params = weights()
    direction = random_direction(params, filter_axis=axis, key=key)
    for name in ("dense", "kernel"):
        np.testing.assert_allclose(lengths(direction[name], axis), lengths(params[name], axis), rtol=1e-14)
        assert not np.allclose(lengths(direction[name], 1 - axis % 2), lengths(params[name], 1 - axis % 2), rtol=0.01)


def test_the_axis_of_filters_may_differ_between_arrays(key):
    params = weights()
    seen = {}

    def axis(path, leaf):
        seen[path] = leaf.shape
        return 0 if "dense" in path else 3

    direction = random_direction(params, filter_axis=axis, key=key)
    assert seen == {"['dense']": (4, 3), "['kernel']": (2, 2, 3, 5)}
    np.testing.assert_allclose(lengths(direction["dense"], 0), lengths(params["dense"], 0), rtol=1e-14)
    np.testing.assert_allclose(lengths(direction["kernel"], 3), lengths(params["kernel"], 3), rtol=1e-14)


def test_by_layer_each_array_of_a_direction_is_as_long_as_its_weights(key):
    params = weights()
    direction = random_direction(params, "layer", ignore_1d=False, key=key)
    for name, array in params.items():
        assert np.linalg.norm(direction[name]) == pytest.approx(np.linalg.norm(array), rel=1e-14)
    assert not np.allclose(lengths(direction["dense"], 0), lengths(params["dense"], 0), rtol=0.01)


def test_the_same_key_draws_the_same_numbers_whatever_is_scaled(key):
    params = weights()
    plain, layer, rows = (random_direction(params, norm, key=key)["dense"] for norm in (None, "layer", "filter"))
    np.testing.assert_allclose(layer / np.linalg.norm(layer), plain / np.linalg.norm(plain), rtol=1e-13)
    np.testing.assert_allclose(rows / lengths(rows, 0)[:, None], plain / lengths(plain, 0)[:, None], rtol=1e-13)
    again, other = random_direction(params, None, key=key), random_direction(params, None, key=jax.random.key(1))
    assert np.array_equal(again["dense"], plain)
    assert not np.allclose(other["dense"], plain)


def test_a_draw_belongs_to_its_array_and_not_to_its_neighbors_or_to_the_flag_for_doubles(key):
    params = weights()
    alone = random_direction({"dense": params["dense"]}, key=key)
    with jax.enable_x64(True):
        wide = random_direction(params, key=key)
    assert np.array_equal(alone["dense"], random_direction(params, key=key)["dense"])
    assert np.array_equal(alone["dense"], wide["dense"])
    twins = random_direction({"a": params["dense"], "b": params["dense"]}, key=key)
    assert not np.allclose(twins["a"], twins["b"])


def test_an_unscaled_direction_is_standard_gaussian(key):
    draw = random_direction({"w": np.zeros((300, 400))}, None, key=key)["w"]
    n = draw.size
    assert abs(draw.mean()) < 4 / n**0.5
    assert abs(draw.var() - 1) < 4 * (2 / n) ** 0.5
    assert abs((draw**4).mean() - 3) < 4 * (96 / n) ** 0.5


def test_arrays_of_one_axis_get_no_direction_unless_asked_for(key):
    params = weights()
    for norm in ("filter", "layer", None):
        direction = random_direction(params, norm, key=key)
        assert not direction["bias"].any()
        assert not direction["scale"].any()
    entries = random_direction(params, ignore_1d=False, filter_axis=1, key=key)
    np.testing.assert_allclose(np.abs(entries["bias"]), np.abs(params["bias"]), rtol=1e-14)
    assert abs(entries["scale"]) == pytest.approx(abs(params["scale"]), rel=1e-14)


def test_filters_of_length_zero_get_direction_zero_and_tiny_ones_keep_their_length(key):
    rows = np.array([[0.0, 0.0], [3e-200, 4e-200], [3e200, 4e200]])
    direction = random_direction({"w": rows}, key=key)["w"]
    assert direction[0].tolist() == [0.0, 0.0]
    np.testing.assert_allclose([np.hypot(*row) for row in direction[1:]], [5e-200, 5e200], rtol=1e-14)
    assert not random_direction({"w": np.zeros((2, 2))}, "layer", key=key)["w"].any()


def test_a_direction_has_the_precision_of_its_parameters_and_a_system_stands_for_its_own(key):
    narrow, wide = random_direction(weights("float32"), key=key), random_direction(weights(), key=key)
    assert {leaf.dtype for leaf in jax.tree.leaves(narrow)} == {np.dtype("float32")}
    np.testing.assert_allclose(narrow["kernel"], wide["kernel"], rtol=3e-7)
    params = {"w": weights()["dense"]}
    system = System(lambda p, x: x @ p["w"], params, np.ones((2, 4)))
    assert np.array_equal(random_direction(system, key=key)["w"], random_direction(params, key=key)["w"])


def test_what_cannot_be_scaled_is_refused():
    with pytest.raises(ValueError, match="norm"):
        random_direction(weights(), "weight")
    with pytest.raises(ValueError, match="no array of `params` has two axes"):
        random_direction(np.ones(5))
    with pytest.raises(ValueError, match=r"`filter_axis` is 2, but params\['dense'\] has 2 axes"):
        random_direction(weights(), filter_axis=2)
    with pytest.raises(TypeError, match="`filter_axis` is 'rows'"):
        random_direction(weights(), filter_axis=lambda path, leaf: "rows")
    with pytest.raises(DtypeError, match=r"params\['w'\]"):
        random_direction({"w": np.ones((2, 2), int)})
    with pytest.raises(ValueError, match="NaN"):
        random_direction({"w": np.full((2, 2), np.nan)})


@pytest.mark.parametrize("shape", [(7, 40), (40, 7), (3, 3)])
def test_principal_directions_are_the_leading_right_singular_vectors(rng, shape):
    points = rng.normal(size=shape) * np.linspace(1, 3, shape[1]) + 5
    _, values, vectors = np.linalg.svd(points - points[-1], full_matrices=False)
    found = trajectory_directions(points)
    np.testing.assert_allclose(np.abs(np.sum(found.directions * vectors[:2], axis=1)), 1, rtol=1e-12)
    np.testing.assert_allclose(found.shares, values**2 / np.sum(values**2), rtol=1e-10, atol=1e-15)
    np.testing.assert_allclose(found.explained, found.shares[:2], rtol=1e-10)
    along = (points - points[-1]) @ found.directions.T
    assert (along.max(axis=0) >= -along.min(axis=0)).all()


def test_a_second_direction_a_billion_times_shorter_is_resolved(rng):
    basis = np.linalg.qr(rng.normal(size=(30, 2)))[0].T
    t = np.linspace(0, 1, 9)[:, None]
    points = t * basis[0] + 1e-9 * t * (1 - t) * basis[1]
    found = trajectory_directions(points, origin=np.zeros(30))
    _, values, vectors = np.linalg.svd(points)
    assert abs(found.directions[1] @ vectors[1]) == pytest.approx(1, rel=1e-10)
    assert found.explained[1] == pytest.approx(values[1] ** 2 / np.sum(values**2), rel=1e-5)
    np.testing.assert_allclose(found.directions @ found.directions.T, np.eye(2), atol=1e-15)


def test_shares_are_about_the_origin_that_is_given(rng):
    points = rng.normal(size=(6, 10))
    origin = points[2]
    values = np.linalg.svd(points - origin, compute_uv=False)
    np.testing.assert_allclose(
        trajectory_directions(points, origin=origin).explained, values[:2] ** 2 / np.sum(values**2), rtol=1e-10
    )


def test_a_run_and_lists_of_parameters_in_any_nesting_have_the_same_plane(rng):
    x, y = rng.normal(size=(6, 4)), rng.normal(size=6)
    system = System(lambda w, x: jnp.tanh(x @ w["a"]) + x @ w["b"], {"a": np.ones(4), "b": np.zeros(4)}, x, y)
    run = gradient_descent(system, 0.05, 20, keep_every=5)
    found = trajectory_directions(run)
    trees = [system.unravel(w) for w in run.snapshots]
    other = [({"z": tree["b"]}, tree["a"]) for tree in trees]  # the two halves change places
    assert np.array_equal(trajectory_directions(trees, origin=trees[-1]).directions, found.directions)
    assert np.array_equal(trajectory_directions(list(run.snapshots)).directions, found.directions)
    swapped = trajectory_directions(other)
    np.testing.assert_allclose(swapped.directions, np.roll(found.directions, 4, axis=1), rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(swapped.shares, found.shares, rtol=1e-8, atol=1e-15)


def test_points_in_single_precision_have_the_same_plane_to_their_rounding(rng):
    points = rng.normal(size=(5, 20))
    wide, narrow = trajectory_directions(points), trajectory_directions(points.astype(np.float32))
    assert narrow.directions.dtype == np.float64
    np.testing.assert_allclose(narrow.directions, wide.directions, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_points_on_a_line_have_no_second_direction(rng, dtype):
    start, direction = 100 * rng.normal(size=30), rng.normal(size=30)
    points = (start + np.linspace(0, 1, 6)[:, None] * direction).astype(dtype)
    with pytest.raises(ValueError, match="one line"):
        trajectory_directions(points)
    with pytest.raises(ValueError, match="one line"):
        trajectory_directions(np.ones((3, 2), dtype))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_hessian_directions_of_a_quadratic_are_its_top_eigenvectors(rng, dtype):
    eigs = np.concatenate([[-50.0], np.linspace(-1, 1, 37), [4.0, 9.0]])
    matrix, vectors = quadratic(rng, eigs)
    matrix = matrix.astype(dtype).astype(np.float64)

    def loss(w):
        return w @ jnp.asarray(matrix, w.dtype) @ w / 2

    found = hessian_directions(loss, np.ones(40, dtype))
    assert found.status is TopEigsStatus.OK
    np.testing.assert_allclose(found.eigs, [9, 4], rtol=1e-5 if dtype == "float32" else 1e-12)
    overlaps = np.abs(np.sum(found.directions * vectors[[-1, -2]], axis=1))
    np.testing.assert_allclose(overlaps, 1, rtol=1e-5 if dtype == "float32" else 1e-12)
    assert (found.resid < 1e-6).all()
    assert found.evidence("eigs").side == "lower"


def test_hessian_directions_do_not_depend_on_nesting_or_on_chunks(rng):
    x, y = rng.normal(size=(9, 20)), rng.normal(size=9)
    a, b = rng.normal(size=(20, 2)), rng.normal(size=2)
    flat = System(lambda w, x: jnp.tanh(x @ w["a"]) @ w["b"], {"a": a, "b": b}, x, y)
    turned = System(lambda w, x: jnp.tanh(x @ w[1][0]) @ w[0], (b, [a]), x, y, chunk=4)
    first, second = hessian_directions(flat, k=3), hessian_directions(turned, k=3)
    np.testing.assert_allclose(second.eigs, first.eigs, rtol=1e-10)
    overlaps = np.sum(first.directions * np.roll(second.directions, -2, axis=1), axis=1)
    np.testing.assert_allclose(np.abs(overlaps), 1, rtol=1e-10)


def test_a_trajectory_in_the_plane_is_explained_wholly_and_one_across_it_not_at_all(rng):
    basis = np.linalg.qr(rng.normal(size=(12, 4)))[0].T
    origin, coordinates = rng.normal(size=12), rng.normal(size=(6, 2))
    d1, d2 = 3 * basis[0], basis[0] - 0.5 * basis[1]  # neither orthogonal nor of unit length
    found = project_trajectory(origin + coordinates @ np.stack([d1, d2]), d1, d2, origin=origin)
    np.testing.assert_allclose(np.asarray(found), coordinates, rtol=1e-12, atol=1e-13)
    assert found.explained == pytest.approx(1, rel=1e-14)
    across = project_trajectory(origin + coordinates @ basis[2:], d1, d2, origin=origin)
    np.testing.assert_allclose(across.coordinates, 0, atol=1e-14)
    assert across.explained < 1e-28


def test_coordinates_are_those_of_least_squares(rng):
    points, plane = rng.normal(size=(5, 9)), rng.normal(size=(2, 9))
    found = project_trajectory(points, *plane)
    moves = points - points[-1]
    reference, misfit, _, _ = np.linalg.lstsq(plane.T, moves.T, rcond=None)
    np.testing.assert_allclose(found.coordinates, reference.T, rtol=1e-12, atol=1e-14)
    assert found.explained == pytest.approx(1 - misfit.sum() / np.sum(moves**2), rel=1e-12)
    assert found.coordinates[-1].tolist() == [0.0, 0.0]
    tiny = project_trajectory(1e-170 * points, *(1e-170 * plane))
    np.testing.assert_allclose(tiny.coordinates, found.coordinates, rtol=1e-12)
    assert tiny.explained == pytest.approx(found.explained, rel=1e-12)


def test_what_principal_directions_explain_is_what_their_projection_explains(rng):
    points = rng.normal(size=(8, 15))
    found = trajectory_directions(points)
    seen = project_trajectory(points, *found.directions)
    assert seen.explained == pytest.approx(found.explained.sum(), rel=1e-12)
    assert seen.explained > project_trajectory(points, *rng.normal(size=(2, 15))).explained


def test_trees_and_flat_vectors_have_the_same_projection(rng):
    trees = [{"w": rng.normal(size=(3, 2)), "b": rng.normal(size=2)} for _ in range(6)]
    flat = [np.concatenate([tree["b"], tree["w"].reshape(-1)]) for tree in trees]
    first = project_trajectory(trees[2:], trees[0], trees[1], origin=trees[3])
    assert first == project_trajectory(np.stack(flat[2:]), flat[0], flat[1], origin=flat[3])


def test_a_trajectory_that_does_not_move_lies_in_every_plane():
    found = project_trajectory(np.ones((3, 4)), np.eye(4)[0], np.eye(4)[1])
    assert found.explained == 1.0
    assert not found.coordinates.any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_collinear_directions_are_refused_and_nearly_collinear_ones_are_not(rng, dtype):
    points, d = rng.normal(size=(3, 50)), rng.normal(size=50).astype(dtype)
    with pytest.raises(ValueError, match="collinear"):
        project_trajectory(points, d, (d / 3).astype(dtype))
    project_trajectory(points, d, (d + 1e-3 * rng.normal(size=50)).astype(dtype))


def test_points_and_directions_that_do_not_fit_are_refused():
    points, d = np.zeros((3, 4)), np.eye(4)
    with pytest.raises(ValueError, match="`d2` is zero"):
        project_trajectory(points, d[0], np.zeros(4))
    with pytest.raises(ShapeError, match="`d1` has 3 entries"):
        project_trajectory(points, np.ones(3), d[0])
    with pytest.raises(ShapeError, match="`origin` has 2 entries"):
        project_trajectory(points, d[0], d[1], origin=np.zeros(2))
    with pytest.raises(ShapeError, match=r"`seq` has shape \(4,\)"):
        project_trajectory(np.zeros(4), d[0], d[1])
    with pytest.raises(ShapeError, match="between 3 and 4 entries"):
        trajectory_directions([np.zeros(3), np.zeros(4)])
    with pytest.raises(TypeError, match="`seq` is a dict"):
        trajectory_directions({"w": points})
    with pytest.raises(DtypeError, match="`seq` has dtype int"):
        trajectory_directions(np.ones((3, 4), int))
    with pytest.raises(ValueError, match=r"`seq\[1\]`.*NaN"):
        trajectory_directions([np.zeros(2), np.full(2, np.nan)])
    with pytest.raises(ShapeError, match="`d1` has no arrays"):
        project_trajectory(points, None, d[0])


def test_results_print_draw_and_save(rng, tmp_path):
    points = rng.normal(size=(5, 7))
    plane = trajectory_directions(points)
    seen = project_trajectory(points, *plane.directions)
    for result, name in ((plane, "principal_directions"), (seen, "projected_trajectory")):
        (chart,) = result.charts()
        assert chart.to_dict()["name"] == name
        assert len(str(result).splitlines()) < 20
    assert f"{seen.explained:.1%}" in seen.charts()[0].caption
    assert ProjectedTrajectory.load(seen.save(tmp_path / "seen.zip")) == seen
    assert np.asarray(seen, dtype=np.float32).dtype == np.float32


def test_a_network_of_ours_has_its_neurons_in_columns():
    net = Sequential(Dense(6), Dense(2))
    params = net.init(jax.random.key(0), (3,), dtype="float64")
    system = System(net.apply, params, np.ones((2, 3)))
    for found, given in zip(jax.tree.leaves(random_direction(system)), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(np.linalg.norm(found, axis=0), np.linalg.norm(given, axis=0), rtol=1e-12)
    rows = jax.tree.leaves(random_direction(params))
    np.testing.assert_allclose(np.linalg.norm(rows[0], axis=1), np.linalg.norm(params[0]["w"], axis=1), rtol=1e-12)
