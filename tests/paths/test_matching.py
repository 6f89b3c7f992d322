"""Matching finds the renumbering that brings two networks together: by brute force, planted, and in units of loss."""

from itertools import pairwise, permutations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from widescape import arch
from widescape.core.errors import DtypeError, NonFiniteError, ShapeError
from widescape.curvature import System
from widescape.paths.matching import (
    ActivationAlignment,
    Alignment,
    AlignmentStatus,
    activation_matching,
    hidden_activations,
    weight_matching,
)
from widescape.paths.permutations import apply_permutation, mlp_spec, permutation_spec


def chain(rng, *widths):
    """Random weights and biases in the structure that `mlp_spec` names."""
    return {"layers": [(rng.normal(size=s), rng.normal(size=s[1])) for s in pairwise(widths)]}


def outputs(params, x):
    for i, (w, b) in enumerate(params["layers"]):
        x = (jax.nn.relu(x) if i else x) @ w + b[None]
    return x


def inner_product(a, b):
    return sum(np.vdot(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def cosine(a, b):
    return inner_product(a, b) / np.sqrt(inner_product(a, a) * inner_product(b, b))


def planted(rng, spec, sizes, params):
    """Parameters with their units renumbered at random, and the renumbering that undoes it."""
    orders = {group: rng.permutation(n) for group, n in zip(spec, sizes, strict=True)}
    undo = {group: np.argsort(order) for group, order in orders.items()}
    return apply_permutation(spec, orders, params), undo


def require_equal(one, other):
    for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(left, right)


# Weights.


@pytest.mark.claim("ainsworth2022rebasin/C6")
def test_with_one_hidden_layer_of_5_units_matching_is_the_best_of_all_120_permutations(rng, measured):
    worst = 0.0
    for _ in range(20):
        a, b = chain(rng, 3, 5, 2), chain(rng, 3, 5, 2)
        found = weight_matching(mlp_spec(1), a, b)
        tried = {
            order: inner_product(a, apply_permutation(mlp_spec(1), {"P1": np.array(order)}, b))
            for order in permutations(range(5))
        }
        assert len(tried) == 120
        assert tuple(found.permutations["P1"]) == max(tried, key=tried.get)
        assert found.objective[1] == found.objective[-1]
        assert found.evidence("permutations").kind == "proved"
        worst = max(worst, abs(found.objective[-1] - max(tried.values())))
    assert worst < 1e-12
    measured(f"20 pairs of networks, the same permutation each time, objectives equal to {worst:.0e}")


@pytest.mark.claim("ainsworth2022rebasin/I7")
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_a_planted_permutation_is_recovered(rng, noise, measured):
    a, spec = chain(rng, 10, 32, 24, 16, 4), mlp_spec(3)
    b, undo = planted(rng, spec, (32, 24, 16), a)
    b = jax.tree.map(lambda leaf: leaf + noise * rng.normal(size=leaf.shape), b)
    found = weight_matching(spec, a, b)
    assert found.status is AlignmentStatus.OK
    for group, order in undo.items():
        np.testing.assert_array_equal(found.permutations[group], order)
    if not noise:
        require_equal(apply_permutation(spec, found, b), a)
        assert found.similarity_after == pytest.approx(1, abs=1e-14)
    measured(f"all 72 units of three layers, b with noise of {noise:g} of its entries' size")


def test_a_planted_permutation_is_recovered_through_convolutions_streams_and_flattens(rng):
    n = 6
    params = {
        "first": rng.normal(size=(3, 3, 2, n)),
        "stream": rng.normal(size=(3, 3, n, n)),
        "inside": rng.normal(size=(n, 8)),
        "back": rng.normal(size=(8, n)),
        "last": rng.normal(size=(4 * n, 3)),
        "first_last": rng.normal(size=(3, 5 * n)),
    }
    spec = {
        "stream": [
            *(("first", 3), ("stream", 2), ("stream", 3), ("inside", 0), ("back", -1), ("last", 0)),
            ("first_last", 1, 5),
        ],
        "branch": [("inside", 1), ("back", 0)],
    }
    b, undo = planted(rng, spec, (n, 8), params)
    found = weight_matching(spec, params, b)
    for group, order in undo.items():
        np.testing.assert_array_equal(found.permutations[group], order)
    require_equal(apply_permutation(spec, found, b), params)


def stream(rng):
    return {"w": rng.normal(size=(7, 7)), "v": rng.normal(size=(7, 9)), "u": rng.normal(size=(9, 7))}


STREAM = {"P": [("w", 0), ("w", 1), ("v", 0), ("u", 1)], "Q": [("v", 1), ("u", 0)]}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", ["chain", "stream"])
def test_the_objective_never_falls_and_is_the_inner_product_with_the_permuted_network(seed, kind):
    rng = np.random.default_rng(seed)
    a, b = (chain(rng, 3, 12, 12, 12, 2) if kind == "chain" else stream(rng) for _ in range(2))
    spec = mlp_spec(3) if kind == "chain" else STREAM
    found = weight_matching(spec, a, b, key=jax.random.key(seed))
    assert found.status.ok
    assert len(found.objective) == found.num_sweeps + 1
    assert (np.diff(found.objective) >= 0).all()
    assert found.objective[-1] - found.objective[-2] < 1e-10
    moved = apply_permutation(spec, found, b)
    np.testing.assert_allclose(found.objective[[0, -1]], [inner_product(a, b), inner_product(a, moved)], rtol=1e-12)
    np.testing.assert_allclose(found.similarity_before, cosine(a, b), rtol=1e-12)
    np.testing.assert_allclose(found.similarity_after, cosine(a, moved), rtol=1e-12)
    assert found.evidence("permutations").kind == "sampled"


def test_at_the_end_no_exchange_of_two_units_of_a_chain_gains(rng):
    a, b, spec = chain(rng, 3, 8, 8, 2), chain(rng, 3, 8, 8, 2), mlp_spec(2)
    found = weight_matching(spec, a, b)
    moved = apply_permutation(spec, found, b)
    for group in spec:
        for i in range(8):
            for j in range(i):
                order = np.arange(8)
                order[[i, j]] = j, i
                exchanged = apply_permutation(spec, {group: order}, moved)
                assert inner_product(a, exchanged) <= found.objective[-1] + 1e-12


def test_a_search_that_is_cut_off_says_so(rng):
    a, b = chain(rng, 3, 20, 20, 20, 2), chain(rng, 3, 20, 20, 20, 2)
    found = weight_matching(mlp_spec(3), a, b, max_sweeps=1)
    assert found.status is AlignmentStatus.MAX_SWEEPS
    assert found.num_sweeps == 1
    assert not found.status.ok


def test_one_sweep_is_optimal_and_enough_where_no_leaf_joins_two_groups(rng):
    a, b = chain(rng, 3, 20, 2), chain(rng, 3, 20, 2)
    one, many = (weight_matching(mlp_spec(1), a, b, max_sweeps=sweeps) for sweeps in (1, 100))
    assert one.status is AlignmentStatus.OK
    assert one.evidence("permutations").kind == "proved"
    assert one == many
    assert one.num_sweeps == 1
    assert one.objective[1] > one.objective[0]


def test_a_gain_within_rounding_of_the_norms_is_not_taken():
    a, b = {"w": np.array([1e6, 1.0, 0.0])}, {"w": np.array([1e6, 0.0, 0.9])}
    assert weight_matching({"P": [("w", 0)]}, a, b).permutations["P"].tolist() == [0, 1, 2]
    b["w"][2] = 1.1
    assert weight_matching({"P": [("w", 0)]}, a, b).permutations["P"].tolist() == [0, 2, 1]


@pytest.mark.parametrize("large", ["a", "b"])
@pytest.mark.parametrize("hidden", [1, 2])
def test_parameters_whose_norm_overflows_are_refused_by_name(rng, large, hidden):
    given = {name: chain(rng, 3, *[4] * hidden, 2) for name in "ab"}
    given[large] = jax.tree.map(lambda leaf: 1e200 * leaf, given[large])
    with pytest.raises(NonFiniteError, match=f"norm of `{large}` overflows.* changes no permutation"):
        weight_matching(mlp_spec(hidden), given["a"], given["b"])


def test_the_scale_of_a_network_does_not_matter(rng):
    a, b = chain(rng, 3, 9, 9, 2), chain(rng, 3, 9, 9, 2)
    small, large = ({"layers": [(f * w, f * c) for w, c in b["layers"]]} for f in (1e-14, 1e14))
    orders = [weight_matching(mlp_spec(2), a, other).permutations for other in (b, small, large)]
    for other in orders[1:]:
        for group in orders[0]:
            np.testing.assert_array_equal(orders[0][group], other[group])


@pytest.mark.claim("ainsworth2022rebasin/P5")
def test_units_that_differ_in_their_bias_alone_are_matched_by_it(rng):
    a = {"layers": [(np.ones((2, 6)), rng.normal(size=6)), (np.ones((6, 1)), np.zeros(1))]}
    b, undo = planted(rng, mlp_spec(1), (6,), a)
    found = weight_matching(mlp_spec(1), a, b)
    np.testing.assert_array_equal(found.permutations["P1"], undo["P1"])
    blind = weight_matching(mlp_spec(1, biases=False), a, b)
    assert (blind.permutations["P1"] != undo["P1"]).any()


@pytest.mark.claim("ainsworth2022rebasin/P1")
def test_units_that_are_all_zero_match_anything_and_the_function_is_recovered(rng):
    a, spec, x = chain(rng, 4, 12, 3), mlp_spec(1), rng.normal(size=(30, 4))
    (w, b), (v, _) = a["layers"]
    w[:, ::2], b[::2], v[::2] = 0, 0, 0
    other, undo = planted(rng, spec, (12,), a)
    found = weight_matching(spec, a, other)
    aligned = apply_permutation(spec, found, other)
    np.testing.assert_array_equal(found.permutations["P1"][1::2], undo["P1"][1::2])
    assert (found.permutations["P1"] != undo["P1"]).any()
    np.testing.assert_array_equal(System(outputs, aligned, x).F(), System(outputs, a, x).F())


def test_a_network_that_is_zero_has_cosine_zero(rng):
    a = chain(rng, 2, 3, 1)
    found = weight_matching(mlp_spec(1), a, jax.tree.map(np.zeros_like, a))
    assert (found.similarity_before, found.similarity_after) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"b": {"w": np.ones(4)}}, ShapeError, "shape"),
        ({"b": {"v": np.ones(3)}}, ShapeError, "structure"),
        ({"b": {"w": np.arange(3)}}, DtypeError, "int64"),
        ({"b": {"w": np.array([1.0, np.nan, 0.0])}}, ValueError, r"b\['w'\]"),
        ({"spec": {"P": [("q", 0)]}}, ValueError, "group 'P'"),
        ({"max_sweeps": 0}, ValueError, "max_sweeps"),
    ],
)
def test_networks_that_cannot_be_matched_are_refused(change, error, message):
    given = {"spec": {"P": [("w", 0)]}, "b": {"w": np.ones(3)}, "max_sweeps": 10} | change
    with pytest.raises(error, match=message):
        weight_matching(given["spec"], {"w": np.ones(3)}, given["b"], max_sweeps=given["max_sweeps"])


