"""The survey of a user's own model: which chapters run, and which are left out and why."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import widescape
from widescape import arch, data, kernels, survey
from widescape.cli.main import main
from widescape.core.errors import DataError
from widescape.curvature import System
from widescape.report import page
from widescape.survey import run as survey_run
from widescape.survey.subject import NAMED, load_model, of_system


def plain(p: Any, x: Any) -> Any:
    return jnp.tanh(x @ p["a"]) @ p["b"]


def plain_params(outputs: int = 3) -> Any:
    r = np.random.default_rng(0)
    return {"a": r.normal(size=(4, 8)), "b": r.normal(size=(8, outputs))}


def labeled_system(net: arch.Layer | None = None, n: int = 15) -> System:
    r = np.random.default_rng(1)
    x = r.normal(size=(n, 4))  # few, and of two classes: the search for neurons under cross entropy takes long
    labels = np.argmax(x[:, :2], axis=1)
    f, params = (
        (plain, plain_params(2)) if net is None else (net.apply, net.init(jax.random.key(0), (4,), dtype="float64"))
    )
    return System(f, params, x, labels, loss="cross_entropy", reduction="mean")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey_run, "SECONDS_PER_CHAPTER", 1e-3)


@pytest.fixture(scope="module")
def of_a_function() -> survey.SurveyReport:
    """The smallest survey of a plain function, by the room itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(survey_run, "SECONDS_PER_CHAPTER", 1e-3)
        return widescape.survey(labeled_system(), name="my model")


@pytest.mark.slow
def test_a_plain_function_gets_the_chapters_that_need_no_layers(of_a_function: survey.SurveyReport) -> None:
    report = of_a_function
    assert [c.name for c in report.chapters] == [
        "finite-networks",
        "loss-landscape",
        "solution-paths",
        "end-of-training",
    ]
    for title in ("The infinite-width limit", "What the layers represent"):
        assert "layers of the network" in report.left_out[title]
    assert report.title == "Survey of my model"
    assert "15 examples, of which 3 drawn at random are held out" in report.subject
    assert "score of the function" in report.chapters[0].results
    html = page.render(report)
    assert "Left out: <strong>The infinite-width limit</strong>" in html
    assert report.to_dict()["left_out"] == dict(report.left_out)


@pytest.mark.slow
def test_an_architecture_of_ours_gets_every_chapter(quick: None) -> None:
    net = arch.fc(1, 8, 2, activation=arch.Gelu(), w_std=1.4, b_std=0.1)
    report = survey.survey(labeled_system(net, n=20))  # four of them held out, as similarities need
    assert [c.name for c in report.chapters] == [
        "infinite-limit",
        "finite-networks",
        "loss-landscape",
        "solution-paths",
        "end-of-training",
        "layer-features",
    ]
    assert report.left_out == {}
    assert report.provenance["network"] == repr(net)


@pytest.mark.slow
def test_a_network_without_a_limit_leaves_out_what_needs_one(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey_run, "CHAPTERS", survey_run.CHAPTERS[:3])
    net = arch.fc(1, 8, 2, activation=arch.Gelu(), param="standard")
    report = survey.survey(labeled_system(net))
    assert [c.name for c in report.chapters] == ["finite-networks", "loss-landscape"]
    assert "no limit" in report.left_out["The infinite-width limit"]


def test_one_hot_targets_are_scored_as_classes(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey_run, "CHAPTERS", survey_run.CHAPTERS[1:2])
    labels = np.asarray(labeled_system().y)
    report = survey.survey(System(plain, plain_params(2), labeled_system().x, np.eye(2)[labels], reduction="mean"))
    assert "score of the function" in report.chapters[0].results


