"""What a sample-complexity experiment fits: functions that learn, and objects with `fit` and `predict`."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from widescape.core import checks
from widescape.features.second_moments import unlabeled_samples

Predict = Callable[[np.ndarray], Any]


class Learner(Protocol):
    """From examples to a function that predicts."""

    def __call__(
        self,
        x: np.ndarray,
        y: np.ndarray,
        *,
        validation: tuple[np.ndarray, np.ndarray],
        unlabeled: Callable[[int], np.ndarray],
        seed: int,
    ) -> Predict:
        """Learn from examples.

        Args:
            x: inputs (n, ...).
            y: targets (n, ...).
            validation: further inputs and targets, to choose by.
            unlabeled: gives as many further inputs as are asked for, without targets.
            seed: of what the learner draws.

        Returns:
            a function of inputs; an attribute `selected`, if it has one, says what was chosen.
        """
        ...


def as_learner(model: Any, name: str) -> Learner:
    """A learner, or a model with `fit` and `predict` as one.

    Raises:
        TypeError: it is neither.
    """
    known = not isinstance(model, type)
    if known and hasattr(model, "fit") and hasattr(model, "predict"):
        return _FitLearner(model)
    if not known or not callable(model):
        raise TypeError(
            f"model {name!r} is {model!r}; give a function (x, y, *, validation, unlabeled, seed) -> predict, or an "
            "object with `fit` and `predict`."
        )
    learner: Learner = model
    return learner


@dataclass(frozen=True)
class _FitLearner:
    """A copy of a model for each data set, with the seed and the validation set where it has parameters for them."""

    model: Any

    def __call__(
        self,
        x: np.ndarray,
        y: np.ndarray,
        *,
        validation: tuple[np.ndarray, np.ndarray],
        unlabeled: Callable[[int], np.ndarray],
        seed: int,
    ) -> Predict:
        model = _copied(self.model, seed, validation=validation)
        model.fit(x, y)
        return _Fitted(model)


@dataclass(frozen=True)
class _OnRepresentation:
    """A representation fitted on unlabeled inputs, and a model on what it makes of the labeled ones."""

    representation: Any
    model: Any
    samples: int

    def __call__(
        self,
        x: np.ndarray,
        y: np.ndarray,
        *,
        validation: tuple[np.ndarray, np.ndarray],
        unlabeled: Callable[[int], np.ndarray],
        seed: int,
    ) -> Predict:
        representation = _copied(self.representation, seed)
        representation.fit(unlabeled(self.samples))
        held = representation.transform(validation[0]), validation[1]
        model = _copied(self.model, seed, validation=held)
        model.fit(representation.transform(x), y)
        return _Fitted(model, representation)


def on_representation(representation: Any, model: Any, *, samples: int | None = None) -> Learner:
    """A learner that fits a representation on unlabeled inputs, and a model on the represented examples.

    Both are copied and seeded anew for each fit, so that a seed of the experiment has a representation of its own, the
    same at every number of examples. (A pipeline would fit the representation on the labeled inputs, and a frozen
    representation in a pipeline is the same for every seed.)

    Args:
        representation: with `fit` and `transform`.
        model: with `fit` and `predict`; its parameter `validation`, if it has one, is set to represented data.
        samples: unlabeled inputs; None for 20 for each of the parameter `n_features` of the representation.

    Returns:
        a `Learner` for `sample_complexity_curve`.

    Raises:
        TypeError: objects without these methods.
        ValueError: `samples` is None, but the representation has no `n_features`.

    Source: chen2020hierarchical.

    Example:
        >>> from widescape.estimators import LinearTaylorRegressor, NeuralRepresentation
        >>> from widescape.features import LowRankPolynomial, sample_complexity_curve
        >>> learner = on_representation(NeuralRepresentation(4, bias_scale=0.0), LinearTaylorRegressor(width=20))
        >>> sample_complexity_curve({"NTK-Neural": learner}, LowRankPolynomial(3, 1), [40], 1).values.shape
        (1, 1, 1)
    """
    for part, name, methods in (
        (representation, "representation", ("fit", "transform")),
        (model, "model", ("fit", "predict")),
    ):
        if isinstance(part, type) or not all(hasattr(part, method) for method in methods):
            raise TypeError(f"`{name}` is {part!r}; give an object with `{methods[0]}` and `{methods[1]}`.")
    if samples is None:
        features = _parameters(representation).get("n_features")
        if features is None:
            raise ValueError(
                f"`samples` is None, but {type(representation).__name__} has no parameter `n_features` to count by; "
                "say how many unlabeled inputs to fit it on."
            )
        samples = unlabeled_samples(features)
    checks.count(samples, "samples", "on_representation")
    return _OnRepresentation(representation, model, int(samples))


def _parameters(model: Any) -> dict[str, Any]:
    return dict(model.get_params()) if hasattr(model, "get_params") else {}


def _copied(model: Any, seed: int, **known: Any) -> Any:
    """A copy with the seed, and with what is known where it has parameters for that."""
    own = copy.deepcopy(model)
    names = _parameters(own)
    chosen: dict[str, Any] = {name: seed for name in names if name.rpartition("__")[2] == "random_state"}
    chosen.update({name: value for name, value in known.items() if name in names})
    if chosen:
        own.set_params(**chosen)
    return own


@dataclass(frozen=True)
class _Fitted:
    model: Any
    representation: Any = None

    def __call__(self, x: np.ndarray) -> Any:
        return self.model.predict(x if self.representation is None else self.representation.transform(x))

    @property
    def selected(self) -> Any:
        """What the model, or the last step of a pipeline, says that it chose; `lam_` if it has only that."""
        last = self.model.steps[-1][1] if hasattr(self.model, "steps") else self.model
        if hasattr(last, "selected"):
            return last.selected
        return {"lam": last.lam_} if hasattr(last, "lam_") else None
