"""The constructive path: its points put out what the theorem says, and its segments move outputs on straight lines."""

import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from path_networks import (
    ACTIVATIONS,
    IMAGE_SHAPE,
    Plain,
    half_squares,
    images,
    outputs_of_annexes,
    random_annexes,
    random_chain,
    random_end,
    random_layers,
    report_of,
)
from widescape import arch
from widescape.core.errors import ShapeError
from widescape.curvature import System
from widescape.paths.barriers import barrier
from widescape.paths.condition import feature_condition
from widescape.paths.connection import connect
from widescape.paths.layered import ChainLayer, Layered

TIMES = (0.21, 0.5, 0.87)
CONSTANT = ("free", "copy", "shift")


def greatest(arrays):
    return max(float(np.abs(a).max()) for a in arrays)


def bits_of(net):
    return [leaf.tobytes() for pair in net.layers for leaf in pair if leaf is not None]


def deviation(path, plain, x):
    """The largest distance of sampled outputs from the chord of their segment, relative to the outputs on the path."""
    ends = [plain.features(p.layers, x) for p in path]
    scale, worst = greatest(ends), 0.0
    for i, (a, b) in enumerate(itertools.pairwise(ends)):
        for t in TIMES:
            z = plain.features(path.segment(i, t).layers, x)
            worst = max(worst, float(np.abs(z - (a + t * (b - a))).max()) / scale)
    return worst


def movement(path, plain, x):
    """The largest change of outputs on segments that are said to leave them alone, likewise."""
    ends = [plain.features(p.layers, x) for p in path]
    scale, worst = greatest(ends), 0.0
    for i, kind in enumerate(path.kinds):
        if kind in CONSTANT:
            inside = [plain.features(path.segment(i, t).layers, x) for t in (*TIMES, 1.0)]
            worst = max(worst, *(float(np.abs(z - ends[i]).max()) / scale for z in inside))
    return worst


