"""The survey's chapter about paths: two solutions, and what is proved, or only seen, between them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from widescape import arch, data, paths
from widescape.core.chart import Chart
from widescape.curvature import System
from widescape.survey import chapter as _chapter
from widescape.survey import solution_paths, solutions
from widescape.survey.chapter import Context, LeftOutError

SMALLEST, QUICK = 1e-3, 25.0


def context(system=None, net=None, dataset=None, *, budget=SMALLEST, seed=0):
    return Context(net, dataset, system, None, seed, budget)


def blobs(n=40):
    rng = np.random.default_rng(0)
    y = np.arange(n) % 2
    return (rng.normal(size=(n, 3)) + 3.0 * y[:, None]).astype(np.float32), y


def plain(params, x):
    hidden = jnp.tanh(x @ params["a"])
    return hidden @ params["b"] + x @ params["skip"]


def plain_system(loss="cross_entropy", targets=None):
    x, y = blobs()
    rng = np.random.default_rng(1)
    shapes = {"a": (3, 8), "b": (8, 2), "skip": (3, 2)}
    params = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return System(plain, params, x, y if targets is None else targets, loss=loss, reduction="mean")


@pytest.fixture(scope="module")
def of_architecture():
    net = arch.fc(depth=2, width=64, n_out=10, activation=arch.Relu(), w_std=2**0.5, b_std=0.1)
    return solution_paths.chapter(context(net=net, dataset=data.load("digits")))


@pytest.mark.slow
def test_an_architecture_gets_all_four_ways_and_a_proof(of_architecture):
    rows = {way: (loss, stands) for way, loss, stands in of_architecture.tables[0].rows}
    assert list(rows) == ["the ends", "straight line", "aligned units", "trained curve", "constructive path", "dropout"]
    assert rows["constructive path"][1] == "proved"
    bound = of_architecture.results["bound of the constructive path"]
    assert rows["constructive path"][0] == bound.value
    assert f"{bound.value:.3g}" in of_architecture.verdict
    profile = of_architecture.results["loss along the constructive path"]
    assert profile.max <= bound.value * (1 + 1e-6)
    assert {chart.name for chart in of_architecture.charts} == {"paths", "feature-condition"}
    assert all(isinstance(chart, Chart) for chart in of_architecture.charts)


@pytest.mark.slow
def test_the_conditions_belong_to_the_ends(of_architecture):
    for name, end in (("first", 0), ("second", -1)):
        report = of_architecture.results[f"feature condition of the {name} solution"]
        line = of_architecture.results["straight line"]
        assert report.net_loss == pytest.approx(line.loss[end], rel=1e-4)


@pytest.mark.slow
def test_the_largest_loss_on_the_line_counts_its_refined_peak(of_architecture):
    line = of_architecture.results["straight line"]
    top = of_architecture.tables[0].rows[1][1]
    assert top >= line.loss.max()
    assert top == pytest.approx(max(line.loss.max(), line.value + line.loss[[0, -1]].mean()))


def test_a_function_with_a_skip_connection_gets_the_general_ways_and_the_reason():
    found = solution_paths.chapter(context(plain_system()))
    ways = [row[0] for row in found.tables[0].rows]
    assert ways == ["the ends", "straight line", "trained curve"]
    assert any("needs a chain of layers" in sentence for sentence in found.sentences)
    assert "shuffled within every array" in found.sentences[0]
    assert "as sampled" in found.verdict


def test_a_chain_of_layers_of_ones_own_gets_the_proof():
    x, y = blobs()
    rng = np.random.default_rng(2)
    chain = paths.Layered([(rng.normal(size=s).astype(np.float32), None) for s in ((3, 6), (6, 2))], jnp.tanh)
    system = System(paths.Layered.__call__, chain, x, y, loss="cross_entropy", reduction="mean")
    ways = [row[0] for row in solution_paths.chapter(context(system)).tables[0].rows]
    assert ways == ["the ends", "straight line", "trained curve", "constructive path", "dropout"]


def test_a_loss_of_ones_own_gets_no_proof():
    found = solution_paths.chapter(context(plain_system(loss=lambda z, y: jnp.sum(jnp.abs(z)) + 0 * y, targets=None)))
    assert any("nothing shows that it is convex" in sentence for sentence in found.sentences)


@pytest.mark.slow
def test_given_parameters_that_are_a_solution_stay_as_they_are():
    x, y = blobs()
    net = arch.fc(depth=1, width=8, n_out=2, activation=arch.Relu())
    system = System(net.apply, net.init(jax.random.key(0), (3,)), x, y, loss="cross_entropy", reduction="mean")
    trained, _ = solutions.trained(system, system.params, 400, 0)
    found = solution_paths.chapter(context(system.starting_at(trained)))
    assert "The given parameters are the first solution" in found.sentences[0]
    untrained = solution_paths.chapter(context(system, budget=SMALLEST))
    assert found.results["straight line"].loss[0] == pytest.approx(system.value(system.vector(trained)), rel=1e-5)
    assert untrained.results["straight line"].loss[0] <= system.value()


def test_hidden_layers_of_one_unit_leave_no_room_and_say_so():
    x, y = blobs()
    net = arch.fc(depth=1, width=1, n_out=2, activation=arch.Relu())
    system = System(net.apply, net.init(jax.random.key(0), (3,)), x, y, loss="cross_entropy", reduction="mean")
    found = solution_paths.chapter(context(system))
    assert any(s.startswith("Constructive path: none, since layer 1 has 1 units") for s in found.sentences)


def test_a_subject_without_data_or_system_is_left_out():
    with pytest.raises(LeftOutError):
        solution_paths.chapter(context())


def test_the_same_seed_gives_the_same_chapter_and_another_seed_another():
    first, again, other = (solution_paths.chapter(context(plain_system(), seed=s)).to_dict() for s in (3, 3, 4))
    for found in (first, again, other):
        found.pop("seconds")
    assert first == again
    assert first["results"] != other["results"]


def test_a_slow_function_gets_fewer_steps(monkeypatch):
    class Slow(_chapter.Stopwatch):
        seconds = 1.0

    monkeypatch.setattr(solutions, "Stopwatch", Slow)
    size = solution_paths._solutions(context(plain_system(), budget=QUICK)).size
    assert (size.steps, size.curve) == (20, 10)
    assert size.annexes == solution_paths._QUICK.annexes
    assert solutions.affordable(plain_system(), 500, 120, QUICK) == pytest.approx(12.5 / 1120)


@pytest.mark.slow
def test_on_digits_the_proved_path_is_far_below_the_line():
    found = solution_paths.chapter(context(net=arch.default_network(10), dataset=data.load("digits"), budget=QUICK))
    rows = {row[0]: row[1] for row in found.tables[0].rows}
    assert rows["constructive path"] < 0.05
    assert rows["straight line"] > 0.5
    assert rows["aligned units"] < rows["straight line"]
    assert paths.ConditionReport in {type(result) for result in found.results.values()}
