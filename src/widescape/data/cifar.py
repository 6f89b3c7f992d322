"""The CIFAR archives, in the Python and the binary version, packed or unpacked."""

import io
import pickle
import tarfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from widescape.core.errors import DataError
from widescape.data.dataset import Dataset, require_classes

PIXELS = 32 * 32 * 3


@dataclass(frozen=True)
class Archive:
    """What one CIFAR archive holds.

    Attributes:
        title: how it is called.
        python: folder of the Python version; ``.tar.gz`` archives are named like it.
        binary: folder of the binary version.
        packed: names of the archives of the two.
        train, test: names of the parts, without the ending ``.bin`` of the binary version.
        label_key: under which the Python version has the labels.
        label_bytes: before the pixels of an image in the binary version; the last one is the label.
        names_file: in the Python version, and the key of the names in it.
    """

    title: str
    python: str
    binary: str
    packed: tuple[str, str]
    train: tuple[str, ...]
    test: tuple[str, ...]
    label_key: str
    label_bytes: int
    names_file: tuple[str, str]
    binary_names_file: str


CIFAR10 = Archive(
    "CIFAR-10", "cifar-10-batches-py", "cifar-10-batches-bin", ("cifar-10-python.tar.gz", "cifar-10-binary.tar.gz"),
    tuple(f"data_batch_{i}" for i in range(1, 6)), ("test_batch",), "labels", 1, ("batches.meta", "label_names"),
    "batches.meta.txt",
)  # fmt: skip
CIFAR100 = Archive(
    "CIFAR-100", "cifar-100-python", "cifar-100-binary", ("cifar-100-python.tar.gz", "cifar-100-binary.tar.gz"),
    ("train",), ("test",), "fine_labels", 2, ("meta", "fine_label_names"), "fine_label_names.txt",
)  # fmt: skip

Reader = Callable[[str], bytes]


def find_cifar(folder: Path, archive: Archive) -> Path | None:
    """The archive or the unpacked folder inside of `folder`, or `folder` itself; None if there is none."""
    for name in (archive.python, *archive.packed[:1], archive.binary, *archive.packed[1:]):
        if (folder / name).exists():
            return folder / name
    inside = any((folder / f"{archive.test[0]}{end}").is_file() for end in ("", ".bin"))
    return folder if inside else None


def read_cifar(path: Path, name: str, archive: Archive) -> Dataset:
    """The data set in an archive, or in the folder it unpacks to.

    The Python version is read without executing anything that it may hold beyond arrays.

    Raises:
        DataError: a part is absent, damaged, or of another length than it should be.
    """
    try:
        read, files = _members(path)
        binary = any(name.endswith(".bin") for name in files)
        part = _binary_part if binary else _python_part
        names = _names(read, files, archive, binary, path)
        (x_train, y_train), (x_test, y_test) = (
            _joined([part(read, files, stem, archive, path) for stem in stems], len(names), path)
            for stems in (archive.train, archive.test)
        )
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}. Fetch it again.") from error
    version = "binary" if binary else "Python"
    source = f"{archive.title}, the {version} version"
    return Dataset(name, x_train, y_train, x_test, y_test, len(names), source, names)


def _joined(
    batches: list[tuple[np.ndarray, np.ndarray]], num_classes: int, path: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 32, 32, 3) in [0, 1] and labels (N,)."""
    pixels = np.concatenate([images for images, _ in batches]).reshape(-1, 3, 32, 32)
    labels = np.concatenate([own for _, own in batches])
    require_classes(labels, num_classes, str(path))
    return pixels.transpose(0, 2, 3, 1) / 255.0, labels


def _members(path: Path) -> tuple[Reader, set[str]]:
    """How to read a file by its last name, and the names there are."""
    if path.is_dir():
        return (lambda name: (path / name).read_bytes()), {entry.name for entry in path.iterdir()}
    with tarfile.open(path) as archive:
        content: dict[str, bytes] = {}
        for member in archive:
            file = archive.extractfile(member) if member.isreg() else None
            if file is not None:
                content[PurePosixPath(member.name).name] = file.read()
    return content.__getitem__, set(content)


def _names(read: Reader, files: Iterable[str], archive: Archive, binary: bool, path: Path) -> tuple[str, ...]:
    name = archive.binary_names_file if binary else archive.names_file[0]
    _require(name, files, path)
    names: Any = (
        read(name).decode("utf-8", "replace").split()
        if binary
        else _unpickled(read(name), name, path).get(archive.names_file[1])
    )
    if not isinstance(names, list) or not names:
        raise DataError(f"the part {name!r} of {path} has no list of the classes; fetch it again.")
    return tuple(str(own) for own in names)


def _python_part(
    read: Reader, files: Iterable[str], stem: str, archive: Archive, path: Path
) -> tuple[np.ndarray, np.ndarray]:
    _require(stem, files, path)
    content = _unpickled(read(stem), stem, path)
    images, labels = content.get("data"), content.get(archive.label_key)
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape != (len(images), PIXELS):
        raise DataError(f"the part {stem!r} of {path} holds no images of 32 x 32 x 3; fetch it again.")
    if not isinstance(labels, list) or not all(isinstance(own, int) and 0 <= own < 256 for own in labels):
        raise DataError(f"the part {stem!r} of {path} holds no list of labels {archive.label_key!r}; fetch it again.")
    if len(labels) != len(images) or not labels:
        raise DataError(f"the part {stem!r} of {path} holds {len(images)} images and {len(labels)} labels.")
    return images, np.array(labels, np.int64)


def _binary_part(
    read: Reader, files: Iterable[str], stem: str, archive: Archive, path: Path
) -> tuple[np.ndarray, np.ndarray]:
    _require(f"{stem}.bin", files, path)
    content = np.frombuffer(read(f"{stem}.bin"), np.uint8)
    record = archive.label_bytes + PIXELS
    if content.size == 0 or content.size % record:
        raise DataError(f"{stem}.bin of {path} has {content.size} bytes, which is no multiple of {record}.")
    rows = content.reshape(-1, record)
    return rows[:, archive.label_bytes :], rows[:, archive.label_bytes - 1].astype(np.int64)


def _require(name: str, files: Iterable[str], path: Path) -> None:
    if name not in files:
        raise DataError(f"{path} has no part {name!r}; fetch it again.")


class _ArraysOnly(pickle.Unpickler):
    """Reads arrays of bytes in dictionaries, and nothing that runs code."""

    def find_class(self, module: str, name: str) -> Any:
        place = (module.replace("numpy.core", "numpy._core"), name)
        if place == ("numpy._core.multiarray", "_reconstruct"):
            return np.empty(0).__reduce__()[0]
        if place in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if place == ("_codecs", "encode"):
            return lambda text, encoding: text.encode(encoding)
        raise pickle.UnpicklingError(f"it holds {module}.{name}, which is no part of a CIFAR file")


def _unpickled(content: bytes, name: str, path: Path) -> dict[str, Any]:
    try:
        value = _ArraysOnly(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # damaged pickles raise almost anything
        raise DataError(f"the part {name!r} of {path} is damaged: {error}. Fetch it again.") from error
    if not isinstance(value, dict):
        raise DataError(f"the part {name!r} of {path} holds a {type(value).__name__} and not images; fetch it again.")
    return {_text(key): [_text(own) for own in part] if _is_words(part) else part for key, part in value.items()}


def _is_words(part: Any) -> bool:
    return isinstance(part, list) and bool(part) and isinstance(part[0], bytes | str)


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
