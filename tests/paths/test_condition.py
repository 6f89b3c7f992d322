"""The feature condition: its losses against NumPy, its draws, its sizes, and what it refuses."""

import logging
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from path_networks import (
    IMAGE_SHAPE,
    cross_entropy,
    error,
    half_squares,
    images,
    outputs_of_annexes,
    random_annexes,
    random_chain,
)
from widescape import arch
from widescape.core.errors import CheckpointError, ShapeError
from widescape.curvature import System
from widescape.paths import draws as draws_module
from widescape.paths.annexes import Judged
from widescape.paths.condition import ConditionReport, best_draw, feature_condition
from widescape.paths.connection import connect
from widescape.paths.layered import Layered
from widescape.paths.path_proof import path_bound


def case(seed=0, *, widths=(3, 6, 5, 3), activation="tanh", labels=True, bias=True, dtype=np.float32, count=30):
    rng = np.random.default_rng(seed)
    net, plain = random_chain(rng, widths, activation=activation, bias=bias, dtype=dtype)
    x = rng.normal(size=(count, widths[0])).astype(dtype)
    y = rng.integers(widths[-1], size=count) if labels else rng.normal(size=(count, widths[-1])).astype(dtype)
    return net, plain, x, y


# What is reported


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("labels", [True, False])
def test_reported_losses_and_errors_are_those_of_the_reported_annexes(labels, dtype):
    net, plain, x, y = case(1, labels=labels, dtype=dtype)
    loss, value = ("cross_entropy", cross_entropy) if labels else ("square", half_squares)
    report = feature_condition(net, x, y, loss, draws=2, steps=5)
    found = outputs_of_annexes(net, plain, report.subsets, report.annexes, x)
    np.testing.assert_allclose(report.losses, [value(z, y) for z in found], rtol=1e-10)
    own = plain.features(net.layers, x)
    assert report.net_loss == pytest.approx(value(own, y), rel=1e-10)
    assert report.bound == max(report.net_loss, *report.losses)
    assert report.holds(report.bound)
    assert not report.holds(np.nextafter(report.bound, 0))
    assert {leaf.dtype for leaf in jax.tree.leaves(report.annexes)} == {np.dtype(dtype)}
    if labels:
        np.testing.assert_allclose(report.errors, [error(z, y) for z in found])
        assert report.net_error == pytest.approx(error(own, y))
    else:
        assert report.errors is None
        assert report.net_error is None
        assert report.draw_errors is None


@pytest.mark.claim("nguyen2021connectivity/P6")
@pytest.mark.parametrize("labels", [True, False])
def test_every_draw_is_reported_with_least_median_and_number(labels):
    net, _, x, y = case(2, labels=labels)
    report = feature_condition(net, x, y, "cross_entropy" if labels else "square", draws=7, steps=0)
    assert [len(losses) for losses in report.draw_losses] == [2, 7, 7]
    rows = report.per_layer()
    assert [row["layer"] for row in rows] == [0, 1, 2]
    assert [row["draws"] for row in rows] == [2, 7, 7]
    for row, losses, chosen in zip(rows, report.draw_losses, report.losses, strict=True):
        assert row["least"] == min(losses)
        assert row["median"] == np.median(losses)
        assert chosen == pytest.approx(min(losses), rel=1e-12)
        assert ("least_error" in row) == labels
    if labels:
        for row, errors in zip(rows, report.draw_errors, strict=True):
            assert (row["least_error"], row["median_error"]) == (min(errors), np.median(errors))
    (chart,) = report.charts()
    np.testing.assert_array_equal(chart.series[0].low, [row["least"] for row in rows])


def test_the_draw_of_least_error_is_kept_if_asked_and_among_these_that_of_least_loss():
    differ = 0
    for seed in range(6):
        net, plain, x, y = case(seed, widths=(3, 8, 6, 3))
        by = {
            s: feature_condition(net, x, y, "cross_entropy", draws=12, steps=0, select=s, key=jax.random.key(seed))
            for s in ("loss", "error")
        }
        for losses, errors, chosen in zip(
            by["error"].draw_losses, by["error"].draw_errors, by["error"].losses, strict=True
        ):
            assert chosen == pytest.approx(min(losses[errors == errors.min()]), rel=1e-12)
        found = outputs_of_annexes(net, plain, by["error"].subsets, by["error"].annexes, x)
        np.testing.assert_allclose(by["error"].errors, [error(z, y) for z in found])
        assert (by["error"].errors <= by["loss"].errors).all()
        assert (by["error"].losses >= by["loss"].losses).all()
        differ += int((by["error"].errors < by["loss"].errors).any())
    assert differ > 0


