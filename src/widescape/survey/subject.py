"""What a survey is about: the default network on a data set, or a user's own model."""

import dataclasses
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from widescape import arch
from widescape.core.errors import DataError, ShapeError
from widescape.core.random import named_key
from widescape.curvature import System
from widescape.data import Dataset, standardize

_HELD_OUT = 0.2  # of a user's examples, where no test set came with them
_MOST_CLASSES = 1000


@dataclass(frozen=True)
class Subject:
    """What the chapters get, and how it is called.

    Attributes:
        net, data, system, held_out: as in `Context`.
        title: the heading of the page.
        sentence: the network and the data.
        facts: for the provenance.
    """

    net: arch.Layer | None
    data: Dataset | None
    system: System | None
    held_out: tuple[Any, Any] | None
    title: str
    sentence: str
    facts: dict[str, str]


NAMED: dict[str, Callable[[int], arch.Layer]] = {
    "fc": arch.default_network,
    "cnn_vec": lambda n_out: arch.cnn_vec(3, 32, n_out, activation=arch.Gelu()),
    "cnn_gap": lambda n_out: arch.cnn_gap(3, 32, n_out, activation=arch.Gelu()),
    "myrtle": lambda n_out: arch.myrtle(5, 32, n_out, activation=arch.Gelu()),
    "resnet": lambda n_out: arch.resnet(8, 16, n_out, activation=arch.Gelu()),
}
"""Networks that are called by one word: smooth, so that everything that needs derivatives applies to them."""


def network_for(choice: str | arch.Layer | None, dataset: Dataset, n_out: int) -> arch.Layer:
    """The network of a survey: an architecture, a word of `NAMED`, or a text that `arch.from_text` understands.

    Raises:
        DataError: the text describes no network, or the network does not fit the data.
    """
    if choice is None:
        return arch.default_network(n_out)
    try:
        if isinstance(choice, arch.Layer):
            net = choice
        else:
            net = NAMED[choice](n_out) if choice in NAMED else arch.from_text(choice)
        shape = arch.Signal.of_input(dataset.x_train.shape[1:])
        end = net.out(shape)
        net.with_hidden_width(8).out(shape)  # chapters take it narrower and wider
    except ShapeError as error:
        given = _shape(dataset.x_train)
        raise DataError(f"the network does not fit {dataset.name}, whose examples are {given}: {error}") from error
    except (TypeError, ValueError) as error:
        words = ", ".join(NAMED)
        raise DataError(f"`arch` is {str(choice)[:80]!r}; give one of {words}, or a network. {error}") from error
    if not isinstance(end, arch.Signal) or end.shape != (n_out,):
        found = f"outputs of shape {end.shape}" if isinstance(end, arch.Signal) else "several outputs"
        raise DataError(f"the network has {found}, but {dataset.name} needs {n_out} of them.")
    return net


