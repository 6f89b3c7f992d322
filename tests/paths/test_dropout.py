"""Dropout stability: by brute force over all masks, with the best scale of an independent search."""

from itertools import combinations, product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from path_networks import cross_entropy, error, half_squares, random_chain
from widescape.paths.condition import feature_condition
from widescape.paths.connection import connect
from widescape.paths.dropout import DropoutReport, dropout_stability
from widescape.paths.layered import Layered
from widescape.paths.objective import as_objective
from widescape.paths.path_proof import path_bound


def dropped(net, plain, x, masks, factors):
    """Outputs when layers l ... L-1 keep the units of `masks` alone, whose features are multiplied by `factors`."""
    first = net.num_layers - len(masks)
    h = np.asarray(x, np.float64)
    for i, (w, b) in enumerate(net.layers):
        h = h @ w.astype(np.float64) + (0 if b is None else b)
        if i < net.num_layers - 1:
            h = plain.activations[i](h)
        if first - 1 <= i < net.num_layers - 1:
            zeroed = np.zeros_like(h)
            kept = masks[i - first + 1]
            zeroed[:, kept] = h[:, kept] * factors[i - first + 1]
            h = zeroed
    return h


def all_masks(widths, kept):
    return product(*(map(list, combinations(range(n), m)) for n, m in zip(widths, kept, strict=True)))


def best_scale(z, y, loss):
    """The factor r >= 0 of least loss, by a bounded search on a logarithmic axis and 0."""
    found = minimize_scalar(
        lambda s: loss(np.exp(s) * z, y), bounds=(-9, 9), method="bounded", options={"xatol": 1e-12}
    )
    grid = min(np.linspace(-8, 8, 400), key=lambda s: loss(np.exp(s) * z, y))
    refined = minimize_scalar(
        lambda s: loss(np.exp(s) * z, y), bounds=(grid - 0.05, grid + 0.05), method="bounded", options={"xatol": 1e-12}
    )
    return min((found.fun, np.exp(found.x)), (refined.fun, np.exp(refined.x)), (loss(0 * z, y), 0.0))


def small(seed=0, *, activation="relu", labels=False, bias=True, dtype=np.float64, widths=(3, 4, 5, 3)):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(7, widths[0]))
    y = rng.integers(widths[-1], size=7) if labels else rng.normal(size=(7, widths[-1]))
    net, plain = random_chain(rng, widths, activation=activation, bias=bias, dtype=dtype, scale=1.5)
    return net, plain, x, y


@pytest.mark.claim("nguyen2021connectivity/C1")
def test_two_inputs_and_four_units_are_off_by_one_in_twenty_six(measured):
    eye = np.eye(2)
    net = Layered([(np.hstack([eye, eye]), None), (np.array([[2.0], [-1.0], [-1.0], [3.0]]), None)], jax.nn.relu)
    y = np.array([1.0, 2.0])

    def squares(z, y):
        return ((z[:, 0] - y) ** 2).mean()

    report = dropout_stability(net, eye, y, squares)
    assert report.net_loss == 0
    assert report.bound == pytest.approx(1 / 26, rel=1e-12)
    assert report.masks[0][0].tolist() == [0, 3]
    assert report.scales[0] == pytest.approx(8 / 13, rel=1e-7)
    condition = feature_condition(net, eye, y, squares, subsets=[[0, 1]], draws=2)
    assert condition.losses[1] <= 1e-12
    assert condition.bound <= 1e-12
    measured(f"dropout {report.bound:.7f}, feature condition {condition.bound:.0e}")


