"""Points at which something is certified are in double precision, or refused with the way to get there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from widescape.core.errors import PrecisionError, ShapeError
from widescape.curvature import System
from widescape.landscape.minima.in_float64 import Flattened, features_in_float64, loss_in_float64

POINT = {"a": np.array([1.0, 2.0]), "b": np.array(3.0)}
SINGLE = jax.tree.map(lambda leaf: leaf.astype(np.float32), POINT)


def cubic(q):
    return jnp.sum(q["a"] ** 3) + q["b"]


def stacked(q):
    return {"x": q["a"][:, None] * q["b"], "y": q["b"] ** 2}


def narrow(q):
    return jnp.sum(q["a"].astype(jnp.float32)).astype(jnp.float64) + q["b"]


def test_a_function_of_parameters_becomes_a_system_in_double_precision():
    system = loss_in_float64(cubic, POINT, "test")
    assert system.double
    assert system.value() == 12.0
    np.testing.assert_array_equal(system.grad(), [3, 12, 1])
    rounded = loss_in_float64(cubic, SINGLE, "test", allow_float32=True)
    assert rounded.double
    assert rounded.value() == 12.0


def test_features_are_flattened_in_the_order_of_their_leaves():
    system = features_in_float64(stacked, POINT, "test")
    np.testing.assert_array_equal(system.F(), [3, 6, 9])
    np.testing.assert_array_equal(system.jacobian(), [[3, 0, 1], [0, 3, 2], [0, 0, 6]])
    np.testing.assert_array_equal(features_in_float64(lambda q: q["b"], POINT, "test").F(), [3.0])
    assert Flattened(stacked) == Flattened(stacked)
    assert hash(Flattened(stacked)) == hash(Flattened(stacked))
    assert Flattened(stacked) != Flattened(cubic)


def test_a_system_keeps_its_loss_and_moves_to_the_point():
    own = System(lambda w, x: x @ w, np.array([1.0, 2.0]), np.eye(2), np.zeros(2), reduction="mean")
    assert loss_in_float64(own, None, "test").value() == 1.25
    assert loss_in_float64(own, np.array([2.0, 2.0]), "test").value() == 2.0
    with pytest.raises(ShapeError):
        loss_in_float64(own, np.ones(3), "test")


def test_single_precision_is_refused_unless_it_is_allowed():
    with pytest.raises(PrecisionError, match="the parameters are float32"):
        loss_in_float64(cubic, SINGLE, "test")
    with pytest.raises(PrecisionError, match="the parameters are float32"):
        features_in_float64(stacked, SINGLE, "test")
    with pytest.raises(PrecisionError, match="the parameters are float32"):
        features_in_float64(stacked, {**POINT, "b": np.float32(3)}, "test")
    single = System(lambda w, x: x @ w, np.ones(2, np.float32), np.eye(2, dtype=np.float32), np.zeros(2, np.float32))
    with pytest.raises(PrecisionError, match="allow_float32=True"):
        loss_in_float64(single, None, "test")
    assert loss_in_float64(single, None, "test", allow_float32=True).double


def test_arithmetic_below_double_precision_inside_is_refused_by_name():
    with pytest.raises(PrecisionError, match="convert_element_type to float32"):
        loss_in_float64(narrow, POINT, "test")
    with pytest.raises(PrecisionError, match="convert_element_type to float32"):
        features_in_float64(narrow, POINT, "test")
    assert loss_in_float64(narrow, POINT, "test", allow_float32=True).value() == 6.0


def test_what_is_no_function_is_refused():
    with pytest.raises(TypeError, match="`phi` is 3"):
        features_in_float64(3, POINT, "test")
    with pytest.raises(TypeError, match="`loss` is 3"):
        loss_in_float64(3, POINT, "test")
    with pytest.raises(TypeError, match="one real number"):
        loss_in_float64(lambda q: q["a"], POINT, "test")
    with pytest.raises(TypeError):
        loss_in_float64(cubic, None, "test")


@pytest.mark.parametrize("low", ["bfloat16", "float16", "float32"])
def test_every_narrow_floating_point_type_is_refused_by_its_name(low):
    point = {**POINT, "a": jnp.asarray(POINT["a"], low)}
    for enter, function in ((loss_in_float64, cubic), (features_in_float64, stacked)):
        with pytest.raises(PrecisionError, match=f"the parameters are {low};"):
            enter(function, point, "test")
    assert loss_in_float64(cubic, point, "test", allow_float32=True).value() == 12.0
    own = System(lambda w, x: x @ w, jnp.ones(2, low), jnp.eye(2, dtype=low), jnp.zeros(2, low))
    with pytest.raises(PrecisionError, match=f"the parameters are {low};"):
        loss_in_float64(own, None, "test")
