"""A piecewise linear path is straight between its points, and at them exactly what was given."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from widescape.core.errors import DtypeError, ShapeError
from widescape.paths.polyline import PiecewiseLinearPath, between, distance


def tree(*values, dtype=np.float64):
    return {"w": np.array(values, dtype), "b": [np.array(values[0], dtype)]}


@pytest.fixture
def path():
    return PiecewiseLinearPath([tree(0.0, 0.0), tree(1.0, 2.0), tree(1.0, 5.0)], ("up", "aside"))


def test_a_position_is_the_affine_combination_of_its_neighbors(path):
    for s, expected in ((0.25, (0.5, 1.0)), (0.5, (1.0, 2.0)), (0.75, (1.0, 3.5)), (0.9, (1.0, 4.4))):
        point = path(s)
        np.testing.assert_allclose(point["w"], expected, rtol=1e-14)
        np.testing.assert_allclose(point["b"][0], expected[0], rtol=1e-14)


@given(st.lists(st.floats(-1e30, 1e30), min_size=2, max_size=6), st.data())
def test_at_its_points_a_path_is_bit_for_bit_what_was_given(values, data):
    points = [np.array([value]) for value in values]
    path = PiecewiseLinearPath(points)
    i = data.draw(st.integers(0, path.num_segments - 1))
    assert path.segment(i, 0.0) is points[i]
    assert path.segment(i, 1.0) is points[i + 1]
    assert path(0.0) is points[0]
    assert path(1.0) is points[-1]


def test_the_end_of_a_segment_is_not_the_rounded_sum():
    a, b = np.array([1e16]), np.array([1.0])
    assert (a + 1.0 * (b - a) != b).all()
    assert PiecewiseLinearPath([a, b]).segment(0, 1.0) == b


def test_lengths_are_euclidean_over_all_leaves(path):
    np.testing.assert_allclose(path.lengths, [np.sqrt(1 + 4 + 1), 3.0], rtol=1e-15)
    assert path.length == pytest.approx(np.sqrt(6) + 3, rel=1e-15)
    assert distance(tree(1.0, 1.0), tree(1.0, 1.0)) == 0


def test_the_reverse_goes_the_same_way_back(path):
    back = path.reverse()
    assert back.kinds == ("aside", "up")
    assert back.points == path.points[::-1]
    for s in (0.0, 0.2, 0.5, 0.7, 1.0):
        np.testing.assert_allclose(back(s)["w"], path(1 - s)["w"], rtol=1e-14, atol=1e-15)
    assert back.reverse().points == path.points


def test_concatenation_goes_one_way_and_then_the_other(path):
    whole = path.concat(path.reverse())
    assert whole.kinds == ("up", "aside", "aside", "up")
    assert whole.num_segments == 4
    assert whole.length == pytest.approx(2 * path.length, rel=1e-15)
    np.testing.assert_allclose(whole(0.125)["w"], path(0.25)["w"], rtol=1e-15)
    np.testing.assert_allclose(whole(0.625)["w"], path.reverse()(0.25)["w"], rtol=1e-15)


def test_a_mapped_path_goes_through_the_mapped_points(path):
    doubled = path.map(lambda point: jax.tree.map(lambda leaf: 2 * leaf, point))
    np.testing.assert_allclose(doubled(0.3)["w"], 2 * path(0.3)["w"], rtol=1e-15)
    assert doubled.kinds == path.kinds


def test_segments_are_lines_unless_said_otherwise(path):
    assert PiecewiseLinearPath([np.zeros(1), np.ones(1), np.zeros(1)]).kinds == ("line", "line")
    assert list(path) == list(path.points)
    assert repr(path) == "PiecewiseLinearPath(2 segments between 3 parameters)"


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_single_precision_stays_single(dtype):
    path = PiecewiseLinearPath([tree(0.0, 1.0, dtype=dtype), tree(1.0, 2.0, dtype=dtype)])
    assert {leaf.dtype for leaf in jax.tree.leaves(path(0.3))} == {np.dtype(dtype)}


@pytest.mark.parametrize("make", [np.asarray, jnp.asarray])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, jnp.bfloat16, np.float64])
def test_between_ends_whose_difference_overflows_a_path_stays_finite(dtype, make):
    largest, eps = float(jnp.finfo(dtype).max), float(jnp.finfo(dtype).eps)
    third = np.asarray(largest / 3, dtype)
    given = [np.array([sign * largest, largest, third], dtype) for sign in (-1, 1)]
    with jax.enable_x64(dtype == np.float64):
        path = PiecewiseLinearPath([make(end) for end in given])
        for t in (0.1, 0.5, 0.9, 0.999):
            point = path(t)
            assert point.dtype == dtype
            found = np.asarray(point).astype(np.float64)
            assert found[0] / largest == pytest.approx(2 * t - 1, abs=4 * eps)
            assert found[1:].tolist() == [largest, float(third)]  # equal ends, exactly
        assert [np.asarray(path(t)).tolist() for t in (0, 1)] == [end.tolist() for end in given]


def test_arrays_of_jax_are_points_too():
    path = PiecewiseLinearPath([jnp.zeros(2, jnp.float32), jnp.ones(2, jnp.float32)])
    np.testing.assert_allclose(np.asarray(path(0.25)), 0.25, rtol=1e-7)
    np.testing.assert_allclose(np.asarray(between(*path.points, 0.25)), 0.25, rtol=1e-7)


def test_integers_cannot_be_interpolated():
    with pytest.raises(DtypeError, match=r"\['step'\].*int"):
        PiecewiseLinearPath([{"step": np.array(1)}, {"step": np.array(2)}])
    with pytest.raises(DtypeError, match="real"):
        PiecewiseLinearPath([np.zeros(1, complex), np.ones(1, complex)])


def test_points_that_are_not_alike_are_refused():
    with pytest.raises(ShapeError, match=r"points\[2\]"):
        PiecewiseLinearPath([tree(0.0, 1.0), tree(1.0, 1.0), {"w": np.zeros(2)}])
    with pytest.raises(ShapeError, match="shape"):
        PiecewiseLinearPath([np.zeros(2), np.zeros(3)])


def test_a_path_needs_two_points_and_a_word_for_each_segment():
    with pytest.raises(ShapeError, match="at least 2"):
        PiecewiseLinearPath([np.zeros(1)])
    with pytest.raises(ShapeError, match="2 entries for 1 segments"):
        PiecewiseLinearPath([np.zeros(1), np.ones(1)], ("a", "b"))


def test_positions_off_the_path_are_refused(path):
    for s in (-0.1, 1.1):
        with pytest.raises(ValueError, match="from 0 to 1"):
            path(s)
    with pytest.raises(ValueError, match="2 segments"):
        path.segment(2, 0.5)


def test_a_path_that_starts_elsewhere_does_not_continue_another(path):
    with pytest.raises(ValueError, match="does not start where"):
        path.concat(path)
    with pytest.raises(ShapeError, match="structure"):
        path.concat(PiecewiseLinearPath([np.zeros(1), np.ones(1)]))