# Activations.


def test_the_correlations_are_those_of_numpy_and_their_sum_is_the_largest_of_all(rng):
    a, b = rng.normal(size=(40, 5)), rng.normal(size=(40, 5))
    found = activation_matching(a, b)
    similarity = np.corrcoef(a.T, b.T)[:5, 5:]
    best = max(permutations(range(5)), key=lambda order: similarity[range(5), order].sum())
    assert tuple(found.permutations["P1"]) == best
    assert found.matched["P1"] == pytest.approx(similarity[range(5), best].mean(), rel=1e-12)
    np.testing.assert_allclose(found.objective, [np.trace(similarity), similarity[range(5), best].sum()], rtol=1e-12)
    assert found.similarity_after == pytest.approx(found.matched["P1"], rel=1e-12)


def test_inner_products_are_second_moments_without_centering(rng):
    a, b = rng.normal(size=(40, 5)) + 1, rng.normal(size=(40, 5)) - 2
    found = activation_matching(a, b, "inner")
    moments = a.T @ b / 40
    best = max(permutations(range(5)), key=lambda order: moments[range(5), order].sum())
    assert tuple(found.permutations["P1"]) == best
    assert found.matched["P1"] == pytest.approx(moments[range(5), best].mean(), rel=1e-12)
    assert found.similarity_before == pytest.approx(np.vdot(a, b) / np.linalg.norm(a) / np.linalg.norm(b), rel=1e-12)


