"""Inputs without targets, for predictions."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from widescape.core.errors import DataError
from widescape.data.images import read_unlabeled
from widescape.data.tables import CSV, PARQUET, arrays_of, as_inputs, columns_of, numeric

_KEYS = ("x", "X", "x_test", "inputs", "images", "data")


def read_inputs(
    path: str | Path, shape: Sequence[int], *, feature_names: Sequence[str] = ()
) -> tuple[np.ndarray, list[str]]:
    """Inputs of a given shape from an ``.npz``, ``.csv`` or ``.parquet`` file, or a folder or zip of images.

    Targets and other columns that the file may have are ignored; images are resized to the shape.

    Args:
        path: of the file or folder.
        shape: of one example.
        feature_names: columns of a table, in the order in which they are wanted; none takes the first columns.

    Returns:
        float64 (N, *shape), and a name for each example: its row, counted from 1, or its file.

    Raises:
        DataError: the file is absent, damaged, or has inputs of another shape.
    """
    path, shape = Path(path), tuple(shape)
    if not path.exists():
        raise DataError(f"there is no file or folder {str(path)!r}.")
    ending = path.suffix.lower()
    if path.is_dir() or ending == ".zip":
        if len(shape) != 3:
            raise DataError(f"{path} has images, but examples of shape {shape} are needed.")
        return read_unlabeled(path, shape)
    if ending == ".npz":
        arrays = arrays_of(path)
        key = next((own for own in _KEYS if own in arrays), None)
        if key is None:
            raise DataError(f"{path} holds {', '.join(arrays) or 'nothing'}; give the inputs as x.")
        x = as_inputs(arrays[key], key, path)
    elif ending in (*CSV, *PARQUET):
        columns = columns_of(path)
        headless = all(name == f"column {i}" for i, name in enumerate(columns, 1))
        by_place = not feature_names or (headless and any(name not in columns for name in feature_names))
        x = numeric(columns, list(columns)[: shape[0]] if by_place else feature_names, path)
    else:
        raise DataError(f"{str(path)!r} is none of .npz, .csv, .tsv, .parquet, .zip or a folder of images.")
    if x.shape[1:] != shape:
        raise DataError(f"{path} has examples of shape {x.shape[1:]}, but {shape} is needed.")
    return x, [str(i) for i in range(1, len(x) + 1)]
