"""Annexes: how they start, what they are judged by, and the minima that their training must reach."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog, minimize, minimize_scalar

from path_networks import (
    IMAGE_SHAPE,
    cross_entropy,
    half_squares,
    images,
    outputs_of_annexes,
    random_annexes,
    random_chain,
)
from widescape.core.errors import ShapeError
from widescape.paths import annexes as annexes_module
from widescape.paths import objective as objective_module
from widescape.paths.annexes import he_uniform, judged, member, passthrough, restricted, scaled, stacked
from widescape.paths.condition import feature_condition
from widescape.paths.layered import ChainLayer, Layered
from widescape.paths.objective import as_objective, best_scales


def case(rng, *, labels=False, activation="tanh", widths=(3, 7, 6, 3), dtype=np.float64, count=12, bias=True):
    net, plain = random_chain(rng, widths, activation=activation, dtype=dtype, bias=bias)
    x = rng.normal(size=(count, widths[0]))
    y = rng.integers(widths[-1], size=count) if labels else rng.normal(size=(count, widths[-1]))
    return net, plain, x, y


# Starts


def test_fresh_annexes_are_uniform_with_the_variance_of_he(rng):
    net, *_ = case(rng, widths=(30, 40, 20, 3), dtype=np.float32)
    stack = he_uniform(net, 1, (25, 10), 50, np.random.default_rng(0))
    assert [w.shape for w, _ in stack] == [(50, 25, 10), (50, 10, 3)]
    assert [b.shape for _, b in stack] == [(50, 10), (50, 3)]
    for (w, b), fan_in in zip(stack, (25, 10), strict=True):
        assert w.dtype == np.float32
        assert not b.any()
        assert np.abs(w).max() <= (6 / fan_in) ** 0.5
        # the variance of w^2 is 4/5 of its squared mean for a uniform w
        assert (w**2).mean() == pytest.approx(2 / fan_in, rel=4 * (0.8 / w.size) ** 0.5)
        assert abs(w.mean()) < 4 * (2 / fan_in / w.size) ** 0.5


def test_fresh_convolutional_annexes_count_all_positions_of_their_inputs(rng):
    net, _ = images(rng)
    stack = he_uniform(net, 1, (4, 3, 2), 20, np.random.default_rng(0))
    assert [w.shape for w, _ in stack] == [(20, 2, 3, 4, 3), (20, 4 * 3, 2), (20, 2, 3)]
    for (w, _), fan_in in zip(stack, (24, 12, 2), strict=True):
        assert 0.9 * (6 / fan_in) ** 0.5 < np.abs(w).max() <= (6 / fan_in) ** 0.5


def test_restriction_keeps_what_is_left_when_other_units_are_zeroed(rng):
    net, plain = images(rng, activation="tanh")
    x = rng.normal(size=(4, *IMAGE_SHAPE))
    kept = [np.array([[0, 3, 5]]), np.array([[4, 1]]), np.array([[0, 2, 6]])]
    small = member(restricted(net, 1, kept, 1), 0)
    found = second_annex(net, plain, small, x, kept[0][0])
    h = plain.features(net.layers, x, 0, 1)
    for layer, rows in ((1, kept[0][0]), (2, kept[1][0]), (3, kept[2][0])):
        zeroed = np.zeros_like(h)
        zeroed[..., rows] = h[..., rows]
        h = plain.features(net.layers, zeroed, layer, layer + 1)
    np.testing.assert_allclose(found, h, rtol=1e-12)


def second_annex(net, plain, pairs, x, rows):
    """The outputs of an annex that reads some units of layer 1."""
    return plain.tail(1).features(pairs, plain.features(net.layers, x, 0, 1)[..., rows])


def test_scaling_multiplies_the_outputs_each_by_its_own_factor(rng):
    net, plain, x, _ = case(rng)
    subset = np.arange(3)
    stack = stacked([random_annexes(rng, net, (3, 3), (subset, subset))[1] for _ in range(2)])
    other = scaled(stack, np.array([2.0, -0.5]))
    for k, factor in enumerate((2.0, -0.5)):
        before, after = (second_annex(net, plain, member(s, k), x, subset) for s in (stack, other))
        np.testing.assert_allclose(after, factor * before, rtol=1e-13)


# What they are judged by


@pytest.mark.parametrize("loss", ["square", "cross_entropy"])
def test_the_best_scale_is_that_of_an_independent_search(loss, rng):
    net, _, x, y = case(rng, labels=loss == "cross_entropy", count=20)
    _, objective = as_objective(net, x, y, loss)
    plain_loss = half_squares if loss == "square" else cross_entropy
    stack = rng.normal(size=(6, 20, 3)) * 10.0 ** np.arange(-2, 4)[:, None, None]
    stack[1] *= -1
    target = y if loss == "square" else np.eye(3)[y]
    stack[::2] += 0.4 * target * np.abs(stack[::2]).mean(axis=(1, 2), keepdims=True)
    found = best_scales(stack, objective)
    assert (found >= 0).all()
    assert (found > 0).sum() >= 3
    for z, r in zip(stack, found, strict=True):
        unit = np.abs(z).mean()
        independent = minimize_scalar(
            lambda s, z=z, unit=unit: plain_loss(s / unit * z, y),
            bounds=(0, 50),
            method="bounded",
            options={"xatol": 1e-11},
        )
        least = min(independent.fun, plain_loss(0 * z, y))
        assert plain_loss(r * z, y) <= least * (1 + 1e-10)
    if loss == "square":
        closed = np.maximum(np.sum(stack * y[None], axis=(1, 2)) / np.sum(stack**2, axis=(1, 2)), 0)
        np.testing.assert_allclose(found, closed, rtol=1e-6, atol=1e-9)


def test_groups_of_draws_and_of_examples_do_not_change_what_is_found(rng, monkeypatch):
    net, plain, x, y = case(rng, labels=True, count=23)
    subsets = np.array([np.sort(np.random.default_rng(k).permutation(7)[:4]) for k in range(5)])
    stack = stacked([random_annexes(rng, net, (3, 3), (rows, np.arange(3)))[1] for rows in subsets])
    chain, objective = as_objective(net, x, y, "cross_entropy")
    whole = judged(chain, 1, stack, subsets, objective, rescale=True)
    for k, rows in enumerate(subsets):
        z = second_annex(net, plain, member(stack, k), x, rows)
        assert whole.losses[k] == pytest.approx(cross_entropy(whole.scales[k] * z, y), rel=1e-10)
    monkeypatch.setattr(annexes_module, "_NUMBERS", 2 * 23 * 3)
    monkeypatch.setattr(annexes_module, "_ROWS", 10)
    monkeypatch.setattr(objective_module, "_ROWS", 10)
    parts = judged(chain, 1, stack, subsets, objective, rescale=True)
    np.testing.assert_allclose(parts.losses, whole.losses, rtol=1e-13)
    np.testing.assert_allclose(parts.scales, whole.scales, rtol=1e-6)
    np.testing.assert_array_equal(parts.errors, whole.errors)


@pytest.mark.parametrize("outputs", [1, 3])
def test_answers_are_wrong_where_another_output_is_at_least_as_large(outputs, rng):
    net, *_ = case(rng, widths=(3, 4, outputs))
    x = rng.normal(size=(4, 3))
    if outputs == 1:
        _, objective = as_objective(net, x, np.array([0, 1, 1, 0]), lambda z, y: (z**2).mean())
        assert objective.wrong(np.array([[-1.0], [2.0], [-0.1], [0.3]])).tolist() == [False, False, True, True]
        return
    _, objective = as_objective(net, x, np.array([0, 1, 2, 2]), "cross_entropy")
    z = np.array([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 5.0], [9.0, 0.0, 5.0]])
    assert objective.wrong(z).tolist() == [False, True, False, True]
    assert objective.error(z) == 0.5


# Minima


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layer_kind", ["vectors", "images"])
def test_the_read_out_for_square_loss_is_the_least_squares_solution(bias, layer_kind, rng):
    if layer_kind == "images":
        shapes = [(2, 2, 1, 6), (3 * 4 * 6, 2)]
        layers = [(rng.normal(size=s), rng.normal(size=s[-1]) if bias else None) for s in shapes]
        net = Layered(layers, jnp.tanh, {1: ChainLayer(block=12)})
        x, subset = rng.normal(size=(60, 3, 4, 1)), np.array([1, 4])
        with jax.enable_x64(True):
            h = np.asarray(net.features(x, 1))[..., subset].reshape(60, -1)
    else:
        net, plain, x, _ = case(rng, widths=(3, 6, 2), bias=bias, count=60)
        subset = np.array([0, 2, 5])
        h = plain.features(net.layers, x, 0, 1)[:, subset]
    y = rng.normal(size=(60, 2))
    report = feature_condition(net, x, y, "square", subsets=[subset], widths=[2], draws=1, steps=1)
    design = np.column_stack([h, np.ones(60)]) if bias else h
    solution = np.linalg.solve(design.T @ design, design.T @ y)
    assert report.losses[1] == pytest.approx(half_squares(design @ solution, y), rel=1e-10)
    w, b = report.annexes[1][0]
    np.testing.assert_allclose(w, solution[: h.shape[1]], rtol=1e-7, atol=1e-10)
    assert (b is None) != bias


@pytest.mark.parametrize("bias", [True, False])
def test_the_read_out_for_cross_entropy_is_the_minimum(bias, rng):
    net, plain, x, y = case(rng, labels=True, widths=(3, 6, 3), bias=bias, count=60)
    subset = np.array([0, 2, 5])
    report = feature_condition(net, x, y, "cross_entropy", subsets=[subset], widths=[2], draws=1, steps=300)
    h = plain.features(net.layers, x, 0, 1)[:, subset]
    design = np.column_stack([h, np.ones(60)]) if bias else h
    found = minimize(lambda w: cross_entropy(design @ w.reshape(-1, 3), y), np.zeros(3 * design.shape[1]), tol=1e-12)
    assert report.losses[1] == pytest.approx(found.fun, rel=1e-7)


def test_the_read_out_for_a_loss_of_ones_own_is_the_minimum(rng):
    net, plain, x, y = case(rng, widths=(3, 6, 2), count=40)

    def pseudo_huber(z, y):
        return jnp.sum(jnp.sqrt(1 + (z - y) ** 2))

    subset = np.array([1, 3, 4])
    report = feature_condition(net, x, y, pseudo_huber, subsets=[subset], widths=[2], draws=1, steps=300)
    design = np.column_stack([plain.features(net.layers, x, 0, 1)[:, subset], np.ones(40)])
    found = minimize(lambda w: np.sqrt(1 + (design @ w.reshape(-1, 2) - y) ** 2).sum(), np.zeros(8), tol=1e-12)
    assert report.losses[1] == pytest.approx(found.fun, rel=1e-8)


def test_deep_annexes_take_steps_of_adam_on_the_mean_loss(rng):
    """Two steps on all data, against Adam written out, with gradients by central differences in float64."""
    net, plain, x, y = case(rng, widths=(3, 5, 4, 2), count=9)
    subsets = (np.array([0, 3]), np.array([1, 2]))
    start = random_annexes(rng, net, (2, 2), subsets)
    report = feature_condition(net, x, y, "square", annexes=start, subsets=subsets, steps=2, lr=0.01, batch=9, draws=1)
    for layer in (0, 1):
        structure = jax.tree.structure(start[layer])
        shapes = [leaf.shape for leaf in jax.tree.leaves(start[layer])]
        splits = np.cumsum([int(np.prod(s)) for s in shapes])[:-1]

        def rebuilt(w, splits=splits, shapes=shapes, structure=structure):
            parts = [p.reshape(s) for p, s in zip(np.split(w, splits), shapes, strict=True)]
            return jax.tree.unflatten(structure, parts)

        def value(w, layer=layer, rebuilt=rebuilt):
            full = (*start[:layer], rebuilt(w), *start[layer + 1 :])
            return half_squares(outputs_of_annexes(net, plain, subsets, full, x)[layer], y)

        w = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(start[layer])])
        first, second = np.zeros_like(w), np.zeros_like(w)
        for step in (1, 2):
            gradient = np.array([(value(w + 1e-5 * e) - value(w - 1e-5 * e)) / 2e-5 for e in np.eye(len(w))])
            first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
            w = w - 0.01 * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
        found = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(report.annexes[layer])])
        np.testing.assert_allclose(found, w, rtol=1e-5, atol=1e-6)


def test_every_example_is_in_one_batch_of_an_epoch(rng):
    """With 12 examples and batches of 4, three steps that only count examples see each of them once."""
    seen = np.concatenate([next(b) for b in [annexes_module._batches(12, 4, rng)] for _ in range(3)])
    assert sorted(seen.tolist()) == list(range(12))
    assert len(next(annexes_module._batches(5, 100, rng))) == 5
    endless = annexes_module._batches(10, 4, rng)
    pairs = [np.concatenate([next(endless), next(endless)]) for _ in range(20)]
    assert all(len(set(p.tolist())) == 8 for p in pairs)


# The passthrough


@pytest.mark.claim("nguyen2021connectivity/C5")
def test_a_passthrough_reproduces_its_linear_fit_in_single_precision(measured, rng):
    """Through two hidden layers of c units, on data where most fitted outputs are negative."""
    net, plain, x, y = case(rng, activation="relu", widths=(3, 8, 8, 9, 4), dtype=np.float32, count=50)
    y = y - 3
    subsets = tuple(np.sort(rng.permutation(n)[:4]) for n in (8, 8, 9))
    report = feature_condition(
        net, x, y, "square", annex="linear_passthrough", widths=(4, 4, 4), subsets=subsets, draws=1
    )
    found = outputs_of_annexes(net, plain, subsets, report.annexes, x)
    worst = 0.0
    for layer, z in enumerate(found):
        h = x if layer == 0 else plain.features(net.layers, x, 0, layer)[:, subsets[layer - 1]]
        design = np.column_stack([h, np.ones(len(h))])
        logits = design @ np.linalg.lstsq(design, y, rcond=None)[0]
        assert (logits < 0).mean() > 0.5
        worst = max(worst, np.abs(z - logits).max())
    assert worst < 1e-5
    assert all(w.dtype == np.float32 for pairs in report.annexes for w, _ in pairs)
    measured(f"largest difference {worst:.1e}")


def separable(h, y, classes):
    """Whether some affine map of features gives every label its largest value with a margin of 1: a linear program."""
    design = np.column_stack([h, np.ones(len(h))])
    rows = []
    for features, label in zip(design, y, strict=True):
        for other in range(classes):
            if other != label:
                row = np.zeros((classes, design.shape[1]))
                row[other], row[label] = features, -features
                rows.append(row.ravel())
    found = linprog(np.zeros(classes * design.shape[1]), np.array(rows), -np.ones(len(rows)), bounds=(None, None))
    return found.status == 0


@pytest.mark.claim("nguyen2021connectivity/T2")
@pytest.mark.parametrize("activation", ["relu", "leaky"])
def test_separable_features_need_annexes_no_wider_than_the_number_of_classes(activation, measured, rng):
    """Annexes of c = 3 units a layer behind features that a linear program shows to be separable."""
    net, plain, x, y = case(rng, activation="relu", widths=(16, 14, 14, 3), labels=True, count=15)
    if activation == "leaky":
        net = Layered(net.layers, lambda z: jax.nn.leaky_relu(z, 0.1))
        plain = type(plain)((lambda z: np.where(z > 0, z, 0.1 * z),) * 2)
    subsets = tuple(np.arange(11) for _ in range(2))
    for layer in (1, 2):
        assert separable(plain.features(net.layers, x, 0, layer)[:, :11], y, 3)
    report = feature_condition(
        net, x, y, "cross_entropy", annex="linear_passthrough", widths=(3, 3), subsets=subsets, draws=1
    )
    assert report.widths == (3, 3)
    assert report.errors.tolist() == [0, 0, 0]
    assert report.losses.max() < 1e-4
    found = outputs_of_annexes(net, plain, subsets, report.annexes, x)
    losses = [cross_entropy(z, y) for z in found]
    np.testing.assert_allclose(report.losses, losses, rtol=1e-6, atol=1e-12)
    measured(f"{activation}: losses of annexes with 3 units up to {report.losses.max():.0e}")


@pytest.mark.claim("nguyen2021connectivity/R1")
def test_a_passthrough_needs_room_biases_vectors_and_the_identity_on_positive_numbers(rng):
    def asked(net, x, y, widths):
        return feature_condition(net, x, y, "square", annex="linear_passthrough", widths=widths, draws=1)

    net, _, x, y = case(rng, activation="relu")
    with pytest.raises(ShapeError, match="layer 2 gives annexes 2 units, but a passthrough of 3 outputs"):
        asked(net, x, y, (3, 2))
    smooth, *_ = case(rng, activation="tanh")
    with pytest.raises(NotImplementedError, match="layer 1"):
        asked(smooth, x, y, (3, 3))
    no_bias, *_ = case(rng, activation="relu", bias=False)
    with pytest.raises(NotImplementedError, match="layer 1 has no bias"):
        asked(no_bias, x, y, (3, 3))
    pictures, _ = images(rng)
    with pytest.raises(NotImplementedError, match="layer 1 reads images"):
        asked(pictures, rng.normal(size=(4, *IMAGE_SHAPE)), rng.normal(size=(4, 3)), (3, 2, 3))
    doubling = Layered(net.layers, jax.nn.relu, {0: ChainLayer(after=lambda h: 2 * h)})
    with pytest.raises(NotImplementedError, match="layer 1"):
        asked(doubling, x, y, (3, 3))


def test_a_passthrough_of_positive_outputs_is_not_shifted(rng):
    net, plain, x, _ = case(rng, activation="relu")
    y = np.abs(x @ rng.normal(size=(3, 3))) + 5
    _, objective = as_objective(net, x, y, "square")
    pairs = passthrough(net, 0, None, (3, 3), objective, 10)
    assert not pairs[-1][1].any()
    design = np.column_stack([x, np.ones(len(x))])
    fit = design @ np.linalg.lstsq(design, y, rcond=None)[0]
    np.testing.assert_allclose(plain.features(pairs, x), fit, rtol=1e-10)
