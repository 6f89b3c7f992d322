"""IDX files, the form in which MNIST and its relatives are distributed."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from widescape.core.errors import DataError
from widescape.data.dataset import Dataset, require_classes

STEMS = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
_IDX_BYTES = 8  # the type code of unsigned bytes
_IMAGE_NDIM = 3


def has_idx(folder: Path) -> bool:
    """Whether one of the four files lies in `folder`."""
    return any(path.exists() for stem in STEMS for path in (folder / f"{stem}.gz", folder / stem))


def read_idx_pairs(folder: Path, name: str, class_names: tuple[str, ...]) -> Dataset:
    """The data set in the four files of `folder`.

    Raises:
        DataError: a file is absent, damaged, or does not fit the others.
    """
    train, test = (_pair(folder, prefix, len(class_names)) for prefix in ("train", "t10k"))
    if train[0].shape[1:] != test[0].shape[1:]:
        raise DataError(f"{folder} holds training images {train[0].shape[1:]} and test images {test[0].shape[1:]}.")
    return Dataset(name, *train, *test, len(class_names), f"{name}, the four IDX files", class_names)


def _pair(folder: Path, prefix: str, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, H, W, 1) in [0, 1] and labels (N,)."""
    images = read_idx(_find(folder, f"{prefix}-images-idx3-ubyte"))
    labels = read_idx(_find(folder, f"{prefix}-labels-idx1-ubyte"))
    if images.ndim != _IMAGE_NDIM or labels.shape != images.shape[:1] or images.size == 0:
        raise DataError(f"the {prefix} files in {folder} hold images {images.shape} and labels {labels.shape}.")
    require_classes(labels, num_classes, f"the {prefix} file in {folder}")
    return images[..., None] / 255.0, labels.astype(np.int64)


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


def _find(folder: Path, stem: str) -> Path:
    for candidate in (folder / f"{stem}.gz", folder / stem):
        if candidate.exists():
            return candidate
    raise DataError(f"{folder} has neither {stem}.gz nor {stem}; put the four IDX files there.")
