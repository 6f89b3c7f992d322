"""Renumbering units along all axes that belong to them leaves the function as it is; leaving one out does not."""

from dataclasses import dataclass
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from widescape import arch
from widescape.arch import Dense, Layer
from widescape.core.errors import ShapeError
from widescape.curvature import System
from widescape.paths.permutations import (
    apply_permutation,
    check_spec,
    leaf_names,
    mlp_spec,
    permutation_spec,
)


def chain(rng, *widths, dtype=np.float64):
    """Random weights and biases in the structure that `mlp_spec` names."""
    sizes = list(pairwise(widths))
    return {"layers": [(rng.normal(size=s).astype(dtype), rng.normal(size=s[1]).astype(dtype)) for s in sizes]}


def outputs(params, x):
    for i, (w, b) in enumerate(params["layers"]):
        x = (jnp.tanh(x) if i else x) @ w + b[None]
    return x


def shuffled(rng, spec, sizes):
    return {group: rng.permutation(n) for group, n in zip(spec, sizes, strict=True)}


# Names.


def test_leaves_are_named_by_keys_indices_and_attributes():
    tree = {"conv": {"w": np.zeros(1)}, "layers": [(np.zeros(1), None), (np.zeros(1), np.zeros(1))]}
    assert leaf_names(tree) == ("conv/w", "layers/0/0", "layers/1/0", "layers/1/1")


def test_two_leaves_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two leaves named 'a/b'"):
        leaf_names({"a": {"b": np.zeros(1)}, "a/b": np.zeros(1)})


# The action.


@pytest.mark.claim("ainsworth2022rebasin/I6")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_permuted_network_computes_the_same_function(rng, dtype, measured):
    params, x = chain(rng, 5, 9, 7, 8, 3, dtype=dtype), rng.normal(size=(20, 5)).astype(dtype)
    spec = mlp_spec(3)
    moved = apply_permutation(spec, shuffled(rng, spec, (9, 7, 8)), params)
    before, after = (System(outputs, p, x).F() for p in (params, moved))
    assert np.abs(moved["layers"][1][0] - params["layers"][1][0]).max() > 1
    error = np.abs(after - before).max() / np.abs(before).max()
    assert error < (1e-5 if dtype is np.float32 else 1e-13)
    measured(f"largest change {error:.1e} of the largest output in {np.dtype(dtype).name}")


def test_entry_i_of_an_axis_becomes_the_old_entry_perm_i(rng):
    w, order = rng.normal(size=(4, 3)), np.array([2, 0, 1])
    moved = apply_permutation({"P": [("w", 1)], "Q": [("w", 0)]}, {"P": order}, {"w": w})
    np.testing.assert_array_equal(moved["w"], w[:, order])


def test_an_axis_of_positions_times_units_has_its_units_last():
    flat, unit = np.arange(6.0), np.zeros(3)
    moved = apply_permutation({"P": [("unit", 0), ("flat", 0)]}, {"P": [2, 0, 1]}, {"flat": flat, "unit": unit})
    assert moved["flat"].tolist() == [2, 0, 1, 5, 3, 4]


def test_a_unit_with_a_block_owns_consecutive_entries():
    params = {"flat": np.arange(6.0), "unit": np.zeros(3)}
    moved = apply_permutation({"P": [("unit", 0), ("flat", 0, 2)]}, {"P": [2, 0, 1]}, params)
    assert moved["flat"].tolist() == [4, 5, 0, 1, 2, 3]


def test_a_block_alone_determines_the_number_of_units():
    moved = apply_permutation({"P": [("flat", -1, 3)]}, {"P": [1, 0]}, {"flat": np.arange(12.0).reshape(2, 6)})
    assert moved["flat"].tolist() == [[3, 4, 5, 0, 1, 2], [9, 10, 11, 6, 7, 8]]