def test_one_draw_is_enough():
    net, _, x, y = case(3)
    report = feature_condition(net, x, y, "cross_entropy", draws=1, steps=0)
    assert [len(losses) for losses in report.draw_losses] == [1, 1, 1]
    assert report.per_layer()[1]["least"] == report.per_layer()[1]["median"]


def test_a_report_is_saved_bit_for_bit_printed_and_drawn(tmp_path):
    net, _, x, y = case(4)
    report = feature_condition(net, x, y, "cross_entropy", draws=2, steps=5)
    again = ConditionReport.load(report.save(tmp_path / "condition.result"))
    assert again == report
    pairs = [jax.tree.leaves(r.annexes) + list(r.subsets) for r in (report, again)]
    assert all(a.tobytes() == b.tobytes() and a.dtype == b.dtype for a, b in zip(*pairs, strict=True))
    path, loaded = connect(net, net, report, report), connect(net, net, again, again)
    assert all(
        np.array_equal(a, b)
        for p, q in zip(path, loaded, strict=True)
        for a, b in zip(jax.tree.leaves(p), jax.tree.leaves(q), strict=True)
    )
    assert len(str(report).splitlines()) < 20


def test_a_report_is_saved_without_biases_and_errors(tmp_path):
    net, _, x, y = case(4, bias=False, labels=False)
    report = feature_condition(net, x, y, "square", draws=1, steps=0)
    again = ConditionReport.load(report.save(tmp_path / "condition.result"))
    assert again == report
    assert again.annexes[0][0][1] is None


def test_the_key_decides_everything():
    net, _, x, y = case(5)
    one, same, other = (
        feature_condition(net, x, y, "cross_entropy", draws=2, steps=5, key=jax.random.key(k)) for k in (3, 3, 4)
    )
    assert one == same
    assert not np.array_equal(one.draw_losses[1], other.draw_losses[1])
    assert not all(np.array_equal(a, b) for a, b in zip(one.subsets, other.subsets, strict=True))
    assert feature_condition(net, x, y, "cross_entropy", draws=1, steps=0) == feature_condition(
        net, x, y, "cross_entropy", draws=1, steps=0, key=jax.random.key(0)
    )


# Sizes


@pytest.mark.parametrize(
    ("keep", "expected"), [(0.5, (3, 2, 1, 4)), (0.75, (2, 1, 1, 2)), (0.2, (3, 2, 1, 4)), (0.9, (1, 1, 1, 1))]
)
def test_annexes_take_the_rest_of_what_is_kept_and_at_most_half(keep, expected):
    """Widths 6, 5, 2, 9: the rounded share 1 - keep, capped by half of the layer rounded down."""
    net, _, x, y = case(6, widths=(3, 6, 5, 2, 9, 3))
    report = feature_condition(net, x, y, "cross_entropy", keep=keep, draws=1, steps=0)
    assert report.widths == expected
    assert [len(s) for s in report.subsets] == [n - m for n, m in zip((6, 5, 2, 9), expected, strict=True)]
    for start, pairs in enumerate(report.annexes):
        reads = 3 if start == 0 else len(report.subsets[start - 1])
        assert [w.shape for w, _ in pairs] == list(zip((reads, *expected[start:]), (*expected[start:], 3), strict=True))


@pytest.mark.slow
@pytest.mark.claim("nguyen2021connectivity/W1")
def test_trained_annexes_of_another_share_make_a_path_at_their_bound():
    net0, _, x, y = case(7, widths=(3, 7, 9, 3))
    net1 = case(8, widths=(3, 7, 9, 3))[0]
    reports = [feature_condition(n, x, y, "cross_entropy", keep=0.8, draws=2, steps=5) for n in (net0, net1)]
    found = path_bound(connect(net0, net1, *reports), net0, net1, *reports, x, y, "cross_entropy")
    assert found.value == pytest.approx(found.reports_value, rel=1e-10)