@pytest.mark.slow
def test_regression_has_no_classes(quick: None) -> None:
    r = np.random.default_rng(2)
    x = r.normal(size=(40, 4))
    net = arch.fc(1, 8, 1, activation=arch.Gelu())
    system = System(net.apply, net.init(jax.random.key(0), (4,), dtype="float64"), x, np.sin(x[:, :1]))
    report = survey.survey(system, test=(x[:5] + 0.1, np.sin(x[:5, :1])))
    assert [c.name for c in report.chapters] == [
        "infinite-limit",
        "finite-networks",
        "loss-landscape",
        "solution-paths",
        "end-of-training",
        "layer-features",
    ]
    assert "of the variance of 5 test targets" in report.chapters[0].verdict
    assert "the test set that came with it" in report.subject
    assert "score of the function" not in report.chapters[1].results
    page.render(report)


def test_numbers_under_square_loss_are_regressed_and_soft_labels_of_a_plain_function_need_layers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(survey_run, "CHAPTERS", survey_run.CHAPTERS[:1])
    r = np.random.default_rng(2)
    x = r.normal(size=(40, 4))
    report = survey.survey(System(plain, plain_params(), x, np.sin(x[:, :3])))
    assert "layers of the network" in report.left_out["The infinite-width limit"]


@pytest.mark.slow
def test_a_regression_is_scored_as_by_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    diabetes = data.load("diabetes")
    monkeypatch.setattr(survey_run, "CHAPTERS", (survey_run.CHAPTERS[0],))
    report = survey.survey(diabetes)
    results = report.chapters[0].results
    x, x_test = data.standardize(diabetes.x_train, diabetes.x_test, per="feature")
    y, y_test = (v[:, None] for v in data.standardize(diabetes.y_train, diabetes.y_test))
    net = arch.default_network(1)
    for name, get in (("NNGP", "nngp"), ("NTK", "ntk")):
        reg = results[f"{name} against the regularizer"].reg
        K = kernels.gram(net, x, get=get)
        mean = kernels.gram(net, x_test, x, get=get) @ np.linalg.solve(
            K + reg * np.trace(K) / len(K) * np.eye(len(K)), y
        )
        r2 = 1 - np.sum((mean - y_test) ** 2) / np.sum((y_test - y_test.mean()) ** 2)
        np.testing.assert_allclose(results[f"{name} score"].r2, r2, rtol=1e-8)
    assert f"{100 * results['NTK score'].r2:.0f} ±" in report.chapters[0].verdict
    assert "All 354 training examples" in report.chapters[0].sizing
    assert report.provenance["data"].startswith("diabetes: scikit-learn")


def test_a_regression_that_cannot_be_scored_leaves_the_chapter_out(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).normal(size=(30, 2))
    monkeypatch.setattr(survey_run, "CHAPTERS", survey_run.CHAPTERS[:1])
    few = data.Dataset("few", x[:28], x[:28, 0], x[28:], x[28:, 0], None, "here")
    report = survey.survey(few)
    assert "at least three test examples" in report.left_out["The infinite-width limit"]
    assert "units of the variance" in report.subject


def test_a_verdict_without_explained_variance_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    r = np.random.default_rng(0)
    noise = data.Dataset(
        "noise", r.normal(size=(40, 3)), r.normal(size=40), r.normal(size=(9, 3)), r.normal(size=9), None, "here"
    )
    monkeypatch.setattr(survey_run, "CHAPTERS", (survey_run.CHAPTERS[0],))
    report = survey.survey(noise)
    scores = [own.r2 for name, own in report.chapters[0].results.items() if name.endswith("score")]
    assert ("no better than their mean" in report.chapters[0].verdict) == (max(scores) <= 0)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["npz", "csv", "zip"])
