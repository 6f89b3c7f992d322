"""Images in a folder or a zip, one folder for each class."""

import io
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from widescape.core import checks
from widescape.core.errors import DataError
from widescape.core.progress import track
from widescape.data.dataset import Dataset, in_turn, split

if TYPE_CHECKING:
    from PIL import Image

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
_PARTS = {"train": ("train", "training"), "test": ("test", "testing"), "validation": ("val", "valid", "validation")}
_LAYOUT = "give class folders (cat/1.png), or train/ and test/ with class folders inside"
_GRAY = ("1", "L", "LA")
# What reading a damaged image, or a member of a zip that is damaged, encrypted or packed in an unknown way raises.
_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    SyntaxError,
    zipfile.BadZipFile,
    zlib.error,
    NotImplementedError,
    RuntimeError,
)


@dataclass(frozen=True)
class _Listing:
    """Image files of one part, by class."""

    files: tuple[str, ...]
    classes: tuple[str, ...]


def read_images(
    path: Path, name: str, *, fraction: float = 0.2, seed: int = 0, size: tuple[int, int] | None = None
) -> Dataset:
    """Images whose folder is their class, as float64 in [0, 1], (N, H, W, C).

    Accepted are ``class/image`` and ``train/class/image`` with ``test/class/image``, in a folder or a zip, with any
    folders above. A validation folder is the test set where there is no other, else it is left out. Classes are
    numbered in alphabetical order. Images come one of each class in turn (the first file of each, then the second), so
    the first n are balanced. If one image has color, all get three channels.

    Args:
        path: a folder or a zip.
        name: of the data set.
        fraction: of each class that is held out where there is no test folder.
        seed: of that draw.
        size: (height, width) to which all are resized; None requires that they have the same size.

    Raises:
        DataError: nothing is found, an image is damaged, or sizes differ; names the file.
        ValueError, TypeError: `size` is no pair of positive integers.

    Cost: about 0.1 ms for an image of 32 x 32 pixels, and a byte for each number before they become float64.
    """
    _require_size(size)
    names, read, close = _open(path)
    try:
        return _decoded(path, name, _listings(path, names), read, (fraction, seed), size)
    finally:
        close()


def _require_size(size: Any) -> None:
    if size is None:
        return
    if not isinstance(size, tuple | list) or len(size) != 2:
        raise ValueError(f"`size` is {size!r}; give (height, width), two integers.")
    for own in size:
        checks.count(own, "size", "read")


def _open(path: Path) -> tuple[list[str], Callable[[str], bytes], Callable[[], None]]:
    """Names of all files, how to read one, and how to end."""
    if path.is_dir():
        files = [file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()]
        return files, lambda own: (path / own).read_bytes(), lambda: None
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as error:
        raise DataError(f"{path} is not a zip that can be read: {error}. Fetch or pack it again.") from error
    return archive.namelist(), archive.read, archive.close


def _listings(path: Path, names: Iterable[str]) -> dict[str, _Listing]:
    """Files of ``train`` and ``test``, or of ``all`` where they are not separate."""
    parts: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for file in sorted(names):
        pure = PurePosixPath(file)
        if not _is_image(pure):
            continue
        if len(pure.parts) < 2:
            raise DataError(f"{path} has the image {file!r} outside of any class folder; {_LAYOUT}.")
        above = pure.parts[-3].lower() if len(pure.parts) > 2 else ""
        part = next((name for name, known in _PARTS.items() if above in known), "all")
        parts[part].append((file, pure.parts[-2]))
    if not parts:
        raise DataError(f"{path} has no images ({', '.join(ENDINGS)}); {_LAYOUT}.")
    if "validation" in parts and "test" not in parts:
        parts["test"] = parts.pop("validation")
    if set(parts) - {"validation"} not in ({"all"}, {"train", "test"}):
        raise DataError(f"{path} has images in the parts {', '.join(sorted(parts))}; {_LAYOUT}.")
    parts.pop("validation", None)
    bare = {folder.lower() for _, folder in parts.get("all", ())}
    if bare and bare <= {name for known in _PARTS.values() for name in known}:
        raise DataError(f"{path} has images in {', '.join(sorted(bare))} without class folders; {_LAYOUT}.")
    return {part: _Listing(*zip(*files, strict=True)) for part, files in parts.items()}


