"""Arithmetic on PyTrees is arithmetic on the vector of all their entries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from widescape.core import tree

ENTRIES = st.floats(-100, 100, allow_subnormal=False, width=32)
TREES = st.builds(
    lambda a, b, c: {"a": a, "b": (b, [c])},
    hnp.arrays(np.float64, (2, 3), elements=ENTRIES),
    hnp.arrays(np.float64, (4,), elements=ENTRIES),
    hnp.arrays(np.float64, (), elements=ENTRIES),
)


def vector(value):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(value)])


@given(TREES, TREES, ENTRIES)
@settings(deadline=None, max_examples=25)
def test_sums_differences_and_multiples_are_those_of_the_vectors(a, b, factor):
    with jax.enable_x64(True):
        for result, expected in (
            (tree.add(a, b), vector(a) + vector(b)),
            (tree.subtract(a, b), vector(a) - vector(b)),
            (tree.scale(factor, a), factor * vector(a)),
        ):
            assert jax.tree.structure(result) == jax.tree.structure(a)
            assert np.array_equal(vector(result), expected)


@given(TREES, TREES)
@settings(deadline=None, max_examples=25)
def test_the_inner_product_and_the_norm_are_those_of_the_vectors(a, b):
    with jax.enable_x64(True):
        size = np.abs(vector(a)) @ np.abs(vector(b))
        assert abs(float(tree.dot(a, b)) - vector(a) @ vector(b)) <= 1e-14 * size
        assert np.isclose(float(tree.norm(a)), np.linalg.norm(vector(a)), rtol=1e-14, atol=0)


def test_the_size_is_the_number_of_entries():
    assert tree.size({"a": np.ones((2, 3)), "b": [np.ones(()), np.ones(0)]}) == 7
    assert tree.size(()) == 0


def test_trees_of_different_structure_are_refused():
    with pytest.raises(ValueError, match=r"structure|Dict key mismatch|arity"):
        tree.add({"a": np.ones(1)}, {"b": np.ones(1)})


def test_float32_stays_float32():
    a = {"a": jnp.ones(2, jnp.float32)}
    for result in (tree.add(a, a), tree.subtract(a, a), tree.scale(0.5, a)):
        assert result["a"].dtype == jnp.float32
    assert tree.norm(a).dtype == jnp.float32


def test_the_norm_has_the_gradient_of_a_norm():
    a = {"a": jnp.array([3.0]), "b": jnp.array([[4.0]])}
    gradient = jax.grad(tree.norm)(a)
    assert vector(gradient) == pytest.approx([0.6, 0.8], rel=1e-6)


def test_the_inner_product_of_empty_trees_is_zero():
    assert float(tree.dot((), ())) == 0.0
    assert float(tree.norm({})) == 0.0