def test_scales_and_shifts_of_units_do_not_matter_to_correlations(rng):
    a = rng.normal(size=(50, 8))
    order = rng.permutation(8)
    b = 10.0 ** rng.uniform(-150, 150, 8) * a[:, order]
    for shifted in (b, a[:, order] + 1e6):
        found = activation_matching(a, shifted)
        np.testing.assert_array_equal(found.permutations["P1"], np.argsort(order))
        assert found.matched["P1"] == pytest.approx(1, abs=1e-9)


def test_centering_is_exact_for_units_that_vary_little_around_a_large_mean(rng):
    a, b = rng.integers(0, 2, size=(2, 37, 6)).astype(float)
    near, far = (2.0**26 + 2.0**-20 * pattern for pattern in (a, b))
    found, plain = activation_matching(near, far), activation_matching(a, b)
    assert found.matched["P1"] == pytest.approx(plain.matched["P1"], rel=1e-12)
    np.testing.assert_allclose(found.objective, plain.objective, rtol=1e-12)


def test_positions_count_as_samples(rng):
    a, b = rng.normal(size=(3, 4, 5, 6)), rng.normal(size=(3, 4, 5, 6))
    assert activation_matching({"c": a}, {"c": b}) == activation_matching(
        {"c": a.reshape(60, 6)}, {"c": b.reshape(60, 6)}
    )


