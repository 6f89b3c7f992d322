"""Fitted models in files: arrays and words, nothing that runs when it is read."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

import widescape
from widescape.arch.base import Layer
from widescape.arch.parse import from_text
from widescape.core.errors import ModelFileError
from widescape.core.files import plain, replacing
from widescape.data import ZCA
from widescape.estimators.base import KernelEstimator
from widescape.estimators.classification import NNGPClassifier, NTKClassifier
from widescape.estimators.preprocessing import InputScaler, ZCAWhitener
from widescape.estimators.regression import NNGPRegressor, NTKRegressor

_FORMAT = 1
_CLASSES: dict[str, type] = {
    own.__name__: own for own in (NNGPRegressor, NTKRegressor, NNGPClassifier, NTKClassifier, InputScaler, ZCAWhitener)
}


@dataclass(frozen=True)
class SavedModel:
    """What a file holds.

    Attributes:
        model: the fitted estimator or pipeline.
        about: words and lists that were saved with it.
    """

    model: Any
    about: dict[str, Any]


def save(model: Any, path: str | Path, *, about: dict[str, Any] | None = None) -> None:
    """Write a fitted estimator of this room, or a pipeline of them, to an npz file.

    Args:
        model: the estimator or pipeline.
        path: of the file, which appears complete or not at all.
        about: words, numbers and lists to keep with it, as JSON holds them.

    Raises:
        ModelFileError: a step of another library, a network that has no text (`arch.from_text`), or labels that are
            neither numbers nor text.
        NotFittedError: the model is not fitted.
    """
    steps = model.steps if isinstance(model, Pipeline) else [("model", model)]
    arrays: dict[str, np.ndarray] = {}
    described = []
    for name, step in steps:
        if _CLASSES.get(type(step).__name__) is not type(step):
            raise ModelFileError(
                f"{type(step).__name__} cannot be saved; steps may be {', '.join(_CLASSES)}. Use pickle."
            )
        check_is_fitted(step)
        state = {key: value for key, value in vars(step).items() if key in _keys(step)}
        described.append({"name": name, "class": type(step).__name__, "state": _packed(state, f"{name}.", arrays)})
    document = {
        "format": _FORMAT,
        "widescape": widescape.__version__,
        "pipeline": isinstance(model, Pipeline),
        "steps": described,
        "about": plain(about or {}),
    }
    content: dict[str, Any] = {f"array/{key}": value for key, value in arrays.items()}
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, document=np.array(json.dumps(document)), **content)


def load(path: str | Path) -> SavedModel:
    """Read what `save` wrote. Nothing in the file is executed.

    Raises:
        ModelFileError: the file is absent, damaged, or of another format.
    """
    try:
        with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as archive:
            document = json.loads(str(archive["document"]))
            arrays = {key.removeprefix("array/"): archive[key] for key in archive.files if key.startswith("array/")}
        if document["format"] != _FORMAT:
            raise ModelFileError(f"it has format {document['format']}, but this version reads {_FORMAT}")
        steps = [(str(own["name"]), _rebuilt(own, arrays)) for own in document["steps"]]
        model = Pipeline(steps) if document["pipeline"] else steps[0][1]
        about = dict(document["about"])
    except Exception as error:  # a damaged file can hold anything
        raise ModelFileError(f"{path} holds no model that this version can read: {error!r}") from error
    return SavedModel(model, about)


def _keys(step: Any) -> set[str]:
    """What describes a fitted step: its parameters, and what ends in an underscore."""
    fitted = {key for key in vars(step) if key.endswith("_") and not key.startswith("_")}
    return set(step.get_params(deep=False)) | fitted | {"_vector"}


def _packed(state: dict[str, Any], prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """State as JSON holds it; arrays go aside."""
    packed: dict[str, Any] = {}
    for key, value in state.items():
        if isinstance(value, np.ndarray):
            arrays[prefix + key] = _plain(value, key)
            packed[key] = {"array": prefix + key}
        elif isinstance(value, Layer):
            packed[key] = {"net": _text(value)}
        elif isinstance(value, ZCA):
            packed[key] = {"zca": _packed(vars(value), f"{prefix}{key}.", arrays)}
        elif isinstance(value, tuple):
            packed[key] = {"tuple": plain(value)}
        elif value is None or isinstance(value, bool | int | float | str | np.generic):
            packed[key] = value.item() if isinstance(value, np.generic) else value
        else:
            raise ModelFileError(f"{key} is {value!r}, which cannot be saved. Use pickle.")
    return packed


def _plain(array: np.ndarray, key: str) -> np.ndarray:
    """The array without objects."""
    if array.dtype.kind != "O":
        return array
    if not all(isinstance(own, str) for own in array.flat):
        raise ModelFileError(f"{key} holds objects that are no text; they cannot be saved. Use pickle.")
    return array.astype(str)


def _text(net: Layer) -> str:
    text = repr(net)
    try:
        same = from_text(text) == net
    except ValueError:
        same = False
    if not same:
        raise ModelFileError(f"the network has functions of its own and no text: {text[:200]}. Use pickle.")
    return text


def _unpacked(packed: dict[str, Any], arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    state: dict[str, Any] = {}
    for key, value in packed.items():
        if not isinstance(value, dict):
            state[key] = value
        elif "array" in value:
            state[key] = arrays[value["array"]]
        elif "net" in value:
            state[key] = from_text(value["net"])
        elif "zca" in value:
            zca = ZCA()
            vars(zca).update(_unpacked(value["zca"], arrays))
            state[key] = zca
        else:
            state[key] = tuple(value["tuple"])
    return state


def _rebuilt(described: dict[str, Any], arrays: dict[str, np.ndarray]) -> Any:
    step = _CLASSES[described["class"]]()
    state = _unpacked(described["state"], arrays)
    odd = [key for key in state if key not in step.get_params() and (hasattr(step, key) or not key.endswith("_"))]
    if set(odd) - {"_vector"}:
        raise ModelFileError(f"it sets {odd[0]!r}, which is no part of a fitted model")
    vars(step).update(state)
    if isinstance(step, KernelEstimator):
        fits = step.X_fit_.shape == (len(step.y_fit_), *step.input_shape_) and step.weights_.shape == step.y_fit_.shape
        if not fits or step.y_fit_.ndim != 2 or not isinstance(step.net_, Layer) or isinstance(step.reg_, str):
            raise ModelFileError("its parts do not fit each other")
        step.restore()
    return step