def random_case(seed, hidden, *, activation="tanh", bias=True, inputs=3, outputs=2, dtype=np.float64):
    """Two networks with random annexes, of other sizes at each end, and data."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(6, inputs)), rng.normal(size=(6, outputs))
    nets = [
        random_chain(rng, (inputs, *hidden, outputs), activation=activation, bias=bias, dtype=dtype) for _ in range(2)
    ]
    plain = nets[0][1]
    reports = [random_end(rng, net, plain, x, y) for net, _ in nets]
    return nets[0][0], nets[1][0], plain, reports, x, y


def expected_outputs(net0, net1, plain, reports, x, moves):
    """Outputs at every point: down the annexes of one network, over, and up those of the other."""
    (down, up) = (
        outputs_of_annexes(n, plain, r.subsets, r.annexes, x) for n, r in zip((net0, net1), reports, strict=True)
    )

    def descent(net, annexes):
        points = [plain.features(net.layers, x), annexes[-1]]
        for above, own in zip(annexes[:0:-1], annexes[-2::-1], strict=True):
            points += [above, own]
        return points

    joined = [down[0], up[0], up[0]]
    return [*descent(net0, down), *joined, *[up[0]] * (2 * moves), *descent(net1, up)[-2::-1]]


hidden_widths = st.integers(0, 4).flatmap(lambda k: st.lists(st.integers(2, 9), min_size=k, max_size=k))


@pytest.mark.claim("nguyen2021connectivity/T1")
@pytest.mark.claim("nguyen2021connectivity/I1")
@pytest.mark.claim("nguyen2021connectivity/I2")
@pytest.mark.claim("nguyen2021connectivity/I3")
@pytest.mark.claim("nguyen2021connectivity/I5")
@given(
    hidden=hidden_widths,
    seed=st.integers(0, 10**6),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    bias=st.booleans(),
)
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_random_annexes_make_a_path_of_the_stated_length_and_height(hidden, seed, activation, bias):
    net0, net1, plain, reports, x, y = random_case(seed, hidden, activation=activation, bias=bias)
    path = connect(net0, net1, *reports)
    depth = len(hidden) + 1
    assert path.num_segments <= 6 * depth - 1
    assert set(path.kinds) <= {"readout", *CONSTANT}
    assert bits_of(path.points[0]) == bits_of(net0)
    assert bits_of(path.points[-1]) == bits_of(net1)
    at_points = [half_squares(plain.features(p.layers, x), y) for p in path]
    parts = [r.net_loss for r in reports] + [v for r in reports for v in r.losses]
    stated = max(parts) if depth > 1 else max(r.net_loss for r in reports)
    assert max(at_points) == pytest.approx(stated, rel=1e-10)
    assert deviation(path, plain, x) < 1e-9
    assert movement(path, plain, x) < 1e-9


@pytest.mark.claim("nguyen2021connectivity/T1")
@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
def test_at_half_width_the_number_of_segments_is_as_large_as_stated(depth, measured):
    rng = np.random.default_rng(depth)
    widths = (3, *(8,) * (depth - 1), 2)
    x, y = rng.normal(size=(6, 3)), rng.normal(size=(6, 2))
    (net0, plain), (net1, _) = (random_chain(rng, widths) for _ in range(2))
    reports = []
    for net in (net0, net1):
        subsets = tuple(np.sort(rng.permutation(8)[:4]) for _ in range(depth - 1))
        annexes = random_annexes(rng, net, (4,) * (depth - 1), subsets)
        reports.append(report_of(net, plain, subsets, annexes, x, y))
    path = connect(net0, net1, *reports)
    assert path.num_segments == (1 if depth == 1 else 6 * depth - 1)
    measured(f"L = {depth}: {path.num_segments} segments")


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("hidden", [(6,), (5, 7), (6, 5, 8), (7, 4, 6, 5)])
def test_the_points_put_out_the_annexes_one_after_the_other(hidden, seed):
    net0, net1, plain, reports, x, _ = random_case(seed, hidden)
    path = connect(net0, net1, *reports, dedupe=False)
    moves = path.kinds.count("copy")
    assert path.kinds.count("shift") == moves <= len(hidden)
    expected = expected_outputs(net0, net1, plain, reports, x, moves)
    found = [plain.features(p.layers, x) for p in path]
    assert len(found) == len(expected)
    for z, stated in zip(found, expected, strict=True):
        np.testing.assert_allclose(z, stated, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_the_kinds_name_what_moves(seed):
    net0, net1, _, reports, _, _ = random_case(seed, (6, 7, 5))
    path = connect(net0, net1, *reports)
    for a, b, kind in zip(path.points[:-1], path.points[1:], path.kinds, strict=True):
        moved = [i for i, (p, q) in enumerate(zip(a.layers, b.layers, strict=True), 1) if not same(p, q)]
        if kind == "readout":
            assert moved == [4]
        if kind == "copy":
            assert len(moved) == 1
            assert moved[0] < 4
        if kind == "shift":
            assert len(moved) == 1
            assert same_bias(a.layers[moved[0] - 1], b.layers[moved[0] - 1])


def same(p, q):
    return all(np.array_equal(u, v) for u, v in zip(p, q, strict=True))


def same_bias(p, q):
    return np.array_equal(p[1], q[1])


def test_after_the_descent_only_the_annex_is_read():
    """At the foot of the descent every layer has as many units that are read as the annex has."""
    net0, net1, _, reports, _, _ = random_case(3, (8, 9, 7))
    path = connect(net0, net1, *reports, dedupe=False)
    for point, report in ((path.points[7], reports[0]), (path.points[-8], reports[1])):
        read = np.ones(2, bool)
        for layer in (4, 3, 2):
            w = point.layers[layer - 1][0]
            read = (w[:, read] != 0).any(axis=1)
            assert read.sum() == report.widths[layer - 2]


def test_units_that_are_free_at_both_ends_stay_where_they_are():
    """Annexes that use other units already are joined without relocation: 4 L + 1 segments."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 3)), rng.normal(size=(5, 2))
    (net0, plain), (net1, _) = (random_chain(rng, (3, 8, 2)) for _ in range(2))
    reports = []
    for net, subset in ((net0, np.arange(4, 8)), (net1, np.arange(4))):
        annexes = random_annexes(rng, net, (4,), (subset,))
        reports.append(report_of(net, plain, (subset,), annexes, x, y))
    path = connect(net0, net1, *reports)
    assert path.kinds == ("readout", "free", "readout", "free", "readout", "free", "readout", "free", "readout")