@settings(deadline=None, max_examples=20)
@given(st.permutations(range(5)), st.permutations(range(5)))
def test_permutations_compose_and_have_inverses(p, q):
    params, spec = chain(np.random.default_rng(1), 2, 5, 1), mlp_spec(1)
    p, q = np.array(p), np.array(q)
    twice = apply_permutation(spec, {"P1": q}, apply_permutation(spec, {"P1": p}, params))
    once = apply_permutation(spec, {"P1": p[q]}, params)
    back = apply_permutation(spec, {"P1": np.argsort(p[q])}, twice)
    for one, other in ((twice, once), (back, params)):
        for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
            np.testing.assert_array_equal(left, right)


def test_dtypes_are_kept_and_leaves_without_units_are_shared():
    params = {"half": jnp.arange(3, dtype=jnp.bfloat16), "steps": np.int32([4, 5, 6]), "other": np.ones(3)}
    moved = apply_permutation({"P": [("half", 0), ("steps", 0)]}, {"P": [1, 2, 0]}, params)
    assert (moved["half"].dtype, moved["steps"].dtype) == (jnp.bfloat16, np.int32)
    assert (moved["half"].astype(float).tolist(), moved["steps"].tolist()) == ([1, 2, 0], [5, 6, 4])
    assert moved["other"] is params["other"]


def test_the_specification_of_a_chain_lists_weight_bias_and_next_weight():
    assert mlp_spec(2) == {
        "P1": [("layers/0/0", 1), ("layers/0/1", 0), ("layers/1/0", 0)],
        "P2": [("layers/1/0", 1), ("layers/1/1", 0), ("layers/2/0", 0)],
    }
    assert mlp_spec(1, biases=False) == {"P1": [("layers/0/0", 1), ("layers/1/0", 0)]}


# The networks of this library.


@pytest.mark.parametrize(
    ("net", "shape", "groups"),
    [
        (arch.fc(3, 6, 2, activation=arch.Relu(), b_std=0.1), (4,), ["P1", "P2", "P3"]),
        (arch.fc(1, 6, 2, activation=arch.Erf(), param="standard"), (2, 2, 1), ["P1"]),
        (arch.Sequential(Dense(5, b_std=0.0), arch.Softmax(), Dense(4), arch.Tanh(), arch.Identity()), (3,), ["P1"]),
        (
            arch.Sequential(arch.Frozen(arch.Sequential(Dense(5), arch.Relu(), Dense(4))), arch.Relu(), Dense(1)),
            (3,),
            ["P1", "P2"],
        ),
        (Dense(4), (3,), []),
    ],
)
def test_every_dense_layer_but_the_last_is_a_group_of_units(net, shape, groups):
    params = net.init(jax.random.key(1), shape)
    spec = permutation_spec(net, params)
    assert list(spec) == groups
    x = np.asarray(jax.random.normal(jax.random.key(2), (6, *shape), "float32"))
    check_spec(spec, params, net.apply, x)
    biases = [name for name in leaf_names(params) if name.endswith("b")]
    listed = [entry[0] for entries in spec.values() for entry in entries if entry[0].endswith("b")]
    last = [] if not biases or isinstance(net.layers[-1], arch.Identity) else biases[-1:]
    assert listed == biases[: len(biases) - len(last)]


@dataclass(frozen=True)
class Skip(Layer):
    """x + x, as far as anybody knows."""

    def out(self, signal):
        return signal

    def forward(self, params, h, signal):
        return h + h

    def limit(self, cov):
        return cov


def test_a_layer_that_is_not_understood_is_named():
    net = arch.Sequential(Dense(4), Skip(), Dense(1))
    with pytest.raises(NotImplementedError, match="layer 1, Skip"):
        permutation_spec(net, net.init(jax.random.key(0), (3,)))


def test_parameters_of_another_network_are_refused():
    net = arch.fc(2, 4, 1, activation=arch.Relu())
    with pytest.raises(ValueError, match="the leaves are"):
        permutation_spec(net, net.init(jax.random.key(0), (3,))[:3])


# The check.


