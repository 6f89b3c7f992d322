"""The command `data`: what data sets there are, fetching them, and what a file holds."""

from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from widescape.cli.common import Flag, Task, open_data, shape_of, show
from widescape.core.errors import DataError

if TYPE_CHECKING:
    from widescape.data import Dataset


def data(
    action: Positional[Literal["list", "fetch", "info"]],
    name: Positional[str | None] = None,
    target: str | None = None,
    task: Task = "auto",
    json: Flag = False,
) -> int:
    """List data sets, fetch one into the cache, or say what one of them or a file of yours holds.

    Args:
        action: list all names; fetch the files of one; or info about one.
        name: name of the data set; for info also a path of an npz, csv or Parquet file, or a folder or zip of images.
        target: for info about a table, the column that is predicted.
        task: for info about a file, whether targets are classes or numbers.
        json: print a JSON document.
    """
    from widescape.data import entry, fetched, names

    if action == "list":
        known = [entry(own) for own in names()]
        wide = max(len(own.name) for own in known)
        return show(
            {"data": [{"name": own.name, "kind": own.kind, "summary": own.summary} for own in known]},
            [f"{own.name:{wide}}  {own.kind:9}  {own.summary}" for own in known],
            as_json=json,
        )
    if name is None:
        raise DataError(f"`widescape data {action}` needs a name; `widescape data list` shows them.")
    if action == "fetch":
        folder = fetched(name)
        return show({"name": name, "folder": str(folder)}, [f"{name} is in {folder}"], as_json=json)
    dataset = open_data(name, target, task)
    facts = _facts(dataset)
    return show(facts, [f"{key.replace('_', ' ')}: {value}" for key, value in facts.items()], as_json=json)


def _facts(dataset: "Dataset") -> dict[str, Any]:
    import numpy as np

    facts: dict[str, Any] = {
        "name": dataset.name,
        "source": dataset.source,
        "training_examples": len(dataset.x_train),
        "test_examples": len(dataset.x_test),
        "example": shape_of(dataset.x_train),
        "range": f"{dataset.x_train.min():.4g} to {dataset.x_train.max():.4g}",
        "fingerprint": dataset.fingerprint,
    }
    if dataset.num_classes is None:
        outputs = 1 if dataset.y_train.ndim == 1 else dataset.y_train.shape[1]
        facts["targets"] = f"numbers, {outputs} for each example"
        facts["target_range"] = f"{dataset.y_train.min():.4g} to {dataset.y_train.max():.4g}"
    else:
        counts = np.bincount(dataset.y_train, minlength=dataset.num_classes)
        facts["targets"] = f"{dataset.num_classes} classes, {counts.min()} to {counts.max()} training examples each"
        facts["classes"] = ", ".join(dataset.class_names)
    if dataset.feature_names:
        facts["features"] = ", ".join(dataset.feature_names)
    return facts
