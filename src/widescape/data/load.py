"""Data sets by name."""

import gzip
import math
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from widescape.core.errors import DataError
from widescape.data.dataset import Dataset

FOLDER_VARIABLE = "WIDESCAPE_DATA"
_DIGITS_TEST = 500
_IDX_BYTES = 8  # the type code of unsigned bytes
_IMAGE_NDIM = 3
_MNIST_CLASSES = 10


def names() -> tuple[str, ...]:
    """The names that `load` accepts."""
    return tuple(_LOADERS)


def load(name: str) -> Dataset:
    """A data set by name.

    ``"digits"``: the 1,797 images of 8 x 8 pixels bundled with scikit-learn, the last 500 as test set.
    ``"mnist"``: the four standard IDX files (gzip or plain) in the folder ``mnist`` of the one that the
    environment variable ``WIDESCAPE_DATA`` names.

    Raises:
        DataError: an unknown name, or files that are absent or damaged; says what to do.

    Example:
        >>> load("digits").x_train.shape
        (1297, 8, 8, 1)
    """
    if name not in _LOADERS:
        raise DataError(f"there is no data set {name!r}; choose one of {', '.join(names())}.")
    return _LOADERS[name]()


def _digits() -> Dataset:
    from sklearn.datasets import load_digits

    bundle = load_digits()
    x = (bundle.images / 16.0)[..., None]
    y = bundle.target.astype(np.int64)
    cut = len(x) - _DIGITS_TEST
    return Dataset("digits", x[:cut], y[:cut], x[cut:], y[cut:], 10, "scikit-learn's load_digits, in its own order")


def _mnist() -> Dataset:
    folder = _folder("mnist")
    train, test = _idx_pair(folder, "train"), _idx_pair(folder, "t10k")
    if train[0].shape[1:] != test[0].shape[1:]:
        raise DataError(f"{folder} holds training images {train[0].shape[1:]} and test images {test[0].shape[1:]}.")
    return Dataset("mnist", *train, *test, _MNIST_CLASSES, "MNIST, the four IDX files")


def _idx_pair(folder: Path, prefix: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, H, W, 1) in [0, 1] and labels (N,)."""
    images = read_idx(_find(folder, f"{prefix}-images-idx3-ubyte"))
    labels = read_idx(_find(folder, f"{prefix}-labels-idx1-ubyte"))
    if images.ndim != _IMAGE_NDIM or labels.shape != images.shape[:1]:
        raise DataError(f"the {prefix} files in {folder} hold images {images.shape} and labels {labels.shape}.")
    if images.size == 0 or labels.max() >= _MNIST_CLASSES:
        raise DataError(
            f"the {prefix} files in {folder} hold images {images.shape} and labels up to {labels.max(initial=0)}."
        )
    return images[..., None] / 255.0, labels.astype(np.int64)


_LOADERS: dict[str, Callable[[], Dataset]] = {"digits": _digits, "mnist": _mnist}


def read_idx(path: Path) -> np.ndarray:
    """An array of bytes from an IDX file, gzip or plain.

    Raises:
        DataError: the file is damaged or holds something else.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}. Fetch the file again.") from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != _IDX_BYTES:
        raise DataError(f"{path} is not an IDX file of bytes; the first four bytes are {content[:4].hex()}.")
    ndim = content[3]
    head = 4 + 4 * ndim
    shape = struct.unpack(f">{ndim}I", content[4:head]) if len(content) >= head else ()
    if len(content) - head != math.prod(shape) or not shape:
        raise DataError(f"{path} is truncated or has trailing bytes: its header promises {shape}. Fetch it again.")
    return np.frombuffer(content, np.uint8, offset=head).reshape(shape)


def _folder(name: str) -> Path:
    root = os.environ.get(FOLDER_VARIABLE)
    if not root:
        raise DataError(f"{name!r} is read from a folder: set {FOLDER_VARIABLE} to the one that holds '{name}/'.")
    folder = Path(root) / name
    if not folder.is_dir():
        raise DataError(
            f"{FOLDER_VARIABLE} is {root}, but there is no folder {folder}; put the files of {name!r} there."
        )
    return folder


def _find(folder: Path, stem: str) -> Path:
    for candidate in (folder / f"{stem}.gz", folder / stem):
        if candidate.exists():
            return candidate
    raise DataError(f"{folder} has neither {stem}.gz nor {stem}; put the four IDX files of MNIST there.")