def of_dataset(dataset: Dataset, seed: int, choice: str | arch.Layer | None = None) -> Subject:
    """A network on a data set, by default the usual one.

    For numbers as targets the network is also a system at random parameters, and inputs and targets are standardized.
    """
    facts = {"data": f"{dataset.name}: {dataset.source}", "data fingerprint": f"SHA-256 {dataset.fingerprint}..."}
    system, held_out = None, None
    if dataset.num_classes is None:
        x, x_test = standardize(dataset.x_train, dataset.x_test, per="auto")
        y, y_test = (
            part.reshape(len(part), -1)
            for part in standardize(
                dataset.y_train, dataset.y_test, per="all" if dataset.y_train.ndim == 1 else "feature"
            )
        )
        net = network_for(choice, dataset, y.shape[1])
        key = named_key(jax.random.key(seed), "network of the survey")
        params = net.init(key, x.shape[1:], dtype="float64")
        system, held_out = System(net.apply, params, x, y, loss="square", reduction="mean"), (x_test, y_test)
        dataset = dataclasses.replace(dataset, x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    else:
        net = network_for(choice, dataset, dataset.num_classes)
    return Subject(
        net=net,
        data=dataset,
        system=system,
        held_out=held_out,
        title=f"Survey of a network on {dataset.name}",
        sentence=f"{_called(net, choice)}, on {dataset.name}: "
        f"{len(dataset.x_train):,} training and {len(dataset.x_test):,} test examples of {_shape(dataset.x_train)}."
        + ("" if system is None else " Losses are in units of the variance of the training targets."),
        facts={"network": repr(net), **facts},
    )


def _called(net: arch.Layer, choice: str | arch.Layer | None) -> str:
    """The network in a few words."""
    if choice is None or choice == "fc":
        return "A fully connected network with three hidden layers of GELU units"
    layers = net.layers if isinstance(net, arch.Sequential) else (net,)
    return f"A network of {len(layers)} layers ({', '.join(layer.label for layer in layers)})"


def _shape(x: np.ndarray) -> str:
    """The shape of one example, in words."""
    return f"{x.shape[1]} features" if x.ndim == 2 else " x ".join(map(str, x.shape[1:])) + " numbers"


def of_system(system: System, test: tuple[Any, Any] | None, seed: int, name: str) -> Subject:
    """A user's system; a fifth of its examples are held out if no test set came with it.

    Raises:
        DataError: there are no targets, too few examples, or a test set that does not fit.
    """
    if system.y is None:
        raise DataError("the survey needs targets: make the System with `y`.")
    x, y = system.x, system.y
    split = "with the test set that came with it"
    if test is None:
        n = system.num_examples
        count = max(1, round(_HELD_OUT * n))
        if n < 10:
            raise DataError(f"the system has {n} examples; give at least ten, or a test set.")
        order = np.random.default_rng((seed, 0)).permutation(n)
        held, kept = order[:count], order[count:]
        test = (jax.tree.map(lambda leaf: leaf[held], x), y[held])
        x, y = jax.tree.map(lambda leaf: leaf[kept], x), y[kept]
        split = f"of which {count:,} drawn at random are held out (parameters that were trained on them have seen them)"
    try:
        checked = System(system.f, system.params, *test, loss=system.loss, reduction=system.reduction)
    except (TypeError, ValueError) as error:
        raise DataError(f"the test set does not fit the system: {error}") from error
    own = system.on(x, y)
    net = arch.network_of(system.f)
    loss = system.loss if isinstance(system.loss, str) else getattr(system.loss, "__name__", "a loss of its own")
    return Subject(
        net=net,
        data=_arrays(own, (checked.x, checked.y), name),
        system=own,
        held_out=(checked.x, checked.y),
        title=f"Survey of {name}",
        sentence=f"A function of {own.num_params:,} parameters with {own.num_outputs} outputs under {loss} loss, on "
        f"{system.num_examples:,} examples, {split}.",
        facts={
            "network": repr(net)
            if net is not None
            else f"{getattr(system.f, '__name__', system.f)!s}, a plain function",
            "parameters": f"{own.num_params:,} in {'float64' if own.double else 'their own precision'}",
            "loss": f"{loss}, {system.reduction} over examples",
        },
    )


def _arrays(system: System, test: tuple[Any, Any], name: str) -> Dataset | None:
    """The system's data as a set, if inputs are one array and targets are classes, or numbers under square loss."""
    labels = [class_labels(system.loss, y) for y in (system.y, test[1])]
    arrays = [x for x in (system.x, test[0]) if isinstance(x, np.ndarray) and x.ndim >= 2 and x.dtype.kind == "f"]
    if len(arrays) < 2 or np.ptp(arrays[0]) == 0:
        return None
    train, held = (np.asarray(x, np.float64) for x in arrays)
    if labels[0] is None or labels[1] is None:
        if system.loss != "square" or len(held) < 3:
            return None
        y, y_held = (np.asarray(own, np.float64) for own in (system.y, test[1]))
        return Dataset(name, train, y, held, y_held, None, "given with the system")
    if not 2 <= system.num_outputs <= _MOST_CLASSES:
        return None
    return Dataset(name, train, labels[0], held, labels[1], system.num_outputs, "given with the system")


def class_labels(loss: Any, y: Any) -> np.ndarray | None:
    """Labels from targets: themselves, or the place of the one in one-hot targets (also shifted and scaled)."""
    if loss == "cross_entropy":
        return np.asarray(y)
    if loss != "square" or np.ndim(y) != 2 or np.shape(y)[1] < 2:
        return None
    y = np.asarray(y)
    top, rest = y.max(axis=1, keepdims=True), y.min(axis=1, keepdims=True)
    one_hot = ((y == top).sum(axis=1) == 1).all() and ((y == top) | (y == rest)).all()
    return y.argmax(axis=1) if one_hot else None


def load_model(address: str) -> tuple[System, tuple[Any, Any] | None]:
    """Call the function at ``file.py:function`` and take its system.

    The function takes no arguments and returns a `System`, or a pair of one and a test set (x, y).

    Raises:
        DataError: the address, the file, the function or what it returns is not what it should be.
    """
    place, _, name = address.rpartition(":")
    if not place or not name.isidentifier():
        raise DataError(f"--model is {address!r}; give file.py:function, for instance model.py:make_system.")
    path = Path(place)
    if not path.is_file():
        raise DataError(f"there is no file {place!r}.")
    spec = importlib.util.spec_from_file_location(f"widescape_model_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise DataError(f"{place!r} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)  # so that the file may import its neighbors, as if it were run
    try:
        spec.loader.exec_module(module)
        make: Callable[[], Any] | None = getattr(module, name, None)
        if not callable(make):
            raise DataError(f"{place!r} has no function {name!r}.")
        made = make()
    finally:
        sys.path.remove(folder)
    system, test = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(system, System):
        raise DataError(f"{name}() returns a {type(system).__name__}; it must return a System, or (System, (x, y)).")
    return system, test
