"""The maximum of a convex loss on a path: exact for genuine paths, refused for those that only look alike."""

import itertools
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from path_networks import (
    IMAGE_SHAPE,
    cross_entropy,
    half_squares,
    images,
    random_chain,
    random_end,
)
from widescape import data, train
from widescape.core.errors import NotCertifiable
from widescape.curvature import System
from widescape.paths.barriers import barrier
from widescape.paths.condition import feature_condition
from widescape.paths.connection import connect
from widescape.paths.dropout import dropout_stability
from widescape.paths.layered import ChainLayer, Layered
from widescape.paths.path_proof import PathBound, path_bound, require_affine
from widescape.paths.polyline import PiecewiseLinearPath


@cache
def genuine(seed=0, bias=True, activation="tanh"):
    """A path between two random networks 3-6-5-7-2 with random annexes, and everything it came from."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(6, 3)), rng.normal(size=(6, 2))
    (net0, plain), (net1, _) = (random_chain(rng, (3, 6, 5, 7, 2), bias=bias, activation=activation) for _ in range(2))
    reports = [random_end(rng, net, plain, x, y) for net in (net0, net1)]
    return connect(net0, net1, *reports), net0, net1, plain, reports, x, y


def changed(net, layer, where, value):
    """The chain with one entry of a weight (or of a bias, for a one-dimensional place) of `layer` replaced."""
    layers = [list(pair) for pair in net.layers]
    part = 0 if len(where) > 1 else 1
    array = layers[layer - 1][part].copy()
    array[where] = value
    layers[layer - 1][part] = array
    return net.with_layers(tuple(tuple(pair) for pair in layers))


def read_units(a, b, layer):
    """Units of a hidden layer that are read at one of two points, in a way that reaches the outputs."""
    read = np.ones(a.widths[-1], bool)
    for p in range(a.num_layers, layer, -1):
        read = sum((np.abs(n.layers[p - 1][0][:, read]).sum(axis=1) for n in (a, b)), np.zeros(a.widths[p - 1])) > 0
    return np.flatnonzero(read)


def segments_of(path, kind):
    return [i for i, k in enumerate(path.kinds) if k == kind]


# The exact maximum


@pytest.mark.claim("nguyen2021connectivity/I4")
@pytest.mark.claim("nguyen2021connectivity/T1")
@pytest.mark.parametrize("activation", ["relu", "tanh", "cubic"])
@pytest.mark.parametrize("bias", [True, False])
def test_the_bound_is_the_largest_sampled_loss_and_that_of_ends_and_annexes(activation, bias, measured):
    path, net0, net1, plain, reports, x, y = genuine(1, bias, activation)
    found = path_bound(path, net0, net1, *reports, x, y, "square")
    at_points = [half_squares(plain.features(p.layers, x), y) for p in path]
    np.testing.assert_allclose(found.per_waypoint, at_points, rtol=1e-10)
    assert found.value == found.per_waypoint.max()
    assert found.reports_value == max(r.bound for r in reports)
    assert found.value == pytest.approx(found.reports_value, rel=1e-10)
    inside = [
        half_squares(plain.features(path.segment(i, t).layers, x), y)
        for i in range(path.num_segments)
        for t in np.linspace(0, 1, 13)
    ]
    assert max(inside) <= found.value * (1 + 1e-6)
    assert max(inside) >= found.value * (1 - 1e-9)
    assert found.error is None
    assert found.kinds == path.kinds
    measured(f"{activation}: sampled {max(inside) / found.value - 1:+.0e} of the bound")


@pytest.mark.claim("nguyen2021connectivity/I4")
@pytest.mark.parametrize("double", [False, True])
def test_convolutional_paths_have_an_exact_bound(double):
    rng = np.random.default_rng(3)
    dtype = np.float64 if double else np.float32
    x, y = rng.normal(size=(5, *IMAGE_SHAPE)), rng.normal(size=(5, 3))
    (net0, plain), (net1, _) = (images(rng, dtype=dtype) for _ in range(2))
    reports = [random_end(rng, net, plain, x, y) for net in (net0, net1)]
    path = connect(net0, net1, *reports)
    found = path_bound(path, net0, net1, *reports, x, y, "square")
    assert found.value == pytest.approx(max(r.bound for r in reports), rel=1e-10)
    inside = [
        half_squares(plain.features(path.segment(i, t).layers, x), y)
        for i in range(path.num_segments)
        for t in (0.3, 0.7)
    ]
    assert max(inside) <= found.value * (1 + 1e-6)


def test_an_answer_is_wrong_on_a_segment_only_if_it_is_wrong_at_one_of_its_ends():
    path, net0, net1, plain, *_ = genuine(2)
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(60, 3)), rng.integers(2, size=60)
    found = path_bound(path, net0, net1, None, None, x, labels, "cross_entropy")
    wrong = [plain.features(p.layers, x).argmax(axis=1) != labels for p in path]
    np.testing.assert_allclose(found.per_waypoint_error, [w.mean() for w in wrong])
    assert found.error == pytest.approx(max((a | b).mean() for a, b in itertools.pairwise(wrong)))
    inside = [
        (plain.features(path.segment(i, t).layers, x).argmax(axis=1) != labels).mean()
        for i in range(path.num_segments)
        for t in np.linspace(0, 1, 9)
    ]
    assert max(inside) <= found.error + 1e-12
    assert found.error > found.per_waypoint_error.max()
    losses = [cross_entropy(plain.features(p.layers, x), labels) for p in path]
    np.testing.assert_allclose(found.per_waypoint, losses, rtol=1e-10)
    assert found.reports_value is None


def test_data_on_which_nothing_was_trained_and_other_convex_losses_have_a_bound_too():
    path, net0, net1, plain, _, _, _ = genuine(2)
    rng = np.random.default_rng(9)
    x, y = rng.normal(size=(8, 3)), rng.normal(size=(8, 2))

    def largest(outputs, y):
        return jnp.abs(outputs - y).max()

    found = path_bound(path, net0, net1, None, None, x, y, largest)
    expected = [np.abs(plain.features(p.layers, x) - y).max() for p in path]
    assert found.value == pytest.approx(max(expected), rel=1e-10)


def test_a_bound_is_saved_printed_and_drawn(tmp_path):
    path, net0, net1, _, reports, x, y = genuine(0)
    found = path_bound(path, net0, net1, *reports, x, y, "square")
    assert PathBound.load(found.save(tmp_path / "bound.result")) == found
    assert len(str(found).splitlines()) <= 20
    (chart,) = found.charts()
    np.testing.assert_array_equal(chart.series[0].y, found.per_waypoint)


# What the proof of a segment takes and refuses


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_every_segment_of_a_path_passes_and_only_read_outs_move_the_outputs(seed, bias):
    path = genuine(seed, bias)[0]
    for i, kind in enumerate(path.kinds):
        assert require_affine(path.points[i], path.points[i + 1], "segment") == (kind != "readout")
        assert require_affine(path.points[i + 1], path.points[i], "segment") == (kind != "readout")


@pytest.mark.claim("nguyen2021connectivity/P4")
@pytest.mark.parametrize("value", [1e-300, -1e-300, 5e-324, 1e-30, np.finfo(float).eps, 1.0])
@pytest.mark.parametrize("at", [(0,), (1,), (0, 1)], ids=["at the start", "at the end", "at both ends"])
def test_a_unit_is_free_only_if_its_outgoing_weights_are_exactly_zero(value, at, measured):
    refused = 0
    for seed in range(3):
        path = genuine(seed)[0]
        for i in segments_of(path, "free"):
            ends = list(path.points[i : i + 2])
            for layer in range(1, 4):
                moved = np.flatnonzero((ends[0].layers[layer - 1][0] != ends[1].layers[layer - 1][0]).any(axis=0))
                readers = np.arange(2) if layer == 3 else read_units(*ends, layer + 1)
                if not len(moved) or not len(readers):
                    continue
                cut = list(ends)
                for k in at:
                    cut[k] = changed(ends[k], layer + 1, (moved[0], readers[0]), value)
                with pytest.raises(NotCertifiable, match="layer"):
                    require_affine(*cut, "segment")
                refused += 1
    assert refused > 20
    measured(f"an outgoing weight of {value:.0e}: {refused} of {refused} refused")


@pytest.mark.claim("nguyen2021connectivity/P4")
def test_a_negative_zero_is_a_zero():
    path = genuine(0)[0]
    i = segments_of(path, "free")[0]
    a, b = path.points[i : i + 2]
    unit = int(np.setdiff1d(np.arange(7), read_units(a, b, 3))[0])
    a, b = (changed(p, 4, (unit, 0), -0.0) for p in (a, b))
    assert require_affine(a, b, "segment")


@pytest.mark.claim("nguyen2021connectivity/P4")
@pytest.mark.parametrize("kind", ["copy", "shift"])
def test_a_copy_that_is_off_by_one_bit_does_not_hand_over(kind):
    """The twin of a shift differs by one ulp in what enters it, or in what is handed over."""
    refused = 0
    for seed in range(5):
        path = genuine(seed)[0]
        for i in segments_of(path, "shift"):
            a, b = path.points[i : i + 2]
            layer = next(p for p in range(2, 5) if not np.array_equal(a.layers[p - 1][0], b.layers[p - 1][0]))
            w0, w1 = a.layers[layer - 1][0], b.layers[layer - 1][0]
            row, column = (int(k[0]) for k in np.nonzero((w1 != 0) & (w0 != w1)))
            if kind == "copy":
                entry = a.layers[layer - 2][0][0, row]
                a, b = (changed(p, layer - 1, (0, row), np.nextafter(entry, np.inf)) for p in (a, b))
            else:
                b = changed(b, layer, (row, column), np.nextafter(w1[row, column], np.inf))
            if layer == 4:
                assert not require_affine(a, b, "segment")
            else:
                with pytest.raises(NotCertifiable, match=f"layer {layer}"):
                    require_affine(a, b, "segment")
            refused += 1
    assert refused > 5


@pytest.mark.claim("nguyen2021connectivity/P4")
@pytest.mark.parametrize("part", ["weight", "bias"])
def test_nothing_that_enters_a_unit_that_is_read_may_move_by_one_bit(part):
    path = genuine(0)[0]
    for i in range(path.num_segments):
        a, b = path.points[i : i + 2]
        for layer in range(1, 4):
            unit = int(read_units(a, b, layer)[0])
            where = (1, unit) if part == "weight" else (unit,)
            value = b.layers[layer - 1][part == "bias"][where]
            moved = changed(b, layer, where, np.nextafter(value, np.inf))
            with pytest.raises(NotCertifiable, match="layer"):
                require_affine(a, moved, "segment")


@pytest.mark.claim("nguyen2021connectivity/P4")
@pytest.mark.parametrize(
    ("before", "after"),
    [((0.3, -0.2), (0.4, -0.3)), ((1.0, 1e-17), (1.0, 2e-17)), ((1.0, 0.0), (1.0, 1e-17))],
    ids=["shares", "a share below rounding", "a share from nothing"],
)
def test_twins_that_are_read_together_are_not_handed_over(before, after):
    """Their sums agree at both ends in float64, but not as numbers."""
    rng = np.random.default_rng(0)
    w1 = rng.normal(size=(2, 4))
    w1[:, 1] = w1[:, 0]
    w2, w3 = rng.normal(size=(4, 3)), rng.normal(size=(3, 1))
    ends = []
    for shares in (before, after):
        w = w2.copy()
        w[:2, 1] = shares
        ends.append(Layered([(w1, None), (w, None), (w3, None)], jnp.tanh))
    with pytest.raises(NotCertifiable, match="layer 2"):
        require_affine(*ends, "segment")


def test_a_handover_between_different_functions_is_refused():
    rng = np.random.default_rng(0)
    w1, w3 = rng.normal(size=(2, 4)), rng.normal(size=(3, 1))
    w2 = np.zeros((4, 3))
    w2[0] = rng.normal(size=3)
    a, b = (Layered([(w1, None), (w, None), (w3, None)], jnp.tanh) for w in (w2, w2[[1, 0, 2, 3]]))
    with pytest.raises(NotCertifiable, match="layer 2"):
        require_affine(a, b, "segment")


def test_twins_with_different_biases_are_no_twins():
    rng = np.random.default_rng(0)
    w1, w3 = np.ones((2, 2)), rng.normal(size=(3, 1))
    biases = (np.array([0.1, 0.2]), np.zeros(3), np.zeros(1))
    w2 = np.zeros((2, 3))
    w2[0] = 1.0
    a, b = (Layered(list(zip((w1, w, w3), biases, strict=True)), jnp.tanh) for w in (w2, w2[::-1]))
    with pytest.raises(NotCertifiable, match="layer 2"):
        require_affine(a, b, "segment")


@given(
    seed=st.integers(0, 4),
    bias=st.booleans(),
    choice=st.randoms(use_true_random=False),
    value=st.sampled_from([0.0, 0.7, -1.3]),
    both=st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_no_segment_passes_whose_outputs_are_seen_to_bend(seed, bias, choice, value, both):
    """One entry of a genuine segment is overwritten at one end or both: if it still passes, its outputs are affine."""
    path, _, _, plain, _, x, _ = genuine(seed, bias)
    i = choice.randrange(path.num_segments)
    ends = list(path.points[i : i + 2])
    layer = choice.randrange(4)
    w, b = ends[0].layers[layer]
    where = (choice.randrange(w.shape[0]), choice.randrange(w.shape[1]))
    if b is not None and choice.random() < 0.3:
        where = (choice.randrange(len(b)),)
    for k in (0, 1) if both else (choice.randrange(2),):
        ends[k] = changed(ends[k], layer + 1, where, value)
    try:
        constant = require_affine(*ends, "segment")
    except NotCertifiable:
        return
    segment = PiecewiseLinearPath(ends)
    start, end = (plain.features(p.layers, x) for p in ends)
    for t in (0.2, 0.5, 0.9):
        z = plain.features(segment.segment(0, t).layers, x)
        stated = start if constant else start + t * (end - start)
        np.testing.assert_allclose(z, stated, rtol=1e-9, atol=1e-10)


def test_a_straight_line_between_two_networks_is_refused_with_its_layer():
    _, net0, net1, _, _, x, y = genuine(0)
    with pytest.raises(NotCertifiable, match=r"segment 0 \(line\).*layer 3"):
        path_bound(PiecewiseLinearPath((net0, net1)), net0, net1, None, None, x, y, "square")


def test_a_path_with_a_point_left_out_is_refused():
    path, net0, net1, _, _, x, y = genuine(0)
    for gone in range(1, len(path.points) - 1):
        if path.kinds[gone - 1 : gone + 1] == ("free", "readout"):
            shorter = PiecewiseLinearPath([p for i, p in enumerate(path.points) if i != gone])
            with pytest.raises(NotCertifiable):
                path_bound(shorter, net0, net1, None, None, x, y, "square")


@pytest.mark.parametrize("wrong", ["start", "end"])
def test_a_path_between_other_networks_is_refused(wrong):
    path, net0, net1, _, _, x, y = genuine(0)
    near = changed(net0 if wrong == "start" else net1, 1, (0, 0), 1.0)
    ends = (near, net1) if wrong == "start" else (net0, near)
    with pytest.raises(ValueError, match=wrong):
        path_bound(path, *ends, None, None, x, y, "square")


def test_networks_with_the_same_weights_and_another_activation_are_other_networks():
    path, net0, net1, _, _, x, y = genuine(0)
    others = [Layered(net.layers, jnp.sin) for net in (net0, net1)]
    with pytest.raises(ValueError, match="start"):
        path_bound(path, *others, None, None, x, y, "square")
    pooled = [Layered(net.layers, jnp.tanh, {0: ChainLayer(after=jnp.abs)}) for net in (net0, net1)]
    with pytest.raises(ValueError, match="start"):
        path_bound(path, *pooled, None, None, x, y, "square")


@pytest.mark.parametrize(
    "loss",
    [
        lambda z, y: -((z - y) ** 2).sum(),
        lambda z, y: jnp.sin(3 * z).sum(),
        lambda z, y: jnp.sqrt(jnp.abs(z - y)).sum(),
    ],
    ids=["concave", "wavy", "root"],
)
def test_a_loss_that_is_seen_not_to_be_convex_is_refused(loss):
    path, net0, net1, _, _, x, y = genuine(0)
    with pytest.raises(NotCertifiable, match="convex"):
        path_bound(path, net0, net1, None, None, x, y, loss)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_at_a_point_is_an_error(value):
    """It is finite at the ends, and not somewhere between them."""
    path, net0, net1, plain, _, x, y = genuine(0)
    heights = np.array([np.abs(plain.features(p.layers, x)).max() for p in path])
    limit = (max(heights[0], heights[-1]) + heights.max()) / 2
    assert limit < heights.max()

    def loss(z, y):
        return jnp.where(jnp.abs(z).max() > limit, value, ((z - y) ** 2).mean())

    with pytest.raises(FloatingPointError):
        path_bound(path, net0, net1, None, None, x, y, loss)


# The experiment on digits


def digits():
    """All 1,797 images, divided by 16; 1,437 of them by a fixed permutation for training."""
    bundle = data.load("digits")
    x = np.concatenate([bundle.x_train, bundle.x_test]).reshape(1797, 64)
    y = np.concatenate([bundle.y_train, bundle.y_test])
    x = (x / x.max()).astype(np.float32)
    rows = np.random.default_rng(0).permutation(1797)[:1437]
    return x[rows], y[rows]


def trained_on_digits(seed, x, y):
    rng = np.random.default_rng(seed)
    widths = (64, 64, 64, 64, 64, 10)
    layers = [
        ((rng.normal(size=(n, m)) * (2 / n) ** 0.5).astype(np.float32), np.zeros(m, np.float32))
        for n, m in itertools.pairwise(widths)
    ]
    system = System(_outputs, Layered(layers, jax.nn.relu), x, y, loss="cross_entropy", reduction="mean")
    run = train.fit(system, optax.adam(1e-3), steps=1400, batch_size=100, key=jax.random.key(seed))
    return jax.tree.map(np.asarray, run.params)


def _outputs(net, x):
    return net(x)


@pytest.mark.slow
@pytest.mark.claim("nguyen2021connectivity/E1")
def test_on_digits_the_path_stays_near_zero_loss_and_the_line_and_dropout_are_far_above(measured):
    """64-64-64-64-64-10 ReLU, He, 1,437 training images, about 97 epochs of Adam 1e-3; two networks."""
    x, y = digits()
    nets = [trained_on_digits(seed, x, y) for seed in (0, 1)]
    objective = (x, y, "cross_entropy")
    reports = [feature_condition(net, *objective, draws=2, steps=4200) for net in nets]
    dropouts = [dropout_stability(net, *objective, draws=60) for net in nets]
    path = connect(*nets, *reports)
    found = path_bound(path, *nets, *reports, *objective)
    system = System(_outputs, nets[0], x, y, loss="cross_entropy", reduction="mean")
    line = barrier(system, *nets)
    dropped = [report.bound for report in dropouts]
    measured(
        f"train losses {reports[0].net_loss:.4f}/{reports[1].net_loss:.4f}, path maximum {found.value:.4f} with error "
        f"{found.error:.2%}, barrier {line.value:.2f}, dropout {dropped[0]:.2f}/{dropped[1]:.2f}"
    )
    assert path.num_segments <= 29
    assert found.value <= 0.02
    assert found.error <= 0.002
    assert line.value >= 0.8
    assert min(dropped) >= 0.4
    assert min(dropped) / found.value >= 50
    assert found.value == pytest.approx(found.reports_value, rel=1e-9)
    double, exact = system.as_float64(), path.map(Layered.as_float64)
    sampled = [double.value(double.vector(exact.segment(i, t))) for i in range(path.num_segments) for t in (0.25, 0.5)]
    assert max(sampled) <= found.value * (1 + 1e-6)
    worse = [dropout.as_condition() for dropout in dropouts]
    of_dropout = path_bound(connect(*nets, *worse), *nets, *worse, *objective)
    assert of_dropout.value == pytest.approx(max(dropped), rel=1e-5)


def test_a_loss_of_ones_own_bounds_from_below_for_nothing_shows_that_it_is_convex():
    """sin^2(2 pi z) vanishes at both ends and in the middle of a segment, and is 1 between."""
    ends = [Layered([(np.full((1, 1), w), None)], ()) for w in (0.0, 1.0)]
    path = PiecewiseLinearPath(ends, ("readout",))
    x, y = np.ones((1, 1)), np.zeros(1)

    def waves(z, y):
        return jnp.mean(jnp.sin(2 * jnp.pi * z[:, 0]) ** 2)

    found = path_bound(path, *ends, None, None, x, y, waves)
    assert found.value < 1e-12
    assert (found.evidence("value").kind, found.evidence("value").side) == ("bound", "lower")
    assert path_bound(path, *ends, None, None, x, y, "square").evidence("value").kind == "proved"


def test_reported_losses_are_compared_where_they_belong_to_the_ends_only():
    path, net0, net1, _, reports, x, y = genuine(3)
    loss = "square" if y.dtype.kind == "f" else "cross_entropy"
    same = path_bound(path, net0, net1, *reports, x, y, loss)
    assert same.reports_value == pytest.approx(same.value, rel=1e-9)
    assert path_bound(path, net0, net1, *reports, 2 * x, y, loss).reports_value is None
    assert path_bound(path, net0, net1, *reports[::-1], x, y, loss).reports_value is None