@pytest.mark.slow
@pytest.mark.claim("nguyen2021connectivity/W1")
@pytest.mark.claim("nguyen2021connectivity/T1")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_convolutional_networks_have_trained_annexes_and_a_path_at_their_bound(dtype, measured):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, *IMAGE_SHAPE)).astype(dtype), rng.integers(3, size=12)
    (net0, plain), (net1, _) = (images(rng, dtype=dtype) for _ in range(2))
    reports = [feature_condition(n, x, y, "cross_entropy", draws=2, steps=5) for n in (net0, net1)]
    for net, report in zip((net0, net1), reports, strict=True):
        found = outputs_of_annexes(net, plain, report.subsets, report.annexes, x)
        np.testing.assert_allclose(report.losses, [cross_entropy(z, y) for z in found], rtol=1e-9)
    path = connect(net0, net1, *reports)
    bound = path_bound(path, net0, net1, *reports, x, y, "cross_entropy")
    assert bound.value == pytest.approx(bound.reports_value, rel=1e-10)
    measured(f"{np.dtype(dtype)} convolutional: path maximum {bound.value:.4f}, reports {bound.reports_value:.4f}")


@pytest.mark.claim("nguyen2021connectivity/W1")
@pytest.mark.parametrize("widths", [(4, 3), (4, 7, 3)])
def test_no_or_one_hidden_layer_is_enough(widths):
    net, _, x, y = case(9, widths=widths)
    report = feature_condition(net, x, y, "cross_entropy", draws=2, steps=5)
    assert len(report.losses) == len(widths) - 1
    bound = path_bound(connect(net, net, report, report), net, net, report, report, x, y, "cross_entropy")
    assert bound.value <= report.bound * (1 + 1e-12)


# Starts and training


@pytest.mark.claim("nguyen2021connectivity/I5")
@pytest.mark.parametrize("activation", ["relu", "sin"])
def test_untrained_annexes_make_an_exact_path_as_well(activation, measured):
    net0, _, x, y = case(10, activation=activation)
    net1 = case(11, activation=activation)[0]
    reports = [feature_condition(n, x, y, "cross_entropy", draws=2, steps=0) for n in (net0, net1)]
    bound = path_bound(connect(net0, net1, *reports), net0, net1, *reports, x, y, "cross_entropy")
    assert bound.value == pytest.approx(bound.reports_value, rel=1e-10)
    rng = np.random.default_rng(0)
    given = [random_annexes(rng, n, r.widths, r.subsets, scale=4.0) for n, r in zip((net0, net1), reports, strict=True)]
    users = [
        feature_condition(n, x, y, "cross_entropy", annex="user", annexes=a, subsets=r.subsets)
        for n, a, r in zip((net0, net1), given, reports, strict=True)
    ]
    bound = path_bound(connect(net0, net1, *users), net0, net1, *users, x, y, "cross_entropy")
    assert bound.value == pytest.approx(bound.reports_value, rel=1e-10)
    assert bound.value > max(users[0].net_loss, users[1].net_loss)
    measured(f"{activation}: path of random annexes at {bound.value:.4f}, reported {bound.reports_value:.4f}")


@pytest.mark.parametrize("form", ["pairs", "chains"])
def test_a_users_annexes_are_taken_as_they_are(form):
    net, plain, x, y = case(12)
    rng = np.random.default_rng(0)
    subsets = (np.array([4, 0, 2]), np.array([1, 3]))
    annexes = random_annexes(rng, net, (2, 2), subsets)
    given = annexes if form == "pairs" else [Layered(a, net.activations[i:]) for i, a in enumerate(annexes)]
    report = feature_condition(net, x, y, "cross_entropy", annex="user", annexes=given, subsets=subsets)
    for own, kept in zip(annexes, report.annexes, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(own), jax.tree.leaves(kept), strict=True))
    assert [s.tolist() for s in report.subsets] == [[4, 0, 2], [1, 3]]
    found = outputs_of_annexes(net, plain, subsets, annexes, x)
    np.testing.assert_allclose(report.losses, [cross_entropy(z, y) for z in found], rtol=1e-10)


