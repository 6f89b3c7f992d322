"""Arguments are checked at the boundary: what is refused is named, what is accepted comes back as promised."""

from typing import Literal

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from widescape.core import checks
from widescape.core.errors import DtypeError, PrecisionError, ShapeError

FINITE = st.floats(allow_nan=False, allow_infinity=False)


@pytest.mark.parametrize("value", [1, 0.5, np.float32(2), np.int64(3), np.array(1.5), jnp.asarray(1.5), 0])
def test_real_numbers_become_floats(value):
    found = checks.number(value, "w_std", "Dense")
    assert type(found) is float
    assert found == value


@pytest.mark.parametrize(
    "value", [None, "1", True, np.bool_(True), np.array(True), 1j, np.array(1j), [1.0], np.ones(1)]
)
def test_what_is_no_real_number_is_refused_by_name(value):
    with pytest.raises(TypeError, match=r"Dense: `w_std`"):
        checks.number(value, "w_std", "Dense")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, np.float32("nan"), np.array(np.inf)])
def test_numbers_are_finite(value):
    with pytest.raises(ValueError, match=r"Dense: `w_std` is .*; it must be a finite"):
        checks.number(value, "w_std", "Dense")


def test_zero_is_refused_only_where_a_number_must_be_positive():
    checks.not_negative(0.0, "b_std", "Dense")
    with pytest.raises(ValueError, match=r"Dense: `b_std` is 0.0; it must be a positive number"):
        checks.positive(0.0, "b_std", "Dense")
    with pytest.raises(ValueError, match=r"Dense: `b_std` is -1e-300; it must be a number that is not negative"):
        checks.not_negative(-1e-300, "b_std", "Dense")


def test_a_traced_number_passes():
    def twice(s):
        checks.positive(checks.number(s, "w_std", "Dense"), "w_std", "Dense")
        return 2 * s

    assert float(jax.jit(twice)(-1.0)) == -2.0


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3)])
def test_integers_from_the_minimum_on_are_counts(value):
    checks.count(value, "width", "Dense", minimum=3)
    with pytest.raises(ValueError, match=r"Dense: `width` is 3; it must be at least 4"):
        checks.count(value, "width", "Dense", minimum=4)


@pytest.mark.parametrize("value", [True, 3.0, "3", None, np.float64(3), np.array([3])])
def test_what_is_no_integer_is_no_count(value):
    with pytest.raises(TypeError, match=r"Dense: `width`"):
        checks.count(value, "width", "Dense")


@pytest.mark.parametrize("accepted", [Literal["sum", "mean"], ("sum", "mean")])
def test_a_choice_is_one_of_those_listed(accepted):
    checks.choice("mean", "reduction", accepted)
    with pytest.raises(ValueError, match=r"`reduction` is 'max'; choose one of 'sum', 'mean'"):
        checks.choice("max", "reduction", accepted)


@given(hnp.arrays(np.float64, (2, 3), elements=FINITE))
@settings(deadline=None, max_examples=25)
def test_a_batch_comes_back_as_it_is(x):
    batch = checks.batch(x, "x")
    assert batch.tobytes() == x.tobytes()
    assert batch.dtype == np.float64


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ml_dtypes.bfloat16])
def test_a_batch_of_any_real_dtype_becomes_contiguous_float64(dtype):
    batch = checks.batch(np.arange(6).reshape(2, 3).astype(dtype).T, "x")
    assert isinstance(batch, np.ndarray)
    assert batch.dtype == np.float64
    assert batch.flags.c_contiguous
    assert batch.tolist() == [[0, 3], [1, 4], [2, 5]]


def test_lists_and_jax_arrays_are_batches():
    assert checks.batch([[1.0, 2.0]], "x").shape == (1, 2)
    assert type(checks.batch(jnp.ones((1, 2)), "x", dtype="float32")) is np.ndarray


@pytest.mark.parametrize("x", [np.ones((2, 2), t) for t in ("int64", "uint8", "bool", "complex128", "object", "U1")])
def test_batches_of_other_than_real_numbers_are_refused(x):
    with pytest.raises(DtypeError, match=f"`x` has dtype {x.dtype}"):
        checks.batch(x, "x")


@pytest.mark.parametrize("shape", [(), (3,), (0, 3), (3, 0), (2, 0, 1)])
def test_a_batch_has_an_axis_of_examples_one_of_features_and_neither_empty(shape):
    with pytest.raises(ShapeError, match=r"`x` has shape"):
        checks.batch(np.ones(shape), "x")


def test_fewer_axes_are_a_batch_where_that_is_allowed():
    assert checks.batch(np.ones(3), "x", min_ndim=1).shape == (3,)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_entries_that_are_not_finite_are_counted_and_the_first_is_named(bad):
    x = np.ones((2, 3))
    x[1, [0, 2]] = bad
    with pytest.raises(ValueError, match=r"`x` has 2 entries .* the first at \(1, 0\)"):
        checks.batch(x, "x")
    assert np.array_equal(checks.batch(x, "x", finite=False), x, equal_nan=True)


@pytest.mark.parametrize("value", [1e300, -1e39])
def test_a_number_too_large_for_the_wanted_precision_is_refused(value):
    with pytest.raises(ValueError, match="`x`"):
        checks.batch(np.array([[value]]), "x", dtype="float32")


def test_a_traced_batch_passes_in_float64_and_is_refused_in_float32():
    def total(x):
        return jnp.sum(checks.batch(x, "x"))

    with jax.enable_x64(True):
        assert jax.jit(total)(np.ones((2, 2))) == 4.0
        with pytest.raises(PrecisionError, match="`x` is traced as float32"):
            jax.jit(total)(np.ones((2, 2), np.float32))
        with pytest.raises(ShapeError, match=r"shape \(2,\)"):
            jax.jit(total)(np.ones(2))


@given(hnp.arrays(np.float64, (3, 3), elements=st.floats(-1e100, 1e100)))
@settings(deadline=None, max_examples=25)
def test_a_symmetric_matrix_passes_unchanged(a):
    matrix = a + a.T
    assert checks.square_matrix(matrix, "K").tobytes() == matrix.tobytes()


@pytest.mark.parametrize("shape", [(), (4,), (2, 3), (0, 0), (2, 2, 2)])
def test_what_is_not_square_is_refused(shape):
    with pytest.raises(ShapeError, match="square matrix"):
        checks.square_matrix(np.ones(shape), "K")


def test_asymmetry_is_measured_against_the_largest_entry():
    matrix = np.array([[1e6, 1.0], [1.0 + 0.9e-2, 1.0]])
    checks.square_matrix(matrix, "K")
    matrix[1, 0] = 1.0 + 1.1e-2
    with pytest.raises(ValueError, match=r"`K` is not symmetric: .* up to 0\.011"):
        checks.square_matrix(matrix, "K")
    checks.square_matrix(matrix, "K", rtol=1e-6)


def test_a_float32_matrix_that_is_symmetric_up_to_its_own_rounding_passes():
    half = np.float32(0.5)
    matrix = np.array([[1.0, half], [np.nextafter(half, np.float32(1)), 1.0]], np.float32)
    assert checks.square_matrix(matrix, "K").dtype == np.float64


def test_matrices_of_integers_and_with_nan_are_refused():
    with pytest.raises(DtypeError, match="`K` has dtype int64"):
        checks.square_matrix(np.eye(2, dtype=int), "K")
    with pytest.raises(ValueError, match=r"`K` has 1 entries .* at \(0, 1\)"):
        checks.square_matrix(np.array([[1.0, np.nan], [0.0, 1.0]]), "K")