@pytest.mark.claim("ainsworth2022rebasin/P1")
def test_dead_and_constant_units_are_counted_and_the_function_is_recovered_if_not_the_indices(rng, measured):
    net = arch.fc(2, 32, 3, activation=arch.Relu(), w_std=2**0.5, b_std=0.1, param="standard")
    a = jax.tree.map(np.array, net.init(jax.random.key(1), (6,), dtype="float64"))
    x = rng.uniform(-1, 1, size=(200, 6))
    a[1]["b"][:10] = -100.0  # dead
    a[1]["w"][:, 10:13], a[1]["b"][10:13] = 0.0, 0.7  # constant
    spec = permutation_spec(net, a)
    b, undo = planted(rng, spec, (32, 32), a)
    found = activation_matching(*(hidden_activations(net, params, x) for params in (a, b)))
    silent = int((hidden_activations(net, a, x)["P2"] == 0).all(axis=0).sum())
    assert found.constant_units == {"P1": (13, 13), "P2": (silent, silent)}
    assert found.matched["P1"] == pytest.approx(19 / 32, abs=1e-12)
    assert found.similarity_after == pytest.approx(1, abs=1e-12)
    aligned = apply_permutation(spec, found, b)
    outputs_a, outputs_b = (np.asarray(net.apply(params, x)) for params in (a, aligned))
    np.testing.assert_allclose(outputs_b, outputs_a, atol=1e-12 * np.abs(outputs_a).max())
    right = found.permutations["P1"] == undo["P1"]
    assert right[13:].all()
    assert not right[:13].all()
    measured(f"{right.mean():.0%} of the indices of a layer with 13 of 32 units constant; the outputs all the same")


def test_a_unit_that_varies_by_rounding_alone_is_constant():
    a = np.array([[1.0, 0.1], [2.0, 0.1], [3.0, 0.1 * (1 + 2**-52)], [5.0, 0.1]])
    assert activation_matching(a, a).constant_units["P1"] == (1, 1)
    b = np.array([[1.0, 0.1], [2.0, 0.1], [3.0, 0.1 * (1 + 2**-40)], [5.0, 0.1]])
    assert activation_matching(b, b).constant_units["P1"] == (0, 0)


def test_units_that_are_all_constant_have_similarity_zero():
    found = activation_matching(np.ones((4, 3)), np.ones((4, 3)))
    assert (found.matched["P1"], found.similarity_after, found.objective.tolist()) == (0.0, 0.0, [0.0, 0.0])
    assert sorted(found.permutations["P1"]) == [0, 1, 2]