def convolution(params, x):
    """Two convolutions with biases, a residual stream between them, a flatten, and a read-out."""

    def conv(h, w):
        return jax.lax.conv_general_dilated(h, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    h = jnp.tanh(conv(x, params["first"]) + params["b"][None, None, None])
    h = h + jnp.tanh(conv(h, params["second"]) * params["scale"][None, None, None])
    return h.reshape(len(h), -1) @ params["out"]


def channel_first(params, x):
    h = jnp.tanh(jnp.einsum("nhw,c->nchw", x[..., 0], params["first"]) + params["b"][None, :, None, None])
    return h.reshape(len(h), -1) @ params["out"]


STREAM = {"stream": [("first", 3), ("b", 0), ("second", 2), ("second", 3), ("scale", 0), ("out", 0)]}


def convolutional(rng, channels=5):
    return {
        "first": rng.normal(size=(3, 3, 1, channels)) / 3,
        "b": np.zeros(channels),
        "second": rng.normal(size=(3, 3, channels, channels)) / 3,
        "scale": np.ones(channels),
        "out": rng.normal(size=(4 * 4 * channels, 2)),
    }


def test_a_residual_stream_is_one_group_of_channels_that_a_flatten_ends(rng):
    check_spec(STREAM, convolutional(rng), convolution, rng.normal(size=(3, 4, 4, 1)))


@pytest.mark.parametrize("missing", range(6))
def test_whichever_leaf_is_left_out_of_a_residual_stream_it_is_refused_and_named(rng, missing):
    entries = list(STREAM["stream"])
    left_out = entries.pop(missing)
    with pytest.raises(ValueError, match="group 'stream' of `spec` is no symmetry") as refusal:
        check_spec({"stream": entries}, convolutional(rng), convolution, rng.normal(size=(3, 4, 4, 1)))
    assert f"With {left_out} they do not" in str(refusal.value)


def test_channels_before_their_positions_own_blocks(rng):
    params = {"first": rng.normal(size=3), "b": np.zeros(3), "out": rng.normal(size=(12, 2))}
    x = rng.normal(size=(4, 2, 2, 1))
    check_spec({"P": [("first", 0), ("b", 0), ("out", 0, 4)]}, params, channel_first, x)
    with pytest.raises(ValueError, match="look for one that is listed and must not be"):
        check_spec({"P": [("first", 0), ("b", 0), ("out", 0)]}, params, channel_first, x)


@pytest.mark.claim("ainsworth2022rebasin/P5")
def test_a_bias_that_is_zero_at_initialization_and_left_out_is_refused_by_name(rng):
    params = chain(rng, 4, 6, 6, 3)
    params = {"layers": [(w, np.zeros_like(b)) for w, b in params["layers"]]}
    x = rng.normal(size=(5, 4))
    check_spec(mlp_spec(2), params, outputs, x)
    with pytest.raises(ValueError, match=r"group 'P1'.*With \('layers/0/1', 0\) they do not"):
        check_spec(mlp_spec(2, biases=False), params, outputs, x)


def test_two_leaves_left_out_at_once_are_listed(rng):
    params = chain(rng, 4, 6, 3)
    with pytest.raises(ValueError, match=r"no group lists: \('layers/0/1', 0\), \('layers/1/0', 0\)"):
        check_spec({"P1": [("layers/0/0", 1)]}, params, outputs, rng.normal(size=(5, 4)))


def test_a_leaf_that_must_not_be_permuted_is_refused(rng):
    spec = {"P1": [*mlp_spec(1)["P1"], ("layers/1/1", 0)]}
    with pytest.raises(ValueError, match=r"Without \('layers/1/1', 0\) they do not"):
        check_spec(spec, chain(rng, 4, 3, 3), outputs, rng.normal(size=(5, 4)))


def test_the_check_takes_systems_single_precision_and_parameters_in_it(rng):
    params, x = chain(rng, 4, 6, 3, dtype=np.float32), rng.normal(size=(5, 4)).astype(np.float32)
    system = System(outputs, params, x)
    check_spec(mlp_spec(1), system.flat, system)
    with pytest.raises(ValueError, match="group 'P1'"):
        check_spec(mlp_spec(1, biases=False), params, system)
    with pytest.raises(TypeError, match="has its own inputs"):
        check_spec(mlp_spec(1), params, system, x)
    with pytest.raises(TypeError, match="`x` is needed"):
        check_spec(mlp_spec(1), params, outputs)


def test_a_function_that_rounds_to_single_precision_is_judged_by_that(rng):
    def single(params, x):
        return outputs(jax.tree.map(lambda leaf: leaf.astype("float32"), params), x.astype("float32"))

    params, x = chain(rng, 20, 30, 10), rng.normal(size=(5, 20))
    check_spec(mlp_spec(1), params, single, x)
    with pytest.raises(ValueError, match="group 'P1'"):
        check_spec(mlp_spec(1, biases=False), params, single, x)


def test_rounding_that_depth_amplifies_is_no_reason_for_refusal(rng):
    params, x = chain(rng, 20, *[40] * 12, 5), rng.normal(size=(5, 20))
    check_spec(mlp_spec(12), params, outputs, x)
    order = {"P1": np.roll(np.arange(40), 1)}
    before, after = (System(outputs, p, x).F() for p in (params, apply_permutation(mlp_spec(12), order, params)))
    assert np.abs(after - before).max() > 100 * np.finfo(float).eps * np.abs(before).max()


def test_a_probe_batch_on_which_outputs_vanish_is_refused(rng):
    with pytest.raises(ValueError, match="all zero"):
        check_spec({"P": [("w", 0)]}, {"w": np.ones(3)}, lambda p, x: x @ p["w"], np.zeros((2, 3)))


# Refusals.


@pytest.mark.parametrize("order", [[0, 1, 1], [0, 1, 3], [0, 1], [0.0, 1.0, 2.0], [[0, 1, 2]], [True, False, True]])
def test_what_is_no_permutation_is_refused_with_its_group(order):
    with pytest.raises(ValueError, match="group 'P' is no permutation of its 3 units"):
        apply_permutation({"P": [("w", 0)]}, {"P": order}, {"w": np.ones(3)})


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ([("w", 0)], TypeError, "give a mapping"),
        ({3: [("w", 0)]}, TypeError, "must be a string"),
        ({"P": []}, ValueError, "at least one"),
        ({"P": "w"}, ValueError, "at least one"),
        ({"P": ["w0"]}, ValueError, "'w0'"),
        ({"P": [("w",)]}, ValueError, "write"),
        ({"P": [("q", 0)]}, ValueError, "the leaves are v, w, z"),
        ({"P": [("w", 2)]}, ValueError, "has 2 axes"),
        ({"P": [("w", -3)]}, ValueError, "at least -2"),
        ({"P": [("w", 0.0)]}, TypeError, "must be an integer"),
        ({"P": [("w", 0, 0)]}, ValueError, "at least 1"),
        ({"P": [("w", 0)], "Q": [("w", -2)]}, ValueError, "so does group 'P'"),
        ({"P": [("w", 0), ("w", 0)]}, ValueError, "so does group 'P'"),
        ({"P": [("w", 0), ("w", 1)]}, ShapeError, "group 'P' of `spec` joins axes of 4 of 'w', 6 of 'w'"),
        ({"P": [("w", 1, 4)]}, ShapeError, "in blocks of 4"),
        ({"P": [("v", 0), ("w", 1, 3)]}, ShapeError, "does not hold 2 units"),
        ({"P": [("z", 0), ("w", 1, 1)]}, ShapeError, "'w' does not hold 3 units in blocks of 1"),
    ],
)
def test_a_specification_that_does_not_fit_is_refused_with_its_group(spec, error, message):
    with pytest.raises(error, match=message):
        apply_permutation(spec, {}, {"w": np.ones((4, 6)), "v": np.ones(5), "z": np.ones(3)})


def test_a_group_that_the_specification_lacks_is_refused():
    with pytest.raises(ValueError, match=r"group 'Q'; the groups of `spec` are P\."):
        apply_permutation({"P": [("w", 0)]}, {"Q": [0]}, {"w": np.ones(3)})


def test_a_chain_without_hidden_layers_has_no_specification():
    with pytest.raises(ValueError, match="at least 1"):
        mlp_spec(0)