@pytest.mark.parametrize("lr", [1e-3, 0.3, 1e6, 1e30])
@pytest.mark.parametrize("loss", ["cross_entropy", "square"])
def test_training_never_ends_above_its_start_whatever_the_learning_rate(lr, loss):
    net, _, x, y = case(13, labels=loss == "cross_entropy")
    options = {"draws": 2, "key": jax.random.key(1)}
    start = feature_condition(net, x, y, loss, steps=0, **options)
    end = feature_condition(net, x, y, loss, steps=5, lr=lr, **options)
    for before, after in zip(start.draw_losses, end.draw_losses, strict=True):
        assert (after <= before).all()
    assert (end.draw_losses[2] < start.draw_losses[2]).all()
    if lr == 1e-3:
        assert (end.draw_losses[1] < start.draw_losses[1]).all()


def test_half_of_the_draws_start_from_the_network_itself():
    """The first draws are random, the others the network's own layers between kept units at the best scale."""
    net, _, x, y = case(14, activation="relu")
    report = feature_condition(net, x, y, "cross_entropy", draws=1, steps=0)
    (w, b), (v, c), (u, d) = net.layers
    rows = report.subsets[0]
    first, last = report.annexes[1]
    columns = [k for k in range(5) if any(np.array_equal(w_in, v[rows][:, k]) for w_in in first[0].T)]
    assert len(columns) == report.widths[1]
    np.testing.assert_array_equal(first[0], v[rows][:, columns])
    np.testing.assert_array_equal(first[1], c[columns])
    scale = last[1] / d
    np.testing.assert_allclose(scale, scale[0], rtol=1e-5)
    np.testing.assert_allclose(last[0], u[columns] * scale[0], rtol=1e-5)
    assert w.shape[1] == b.size
    scales = np.linspace(0, 4 * scale[0], 41)
    h = np.maximum(np.maximum(x @ w + b, 0)[:, rows] @ first[0] + first[1], 0) @ u[columns] + d
    values = [cross_entropy(np.float64(r) * h.astype(np.float64), y) for r in scales]
    assert report.losses[1] <= min(values) * (1 + 1e-6)


def test_given_subsets_are_kept_and_their_draws_share_them():
    net, _, x, y = case(15)
    subsets = [[0, 5, 2], [4, 1]]
    report = feature_condition(net, x, y, "cross_entropy", subsets=subsets, draws=2, steps=5)
    assert [s.tolist() for s in report.subsets] == subsets
    assert len(report.draw_losses[1]) == 2


@pytest.mark.slow
def test_a_better_optimum_is_reached_with_more_steps():
    net, _, x, y = case(16, activation="relu", widths=(3, 16, 16, 3))
    values = [
        feature_condition(net, x, y, "cross_entropy", draws=2, steps=steps, lr=0.01).losses[:2].max()
        for steps in (0, 40, 400)
    ]
    assert values[0] > values[1] > values[2]
    assert values[2] < 0.7 * values[0]


@pytest.mark.slow
@pytest.mark.claim("nguyen2021connectivity/P7")
def test_all_draws_train_in_one_program_and_another_draw_compiles_nothing(caplog, measured):
    net, _, x, y = case(17, widths=(3, 9, 8, 4))

    def compiled(draws, key, steps=6, lr=1e-3):
        caplog.clear()
        with caplog.at_level(logging.WARNING), jax.log_compiles(True):
            feature_condition(net, x, y, "cross_entropy", draws=draws, steps=steps, lr=lr, key=jax.random.key(key))
        return [r.getMessage().split(" with ")[0] for r in caplog.records if r.getMessage().startswith("Compiling ")]

    first, few = compiled(5, 0), compiled(3, 0)
    training = [name for name in first if "_descend" in name]
    assert len(training) == 2  # layers 0 and 1, whatever the number of draws; layer 2 is convex
    assert len([name for name in few if "_descend" in name]) <= 2
    assert len(few) <= len(first)
    assert compiled(5, 1) == []
    assert compiled(5, 2, steps=10, lr=0.1) == []
    measured(f"{len(training)} training programs for 2 layers and 5 draws; another draw compiles 0")