def test_hidden_activations_are_what_the_next_dense_layer_reads(rng):
    net = arch.Sequential(
        arch.Flatten(), arch.Frozen(arch.Dense(5, b_std=0.3)), arch.Tanh(), arch.Dense(4), arch.Softmax(), arch.Dense(2)
    )
    params = net.init(jax.random.key(3), (2, 3, 1), dtype="float64")
    x = rng.normal(size=(7, 2, 3, 1))
    found = hidden_activations(net, params, x)
    first = np.tanh(x.reshape(7, 6) @ np.asarray(params[1]["w"]) / 6**0.5 + 0.3 * np.asarray(params[1]["b"]))
    second = np.exp(first @ np.asarray(params[3]["w"]) / 5**0.5)
    assert list(found) == list(permutation_spec(net, params))
    assert found["P1"].dtype == np.float64
    np.testing.assert_allclose(found["P1"], first, rtol=1e-13)
    np.testing.assert_allclose(found["P2"], second / second.sum(axis=1, keepdims=True), rtol=1e-13)


def test_single_precision_stays_in_single_precision(rng):
    net = arch.fc(1, 4, 1, activation=arch.Relu())
    x = rng.normal(size=(5, 3)).astype(np.float32)
    found = hidden_activations(net, net.init(jax.random.key(0), (3,)), x)
    assert found["P1"].dtype == np.float32


@pytest.mark.parametrize(
    ("a", "b", "error", "message"),
    [
        (np.ones((4, 3)), np.ones((5, 3)), ShapeError, "same groups"),
        ({"P": np.ones((4, 3))}, {"Q": np.ones((4, 3))}, ShapeError, "same groups"),
        (np.ones(4), np.ones(4), ShapeError, r"\(N, n\)"),
        (np.ones((0, 4)), np.ones((0, 4)), ShapeError, "not empty"),
        ({}, {}, ShapeError, "no groups"),
        (np.ones((4, 3), int), np.ones((4, 3)), DtypeError, "int64"),
        (np.ones((4, 3)), np.full((4, 3), np.inf), ValueError, "acts_b"),
    ],
)
def test_activations_that_do_not_fit_are_refused(a, b, error, message):
    with pytest.raises(error, match=message):
        activation_matching(a, b)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="'pearson', 'inner'"):
        activation_matching(np.ones((4, 3)), np.ones((4, 3)), "cosine")


@pytest.mark.parametrize("kind", ["pearson", "inner"])
def test_moments_that_overflow_are_refused(kind):
    huge = np.array([[1.7e308, 1.0], [-1.7e308, 2.0]])
    with pytest.raises(NonFiniteError, match="'P1' overflow"):
        activation_matching(huge, huge, kind)


# The result.


def test_alignments_print_save_and_load_bit_for_bit(rng, tmp_path):
    a, b = chain(rng, 3, 6, 6, 2), chain(rng, 3, 6, 6, 2)
    weights = weight_matching(mlp_spec(2), a, b)
    acts = activation_matching({"P1": rng.normal(size=(9, 4))}, {"P1": rng.normal(size=(9, 4))})
    assert isinstance(acts, ActivationAlignment)
    for i, found in enumerate((weights, acts)):
        assert found.method in str(found)
        assert Alignment.load(found.save(tmp_path / f"{i}.zip")) == found
        assert not found.permutations["P1"].flags.writeable


def test_the_order_of_groups_is_drawn_from_the_key(rng):
    a, b = chain(rng, 3, 30, 30, 30, 2), chain(rng, 3, 30, 30, 30, 2)
    found = [weight_matching(mlp_spec(3), a, b, key=jax.random.key(seed)).objective[-1] for seed in (0, 0, 1, 2, 3)]
    assert found[0] == found[1]
    assert len(set(found)) > 1


def test_leaves_of_jax_and_of_low_precision_are_matched_in_float64(rng):
    w = jnp.asarray(rng.normal(size=6), jnp.bfloat16)
    order = rng.permutation(6)
    found = weight_matching({"P": [("w", 0)]}, {"w": w}, {"w": w[order]})
    np.testing.assert_array_equal(found.permutations["P"], np.argsort(order))
    assert found.objective.dtype == np.float64
