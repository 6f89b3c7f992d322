"""The survey's chapter about layers: similarity, ranks, alignment and read-outs by their definitions."""

import json

import jax
import numpy as np
import pytest

from widescape import arch, data, features
from widescape.core.chart import Chart, HeatMap
from widescape.curvature import System
from widescape.survey import layer_features
from widescape.survey.activations import LayerFeatures, layer_names
from widescape.survey.chapter import Context, LeftOutError
from widescape.survey.solutions import two_solutions

SMALLEST, QUICK = 1e-3, 25.0
SIZE = layer_features._SMALLEST


def blobs(n=60, held=40, classes=3):
    rng = np.random.default_rng(0)
    y = np.arange(n + held) % classes
    x = rng.normal(size=(n + held, 4)) + 2.0 * np.eye(classes, 4)[y]
    return data.Dataset("blobs", x[:n], y[:n], x[n:], y[n:], classes, "made")


def context(net=None, dataset=None, system=None, *, budget=SMALLEST):
    dataset = blobs() if dataset is None else dataset
    held = None if system is None else (dataset.x_test, dataset.y_test)
    return Context(net, dataset, system, held, 0, budget)


def of_system(net, dataset, params=None, loss="cross_entropy", y=None):
    params = net.init(jax.random.key(1), dataset.x_train.shape[1:], dtype="float64") if params is None else params
    targets = dataset.y_train if y is None else y
    system = System(net.apply, params, dataset.x_train, targets, loss=loss, reduction="mean")
    return context(net, dataset, system)


NET = arch.fc(2, 32, 3, activation=arch.Gelu(), w_std=1.4, b_std=0.1)


@pytest.fixture(scope="module")
def found():
    """The chapter about a small network, what it worked on, and its two networks."""
    given = context(NET)
    chapter = layer_features.chapter(given)
    assert len(given.made) == 1
    return chapter, given.data, two_solutions(given, SIZE.examples, SIZE.width, SIZE.steps)


def held_out(dataset, chosen):
    """Activations of hidden and output layers on all held-out examples, by hand."""
    _, x = data.standardize(dataset.x_train, dataset.x_test, per="auto")
    h, layers = np.asarray(x, np.float32), []
    for layer, own in zip(chosen.net.layers[1:], (p for p in chosen.a[1:]), strict=True):
        h = np.asarray(layer.apply(own, h))
        layers.append(h)
    return layers[1], layers[3], layers[4]


def test_the_chapter_compares_the_two_networks_layer_by_layer(found):
    chapter, dataset, chosen = found
    similarity = chapter.results["similarity of layers"]
    assert similarity.layers1 == similarity.layers2 == ("1 Dense + Gelu", "2 Dense + Gelu", "3 Dense")
    _, x = data.standardize(dataset.x_train, dataset.x_test, per="auto")
    outputs = [np.asarray(chosen.net.apply(params, x.astype(np.float32))) for params in (chosen.a, chosen.b)]
    assert similarity.matrix[2, 2] == pytest.approx(features.cka(*outputs, debiased=True), abs=1e-6)
    held = sum(int(np.argmax(row)) == i for i, row in enumerate(similarity.matrix))
    assert chapter.verdict.startswith(f"{held} of 3 layers ")
    np.testing.assert_array_equal(chapter.charts[0].values, similarity.matrix)