# Data and targets


def test_a_system_brings_its_data_and_loss_along():
    net, _, x, y = case(18)
    system = System(lambda n, x: n(x), net, x, y, loss="cross_entropy", reduction="mean")
    options = {"draws": 2, "steps": 5}
    of_system, of_net = feature_condition(system, **options), feature_condition(net, x, y, "cross_entropy", **options)
    np.testing.assert_allclose(of_system.losses, of_net.losses, rtol=1e-10)
    assert of_system.net_loss == pytest.approx(float(system.value()), rel=1e-5)
    summed = System(lambda n, x: n(x), net, x, y, loss="cross_entropy")
    assert feature_condition(summed, draws=1, steps=0).net_loss == pytest.approx(30 * of_net.net_loss, rel=1e-10)
    other = feature_condition(system, x[:10], y[:10], draws=1, steps=0)
    assert other.net_loss == pytest.approx(cross_entropy(np.float64(net(x[:10])), y[:10]), rel=1e-5)


def test_a_system_of_an_architecture_is_taken():
    network = arch.fc(depth=2, width=6, n_out=3, activation=arch.Tanh(), w_std=1.3, b_std=0.2)
    params = network.init(jax.random.key(0), (3,))
    _, _, x, y = case(19)
    system = System(network.apply, params, x, y, loss="cross_entropy", reduction="mean")
    report = feature_condition(system, draws=1, steps=0)
    assert report.net_loss == pytest.approx(float(system.value()), rel=1e-5)
    assert report.widths == (3, 3)


def test_a_loss_of_ones_own_is_taken_of_all_outputs():
    net, plain, x, y = case(20, labels=False)

    def worst(z, y):
        return jnp.abs(z - y).max()

    report = feature_condition(net, x, y, worst, draws=2, steps=5)
    found = outputs_of_annexes(net, plain, report.subsets, report.annexes, x)
    np.testing.assert_allclose(report.losses, [np.abs(z - y).max() for z in found], rtol=1e-10)


def test_integer_targets_that_are_no_labels_are_numbers():
    """Counts, for a loss of one's own of several outputs: no answer can be wrong."""
    net, _, x, _ = case(20)
    counts = np.arange(30) - 5

    def squares(z, y):
        return jnp.mean((z.sum(axis=1) - y) ** 2)

    report = feature_condition(net, x, counts, squares, draws=1, steps=0)
    assert report.errors is None
    assert report.net_error is None


def test_regression_targets_of_one_number_are_taken():
    net, plain, x, _ = case(21, widths=(3, 6, 1), labels=False)
    y = x[:, 0] ** 2
    report = feature_condition(net, x, y[:, None], "square", draws=2, steps=5)
    assert report.net_loss == pytest.approx(half_squares(plain.features(net.layers, x), y[:, None]), rel=1e-6)
    assert report.errors is None