def test_a_file_of_the_user_is_surveyed_by_the_command(
    form: str, tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(survey_run, "CHAPTERS", survey_run.CHAPTERS[:1])
    digits = data.load("digits").subset(60, 20, balanced=True)
    file = tmp_path / f"mine.{form}"
    if form == "npz":
        np.savez(file, x=digits.x_train, y=digits.y_train)
    elif form == "csv":
        rows = [[*x.ravel(), f"digit {y}"] for x, y in zip(digits.x_train, digits.y_train, strict=True)]
        file.write_text("\n".join(",".join(map(str, row)) for row in rows), encoding="utf-8")
    else:
        with zipfile.ZipFile(file, "w") as archive:
            for i, (x, y) in enumerate(zip(digits.x_train, digits.y_train, strict=True)):
                picture = io.BytesIO()
                Image.fromarray((255 * x[..., 0]).astype(np.uint8)).save(picture, "png")
                archive.writestr(f"{y}/{i}.png", picture.getvalue())
    assert main(["survey", "--data", str(file), "--out", str(tmp_path / "out"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["title"] == "Survey of a network on mine"
    assert document["provenance"]["data"].startswith("mine: ")
    assert str(file) in document["provenance"]["command"]
    assert len(document["chapters"]) == 1


def test_one_hot_targets_are_labels() -> None:
    r = np.random.default_rng(3)
    labels = r.integers(0, 3, 50)
    x = r.normal(size=(50, 4))
    for y in (np.eye(3)[labels], np.eye(3)[labels] - 0.1, 2.0 * np.eye(3)[labels] - 1):
        subject = of_system(System(plain, plain_params(), x, y), (x[:9], y[:9]), 0, "m")
        np.testing.assert_array_equal(subject.data.y_train, labels)
    soft = np.eye(3)[labels] + 0.01 * r.normal(size=(50, 3))
    assert of_system(System(plain, plain_params(), x, soft), None, 0, "m").data.num_classes is None


def test_the_seed_draws_what_is_held_out() -> None:
    system = labeled_system()
    first, again, other = (of_system(system, None, seed, "m") for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.held_out[0], again.held_out[0])
    assert not np.array_equal(first.held_out[0], other.held_out[0])
    joined = np.concatenate([first.system.x, first.held_out[0]])
    assert {tuple(row) for row in joined} == {tuple(row) for row in system.x}


@pytest.mark.slow
def test_the_room_is_its_own_main_function(of_a_function: survey.SurveyReport) -> None:
    assert isinstance(of_a_function, survey.SurveyReport)
    assert callable(widescape.survey)
    assert widescape.survey.survey is survey.survey


def test_systems_that_cannot_be_surveyed_are_refused() -> None:
    x = np.ones((20, 4)) * np.arange(20)[:, None]
    with pytest.raises(DataError, match="targets"):
        survey.survey(System(plain, plain_params(), x))
    with pytest.raises(DataError, match="at least ten"):
        survey.survey(System(plain, plain_params(), x[:5], np.ones((5, 3))))
    with pytest.raises(DataError, match="test set does not fit"):
        survey.survey(System(plain, plain_params(), x, np.ones((20, 3))), test=(x, np.ones((20, 2))))
    with pytest.raises(DataError, match="System"):
        survey.survey(3)  # type: ignore[arg-type]


MODEL = """
import numpy as np
from neighbor import f
from widescape.curvature import System

def make_system():
    r = np.random.default_rng(0)
    x = r.normal(size=(40, 4))
    params = {"a": r.normal(size=(4, 8)), "b": r.normal(size=(8, 3))}
    y = np.argmax(x[:, :3], axis=1)
    return System(f, params, x, y, loss="cross_entropy"), (x[:6], y[:6])

def wrong():
    return 3

number = 3
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "neighbor.py").write_text(
        "import jax.numpy as jnp\ndef f(p, x):\n    return jnp.tanh(x @ p['a']) @ p['b']\n"
    )
    (tmp_path / "model.py").write_text(MODEL)
    return tmp_path / "model.py"


@pytest.mark.slow
def test_a_model_in_a_file_is_surveyed_by_the_command(
    model: Path, tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(survey_run, "CHAPTERS", survey_run.CHAPTERS[:2])
    code = main(["survey", "--model", f"{model}:make_system", "--out", str(tmp_path / "out"), "--seed", "2"])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    assert "Left out: The infinite-width limit" in printed.out
    assert "The function beside its linearization" in printed.out
    html = (tmp_path / "out" / "survey.html").read_text()
    assert f"--model {model}:make_system --seed 2" in html


@pytest.mark.parametrize(
    ("address", "match"),
    [
        ("model.py", "file.py:function"),
        ("nowhere.py:make_system", "no file"),
        ("MODEL:nothing", "no function"),
        ("MODEL:number", "no function"),
        ("MODEL:wrong", "returns a int"),
        ("MODEL:not a name", "file.py:function"),
    ],
)
def test_addresses_that_lead_nowhere_are_refused(address: str, match: str, model: Path) -> None:
    with pytest.raises(DataError, match=match):
        load_model(address.replace("MODEL", str(model)))


@pytest.mark.slow
def test_the_chapter_on_digits_says_how_far_networks_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey_run, "CHAPTERS", survey_run.CHAPTERS[1:2])
    monkeypatch.setattr(survey_run, "SECONDS_PER_CHAPTER", 3600.0)  # so that no width is left out on a slow machine
    net = arch.fc(1, 512, 10, activation=arch.Gelu(), w_std=2**0.5, b_std=0.1)
    (chapter,) = survey.survey(data.load("digits"), arch=net).chapters
    study = chapter.results["distance to the limit"]
    assert study.widths.tolist() == [32, 64, 128, 256]
    assert (np.diff(study.finite_to_limit) < 0).all()
    assert (study.finite_to_linear < study.linear_to_limit).all()
    distances = chapter.results["distances between predictions"].distances
    np.testing.assert_allclose(distances, distances.T)
    assert len(distances) == 6
    assert distances[1, 3] < distances[0, 3]  # the mean of the networks is nearer to the limit than one of them
    assert "width 256" in chapter.verdict
    assert any(f"networks is {distances[1, 3]:.3g} from the limit" in sentence for sentence in chapter.sentences)


def images(n: int = 200) -> data.Dataset:
    r = np.random.default_rng(5)
    x = r.normal(size=(n + 20, 8, 8, 1))
    y = np.arange(n + 20) % 2
    x[y == 1, 1:3] += 2
    return data.Dataset("small images", x[:n], y[:n], x[n:], y[n:], 2, "made")


@pytest.mark.slow
def test_another_network_is_surveyed_on_images_and_how_much_of_them_was_used_is_said(
    quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey_run, "CHAPTERS", survey_run.CHAPTERS[:1])  # each of the others compiles for long
    report = survey.survey(images(), arch="cnn_gap(1, 4, 2, activation=Gelu())")
    assert [c.name for c in report.chapters] == ["infinite-limit"]
    sizing = {c.name: c.sizing for c in report.chapters}
    assert "To stay within" in sizing["infinite-limit"]
    assert "of 200 training examples" in sizing["infinite-limit"]
    assert "Conv 3x3, SAME, Gelu, GlobalAvgPool, Dense" in report.subject
    assert "--arch 'cnn_gap(1, 4, 2, activation=Gelu())'" in report.provenance["command"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("cnn", "give one of fc, cnn_vec, cnn_gap, myrtle, resnet"),
        ("fc(1, 8, 3, activation=Erf())", r"outputs of shape \(3,\), but small images needs 2"),
        (arch.Dense(2), "does not fit small images, whose examples are 8 x 8 x 1 numbers"),
        ("Relu(", "no expression"),
    ],
)
def test_a_network_that_does_not_fit_is_refused_before_the_work(given: str | arch.Layer, message: str) -> None:
    with pytest.raises(DataError, match=message):
        survey.survey(images(), arch=given)


def test_a_system_brings_its_own_network() -> None:
    with pytest.raises(DataError, match="leave out `arch`"):
        survey.survey(labeled_system(), arch="fc")


def test_every_word_for_a_network_is_one_that_fits_images() -> None:
    for word, make in NAMED.items():
        net = make(3)
        assert net.out(arch.Signal.of_input((8, 8, 1))).shape == (3,), word
        assert arch.from_text(repr(net)) == net


def test_the_command_line_refuses_a_network_beside_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["survey", "--model", "a.py:make", "--arch", "cnn_gap"]) == 2
    assert "leave out --arch" in capsys.readouterr().err