def test_the_sizes_of_the_annexes_may_differ_as_long_as_their_sum_fits():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(5, 3)), rng.normal(size=(5, 2))
    (net0, plain), (net1, _) = (random_chain(rng, (3, 7, 9, 2)) for _ in range(2))
    sizes = [((3, 1), ([5, 0, 1, 2], [8, 7])), ((1, 4), ([6], [0, 2, 4, 6, 8]))]
    reports = []
    for net, (widths, units) in zip((net0, net1), sizes, strict=True):
        subsets = tuple(np.array(s) for s in units)
        reports.append(report_of(net, plain, subsets, random_annexes(rng, net, widths, subsets), x, y))
    path = connect(net0, net1, *reports)
    assert deviation(path, plain, x) < 1e-12
    heights = [half_squares(plain.features(p.layers, x), y) for p in path]
    assert max(heights) == pytest.approx(max(r.bound for r in reports), rel=1e-12)


def test_the_order_of_a_subset_is_that_of_the_annexes_inputs():
    """Unsorted subsets: the k-th row of an annex belongs to the k-th index."""
    net0, net1, plain, reports, x, y = random_case(11, (9, 9))
    assert any((np.diff(s) < 0).any() for r in reports for s in r.subsets)
    heights = [half_squares(plain.features(p.layers, x), y) for p in connect(net0, net1, *reports)]
    assert max(heights) == pytest.approx(max(r.bound for r in reports), rel=1e-12)


@pytest.mark.claim("nguyen2021connectivity/W1")
@pytest.mark.claim("nguyen2021connectivity/I2")
@pytest.mark.claim("nguyen2021connectivity/I3")
@pytest.mark.parametrize("activation", ["relu", "sin"])
@pytest.mark.parametrize("bias", [True, False])
def test_convolutions_with_strides_pooling_and_a_flatten_are_connected(activation, bias, measured):
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(4, *IMAGE_SHAPE)), rng.normal(size=(4, 3))
    (net0, plain), (net1, _) = (images(rng, activation=activation, bias=bias) for _ in range(2))
    reports = [random_end(rng, net, plain, x, y) for net in (net0, net1)]
    path = connect(net0, net1, *reports)
    assert path.num_segments <= 23
    worst = deviation(path, plain, x)
    assert worst < 1e-9
    assert movement(path, plain, x) < 1e-9
    heights = [half_squares(plain.features(p.layers, x), y) for p in path]
    assert max(heights) == pytest.approx(max(r.bound for r in reports), rel=1e-12)
    assert bits_of(path.points[-1]) == bits_of(net1)
    measured(f"convolutional, {activation}: deviation from affine {worst:.1e}")


@pytest.mark.claim("nguyen2021connectivity/W1")
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("hidden", [(7,), (3, 8), (9, 2, 5)])
def test_any_activation_and_unequal_widths_are_connected(activation, bias, hidden, measured):
    net0, net1, plain, reports, x, y = random_case(2, hidden, activation=activation, bias=bias)
    path = connect(net0, net1, *reports)
    worst = deviation(path, plain, x)
    assert worst < 1e-9
    heights = [half_squares(plain.features(p.layers, x), y) for p in path]
    assert max(heights) == pytest.approx(max(r.bound for r in reports), rel=1e-12)
    measured(f"{activation}: deviation from affine {worst:.1e}")


@pytest.mark.claim("nguyen2021connectivity/W1")
def test_each_layer_may_have_its_own_activation():
    rng = np.random.default_rng(8)
    x, y = rng.normal(size=(5, 3)), rng.normal(size=(5, 2))
    names = ("relu", "sin", "tanh")
    plain = Plain(tuple(ACTIVATIONS[n][1] for n in names))
    nets = [Layered(random_layers(rng, (3, 6, 7, 4, 2)), [ACTIVATIONS[n][0] for n in names]) for _ in range(2)]
    reports = [random_end(rng, net, plain, x, y) for net in nets]
    path = connect(*nets, *reports)
    assert deviation(path, plain, x) < 1e-9
    heights = [half_squares(plain.features(p.layers, x), y) for p in path]
    assert max(heights) == pytest.approx(max(r.bound for r in reports), rel=1e-12)