@pytest.mark.parametrize("loss", ["square", "cross_entropy"])
@pytest.mark.parametrize("rescale", ["none", "scalar", "inverse_keep"])
def test_with_all_masks_drawn_the_best_is_that_of_brute_force(loss, rescale):
    net, plain, x, y = small(1, labels=loss == "cross_entropy")
    plain_loss = half_squares if loss == "square" else cross_entropy
    report = dropout_stability(net, x, y, loss, draws=700, rescale=rescale)
    assert report.kept == (2, 2)
    for layer, least in enumerate(report.losses, 1):
        values = []
        for masks in all_masks((4, 5)[layer - 1 :], (2, 2)[layer - 1 :]):
            factors = [
                n / m if rescale == "inverse_keep" else 1.0 for n, m in zip((4, 5)[layer - 1 :], (2, 2), strict=False)
            ]
            z = dropped(net, plain, x, masks, factors)
            values.append(best_scale(z, y, plain_loss)[0] if rescale == "scalar" else plain_loss(z, y))
        assert least == pytest.approx(min(values), rel=1e-8)
        assert report.draw_losses[layer - 1].max() <= max(values) * (1 + 1e-8)
    assert report.bound == report.losses.max()


@pytest.mark.parametrize("rescale", ["none", "scalar", "inverse_keep"])
@pytest.mark.parametrize("activation", ["relu", "sin"])
@pytest.mark.parametrize("bias", [True, False])
def test_the_reported_masks_and_scales_give_the_reported_losses_and_errors(rescale, activation, bias):
    net, plain, x, y = small(2, activation=activation, labels=True, bias=bias, widths=(3, 7, 5, 6, 3))
    report = dropout_stability(net, x, y, "cross_entropy", draws=4, rescale=rescale, keep=0.4)
    assert report.kept == (3, 2, 2)
    for layer in range(1, 4):
        masks = report.masks[layer - 1]
        assert [len(m) for m in masks] == [3, 2, 2][layer - 1 :]
        factors = [
            n / m if rescale == "inverse_keep" else 1.0
            for n, m in zip((7, 5, 6)[layer - 1 :], (3, 2, 2)[layer - 1 :], strict=True)
        ]
        z = report.scales[layer - 1] * dropped(net, plain, x, masks, factors)
        assert report.losses[layer - 1] == pytest.approx(cross_entropy(z, y), rel=1e-9)
        if report.scales[layer - 1] > 0:
            assert report.errors[layer - 1] == pytest.approx(error(z, y))
        if rescale != "scalar":
            assert report.scales[layer - 1] == 1
        assert report.losses[layer - 1] == report.draw_losses[layer - 1].min()
        assert len(report.draw_losses[layer - 1]) == 4


def test_outputs_that_only_hurt_are_scaled_to_zero():
    """Targets that point the other way: the best nonnegative factor is 0."""
    net, _, x, _ = small(3, activation="relu", bias=False)
    positive = net.with_layers(tuple((np.abs(w), None) for w, _ in net.layers))
    report = dropout_stability(positive, np.abs(x), -np.ones((7, 3)), "square", draws=5)
    assert report.scales.tolist() == [0.0, 0.0]
    np.testing.assert_allclose(report.losses, 1.5)


@pytest.mark.claim("nguyen2021connectivity/T3")
@pytest.mark.parametrize("rescale", ["none", "scalar", "inverse_keep"])
@pytest.mark.parametrize(("activation", "double"), [("relu", False), ("gelu", True)])
def test_dropout_networks_are_annexes_and_make_a_path_at_the_dropout_bound(rescale, activation, double, measured):
    """All widths odd, so that neither subsets nor annexes are half of a layer."""
    dtype, widths = (np.float64 if double else np.float32), (3, 7, 5, 9, 3)
    net0, _, x, y = small(4, activation=activation, labels=True, dtype=dtype, widths=widths)
    net1 = small(5, activation=activation, dtype=dtype, widths=widths)[0]
    reports = [dropout_stability(net, x, y, "cross_entropy", draws=8, rescale=rescale) for net in (net0, net1)]
    conditions = [report.as_condition() for report in reports]
    path = connect(net0, net1, *conditions)
    found = path_bound(path, net0, net1, *conditions, x, y, "cross_entropy")
    stated = max(max(report.bound, report.net_loss) for report in reports)
    assert path.num_segments <= 23
    assert found.value == pytest.approx(stated, rel=1e-10 if double else 1e-5)
    for report, condition in zip(reports, conditions, strict=True):
        assert condition.widths == report.kept
        np.testing.assert_allclose(condition.losses[1:], report.losses, rtol=1e-10 if double else 1e-5)
        assert condition.losses[0] == pytest.approx(condition.losses[1], rel=1e-10)
        assert condition.holds(max(report.bound, report.net_loss) * (1 + 1e-5))
    if double:
        measured(f"{rescale}: path maximum {found.value:.6f} at a dropout bound of {stated:.6f}")