def test_ranks_alignment_and_scores_are_those_of_the_activations_of_the_first_network(found):
    chapter, dataset, chosen = found
    own = chapter.results["features of layers"]
    layers = held_out(dataset, chosen)
    labels = np.eye(3)[dataset.y_test]
    center = np.eye(40) - 1 / 40
    for i, h in enumerate(map(np.float64, layers)):
        for suffix, rows in (("", h), ("_centered", center @ h)):
            values = np.linalg.svd(rows, compute_uv=False)
            assert getattr(own, f"stable_rank{suffix}")[i] == pytest.approx(
                (values**2).sum() / values[0] ** 2, rel=1e-5
            )
            shares = values[values > 0] / values.sum()
            assert getattr(own, f"effective_rank{suffix}")[i] == pytest.approx(
                np.exp(-shares @ np.log(shares)), rel=1e-4
            )
            assert getattr(own, f"srank{suffix}")[i] == np.argmax(np.cumsum(shares) >= 0.99) + 1
        K, L = center @ h @ h.T @ center, center @ labels @ labels.T @ center
        aligned = np.sum(K * L) / np.linalg.norm(K) / np.linalg.norm(L)
        assert own.alignment[i] == pytest.approx(aligned, rel=1e-5)
    assert own.network == np.mean(layers[-1].argmax(axis=1) == dataset.y_test)
    assert (own.alignment_before != own.alignment).all()
    assert own.num_features.tolist() == [16, 16, 3]
    assert own.linear.shape == own.linear_stderr.shape == own.neighbors.shape == (4,)
    assert f"{100 * own.linear[-2]:.1f} ±" in chapter.verdict


def test_read_outs_are_fitted_on_training_examples_of_the_network_and_the_inputs_come_first(found):
    chapter, dataset, chosen = found
    own = chapter.results["features of layers"]
    x, x_test = (part.astype(np.float32) for part in data.standardize(dataset.x_train, dataset.x_test, per="auto"))
    x, y = x[chosen.rows], dataset.y_train[chosen.rows]
    expected = features.linear_readout(x, y, x_test, dataset.y_test)
    assert (own.linear[0], own.linear_stderr[0]) == (expected.accuracy, expected.accuracy_stderr)
    distances = np.linalg.norm(x_test[:, None] - x[None], axis=2)
    votes = y[np.argsort(distances, axis=1, kind="stable")[:, :5]]
    near = [np.bincount(row, minlength=3).max() for row in votes]
    clear = np.array(
        [np.sum(np.bincount(row, minlength=3) == most) == 1 for row, most in zip(votes, near, strict=True)]
    )
    right = np.array([np.bincount(row, minlength=3).argmax() for row in votes]) == dataset.y_test
    assert right[clear].sum() / 40 <= own.neighbors[0] <= (right[clear].sum() + (~clear).sum()) / 40


def test_the_chapter_shows_a_heat_map_read_outs_and_ranks_and_a_row_for_each_layer(found):
    chapter = found[0]
    assert [type(chart) for chart in chapter.charts] == [HeatMap, Chart, Chart]
    assert [chart.name for chart in chapter.charts] == ["layer-similarity", "read-outs", "ranks"]
    (table,) = chapter.tables
    assert [row[0] for row in table.rows] == ["inputs", "1 Dense + Gelu", "2 Dense + Gelu", "3 Dense"]
    assert "Held out: 40 of 40 examples" in chapter.sizing
    assert "60 of 60 examples, hidden width 16" in chapter.sizing
    json.dumps(chapter.to_dict(), allow_nan=False)


def test_what_is_measured_of_layers_comes_back_from_its_file(found, tmp_path):
    own = found[0].results["features of layers"]
    assert LayerFeatures.load(own.save(tmp_path / "layers.zip")) == own
    assert len(str(own).splitlines()) < 20
    assert all(row["meaning"] for row in own.table())