@pytest.mark.claim("nguyen2021connectivity/W1")
@pytest.mark.claim("nguyen2021connectivity/I1")
def test_single_precision_stays_single_and_its_points_are_exact():
    """Points are float32, and put out what the annexes do to the last bit of a float64 pass over the same weights."""
    net0, net1, plain, reports, x, y = random_case(4, (7, 5, 8), activation="relu", dtype=np.float32)
    path = connect(net0, net1, *reports)
    assert {leaf.dtype for p in path for leaf in jax.tree.leaves(p)} == {np.dtype(np.float32)}
    heights = [half_squares(plain.features(p.layers, x), y) for p in path]
    assert max(heights) == pytest.approx(max(r.bound for r in reports), rel=1e-13)
    assert bits_of(path.points[0]) == bits_of(net0)
    assert bits_of(path.points[-1]) == bits_of(net1)
    assert deviation(path, plain, x) < 1e-5


@pytest.mark.claim("nguyen2021connectivity/W1")
def test_equal_ends_are_connected():
    net, _, plain, (report, other), x, y = random_case(6, (6, 5))
    again = report_of(net, plain, *_another(net, other), x, y)
    for last in (report, again):
        path = connect(net, net, report, last)
        heights = [half_squares(plain.features(p.layers, x), y) for p in path]
        assert max(heights) == pytest.approx(max(report.bound, last.bound), rel=1e-12)
        assert deviation(path, plain, x) < 1e-9
        assert bits_of(path.points[0]) == bits_of(path.points[-1]) == bits_of(net)


def _another(net, report):
    rng = np.random.default_rng(9)
    return report.subsets, random_annexes(rng, net, report.widths, report.subsets)


@pytest.mark.claim("nguyen2021connectivity/T1")
def test_with_one_layer_the_path_is_the_straight_segment():
    net0, net1, _, reports, _, _ = random_case(0, ())
    path = connect(net0, net1, *reports)
    assert (path.num_segments, path.kinds) == (1, ("readout",))
    assert path.points[0] is net0
    assert path.points[1] is net1


def test_repeated_points_are_left_out_only_if_asked():
    """An annex that is the network's own read-out on all that it reads: the first segment has length zero."""
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(5, 3)), rng.normal(size=(5, 2))
    net, plain = random_chain(rng, (3, 6, 2), bias=False)
    w = net.layers[1][0].copy()
    w[3:] = 0
    net = net.with_layers((net.layers[0], (w, None)))
    subset = np.arange(3)
    annexes = (random_annexes(rng, net, (3,), (subset,))[0], ((w[:3], None),))
    report = report_of(net, plain, (subset,), annexes, x, y)
    whole, short = (connect(net, net, report, report, dedupe=d) for d in (False, True))
    assert (whole.lengths == 0).any()
    assert (short.lengths > 0).all()
    assert whole.length == pytest.approx(short.length, rel=1e-14)
    assert short.points[0] is net
    assert short.points[-1] is net


def test_arrays_that_do_not_change_are_shared_between_points():
    net0, net1, _, reports, _, _ = random_case(1, (6, 7, 5))
    path = connect(net0, net1, *reports)
    distinct = {id(leaf) for p in path for leaf in jax.tree.leaves(p)}
    assert len(distinct) < len(path.points) * 8 / 2


def test_the_ends_are_not_written_to():
    net0, net1, _, reports, _, _ = random_case(1, (6, 7, 5))
    before = bits_of(net0) + bits_of(net1)
    connect(net0, net1, *reports)
    assert bits_of(net0) + bits_of(net1) == before