class TestRefusals:
    """Claim R1."""

    pytestmark = pytest.mark.claim("nguyen2021connectivity/R1")

    def ask(self, **changes):
        net, _, x, y = case(22)
        data = {"X": x, "y": y, "loss": "cross_entropy"} | {
            k: changes.pop(k) for k in ("X", "y", "loss") if k in changes
        }
        return feature_condition(net, **data, **({"draws": 1, "steps": 0} | changes))

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"subsets": [[0, 1, 2, 3], [0, 1]]}, r"layer 1 has 6 units, but 4 are read and the annexes need 3"),
            ({"subsets": [[0, 1, 2], [0, 1, 2, 3]]}, r"layer 2 has 5 units, but 4 are read and the annexes need 2"),
            ({"widths": [4, 2]}, r"layer 1 has 6 units.* width 4 .*8"),
            ({"widths": [3, 3]}, r"layer 2 has 5 units.* width 3 .*6"),
            ({"widths": [3]}, r"`widths` has 1 entries"),
            ({"widths": [0, 2]}, "widths"),
            ({"subsets": [[0, 1, 2]]}, r"`subsets` has 1 entries"),
            ({"subsets": [[], [0]]}, "layer 1"),
            ({"subsets": [[0, 6], [0]]}, "layer 1.*0 to 5"),
            ({"subsets": [[0], [-1, 2]]}, "layer 2.*0 to 4"),
            ({"subsets": [[0], [1, 1]]}, "layer 2"),
            ({"subsets": [[0.0], [1]]}, "layer 1"),
            ({"subsets": [[[0]], [1]]}, "layer 1"),
            ({"keep": 0.0}, "keep"),
            ({"keep": 1.0}, "keep"),
            ({"keep": float("nan")}, "keep"),
            ({"draws": 0}, "draws"),
            ({"steps": -1}, "steps"),
            ({"batch": 0}, "batch"),
            ({"lr": 0.0}, "lr"),
            ({"lr": float("inf")}, "lr"),
            ({"select": "median"}, "select"),
            ({"annex": "guess"}, "annex"),
            ({"loss": "hinge"}, "loss"),
        ],
    )
    def test_settings_and_sizes_that_do_not_fit(self, changes, words):
        with pytest.raises(ValueError, match=words):
            self.ask(**changes)

    def test_sizes_that_leave_no_room_are_found_before_anything_is_trained(self, monkeypatch):
        def never(*args, **options):
            raise AssertionError("annexes were trained in vain")

        monkeypatch.setattr(draws_module, "trained", never)
        with pytest.raises(ShapeError, match="layer 1 has 6 units"):
            self.ask(subsets=[[0, 1, 2, 3], [0, 1]], steps=10)

    def test_a_layer_of_one_unit_has_no_half(self):
        net, _, x, y = case(0, widths=(3, 6, 1, 3))
        with pytest.raises(ShapeError, match="layer 2 has 1 units"):
            feature_condition(net, x, y, "cross_entropy", draws=1, steps=0)

    @pytest.mark.parametrize("annex", ["user", "train"])
    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda a: a[:-1], "2 entries"),
            (lambda a: (a[0], a[1][:-1], a[2]), "annex 1 has 1 layers"),
            (lambda a: (a[0], a[1], ((a[2][0][0][:, :2], a[2][0][1][:2]),)), "annex 2 has 2 outputs"),
            (lambda a: (a[0], a[1], ((a[2][0][0], None),)), "annex 2"),
            (lambda a: (a[0], a[1], ((a[2][0][0][:1], a[2][0][1]),)), "annex 2.* 1 .*2"),
            (lambda a: (((a[0][0][0][:2], a[0][0][1]), *a[0][1:]), *a[1:]), "annex 0.* 2 .*3"),
            (
                lambda a: (a[0], ((a[1][0][0][:, :1], a[1][0][1][:1]), (a[1][1][0][:1], a[1][1][1])), a[2]),
                "annex 1 has hidden widths",
            ),
        ],
        ids=["number", "depth", "outputs", "bias", "inputs", "inputs of annex 0", "hidden widths"],
    )
    def test_annexes_of_another_shape(self, annex, change, words):
        net, *_ = case(22)
        subsets = (np.array([0, 1, 2]), np.array([0, 1]))
        annexes = random_annexes(np.random.default_rng(0), net, (2, 2), subsets)
        with pytest.raises(ValueError, match=words):
            self.ask(annex=annex, annexes=change(annexes), subsets=subsets)

    def test_annexes_that_do_not_fit_random_subsets(self):
        """Half of 5 units is 2, but a random subset has the 3 that are left."""
        net, *_ = case(22)
        annexes = random_annexes(np.random.default_rng(0), net, (3, 2), (np.arange(3), np.arange(2)))
        with pytest.raises((ValueError, TypeError), match=r"subsets|annex 2"):
            self.ask(annexes=annexes)

    def test_a_users_mode_without_annexes_or_subsets(self):
        net, *_ = case(22)
        annexes = random_annexes(np.random.default_rng(0), net, (2, 2), (np.arange(3), np.arange(2)))
        for changes in ({}, {"annexes": annexes}, {"subsets": [[0], [1]]}):
            with pytest.raises(TypeError, match="subsets"):
                self.ask(annex="user", **changes)

    def test_annexes_that_a_passthrough_would_not_use(self):
        net, *_ = case(22, activation="relu")
        _, _, x, y = case(22)
        annexes = random_annexes(np.random.default_rng(0), net, (3, 2), (np.arange(3), np.arange(3)))
        with pytest.raises((TypeError, ValueError)):
            feature_condition(net, x, y, "cross_entropy", annex="linear_passthrough", annexes=annexes, draws=1)

    @pytest.mark.parametrize("spoiled", ["weights", "data", "loss"])
    def test_a_loss_that_is_not_finite(self, spoiled):
        net, _, x, y = case(22, dtype=np.float64, labels=False)
        loss = "square"
        if spoiled == "weights":
            net = net.with_layers(tuple((1e200 * w, b) for w, b in net.layers))
        elif spoiled == "data":
            y = 1e200 * y
        else:

            def loss(z, y):
                return jnp.log(z - 1e3).sum()

        with pytest.raises(FloatingPointError):
            feature_condition(net, x, y, loss, draws=1, steps=0)

    def test_annexes_whose_loss_is_not_finite(self):
        net, _, x, y = case(22, dtype=np.float64)
        subsets = (np.array([0, 1, 2]), np.array([0, 1]))
        annexes = random_annexes(np.random.default_rng(0), net, (2, 2), subsets, scale=1e308)
        with pytest.raises(FloatingPointError):
            feature_condition(
                net, x, y, "square" if y.ndim > 1 else "cross_entropy", annex="user", annexes=annexes, subsets=subsets
            )

    def test_a_loss_that_is_not_a_number_for_any_annex(self):
        """Finite for the network itself alone."""
        net, plain, x, y = case(22, dtype=np.float64, labels=False)
        own = plain.features(net.layers, x)

        def loss(z, y):
            return jnp.where(jnp.abs(z - own).max() < 1e-6, 1.0, jnp.nan)

        with pytest.raises(FloatingPointError):
            feature_condition(net, x, y, loss, draws=2, steps=0)

    def test_wrong_kinds_of_loss_and_targets(self):
        with pytest.raises(ShapeError, match="one number"):
            self.ask(loss=lambda z, y: z.sum(axis=1))
        with pytest.raises(TypeError, match="`X`, `y` and `loss`"):
            self.ask(loss=None)
        with pytest.raises(TypeError, match="`X`, `y` and `loss`"):
            self.ask(y=None)
        with pytest.raises(ShapeError, match="targets"):
            self.ask(y=np.zeros(7, int))
        net, _, x, y = case(22, labels=False)
        with pytest.raises(ValueError, match="select"):
            feature_condition(net, x, y, "square", select="error", draws=1, steps=0)
        with pytest.raises((TypeError, ValueError)):
            self.ask(loss=3)

    @pytest.mark.parametrize("wrong", [3, -1, 100])
    def test_labels_that_no_output_belongs_to(self, wrong):
        _, _, _, y = case(22)
        with pytest.raises(ValueError, match="label"):
            self.ask(y=np.where(np.arange(30) == 4, wrong, y))

    def test_data_of_another_shape(self):
        with pytest.raises(ShapeError, match="input rows"):
            self.ask(X=np.ones((30, 4), np.float32))
        with pytest.raises(ValueError, match="X"):
            self.ask(X=np.full((30, 3), np.nan))
        with pytest.raises((ShapeError, ValueError)):
            self.ask(X=np.ones((0, 3)), y=np.zeros(0, int))


