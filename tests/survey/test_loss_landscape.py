"""The chapter about the loss landscape says what is certified, and why where nothing can be."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import widescape.survey.run as survey_run
from widescape import arch, data, survey
from widescape.core.chart import Surface
from widescape.curvature import System
from widescape.report import page
from widescape.survey import loss_landscape


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey_run, "CHAPTERS", (loss_landscape.chapter,))
    monkeypatch.setattr(survey_run, "TITLES", {loss_landscape.chapter: loss_landscape.TITLE})
    monkeypatch.setattr(survey_run, "SECONDS_PER_CHAPTER", 2.0)


def doubled_system(width: int = 4096, n: int = 12) -> System:
    """A wide network that starts at zero on a few points, close to being certified."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 20))
    x *= 20**0.5 / np.linalg.norm(x, axis=1, keepdims=True)
    half = rng.normal(size=(20, width // 2))
    net = arch.Sequential(arch.Dense(width), arch.Tanh(), arch.Frozen(arch.Dense(1)))
    signs = np.repeat([1.0, -1.0], width // 2)[:, None]
    params = ({"w": np.concatenate([half, half], axis=1)}, (), {"w": signs})
    return System(net.apply, params, x, 0.3 * np.sign(rng.normal(size=(n, 1))))


def relu(params: Any, x: Any) -> Any:
    return jax.nn.relu(x @ params["a"]) @ params["b"]


def small_params() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {"a": rng.normal(size=(4, 30)) / 2, "b": rng.normal(size=(30, 3)) / 30**0.5}


def inputs(n: int) -> np.ndarray:
    return np.random.default_rng(2).normal(size=(n, 4))


def test_a_wide_network_is_certified_and_the_chapter_says_from_which_step_at_what_rate():
    (chapter,) = survey.survey(doubled_system(), test=(np.ones((2, 20)), np.zeros((2, 1)))).chapters
    found = chapter.results["certificate"]
    assert found.step is not None
    assert found.certificate.rigorous
    assert f"From step {found.step:,} on, convergence to zero loss is guaranteed" in chapter.verdict
    assert any(f"factor {found.certificate.rate:.6f} a step" in sentence for sentence in chapter.sentences)
    assert any("norm propagation" in sentence for sentence in chapter.sentences)


def test_kinks_are_no_reason_to_leave_out_the_chapter_but_one_to_certify_nothing():
    system = System(relu, small_params(), inputs(20), np.eye(3)[np.arange(20) % 3])
    report = survey.survey(system)
    (chapter,) = report.chapters
    assert "certificate" not in chapter.results
    assert chapter.verdict.startswith("No certificate was made here")
    assert any("smooth activation" in sentence for sentence in chapter.sentences)
    assert isinstance(chapter.charts[0], Surface)
    assert "can be turned" in page.render(report) or "canvas" in page.render(report)


def test_cross_entropy_has_a_ratio_and_a_picture_and_no_certificate():
    system = System(relu, small_params(), inputs(20), np.arange(20) % 3, loss="cross_entropy", reduction="mean")
    (chapter,) = survey.survey(system).chapters
    assert "certificate" not in chapter.results
    assert any("Cross entropy has no such mu" in sentence for sentence in chapter.sentences)
    assert np.isfinite(chapter.results["PL ratio"].ratio).all()


def test_a_searched_curvature_is_called_a_search():
    def smooth(params: Any, x: Any) -> Any:
        return jnp.tanh(x @ params["a"]) @ params["b"]

    system = System(smooth, small_params(), inputs(10), np.eye(3)[np.arange(10) % 3])
    (chapter,) = survey.survey(system).chapters
    assert not chapter.results["certificate"].certificate.rigorous
    assert any("a search found, which proves nothing" in sentence for sentence in chapter.sentences)


def test_outputs_that_do_not_depend_on_the_parameters_leave_the_chapter_out():
    system = System(lambda w, x: x[:, 0] + 0 * w.sum(), np.ones(3), inputs(20), np.ones(20))
    report = survey.survey(system)
    assert report.chapters == ()
    assert "do not depend on the parameters" in report.left_out[loss_landscape.TITLE]


def test_the_table_lists_the_points_of_the_ratio():
    (chapter,) = survey.survey(System(relu, small_params(), inputs(20), np.eye(3)[np.arange(20) % 3])).chapters
    ratio = chapter.results["PL ratio"]
    (table,) = chapter.tables
    assert [row[0] for row in table.rows] == ratio.steps.tolist()
    np.testing.assert_array_equal([row[1] for row in table.rows], ratio.loss)
    assert ratio.steps[0] == 0
    assert ratio.steps[-1] == len(chapter.results["descent"].loss) - 1


@pytest.mark.slow
def test_the_default_network_on_digits_has_a_chapter():
    report = survey.survey(data.load("digits"))
    (chapter,) = report.chapters
    assert "of 1,297 training examples (600 outputs)" in chapter.sizing
    assert chapter.results["certificate"].certificate.rigorous
    descent = chapter.results["descent"]
    assert descent.loss[-1] < descent.loss[0]