def test_chains_of_jax_arrays_are_connected_as_well():
    """The leaves of a chain that an optimizer has updated are arrays of JAX."""
    net0, net1, _, reports, _, _ = random_case(1, (6, 5), dtype=np.float32)
    on_device = [jax.tree.map(jnp.asarray, net) for net in (net0, net1)]
    path = connect(*on_device, *reports)
    expected = connect(net0, net1, *reports)
    for a, b in zip(path, expected, strict=True):
        assert all(np.array_equal(u, v) for u, v in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_annexes_of_another_precision_are_judged_as_they_are_written():
    """Doubles are rounded when they are written into a float32 network, so the report must hold the rounded ones."""
    rng = np.random.default_rng(3)
    net, plain = random_chain(rng, (3, 6, 2), dtype=np.float32)
    x, y = rng.normal(size=(5, 3)), rng.normal(size=(5, 2))
    subset = np.array([0, 4, 5])
    doubles = random_annexes(rng, net.as_float64(), (2,), (subset,))
    report = feature_condition(net, x, y, "square", annex="user", annexes=doubles, subsets=[subset])
    path = connect(net, net, report, report)
    heights = [half_squares(plain.features(p.layers, x), y) for p in path]
    assert max(heights) == pytest.approx(max(report.net_loss, *report.losses), rel=1e-12)


class TestRefusals:
    """Claim R1: what does not fit is named with its layer and sizes."""

    pytestmark = pytest.mark.claim("nguyen2021connectivity/R1")

    def ends(self, **changes):
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(5, 3)), rng.normal(size=(5, 2))
        net, plain = random_chain(rng, (3, 6, 8, 2))
        subsets = (np.array([0, 1, 2]), np.array([1, 3, 5, 7]))
        annexes = random_annexes(rng, net, (3, 4), subsets)
        return net, plain, x, y, replace(report_of(net, plain, subsets, annexes, x, y), **changes)

    def test_two_annexes_that_together_are_wider_than_a_layer(self):
        net, _, _, _, report = self.ends()
        wide = replace(report, widths=(3, 5))
        with pytest.raises(ShapeError, match=r"layer 2 has 8 units.* 4 and 5"):
            connect(net, net, report, wide)

    def test_a_report_whose_subset_and_annex_leave_no_room(self):
        net, _, _, _, report = self.ends(subsets=(np.arange(4), np.array([1, 3, 5, 7])))
        with pytest.raises(ValueError, match=r"layer 1 has 6 units, but 4 are read and the annexes need 3"):
            connect(net, net, report, report)

    @pytest.mark.parametrize("bad", [[0, 1, 6], [-1, 0, 1], [0, 0, 1], []])
    def test_a_report_with_a_subset_that_is_no_set_of_units(self, bad):
        net, _, _, _, report = self.ends(subsets=(np.array(bad, int), np.array([1, 3, 5, 7])))
        with pytest.raises(ValueError, match="layer 1"):
            connect(net, net, report, report)

    def test_a_report_whose_annex_reads_another_number_of_units(self):
        net, _, _, _, report = self.ends(subsets=(np.arange(2), np.array([1, 3, 5, 7])))
        with pytest.raises(ValueError, match=r"annex 1.* 3 .*2"):
            connect(net, net, report, report)

    def test_an_annex_that_reads_one_unit_is_not_spread_over_two(self):
        rng = np.random.default_rng(1)
        net, plain, x, y, _ = self.ends()
        subsets = (np.array([2]), np.array([1, 3]))
        report = report_of(net, plain, subsets, random_annexes(rng, net, (3, 4), subsets), x, y)
        with pytest.raises(ValueError, match="annex 1"):
            connect(net, net, replace(report, subsets=(np.array([2, 4]), subsets[1])), report)

    @pytest.mark.parametrize(
        "change",
        [
            lambda r: {"annexes": r.annexes[:-1]},
            lambda r: {"annexes": (*r.annexes[:-1], r.annexes[0])},
            lambda r: {"annexes": (*r.annexes[:-1], ((r.annexes[-1][0][0][:, :1], r.annexes[-1][0][1][:1]),))},
            lambda r: {"annexes": (*r.annexes[:-1], ((r.annexes[-1][0][0], None),))},
            lambda r: {"subsets": r.subsets[:-1]},
        ],
        ids=["number of annexes", "depth", "outputs", "no bias", "number of subsets"],
    )
    def test_a_report_of_another_network(self, change):
        net, _, _, _, report = self.ends()
        with pytest.raises(ShapeError):
            connect(net, net, replace(report, **change(report)), report)

    @pytest.mark.parametrize("hidden", [(6, 7), (5, 8), (6,), (6, 8, 3)])
    def test_networks_of_different_shapes(self, hidden):
        net, _, _, _, report = self.ends()
        other, _ = random_chain(np.random.default_rng(0), (3, *hidden, 2))
        with pytest.raises(ShapeError):
            connect(net, other, report, report)

    def test_networks_of_different_precision_activation_bias_or_strides(self):
        net, _, _, _, report = self.ends()
        single = net.with_layers(tuple((w.astype(np.float32), b.astype(np.float32)) for w, b in net.layers))
        no_bias = Layered([(w, None) for w, _ in net.layers], jnp.tanh)
        others = (
            single,
            no_bias,
            Layered(net.layers, jnp.sin),
            Layered(net.layers, jnp.tanh, {1: ChainLayer(after=abs)}),
        )
        for other in others:
            with pytest.raises(ShapeError):
                connect(net, other, report, report)

    def test_a_skip_connection_is_refused_by_the_constructive_path_alone(self):
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(6, 4)), rng.normal(size=(6, 4))

        def residual(p, x):
            return x + jnp.tanh(x @ p["in"]) @ p["out"]

        a, b = ({"in": rng.normal(size=(4, 4)), "out": rng.normal(size=(4, 4))} for _ in range(2))
        systems = [System(residual, p, x, y) for p in (a, b)]
        _, _, _, _, report = self.ends()
        with pytest.raises(NotImplementedError, match="plain"):
            feature_condition(systems[0])
        with pytest.raises(NotImplementedError, match="plain"):
            connect(*systems, report, report)
        assert np.isfinite(barrier(systems[0], a, b, refine=False).value)

    def test_what_is_no_network_at_all(self):
        net, _, _, _, report = self.ends()
        with pytest.raises(TypeError, match="Layered"):
            connect({"w": np.ones(3)}, net, report, report)


