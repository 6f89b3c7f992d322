"""How wide a network must be to memorize, and how that trades off against the quality of features."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from widescape.core.errors import DtypeError, ShapeError
from widescape.paths import memorization
from widescape.paths.layered import Layered
from widescape.paths.memorization import memorization_probe
from widescape.paths.tradeoff import feature_tradeoff

CORNERS = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
XOR = np.array([0, 1, 1, 0])


def test_one_relu_unit_cannot_fit_the_exclusive_or_and_eight_do():
    # One unit is monotone in one direction, so its read-out splits the corners by at most one line twice: at least one
    # corner is wrong. Eight units fit it.
    probe = memorization_probe(CORNERS, XOR, [8, 1], lr=1e-2)
    assert probe.widths.tolist() == [1, 8]
    assert probe.errors[0] >= 0.25
    assert probe.errors[1] == 0
    assert probe.smallest == 8
    assert probe.losses[1] < 0.01 < probe.losses[0]
    assert probe.parameters.tolist() == [2 + 1 + 2 + 2, 16 + 8 + 16 + 2]
    assert (probe.num_examples, probe.draws) == (4, 2)


def test_it_stops_at_the_first_width_that_fits_only_where_that_is_asked_for():
    y = (CORNERS[:, 0] > 0.5).astype(int)  # separable, so that every width fits
    options = {"lr": 1e-2, "steps": 600}
    assert memorization_probe(CORNERS, y, [4, 8], **options).widths.tolist() == [4, 8]
    assert memorization_probe(CORNERS, y, [4, 8], stop_at_first=True, **options).widths.tolist() == [4]


def test_numbers_are_fitted_up_to_a_tolerance_and_have_no_errors(rng):
    x = rng.normal(size=(6, 2))
    y = rng.normal(size=6)
    probe = memorization_probe(x, y, [1, 64], lr=1e-2, tol=1e-3)
    assert probe.errors is None
    assert probe.smallest == 64
    assert probe.losses[0] > 1e-3 >= probe.losses[1]
    assert probe.charts()[0].y_label == "loss"


def test_the_loss_is_that_of_the_draw_of_least_error_and_among_these_of_least_loss(monkeypatch):
    class Reached:
        errors = np.array([0.5, 0.25, 0.25, 0.75])
        losses = np.array([0.1, 0.4, 0.3, 0.2])

    monkeypatch.setattr(memorization, "trained", lambda *_, **__: (None, Reached))
    probe = memorization_probe(CORNERS, XOR, [2], draws=4)
    assert (probe.losses.tolist(), probe.errors.tolist()) == ([0.3], [0.25])
    (meaning,) = (row["meaning"] for row in probe.table() if row["name"] == "losses")
    assert "least error, and among these of least loss" in meaning


def test_features_of_another_scale_and_shape_are_the_same_problem(rng):
    x = rng.normal(size=(12, 2, 3)).astype(np.float32)
    y = rng.integers(0, 2, 12)
    options = {"lr": 1e-2, "steps": 50}
    ours, scaled = (memorization_probe(s * x, y, [4], **options) for s in (1.0, 1024.0))
    flat = memorization_probe(x.reshape(12, 6), y, [4], **options)
    np.testing.assert_allclose(scaled.losses, ours.losses, rtol=1e-6)
    np.testing.assert_array_equal(flat.losses, ours.losses)


def test_contradicting_labels_of_equal_rows_are_never_fitted():
    probe = memorization_probe(np.ones((2, 3)), np.array([0, 1]), [16], lr=1e-2, steps=100)
    assert probe.smallest is None
    assert probe.losses[0] >= np.log(2) - 1e-9
    assert probe.charts()[0].markers == ()


def test_constant_zero_features_are_taken(rng):
    probe = memorization_probe(np.zeros((3, 2)), np.array([1, 1, 1]), [2], steps=200, lr=1e-2)
    assert probe.smallest == 2  # by the bias alone


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"widths": []}, ShapeError, "`widths` is empty"),
        ({"widths": [0]}, ValueError, "widths"),
        ({"widths": [1.5]}, TypeError, "widths"),
        ({"F": np.zeros(4)}, ShapeError, "`F` has shape"),
        ({"F": np.zeros((0, 2))}, ShapeError, "`F` has shape"),
        ({"F": CORNERS * np.nan}, ValueError, "`F`"),
        ({"F": np.array([["a"]] * 4)}, DtypeError, "`F`"),
        ({"y": np.array([0, 1, -1, 0])}, ValueError, "-1"),
        ({"y": np.array([0, 1])}, ShapeError, "`y`"),
        ({"y": np.array([0, 1, 1, 0, 1])}, ShapeError, r"`y` has shape \(5,\), but `F` has 4 examples"),
        ({"y": np.array([], int)}, ShapeError, r"`y` has shape \(0,\), but `F` has 4 examples"),
        ({"y": np.ones(3)}, ShapeError, r"`y` has shape \(3,\), but `F` has 4 examples"),
        ({"y": np.ones((2, 4))}, ShapeError, r"`y` has shape \(2, 4\), but `F` has 4 examples"),
        ({"y": 1.0}, ShapeError, r"`y` has shape \(\), but `F` has 4 examples"),
        ({"y": np.ones((4, 0))}, ShapeError, r"`y` has shape \(4, 0\)"),
        ({"steps": 0}, ValueError, "steps"),
        ({"lr": -1.0}, ValueError, "lr"),
        ({"tol": 0.0}, ValueError, "tol"),
        ({"hidden_layers": 0}, ValueError, "hidden_layers"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_by_name(change, error, words):
    given = {"F": CORNERS, "y": XOR, "widths": [2], **change}
    with pytest.raises(error, match=words):
        memorization_probe(given.pop("F"), given.pop("y"), given.pop("widths"), **given)


def identity_net(width):
    """Features that are the inputs again, repeated: as good as the inputs in every layer."""
    eye = np.tile(np.eye(2), (1, width // 2))
    back = np.tile(np.eye(2), (width // 2, width // 2)) / (width // 2)
    return Layered([(eye, np.zeros(width)), (back, np.zeros(width)), (np.zeros((width, 2)), np.zeros(2))], jax.nn.relu)


def solved_net():
    """A first layer that computes the exclusive or, relu(x1 - x2) + relu(x2 - x1), in eight copies."""
    first = np.tile(np.array([[1.0, -1.0], [-1.0, 1.0]]), (1, 8))
    return Layered([(first, np.zeros(16)), (np.zeros((16, 2)), np.zeros(2))], jax.nn.relu)


def test_features_that_solve_the_task_need_no_width_and_the_raw_input_needs_some():
    found = feature_tradeoff({"solved": solved_net()}, CORNERS, XOR, widths=(1, 8, 32), lr=1e-2)
    (needed,), (errors,), (room,) = found.needed, found.linear_errors, found.available
    assert errors[0] >= 0.25  # the exclusive or is not linear in the input
    assert needed[0] in (8, 32)
    assert (errors[1], needed[1]) == (0, 0)  # half of the units hold both kinds
    assert room.tolist() == [8, np.inf]


def test_layers_that_repeat_the_input_need_as_much_as_the_input():
    found = feature_tradeoff({"a": identity_net(8), "b": identity_net(8)}, CORNERS, XOR, widths=(32,), lr=1e-2)
    assert found.names == ("a", "b")
    for errors, layers in zip(found.linear_errors, found.layers, strict=True):
        assert layers.tolist() == [0, 1, 2]
        assert (errors >= 0.25).all()
    names = [chart.name for chart in found.charts()]
    assert names == ["needed-width", "linear-read-out"]


def test_the_tradeoff_refuses_numbers_as_targets_and_no_networks():
    with pytest.raises(ValueError, match="labels"):
        feature_tradeoff({"a": solved_net()}, CORNERS, np.eye(2)[XOR], "square")
    with pytest.raises(ValueError, match="`nets` is empty"):
        feature_tradeoff({}, CORNERS, XOR)


def test_networks_that_see_nothing_have_no_points_in_the_figure():
    blind = Layered([(np.zeros((2, 4)), np.zeros(4)), (np.zeros((4, 2)), np.zeros(2))], jnp.tanh)
    found = feature_tradeoff({"blind": blind}, CORNERS, XOR, widths=(2,), steps=20)
    assert np.isinf(found.needed[0][1])
    needed = found.charts()[0]
    assert all(np.isfinite(series.y).all() for series in needed.series)
