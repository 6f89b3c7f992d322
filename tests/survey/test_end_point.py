"""The survey's chapter about the end of training: what the point is, and what an added neuron did."""

import jax.numpy as jnp
import numpy as np
import pytest

from widescape import data
from widescape.arch import default_network
from widescape.core.chart import Chart
from widescape.curvature import System
from widescape.landscape import problems
from widescape.survey import end_point
from widescape.survey.chapter import Context, LeftOutError

SMALLEST, QUICK = 1e-3, 25.0


def context(system=None, net=None, dataset=None, *, budget=SMALLEST, seed=0):
    return Context(net, dataset, system, None, seed, budget)


def trap():
    problem = problems.affine_trap()
    return problem.system("trap")


def tanh_network(params, x):
    return jnp.tanh(x @ params["a"]) @ params["b"]


def labeled(width=4, dtype="float32"):
    rng = np.random.default_rng(0)
    y = np.arange(12) % 2
    x = (rng.normal(size=(12, 3)) + 2.0 * y[:, None]).astype(dtype)
    params = {"a": rng.normal(size=(3, width)).astype(dtype), "b": rng.normal(size=(width, 2)).astype(dtype)}
    return System(tanh_network, params, x, y, loss="cross_entropy")


def test_training_that_starts_in_a_bad_minimum_ends_there_and_the_neuron_hides_loss():
    chapter = end_point.chapter(context(trap()))
    point, run, escape = (chapter.results[name] for name in ("end of training", "added neuron", "escape value"))
    assert point.kind == "local_min_candidate"
    assert point.gap == pytest.approx(0.0, abs=1e-10)
    assert "possible local minimum" in chapter.verdict
    assert escape.loss == pytest.approx(0.5)
    assert escape.value == pytest.approx(5 / 12, abs=1e-6)
    rows = {row[0]: row[1:] for row in chapter.tables[0].rows}
    assert rows["trained alone"] == (pytest.approx(0.5), pytest.approx(0.5), None)
    assert rows["with an added neuron"] == (run.modified_loss[-1], run.loss[-1], run.contribution[-1])
    assert run.modified_loss[-1] < run.loss[-1]
    assert ("The neuron did not help" in chapter.verdict) == (run.loss[-1] >= rows["trained alone"][0])
    assert f"{run.loss[-1]:.3g} instead of 0.5" in chapter.verdict
    assert all(isinstance(chart, Chart) for chart in chapter.charts)
    assert [chart.name for chart in chapter.charts] == ["hidden_loss", "added_term", "hessian"]


@pytest.mark.slow
def test_labels_under_cross_entropy_bring_the_warning_that_nothing_is_attained_onto_the_page():
    chapter = end_point.chapter(context(labeled()))
    assert any("minimum" in sentence for sentence in chapter.sentences[-1:])
    assert not chapter.results["added neuron"].assumptions
    assert chapter.results["added neuron"].status != "vanished"
    assert "12 of 12 examples" in chapter.sizing


@pytest.mark.slow
def test_a_function_of_many_parameters_is_looked_at_without_its_hessian():
    chapter = end_point.chapter(context(labeled(width=500)))
    assert chapter.results["end of training"].eigs is None
    assert "search for a critical point" not in chapter.results
    assert any("2,500 parameters the Hessian was not decomposed" in sentence for sentence in chapter.sentences)


def test_outputs_that_depend_on_the_whole_batch_have_no_chapter():
    def centered(params, x):
        outputs = tanh_network(params, x)
        return outputs - outputs.mean(axis=0, keepdims=True)

    own = labeled()
    mixing = System(centered, own.params, own.x, own.y, loss="cross_entropy", mixes_examples=True)
    with pytest.raises(LeftOutError, match="one example each"):
        end_point.chapter(context(mixing))


@pytest.mark.slow
def test_on_digits_the_neuron_makes_the_objective_excellent_and_the_network_worse():
    dataset = data.load("digits")
    chapter = end_point.chapter(context(net=default_network(10), dataset=dataset, budget=QUICK))
    run = chapter.results["added neuron"]
    plain = chapter.tables[0].rows[0][1]
    assert run.status == "escaping"
    assert run.modified_loss[-1] < plain < run.loss[-1]
    assert "The neuron did not help" in chapter.verdict
    assert "search for a critical point" in chapter.results