def test_systems_of_chains_and_of_architectures_are_taken():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(6, 3)).astype(np.float32), rng.normal(size=(6, 2)).astype(np.float32)
    network = arch.fc(depth=2, width=6, n_out=2, activation=arch.Relu(), w_std=1.4, b_std=0.3)
    systems = [System(network.apply, network.init(jax.random.key(k), (3,)), x, y, reduction="mean") for k in range(2)]
    reports = [feature_condition(s, draws=1, steps=0) for s in systems]
    path = connect(*systems, *reports)
    chains = [Layered.from_params(s.params, network) for s in systems]
    assert bits_of(path.points[0]) == bits_of(chains[0])
    assert bits_of(path.points[-1]) == bits_of(chains[1])
    of_chains = [System(lambda net, x: net(x), c, x, y, reduction="mean") for c in chains]
    again = connect(*of_chains, *reports)
    assert [bits_of(p) for p in again] == [bits_of(p) for p in path]


def test_a_report_of_another_depth_and_a_chain_of_another_origin_are_refused():
    x, y = np.eye(3), np.array([0, 1, 0])
    deep, flat = (arch.fc(depth=depth, width=4, n_out=2, activation=arch.Relu()) for depth in (2, 1))
    nets = [Layered.from_params(one.init(jax.random.key(0), (3,)), one) for one in (deep, flat)]
    reports = [feature_condition(net, x, y, "cross_entropy", draws=1, steps=0) for net in nets]
    with pytest.raises(ShapeError, match="`report1` is of a network with 2 layers; the networks have 3"):
        connect(nets[0], nets[0], *reports)
    plain = Layered(nets[0].layers, nets[0].activations)
    with pytest.raises(ShapeError, match="from_params"):
        connect(nets[0], plain, reports[0], reports[0])