def test_a_report_without_draws_of_its_own_reports_itself():
    net, _, x, y = case(23)
    first = feature_condition(net, x, y, "cross_entropy", draws=3, steps=0)
    user = feature_condition(net, x, y, "cross_entropy", annex="user", annexes=first.annexes, subsets=first.subsets)
    assert [row["draws"] for row in user.per_layer()] == [1, 1, 1]
    np.testing.assert_array_equal(user.losses, first.losses)
    assert replace(user, draw_losses=first.draw_losses, draw_errors=first.draw_errors) == first


# Going on where another call ended


@pytest.mark.parametrize(("labels", "bias"), [(True, True), (False, False)])
def test_layers_that_were_trained_before_are_taken_bit_for_bit(labels, bias, tmp_path, monkeypatch):
    net, _, x, y = case(24, labels=labels, bias=bias)
    ask = [net, x, y, "cross_entropy" if labels else "square"]
    options = {"draws": 2, "steps": 5, "key": jax.random.key(3)}
    alone = feature_condition(*ask, **options)
    train, done = draws_module.trained, []

    def interrupted(chain, start, *args, **more):
        if start == 2:
            raise KeyboardInterrupt
        done.append(start)
        return train(chain, start, *args, **more)

    monkeypatch.setattr(draws_module, "trained", interrupted)
    with pytest.raises(KeyboardInterrupt):
        feature_condition(*ask, **options, checkpoint=tmp_path / "new")
    assert done == [0, 1]
    monkeypatch.setattr(
        draws_module, "trained", lambda chain, start, *a, **o: done.append(start) or train(chain, start, *a, **o)
    )
    assert feature_condition(*ask, **options, checkpoint=tmp_path / "new") == alone
    assert done == [0, 1, 2]
    assert feature_condition(*ask, **options, checkpoint=tmp_path / "new") == alone
    assert done == [0, 1, 2]


