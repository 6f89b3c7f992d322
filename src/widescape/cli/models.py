"""The commands `kernel`, `fit` and `predict`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from widescape.cli.common import (
    Flag,
    Task,
    Which,
    cut,
    note,
    on_users_data,
    open_data,
    open_network,
    prepare_output,
    shape_of,
    show,
)
from widescape.core.errors import DataError
from widescape.core.memory import human_bytes

if TYPE_CHECKING:
    import numpy as np

    from widescape.data import Dataset


def kernel(
    data: str = "digits",
    target: str | None = None,
    task: Task = "auto",
    net: str | None = None,
    get: Which = "ntk",
    n: int | None = None,
    out: Path = Path("kernel.npz"),
    seed: int = 0,
    plan: Flag = False,
    json: Flag = False,
) -> int:
    """Compute the kernel matrix of an infinitely wide network on training data, and say how well conditioned it is.

    Args:
        data: name of a data set (see: widescape data list), or the path of your own.
        target: for a table, the column that is predicted.
        task: for a file, whether targets are classes or numbers.
        net: the network, for instance "fc(3, 512, 10, activation=Erf(), w_std=1.3, b_std=0.1)"; three GELU layers by
            default.
        get: nngp, the covariance of random networks; or ntk, the tangent kernel.
        n: at most so many training examples, drawn at random.
        out: npz file with the matrix, the standardized inputs, and the targets.
        seed: of that draw.
        plan: only say what it will take.
        json: print a JSON document.
    """
    import numpy as np

    from widescape import kernels
    from widescape.core.files import replacing
    from widescape.data import standardize

    dataset = cut(open_data(data, target, task), n, seed)
    network = open_network(net, dataset.num_classes or 1)
    (x,) = standardize(dataset.x_train, per="auto")
    planned = kernels.gram(network, x, get=get, plan=True)
    if plan:
        return show(planned.to_dict(), [str(planned)], as_json=json)
    note(f"{planned.pairs:,} pairs of examples of {shape_of(x)}, {planned.flops:.1e} operations")
    prepare_output(out)
    matrix = kernels.gram(network, x, get=get)
    spectrum = kernels.spectrum(matrix)
    with replacing(out) as temporary, temporary.open("wb") as file:
        np.savez(file, **{get: matrix}, x=x, y=dataset.y_train, net=np.array(repr(network)))  # type: ignore[arg-type]
    document = {"file": str(out), "kernel": get, "net": repr(network), "data": dataset.name, **spectrum.to_dict()}
    return show(document, [str(spectrum), f"The {get.upper()} matrix of {len(x):,} examples is in {out}"], as_json=json)


def fit(
    data: str = "digits",
    target: str | None = None,
    task: Task = "auto",
    net: str | None = None,
    get: Which = "ntk",
    reg: float | Literal["loo"] = "loo",
    t: float | None = None,
    n: int | None = None,
    out: Path = Path("model.npz"),
    seed: int = 0,
    plan: Flag = False,
    json: Flag = False,
) -> int:
    """Fit the kernel of an infinitely wide network to data, test it, and save it for `widescape predict`.

    Args:
        data: name of a data set (see: widescape data list), or the path of your own.
        target: for a table, the column that is predicted.
        task: for a file, whether targets are classes or numbers.
        net: the network, for instance "fc(3, 512, 10, activation=Erf(), w_std=1.3, b_std=0.1)"; three GELU layers by
            default.
        get: ntk, the mean of infinitely wide networks after training; or nngp, Bayesian inference with one.
        reg: the regularizer, in units of the mean of the kernel's diagonal; loo chooses it without validation data.
        t: stop training at this time, as a regularizer; needs a number for reg.
        n: at most so many training examples, drawn at random with as many of each class as can be.
        out: file of the fitted model.
        seed: of that draw.
        plan: only say what it will take.
        json: print a JSON document.
    """
    from sklearn.pipeline import make_pipeline

    from widescape import estimators

    if t is not None and reg == "loo":
        raise DataError("--reg loo chooses for the end of training; with --t, give --reg a number, 0 for none.")
    if not isinstance(reg, str) and not 0 <= reg < float("inf"):
        raise DataError(f"--reg is {reg}; give loo, or a number that is not negative.")
    if t is not None and not 0 < t < float("inf"):
        raise DataError(f"--t is {t}; give a positive time, or leave it out for the end of training.")
    dataset = cut(open_data(data, target, task), n, seed)
    network = open_network(net, dataset.num_classes or 1)
    scaler = estimators.InputScaler().fit(dataset.x_train)
    planned = estimators.plan_fit(
        network,
        scaler.transform(dataset.x_train),
        get=get,
        num_test=len(dataset.x_test),
        spectral=reg == "loo" or t is not None,
    )
    if plan:
        return show(planned.to_dict(), [str(planned)], as_json=json)
    size = f"{planned.num_examples:,} training examples of {shape_of(dataset.x_train)}"
    note(f"{size}: about {_time(planned.seconds)} and {human_bytes(planned.peak_bytes)}")
    prepare_output(out)
    name = f"{get.upper()}{'Regressor' if dataset.num_classes is None else 'Classifier'}"
    model = make_pipeline(scaler, getattr(estimators, name)(net=network, reg=reg, t=t, random_state=seed))
    with on_users_data():
        model.fit(dataset.x_train, _named(dataset, dataset.y_train))
    about = {"data": dataset.source, "feature_names": list(dataset.feature_names), "fingerprint": dataset.fingerprint}
    estimators.save(model, out, about=about)
    scores, lines = _scores(model, dataset)
    lines = [f"{name} on {len(dataset.x_train):,} examples", *lines, f"The model: {out}"]
    return show({"model": str(out), "estimator": name, "net": repr(network), **scores}, lines, as_json=json)


def predict(
    model: Positional[Path],
    data: Positional[str],
    out: Path | None = None,
    std: Flag = False,
    json: Flag = False,
) -> int:
    """Predict with a model that `widescape fit` saved.

    Args:
        model: the file of the model.
        data: inputs: an npz (x), csv or Parquet file, a folder or zip of images, or the name of a data set, whose test
            examples are taken.
        out: csv file of the predictions; without it they are printed.
        std: standard deviations too, for a regression; takes as long as the fit once more.
        json: print a JSON document.
    """
    from widescape import data as room
    from widescape import estimators
    from widescape.core.files import replacing

    saved = estimators.load(model)
    shape = (saved.model[0] if hasattr(saved.model, "steps") else saved.model).input_shape_
    if data in room.names():
        x = room.load(data).x_test
        names = [str(i) for i in range(1, len(x) + 1)]
        if x.shape[1:] != tuple(shape):
            raise DataError(f"{data} has examples of {shape_of(x)}, but the model was fitted to shape {tuple(shape)}.")
    else:
        x, names = room.read_inputs(data, shape, feature_names=saved.about.get("feature_names", ()))
    if out is not None:
        prepare_output(out)
    with on_users_data():
        columns = _predictions(saved.model, x, std=std)
    rows = [dict(zip(("example", *columns), row, strict=True)) for row in zip(names, *columns.values(), strict=True)]
    if out is not None:
        with replacing(out) as temporary:
            _write(temporary, rows)
    lines = [f"{len(rows):,} predictions are in {out}"] if out is not None else [", ".join(rows[0])]
    if out is None:
        lines += [", ".join(_short(value) for value in row.values()) for row in rows]
    return show({"predictions": rows, "file": None if out is None else str(out)}, lines, as_json=json)


def _time(seconds: float) -> str:
    return "a second" if seconds < 1 else f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _short(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _named(dataset: "Dataset", y: "np.ndarray") -> "np.ndarray":
    """Labels by their names, where they have some."""
    import numpy as np

    return np.array(dataset.class_names)[y] if dataset.class_names else y


def _scores(model: Any, dataset: "Dataset") -> tuple[dict[str, Any], list[str]]:
    """How good the model is, as numbers and in words."""
    estimator = model[-1]
    scores: dict[str, Any] = {"reg": estimator.reg_, "loo_mse": estimator.loo_mse_}
    lines = [f"regularizer: {estimator.reg_:.2g} of the mean diagonal"]
    left_out = "by leave-one-out" if estimator.t_ is None else "by an approximate leave-one-out"
    own, said = (
        _regression_scores(model, dataset, left_out)
        if dataset.num_classes is None
        else _class_scores(model, dataset, left_out)
    )
    return scores | own, lines + said


def _regression_scores(model: Any, dataset: "Dataset", left_out: str) -> tuple[dict[str, Any], list[str]]:
    from widescape import predict as room

    try:
        score = room.regression_score(model.predict(dataset.x_test), dataset.y_test)
    except ValueError as error:
        return {"not_scored": str(error)}, [f"not scored on the test examples: {error}"]
    scores = {
        "test_mse": score.mse,
        "test_mse_stderr": score.mse_stderr,
        "test_r2": score.r2,
        "test_r2_stderr": score.r2_stderr,
    }
    share = f"explained variance: {100 * score.r2:.1f} ± {100 * score.r2_stderr:.1f}% on test examples"
    if dataset.y_train.ndim == 2 and dataset.y_train.shape[1] > 1:
        return scores, [f"{share}, mean over outputs"]
    root = f"root mean square error: {score.mse**0.5:.4g} on {score.num_points:,} test examples"
    return scores, [f"{root}, {model[-1].loo_mse_ ** 0.5:.4g} {left_out}", share]


def _class_scores(model: Any, dataset: "Dataset", left_out: str) -> tuple[dict[str, Any], list[str]]:
    from widescape import predict as room

    places = {name: place for place, name in enumerate(model.classes_.tolist())}
    labels = [places.get(name, -1) for name in _named(dataset, dataset.y_test).tolist()]  # -1: never met in training
    score = room.probability_score(model.predict_proba(dataset.x_test), labels)
    scores = {
        "loo_accuracy": model[-1].loo_accuracy_,
        "test_accuracy": score.accuracy,
        "test_accuracy_stderr": score.accuracy_stderr,
        "test_log_loss": score.log_loss,
        "test_log_loss_stderr": score.log_loss_stderr,
    }
    return scores, [
        f"accuracy: {100 * score.accuracy:.1f} ± {100 * score.accuracy_stderr:.1f}% on {score.num_points:,} test "
        f"examples, {100 * model[-1].loo_accuracy_:.1f}% {left_out}",
        f"log loss of the probabilities: {score.log_loss:.3f} ± {score.log_loss_stderr:.3f} on test examples",
    ]


def _predictions(model: Any, x: "np.ndarray", *, std: bool) -> dict[str, list[Any]]:
    """Columns of the table of predictions."""
    if hasattr(model, "predict_proba"):
        probabilities = model.predict_proba(x)
        columns = {"prediction": model.classes_[probabilities.argmax(axis=1)].tolist()}
        named = zip(model.classes_, probabilities.T, strict=True)
        return columns | {f"probability of {name}": column.tolist() for name, column in named}
    if std:
        mean, deviation = model.predict(x, return_std=True)
        parts = {"prediction": mean, "standard deviation": deviation}
    else:
        parts = {"prediction": model.predict(x)}
    if parts["prediction"].ndim == 1:
        return {name: values.tolist() for name, values in parts.items()}
    outputs = range(parts["prediction"].shape[1])
    return {f"{name} {i + 1}": values[:, i].tolist() for i in outputs for name, values in parts.items()}


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    import csv

    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