@pytest.mark.claim("nguyen2021connectivity/I8")
@pytest.mark.parametrize(("activation", "double"), [("relu", False), ("tanh", True)])
def test_annexes_that_start_from_dropout_networks_are_no_worse_than_the_dropout_bound(activation, double, measured):
    net, _, x, y = small(
        6, activation=activation, labels=True, dtype=np.float64 if double else np.float32, widths=(3, 7, 5, 9, 3)
    )
    report = dropout_stability(net, x, y, "cross_entropy", draws=6)
    start = report.as_condition()
    given = {"subsets": start.subsets, "annexes": start.annexes}
    still = feature_condition(net, x, y, "cross_entropy", steps=0, **given)
    assert still.losses.max() <= report.bound * (1 + (1e-12 if double else 1e-5))
    moved = feature_condition(net, x, y, "cross_entropy", steps=5, **given)
    assert (moved.losses <= still.losses).all()
    assert moved.losses.max() < still.losses.max()
    measured(f"{activation}: {still.losses.max():.6f} under a dropout bound of {report.bound:.6f}")


def test_an_untrained_networks_dropout_bound_may_lie_below_its_own_loss():
    net, _, x, y = small(7, labels=True)
    big = net.with_layers((*net.layers[:-1], tuple(8 * a for a in net.layers[-1])))
    report = dropout_stability(big, x, y, "cross_entropy", draws=50)
    assert report.bound < report.net_loss
    assert report.as_condition().bound == report.net_loss


def test_more_than_half_has_losses_but_no_path():
    net, plain, x, y = small(8)
    report = dropout_stability(net, x, y, "square", keep=0.75, draws=30, rescale="none")
    assert report.kept == (3, 4)
    assert report.losses[1] == pytest.approx(
        min(half_squares(dropped(net, plain, x, m, [1.0]), y) for m in all_masks((5,), (4,))), rel=1e-10
    )
    with pytest.raises(ValueError, match=r"\(3, 4\).*half"):
        report.as_condition()
    assert report.charts() == ()


def test_with_every_unit_kept_the_network_itself_is_left():
    net, _, x, y = small(9)
    report = dropout_stability(net, x, y, "square", keep=1.0, draws=2, rescale="none")
    np.testing.assert_allclose(report.losses, report.net_loss, rtol=1e-12)


def test_a_network_of_one_layer_has_nothing_to_drop():
    net, plain, x, y = small(10, widths=(3, 2))
    report = dropout_stability(net, x, y, "square")
    assert (report.masks, report.kept, len(report.losses)) == ((), (), 0)
    assert report.bound == report.net_loss == pytest.approx(half_squares(plain.features(net.layers, x), y))
    assert report.as_condition().losses.tolist() == [report.net_loss]


def test_masks_depend_on_the_key_alone():
    net, _, x, y = small(11)
    one, same, other = (dropout_stability(net, x, y, "square", draws=9, key=jax.random.key(k)) for k in (1, 1, 2))
    assert one == same
    assert not all(np.array_equal(a, b) for a, b in zip(one.draw_losses, other.draw_losses, strict=True))