@pytest.mark.parametrize("change", [{"steps": 6}, {"lr": 0.1}, {"batch": 7}, {"draws": 3}, {"key": jax.random.key(4)}])
def test_layers_of_another_call_are_refused(change, tmp_path):
    net, _, x, y = case(25)
    options = {"draws": 2, "steps": 5, "key": jax.random.key(3), "checkpoint": tmp_path}
    feature_condition(net, x, y, "cross_entropy", **options)
    with pytest.raises(CheckpointError, match="layer0"):
        feature_condition(net, x, y, "cross_entropy", **{**options, **change})
    with pytest.raises(CheckpointError):
        feature_condition(net, x + 1, y, "cross_entropy", **options)


@pytest.mark.slow
def test_functions_of_the_same_name_that_do_something_else_are_another_call(tmp_path):
    net, _, x, y = case(26, labels=False)
    options = {"draws": 1, "steps": 2, "checkpoint": tmp_path}

    def scaled(factor):
        return lambda z, y: ((factor * z - y) ** 2).mean()

    feature_condition(net, x, y, scaled(1.0), **options)
    with pytest.raises(CheckpointError):
        feature_condition(net, x, y, scaled(2.0), **options)
    steeper = Layered(net.layers, lambda h: jnp.tanh(3 * h))
    feature_condition(
        Layered(net.layers, lambda h: jnp.tanh(1 * h)), x, y, "square", draws=1, steps=2, checkpoint=tmp_path / "a"
    )
    with pytest.raises(CheckpointError):
        feature_condition(steeper, x, y, "square", draws=1, steps=2, checkpoint=tmp_path / "a")


def test_annexes_of_a_network_in_half_precision_are_judged_as_they_are_kept():
    net, _, x, y = case(27, dtype=np.float16)
    report = feature_condition(net, x, y, "cross_entropy", draws=2, steps=40, lr=1e-2)
    assert {leaf.dtype for leaf in jax.tree.leaves(report.annexes)} == {np.dtype(np.float16)}
    user = feature_condition(net, x, y, "cross_entropy", annex="user", annexes=report.annexes, subsets=report.subsets)
    np.testing.assert_array_equal(user.losses, report.losses)
    path = connect(net, net, report, report)
    assert path_bound(path, net, net, report, report, x, y, "cross_entropy").value == pytest.approx(
        report.bound, rel=1e-9
    )


def test_an_activation_that_clips_hands_nothing_through():
    net, _, x, y = case(28, widths=(3, 8, 8, 3))
    for phi in (jax.nn.relu6, lambda h: jnp.minimum(jax.nn.relu(h), 1e4)):
        with pytest.raises(NotImplementedError, match="identity on positive numbers"):
            feature_condition(Layered(net.layers, phi), x, y, "cross_entropy", annex="linear_passthrough")


def test_the_draw_of_least_error_is_none_whose_outputs_are_not_numbers():
    outcome = Judged(np.array([np.nan, 0.7, 0.9]), np.array([1.0, 0.5, 0.5]), np.ones(3))
    assert [best_draw(outcome, select) for select in ("loss", "error")] == [1, 1]
