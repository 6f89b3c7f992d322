"""The commands data, kernel, fit and predict: what they write is what the library computes."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from commands import run
from widescape import arch, data, estimators, kernels

NET = "fc(2, 16, 1, activation=Relu(), w_std=2**0.5, b_std=0.1)"
NETWORK = arch.fc(2, 16, 1, activation=arch.Relu(), w_std=2**0.5, b_std=0.1)


def document(capsys, *arguments):
    code, out, _ = run(capsys, *arguments, "--json")
    assert code == 0
    return json.loads(out)


@pytest.fixture
def table(tmp_path):
    wine = data.load("wine")
    file = tmp_path / "wine.csv"
    x, y = np.concatenate([wine.x_train, wine.x_test]), np.concatenate([wine.y_train, wine.y_test])
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["kind", *wine.feature_names])
        writer.writerows([f"kind {label}", *row] for row, label in zip(x, y, strict=True))
    return file


# Data.


def test_the_list_of_data_sets_has_every_name_and_its_kind(capsys):
    listed = document(capsys, "data", "list")["data"]
    assert [own["name"] for own in listed] == list(data.names())
    assert {own["kind"] for own in listed} == {"bundled", "download", "synthetic"}
    _, out, _ = run(capsys, "data", "list")
    assert len(out.splitlines()) == len(data.names())


def test_info_counts_examples_and_classes(capsys, table):
    facts = document(capsys, "data", "info", "digits")
    assert (facts["training_examples"], facts["test_examples"], facts["example"]) == (1297, 500, "8 x 8 x 1")
    assert facts["fingerprint"] == data.load("digits").fingerprint
    own = document(capsys, "data", "info", table, "--target", "kind")
    assert own["targets"].startswith("3 classes")
    assert own["classes"] == "kind 0, kind 1, kind 2"
    assert "alcohol" in own["features"]
    assert document(capsys, "data", "info", "diabetes")["targets"] == "numbers, 1 for each example"


def test_fetching_says_where_the_files_are(capsys, monkeypatch, tmp_path):
    fetched = []
    monkeypatch.delenv("WIDESCAPE_DATA", raising=False)
    monkeypatch.setattr("widescape.data.catalog.cache_folder", lambda: tmp_path)
    monkeypatch.setattr("widescape.data.catalog.fetch", lambda files, folder: fetched.extend(f.name for f in files))
    assert document(capsys, "data", "fetch", "cifar10")["folder"] == str(tmp_path / "cifar10")
    assert fetched == ["cifar-10-python.tar.gz"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["data", "fetch"], "needs a name"),
        (["data", "fetch", "digits"], "needs no download"),
        (["data", "info", "nothing"], "no data set 'nothing'"),
        (["data", "info", "absent.csv"], "no file or folder 'absent.csv'"),
        (["data", "info", "digits", "--target", "x"], "files of your own"),
        (["kernel", "--net", "open('x')"], "--net: there is no layer"),
        (["kernel", "--n", "0"], "--n is 0"),
        (["kernel", "--seed", "-1"], "--seed is -1"),
        (["fit", "--reg", "-1"], "--reg is -1"),
        (["fit", "--reg", "nan"], "--reg is nan"),
        (["fit", "--reg", "0", "--t", "-5"], "--t is -5"),
        (["fit", "--t", "5"], "--reg loo"),
        (["fit", "--net", "Dense(0)"], "--net"),
        (["predict", "absent.npz", "digits"], "absent.npz"),
        (["fit", "--reg", "inf"], "--reg is inf"),
        (["fit", "--reg", "0.1", "--t", "inf"], "--t is inf"),
        (["fit", "--n", "5"], "there are 10 classes"),
        (["fit", "--out", "."], "'.', which is a folder"),
        (["kernel", "--out", "."], "'.', which is a folder"),
    ],
)
def test_refusals_have_exit_code_1_and_one_sentence_on_standard_error(arguments, reason, capsys):
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (1, "")
    assert reason in err
    assert "Traceback" not in err


# Kernels.


@pytest.mark.parametrize("get", ["nngp", "ntk"])
def test_the_kernel_that_is_written_is_that_of_the_standardized_inputs(capsys, tmp_path, get):
    file = tmp_path / "deep" / "kernel.npz"
    said = document(capsys, "kernel", "--data", "wine", "--net", NET, "--get", get, "--out", file)
    (x,) = data.standardize(data.load("wine").x_train, per="feature")
    with np.load(file) as written:
        assert np.array_equal(written[get], kernels.gram(NETWORK, x, get=get))
        assert np.array_equal(written["x"], x)
        assert np.array_equal(written["y"], data.load("wine").y_train)
        assert arch.from_text(str(written["net"])) == NETWORK
    condition = kernels.spectrum(kernels.gram(NETWORK, x, get=get)).condition_number
    assert said["fields"]["condition_number"]["value"] == condition


def test_a_plan_computes_and_writes_nothing(capsys, tmp_path):
    file = tmp_path / "kernel.npz"
    plan = document(capsys, "kernel", "--n", "100", "--plan", "--out", file)
    assert plan["fields"]["pairs"]["value"] == 5050
    plan = document(capsys, "fit", "--data", "iris", "--plan", "--out", file)
    assert plan["fields"]["num_examples"]["value"] == 120
    assert not file.exists()


# Fit and predict.


def test_a_table_is_fitted_saved_and_predicted(capsys, tmp_path, table):
    file, predictions = tmp_path / "model.npz", tmp_path / "out" / "predictions.csv"
    said = document(capsys, "fit", "--data", table, "--target", "kind", "--get", "nngp", "--net", NET, "--out", file)
    own = data.read(table, target="kind")
    scaler = estimators.InputScaler().fit(own.x_train)
    model = estimators.NNGPClassifier(NETWORK, reg="loo").fit(scaler.transform(own.x_train), own.y_train)
    expected = model.predict_proba(scaler.transform(own.x_test))
    assert said["test_accuracy"] == np.mean(expected.argmax(axis=1) == own.y_test)
    assert np.isclose(said["test_log_loss"], -np.log(expected[np.arange(len(expected)), own.y_test]).mean())
    assert said["loo_accuracy"] == model.loo_accuracy_

    # The same columns in another order, and without the target.
    with table.open(encoding="utf-8") as stream:
        rows = list(csv.reader(stream))
    shuffled = tmp_path / "new.csv"
    shuffled.write_text("\n".join(",".join(reversed(row[1:])) for row in rows), encoding="utf-8")
    code, out, _ = run(capsys, "predict", file, shuffled, "--out", predictions)
    assert code == 0
    assert str(predictions) in out
    with predictions.open(encoding="utf-8") as stream:
        written = list(csv.DictReader(stream))
    whole = data.read_inputs(table, (13,), feature_names=own.feature_names)[0]
    labels = model.predict(scaler.transform(whole))
    assert [row["prediction"] for row in written] == [f"kind {label}" for label in labels]
    assert [row["example"] for row in written] == [str(i) for i in range(1, 179)]
    assert np.allclose(sum(float(written[0][f"probability of kind {i}"]) for i in range(3)), 1)


def test_a_regression_has_standard_deviations(capsys, tmp_path):
    file = tmp_path / "model.npz"
    said = document(capsys, "fit", "--data", "diabetes", "--get", "nngp", "--net", NET, "--out", file)
    assert 0.3 < said["test_r2"] < 0.6
    rows = document(capsys, "predict", file, "diabetes", "--std")["predictions"]
    y = data.load("diabetes").y_test
    z = [(row["prediction"] - own) / row["standard deviation"] for row, own in zip(rows, y, strict=True)]
    assert 0.6 < np.mean(np.square(z)) < 1.6
    _, out, _ = run(capsys, "predict", file, "diabetes")
    assert out.splitlines()[0] == "example, prediction"
    assert len(out.splitlines()) == len(y) + 1


def test_images_in_a_folder_are_predicted_by_their_file_names(capsys, tmp_path):
    digits = data.load("digits")
    file = tmp_path / "model.npz"
    document(capsys, "fit", "--n", "300", "--reg", "0.01", "--net", NET, "--out", file)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(5):
        Image.fromarray((255 * digits.x_test[i, ..., 0]).astype(np.uint8)).save(folder / f"{i}.png")
    rows = document(capsys, "predict", file, folder)["predictions"]
    assert [row["example"] for row in rows] == [f"{i}.png" for i in range(5)]
    assert [row["prediction"] for row in rows] == [str(label) for label in digits.y_test[:5]]


def test_early_stopping_is_an_option_of_the_command(capsys, tmp_path):
    file = tmp_path / "model.npz"
    said = document(capsys, "fit", "--data", "iris", "--reg", "0", "--t", "100", "--net", NET, "--out", file)
    assert said["reg"] == 0.0
    assert estimators.load(file).model[-1].t == 100.0
    assert said["test_accuracy"] > 0.8


def test_a_model_that_does_not_fit_the_data_is_refused(capsys, tmp_path):
    file = tmp_path / "model.npz"
    document(capsys, "fit", "--data", "iris", "--net", NET, "--out", file)
    code, out, err = run(capsys, "predict", file, "wine")
    assert (code, out) == (1, "")
    assert "fitted to shape (4,)" in err
    code, out, err = run(capsys, "predict", file, "wine", "--json")
    assert json.loads(out)["error"] == "DataError"


def test_a_test_set_that_cannot_be_scored_is_no_reason_to_lose_the_model(capsys, tmp_path):
    table = tmp_path / "few.csv"
    table.write_text("a,b\n" + "\n".join(f"{i},{i**1.5}" for i in range(12)), encoding="utf-8")
    said = document(capsys, "fit", "--data", table, "--net", NET, "--out", tmp_path / "model.npz")
    assert "at least 3" in said["not_scored"]
    assert estimators.load(tmp_path / "model.npz").model.predict(np.array([[3.0]])).shape == (1,)


def test_a_class_that_was_never_met_has_probability_zero(capsys, tmp_path):
    file = tmp_path / "three.npz"
    x = np.random.default_rng(0).normal(size=(20, 2))
    y = np.array(["a", "c"] * 10)
    np.savez(file, x_train=x, y_train=y, x_test=x[:4], y_test=np.array(["a", "b", "b", "c"]))
    said = document(capsys, "fit", "--data", file, "--net", NET, "--reg", "0.1", "--out", tmp_path / "model.npz")
    assert said["test_log_loss"] == "inf"
    assert said["test_accuracy"] <= 0.5


def test_wrong_usage_of_the_survey_with_json_is_json_too(capsys):
    code, out, _ = run(capsys, "survey", "--seed", "-1", "--json")
    assert code == 2
    assert json.loads(out)["error"] == "UsageError"