def test_the_masks_of_a_layer_are_independent_and_uniform():
    """Units of layer 2 that are kept in the best of one draw: each pair equally often over many keys."""
    net, _, x, y = small(12, widths=(2, 4, 2))
    flat = Layered([(np.ones((2, 4)), None), (np.ones((4, 2)), None)], jnp.tanh)
    counts = dict.fromkeys(combinations(range(4), 2), 0)
    for k in range(300):
        report = dropout_stability(flat, x, y, "square", draws=1, rescale="none", key=jax.random.key(k))
        counts[tuple(report.masks[0][0].tolist())] += 1
    expected, spread = 50, (300 * (1 / 6) * (5 / 6)) ** 0.5
    assert all(abs(c - expected) < 4 * spread for c in counts.values())
    assert net.widths == flat.widths


def test_a_report_is_saved_printed_and_drawn(tmp_path):
    net, _, x, y = small(13, labels=True)
    report = dropout_stability(net, x, y, "cross_entropy", draws=5)
    again = DropoutReport.load(report.save(tmp_path / "dropout.result"))
    assert again == report
    assert again.as_condition() == report.as_condition()
    assert len(str(report).splitlines()) < 20
    (chart,) = report.charts()
    np.testing.assert_allclose(chart.series[0].y, report.as_condition().losses)


def test_numbers_as_targets_have_no_errors():
    net, _, x, y = small(14)
    report = dropout_stability(net, x, y, "square", draws=2)
    assert report.errors is None
    assert report.net_error is None


@pytest.mark.claim("nguyen2021connectivity/R1")
@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"keep": 0.0}, "keep"),
        ({"keep": 1.5}, "keep"),
        ({"keep": float("nan")}, "keep"),
        ({"draws": 0}, "draws"),
        ({"rescale": "vector"}, "rescale"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, word):
    net, _, x, y = small(15)
    with pytest.raises(ValueError, match=word):
        dropout_stability(net, x, y, "square", **changes)


@pytest.mark.claim("nguyen2021connectivity/R1")
def test_a_network_whose_loss_is_not_finite_is_refused():
    net, _, x, y = small(16)
    huge = net.with_layers(tuple((w * 1e200, b) for w, b in net.layers))
    with pytest.raises(FloatingPointError):
        dropout_stability(huge, x, y, "square", draws=2)


def test_activations_of_any_kind_can_be_dropped_from():
    for activation in ("sin", "cubic"):
        net, plain, x, y = small(17, activation=activation, widths=(3, 5, 2))
        report = dropout_stability(net, x, y, "square", draws=40, rescale="none")
        expected = min(half_squares(dropped(net, plain, x, m, [1.0]), y) for m in all_masks((5,), (2,)))
        assert report.bound == pytest.approx(expected, rel=1e-9)


def test_masks_that_overflow_are_passed_over_and_refused_where_there_is_nothing_else():
    huge = np.full((2, 4), 1e200)
    net = Layered([(huge, None), (np.zeros((4, 4)), None), (np.zeros((4, 2)), None)], lambda h: h**2)
    x, y = np.ones((3, 2)), np.array([0, 1, 0])
    with pytest.raises(FloatingPointError):
        dropout_stability(net, x, y, "cross_entropy", draws=3)


def test_an_answer_that_is_no_number_or_a_tie_is_wrong():
    net = Layered([(np.eye(2), None)], ())
    _, objective = as_objective(net, np.eye(2), np.array([0, 1]), "cross_entropy")
    assert objective.wrong(np.array([[np.nan, np.nan], [0.0, 1.0]])).tolist() == [True, False]
    assert objective.wrong(np.array([[2.0, 2.0], [0.0, 1.0]])).tolist() == [True, False]
    one = Layered([(np.ones((2, 1)), None)], ())
    _, signs = as_objective(one, np.eye(2), np.array([0, 1]), lambda z, y: (z**2).mean())
    assert signs.wrong(np.array([[0.0], [0.0]])).tolist() == [True, True]
    assert signs.wrong(np.array([[-1.0], [np.nan]])).tolist() == [False, True]
