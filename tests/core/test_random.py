"""Keys have names, and a name gives the same key everywhere."""

import json
import subprocess
import sys

import jax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from widescape.core.random import named_key

# Found once and frozen: these numbers make a survey of today that of tomorrow.
GOLDEN = {
    (0, ("weights", 0)): (1016803252, 3547545608),
    (20, ("data", "permutation")): (3443105226, 702492231),
}


def numbers(key):
    return tuple(int(n) for n in jax.random.key_data(key))


def test_keys_are_those_that_they_always_were():
    found = {(seed, names): numbers(named_key(jax.random.key(seed), *names)) for seed, names in GOLDEN}
    assert found == GOLDEN


def test_keys_do_not_depend_on_the_order_in_which_they_are_asked_for():
    root = jax.random.key(0)
    first = {i: numbers(named_key(root, "weights", i)) for i in range(4)}
    second = {i: numbers(named_key(root, "weights", i)) for i in reversed(range(4))}
    assert first == second
    assert len(set(first.values())) == 4


@pytest.mark.parametrize("flag", ["0", "1"])
def test_keys_do_not_depend_on_the_process_or_its_precision(flag):
    code = (
        "import jax; from widescape.core.random import named_key\n"
        "print(jax.random.key_data(named_key(jax.random.key(0), 'weights', 0)).tolist())"
    )
    environment = {"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": "77", "JAX_ENABLE_X64": flag, "PATH": ""}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert tuple(json.loads(run.stdout)) == GOLDEN[0, ("weights", 0)]


@given(st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1))
@settings(deadline=None, max_examples=25)
def test_different_seeds_give_different_keys(a, b):
    equal = numbers(named_key(jax.random.key(a), "x")) == numbers(named_key(jax.random.key(b), "x"))
    assert equal is (a == b)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (("weights", 0), ("weights", 1)),
        (("a", "b"), ("b", "a")),
        (("a",), ("a", "a")),
        (("ab",), ("a", "b")),
        (("a/b",), ("a", "b")),
        (("a", ""), ("a/",)),
    ],
    ids=repr,
)
def test_different_names_give_different_keys(a, b):
    root = jax.random.key(0)
    assert numbers(named_key(root, *a)) != numbers(named_key(root, *b))


def test_a_named_key_is_not_the_key_it_came_from():
    root = jax.random.key(0)
    assert numbers(named_key(root, "x")) != numbers(root)


def test_keys_can_be_named_inside_of_a_compiled_function():
    root = jax.random.key(3)
    assert numbers(jax.jit(lambda key: named_key(key, "x", 1))(root)) == numbers(named_key(root, "x", 1))