def _decoded(
    path: Path,
    name: str,
    listings: dict[str, _Listing],
    read: Callable[[str], bytes],
    held_out: tuple[float, int],
    size: tuple[int, int] | None,
) -> Dataset:
    classes = sorted(set((listings.get("train") or listings["all"]).classes))
    if len(classes) < 2:
        raise DataError(f"{path} has the class folders {classes}; a classification needs at least two.")
    unknown = sorted(set(listings["test"].classes) - set(classes)) if "test" in listings else []
    if unknown:
        raise DataError(f"{path} has the test classes {unknown}, of which there are no training images.")
    images: dict[str, np.ndarray] = {}
    labels: dict[str, np.ndarray] = {}
    for part, listing in listings.items():
        own = np.searchsorted(classes, listing.classes).astype(np.int64)
        order = in_turn(own)
        labels[part] = own[order]
        images[part] = _pixels(path, [listing.files[i] for i in order], read, size)
    images = _same_channels(images)
    if "all" in images:
        train, test = split(labels["all"], held_out[0], seed=held_out[1], balanced=True)
        for part, keep in (("train", train), ("test", test)):
            order = keep[in_turn(labels["all"][keep])]
            images[part], labels[part] = images["all"][order], labels["all"][order]
    if images["train"].shape[1:] != images["test"].shape[1:]:
        raise DataError(
            f"{path} has training images of {images['train'].shape[1:3]} and test images of "
            f"{images['test'].shape[1:3]} pixels; give `size`."
        )
    held = f", {100 * held_out[0]:g}% of each class held out at random" if "all" in images else ""
    train_x, test_x = images["train"] / 255.0, images["test"] / 255.0
    return Dataset(
        name,
        train_x,
        labels["train"],
        test_x,
        labels["test"],
        len(classes),
        f"images in {path.name}{held}",
        tuple(classes),
    )


def read_unlabeled(path: Path, shape: tuple[int, ...]) -> tuple[np.ndarray, list[str]]:
    """All images of a folder or a zip, whatever folders they lie in, and their names.

    Args:
        path: a folder or a zip.
        shape: (height, width, channels) of the images to return, to which they are resized.

    Returns:
        float64 in [0, 1] (N, *shape), and the path of each inside of the folder or zip, sorted.

    Raises:
        DataError: there are no images, or one is damaged.
    """
    names, read, close = _open(path)
    try:
        files = [file for file in sorted(names) if _is_image(PurePosixPath(file))]
        if not files:
            raise DataError(f"{path} has no images ({', '.join(ENDINGS)}).")
        pixels = _pixels(path, files, read, (shape[0], shape[1]))
    finally:
        close()
    if pixels.shape[3] == 1 and shape[2] == 3:
        pixels = np.broadcast_to(pixels, (*pixels.shape[:3], 3))
    if pixels.shape[1:] != shape:
        raise DataError(f"{path} has images in color, but gray ones are needed; convert them.")
    return pixels / 255.0, files


def _is_image(file: PurePosixPath) -> bool:
    return file.suffix.lower() in ENDINGS and not any(is_hidden(part) for part in file.parts)


def is_hidden(name: str) -> bool:
    """Whether systems put files or folders of this name beside those of a person."""
    return name.startswith((".", "__MACOSX"))


def _pixels(path: Path, files: list[str], read: Callable[[str], bytes], size: tuple[int, int] | None) -> np.ndarray:
    """Bytes (N, H, W, C)."""

    def decode(file: str) -> np.ndarray:
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(io.BytesIO(read(file))) as image:
                return _array(image, size)
        except (*_DAMAGE, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise DataError(f"the image {file!r} of {path} cannot be read: {error}. Remove or replace it.") from error

    with ThreadPoolExecutor() as pool:  # decoding releases Python's lock
        decoded = list(track(pool.map(decode, files), f"reading {path.name}", total=len(files)))
    shape = decoded[0].shape[:2]
    for file, own in zip(files, decoded, strict=True):
        if own.shape[:2] != shape:
            raise DataError(
                f"images of {path} have different sizes: {files[0]!r} has {shape} pixels and {file!r} {own.shape[:2]}. "
                "Give `size`, (height, width), to resize them."
            )
    channels = max(own.shape[2] for own in decoded)
    return np.stack([np.broadcast_to(own, (*shape, channels)) for own in decoded])


def _array(image: "Image.Image", size: tuple[int, int] | None) -> np.ndarray:
    """Bytes (H, W, 1) or (H, W, 3)."""
    if image.mode.startswith("I;16"):
        from PIL import Image

        image = Image.fromarray((np.asarray(image, np.uint16) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"it has {image.mode!r} pixels, whose range is not known; save it with 8 or 16 bits")
    if image.mode == "P":
        image = image.convert("RGBA")  # the way to RGB that takes any kind of transparency
    image = image.convert("L" if image.mode in _GRAY else "RGB")
    if size is not None:
        image = image.resize((size[1], size[0]))
    array = np.asarray(image, np.uint8)
    return array[..., None] if array.ndim == 2 else array


def _same_channels(images: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    channels = max(own.shape[3] for own in images.values())
    return {part: np.broadcast_to(own, (*own.shape[:3], channels)) for part, own in images.items()}