@pytest.mark.parametrize(
    ("net", "names"),
    [
        (arch.fc(1, 4, 2, activation=arch.Relu()), ["1 Dense + Relu", "2 Dense"]),
        (arch.Sequential(arch.Relu(), arch.Identity(), arch.Dense(2)), ["1 Relu", "2 Dense"]),
        (arch.cnn_gap(1, 4, 2), ["1 Conv + Relu", "2 GlobalAvgPool", "3 Dense"]),
        (arch.cnn_vec(1, 4, 2), ["1 Conv + Relu", "2 Dense"]),
        (
            arch.Sequential(arch.Conv(4, (3, 3)), arch.LayerNorm(), arch.Relu(), arch.Flatten(), arch.Dense(2)),
            ["1 Conv", "2 LayerNorm + Relu", "3 Dense"],
        ),
    ],
)
def test_a_nonlinearity_and_what_it_is_applied_to_are_one_layer(net, names):
    assert list(layer_names(net).values()) == names
    shape = (4, 4, 1) if any(isinstance(layer, arch.Conv) for layer in net.layers) else (3,)
    params = net.init(jax.random.key(0), shape, dtype="float32")
    assert set(layer_names(net)) <= set(features.layer_activations(net, params, np.ones((2, *shape), np.float32)))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (context, "layers of the network"),
        (lambda: context(arch.Residual(arch.Dense(4))), "one after another"),
        (lambda: context(NET, blobs(held=3)), "at least 4 held-out examples"),
        (lambda: context(NET, data.Dataset("one", *blobs().arrays()[:3], np.zeros(40, int), 3, "made")), "differ"),
    ],
)
def test_what_has_no_layers_or_too_few_held_out_examples_is_left_out(given, words):
    with pytest.raises(LeftOutError, match=words):
        layer_features.chapter(given())


@pytest.mark.slow
def test_a_silent_layer_is_left_out_and_given_parameters_stay_as_they_are():
    dataset = blobs()
    net = arch.fc(2, 6, 3, activation=arch.Relu(), b_std=1.0)
    params = net.init(jax.random.key(0), (4,), dtype="float64")
    dead = [jax.tree.map(np.asarray, own) for own in params]
    dead[3] = {"w": 0 * dead[3]["w"], "b": -abs(dead[3]["b"]) - 1.0}
    chapter = layer_features.chapter(of_system(net, dataset, tuple(dead)))
    assert chapter.results["features of layers"].layers == ("1 Dense + Relu",)
    assert any("2 Dense + Relu, 3 Dense" in sentence for sentence in chapter.sentences)
    assert "A linear map of layer 1 Dense + Relu reads" in chapter.verdict
    dead[1] = {"w": 0 * dead[1]["w"], "b": -abs(dead[1]["b"]) - 1.0}
    with pytest.raises(LeftOutError, match="the same for all examples"):
        layer_features.chapter(of_system(net, dataset, tuple(dead)))


@pytest.mark.slow
def test_numbers_are_explained_and_few_examples_do_not_matter():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 3))
    y = np.sin(x[:, :1])
    dataset = data.Dataset("numbers", x[:26], y[:26], x[26:], y[26:], None, "made")
    net = arch.fc(1, 8, 1, activation=arch.Gelu())
    chapter = layer_features.chapter(of_system(net, dataset, loss="square"))
    own = chapter.results["features of layers"]
    assert own.score == "R^2"
    assert np.isfinite(own.linear_stderr).all()
    assert "of the variance of held-out targets" in chapter.verdict
    assert "Held out: 4 of 4 examples" in chapter.sizing


@pytest.mark.slow
def test_large_images_are_averaged_over_positions(monkeypatch):
    rng = np.random.default_rng(0)
    y = np.arange(40) % 2
    x = rng.normal(size=(40, 4, 4, 1)) + y[:, None, None, None]
    dataset = data.Dataset("images", x[:30], y[:30], x[30:], y[30:], 2, "made")
    net = arch.cnn_gap(1, 4, 2, activation=arch.Gelu())
    monkeypatch.setattr(layer_features, "_MOST_NUMBERS", 40 * (16 * 16 + 16 + 2) - 1)
    chapter = layer_features.chapter(context(net, dataset))
    assert chapter.results["features of layers"].num_features.tolist() == [16, 16, 2]
    assert "means over positions" in chapter.sizing


@pytest.mark.slow
def test_on_digits_layers_of_two_networks_are_alike_and_more_can_be_read_off_them_than_off_the_inputs():
    chapter = layer_features.chapter(context(arch.default_network(10), data.load("digits"), budget=QUICK))
    similarity, own = chapter.results.values()
    assert np.diag(similarity.matrix).min() > 0.8
    assert own.linear[-2] > own.linear[0] + 2 * own.linear_stderr[0]
    assert own.alignment[-2] > own.alignment_before[-2]
    assert own.network > 0.85
