"""Double precision is computed where it is promised, and leaks nowhere."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from widescape.core.errors import PrecisionError
from widescape.core.precision import call_in_float64, has_float64, is_traced, require_traced_float64

THIRD = 1 / 3


def third(x):
    return {"third": jnp.asarray(x) / 3, "pair": (jnp.ones(2) / 3, None)}


@pytest.fixture
def flag():
    """The process-wide flag, which must be the same afterwards."""
    before = jax.config.jax_enable_x64
    yield before
    assert jax.config.jax_enable_x64 == before
    assert jnp.ones(1).dtype == (jnp.float64 if before else jnp.float32)


@pytest.mark.parametrize("process_wide", [False, True])
def test_arrays_come_back_as_float64_of_numpy_whatever_the_flag(process_wide, flag):
    with jax.enable_x64(process_wide):
        result = call_in_float64(third, 1.0)
        assert jnp.ones(1).dtype == (jnp.float64 if process_wide else jnp.float32)
    assert type(result["third"]) is np.ndarray
    assert type(result["pair"][0]) is np.ndarray
    assert result["pair"][1] is None
    assert result["third"].dtype == result["pair"][0].dtype == np.float64
    assert float(result["third"]) == THIRD
    assert result["pair"][0].tolist() == [THIRD, THIRD]


def test_the_scope_closes_when_the_function_fails(flag):
    def fail():
        assert jnp.ones(1).dtype == jnp.float64
        raise KeyError("on purpose")

    with pytest.raises(KeyError, match="on purpose"):
        call_in_float64(fail)


def test_a_call_inside_of_a_call_keeps_the_outer_scope_open(flag):
    def outer():
        inside = call_in_float64(third, 1.0)["third"]
        return jnp.asarray(inside) + jnp.ones(()) / 3

    assert float(call_in_float64(outer)) == THIRD + THIRD


def test_a_call_in_a_thread_is_in_float64_and_leaks_to_no_other(flag):
    inside, outside = {}, {}
    entered, left = threading.Event(), threading.Event()

    def slow():
        entered.set()
        assert left.wait(10)
        return jnp.ones(1) / 3

    thread = threading.Thread(target=lambda: inside.update(result=call_in_float64(slow)))
    thread.start()
    assert entered.wait(10)
    outside["dtype"] = jnp.ones(1).dtype  # while the thread is in its scope
    left.set()
    thread.join()
    assert inside["result"].dtype == np.float64
    assert float(inside["result"][0]) == THIRD
    assert outside["dtype"] == (jnp.float64 if flag else jnp.float32)


def test_traced_values_are_recognized_anywhere_in_a_tree():
    seen = []

    def function(x):
        seen.append((is_traced({"a": [1.0, x]}), is_traced(1.0, x), is_traced(1.0, np.ones(1))))
        return x

    jax.jit(function)(1.0)
    assert seen == [(True, True, False)]
    assert not is_traced(jnp.ones(1))


def test_a_tracer_of_less_than_float64_is_refused_by_name_with_the_scope_to_open():
    def function(x):
        require_traced_float64(x, "w_std")
        return x

    with jax.enable_x64(True):
        assert jax.jit(function)(np.float64(1)) == 1
        for dtype in (np.float32, np.float16, np.int64):
            with pytest.raises(PrecisionError, match=r"`w_std` is traced as .*jax\.enable_x64\(True\)"):
                jax.jit(function)(dtype(1))
    with jax.enable_x64(False), pytest.raises(PrecisionError, match="float32"):
        jax.grad(function)(1.0)


def test_values_that_are_not_traced_are_nobody_elses_business():
    require_traced_float64(np.float32(1), "x")
    require_traced_float64(jnp.ones(2, jnp.float32), "x")
    require_traced_float64("text", "x")


def test_float64_is_asked_for_by_any_array_of_doubles():
    assert has_float64({"a": np.ones(1, np.float32)}, [np.ones(1)])
    assert not has_float64({"a": np.ones(1, np.float32)}, [1.0, None, np.arange(2)])
    assert not has_float64()
