"""Archives and folders of images give the pixels and labels that were put into them, and damage is refused by name."""

import gzip
import io
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from widescape import data
from widescape.core.errors import DataError
from widescape.data.cifar import CIFAR10, CIFAR100, read_cifar

# CIFAR. The layouts are written down here as the distributor describes them, not as the source has them.

PARTS = {
    "cifar10": ([f"data_batch_{i}" for i in range(1, 6)], ["test_batch"]),
    "cifar100": (["train"], ["test"]),
}
NAMES = {
    "cifar10": ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"],
    "cifar100": [f"thing_{i}" for i in range(100)],
}
ARCHIVES = {"cifar10": CIFAR10, "cifar100": CIFAR100}
FOLDERS = {
    ("cifar10", "python"): "cifar-10-batches-py",
    ("cifar10", "binary"): "cifar-10-batches-bin",
    ("cifar100", "python"): "cifar-100-python",
    ("cifar100", "binary"): "cifar-100-binary",
}
PACKED = {key: f"{key[0][:5]}-{key[0][5:]}-{key[1]}.tar.gz" for key in FOLDERS}
VERSIONS = list(FOLDERS)
BATCH = 4


def content(kind):
    """Images (n, 32, 32, 3) and labels by part."""
    rng = np.random.default_rng(len(kind))
    count = len(NAMES[kind])
    parts = [stem for stems in PARTS[kind] for stem in stems]
    return {stem: (rng.integers(0, 256, (BATCH, 32, 32, 3), np.uint8), rng.integers(0, count, BATCH)) for stem in parts}


def planes(image):
    """1024 red, 1024 green, 1024 blue values, each row by row."""
    values = [image[row, column, color] for color in range(3) for row in range(32) for column in range(32)]
    return bytes(int(value) for value in values)


def legacy_pickle(value):
    """Protocol 2 with keys and labels as bytes, as Python 2 wrote the real archives."""
    return pickle.dumps(value, protocol=2)


def files(kind, version):
    """The files of an archive by name."""
    out = {}
    for stem, (images, labels) in content(kind).items():
        rows = [planes(image) for image in images]
        if version == "binary":
            coarse = b"\x07" if kind == "cifar100" else b""
            out[f"{stem}.bin"] = b"".join(
                coarse + bytes([label]) + row for label, row in zip(labels.tolist(), rows, strict=True)
            )
        else:
            table = np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), 3072)
            key = b"labels" if kind == "cifar10" else b"fine_labels"
            batch = {b"batch_label": b"a batch", key: labels.tolist(), b"data": table, b"filenames": [b"a.png"] * BATCH}
            if kind == "cifar100":
                batch[b"coarse_labels"] = [7] * BATCH
            out[stem] = legacy_pickle(batch)
    names = [name.encode() for name in NAMES[kind]]
    if version == "binary":
        name = "batches.meta.txt" if kind == "cifar10" else "fine_label_names.txt"
        out[name] = b"\n".join(names) + b"\n\n"
    elif kind == "cifar10":
        out["batches.meta"] = legacy_pickle({b"num_cases_per_batch": 10000, b"label_names": names, b"num_vis": 3072})
    else:
        out["meta"] = legacy_pickle({b"fine_label_names": names, b"coarse_label_names": [b"all"]})
    return out | {"readme.html": b"<html></html>"}


def tar(own, folder):
    """A packed archive with all files in one folder."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        top = tarfile.TarInfo(folder)
        top.type = tarfile.DIRTYPE
        archive.addfile(top)
        for name, blob in own.items():
            info = tarfile.TarInfo(f"{folder}/{name}")
            info.size = len(blob)
            archive.addfile(info, io.BytesIO(blob))
    return buffer.getvalue()


def put(parent, kind, version, own, *, packed):
    """Write an archive into `parent`, under the name it has where it is distributed."""
    key = (kind, version)
    if packed:
        path = parent / PACKED[key]
        path.write_bytes(tar(own, FOLDERS[key]))
        return path
    path = parent / FOLDERS[key]
    path.mkdir()
    for name, blob in own.items():
        (path / name).write_bytes(blob)
    return path


def assert_holds(part, kind):
    for (x, y), stems in zip(((part.x_train, part.y_train), (part.x_test, part.y_test)), PARTS[kind], strict=True):
        images = np.concatenate([content(kind)[stem][0] for stem in stems])
        labels = np.concatenate([content(kind)[stem][1] for stem in stems])
        assert x.dtype == np.float64
        assert np.array_equal(x, images / 255)
        assert np.array_equal(y, labels)
        assert y.dtype.kind == "i"
    assert part.class_names == tuple(NAMES[kind])
    assert part.num_classes == len(NAMES[kind])
    assert part.name == kind


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The folder that WIDESCAPE_DATA names."""
    monkeypatch.setenv("WIDESCAPE_DATA", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(("kind", "version"), VERSIONS)
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "unpacked"])
def test_images_and_labels_of_cifar_come_back(kind, version, packed, root):
    assert PACKED["cifar10", "python"] == "cifar-10-python.tar.gz"
    (root / kind).mkdir()
    path = put(root / kind, kind, version, files(kind, version), packed=packed)
    assert_holds(read_cifar(path, kind, ARCHIVES[kind]), kind)
    assert_holds(data.load(kind), kind)


@pytest.mark.parametrize(("kind", "version"), VERSIONS)
def test_the_files_of_cifar_may_lie_in_the_folder_itself(kind, version, root):
    put(root, kind, version, files(kind, version), packed=False).rename(root / kind)
    assert_holds(data.load(kind), kind)


def test_the_real_pickles_of_python_two_are_read(root):
    """Opcodes as Python 2 wrote them: strings as SHORT_BINSTRING, the array by numpy.core.multiarray."""

    def old_string(text):
        return b"U" + bytes([len(text)]) + text

    def old_batch(pixels, labels):
        array = (
            b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85" + old_string(b"b") + b"tR"
            b"(K\x01K" + bytes([len(labels)]) + b"M\x00\x0c\x86"
            b"cnumpy\ndtype\n(" + old_string(b"u1") + b"K\x00K\x01tR"
            b"(K\x03" + old_string(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
            b"\x89T" + struct.pack("<i", len(pixels)) + pixels + b"tb"
        )
        own = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
        return b"\x80\x02}(" + old_string(b"data") + array + old_string(b"labels") + own + b"u."

    own = files("cifar10", "python")
    for stem, (images, labels) in content("cifar10").items():
        own[stem] = old_batch(b"".join(map(planes, images)), labels.tolist())
    names = b"".join(old_string(name.encode()) for name in NAMES["cifar10"])
    own["batches.meta"] = b"\x80\x02}(" + old_string(b"label_names") + b"](" + names + b"eu."
    path = put(root, "cifar10", "python", own, packed=True)
    assert_holds(read_cifar(path, "cifar10", CIFAR10), "cifar10")


class Runs:
    """Unpickling it runs a command."""

    def __init__(self, function, *args):
        self.reduced = function, args

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "unpacked"])
@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
@pytest.mark.parametrize("means", ["system", "eval", "open", "getattr", "fromfile", "load"])
def test_a_pickle_that_would_execute_code_is_refused_and_does_not_run(means, name, packed, tmp_path):
    witness = tmp_path / "witness"
    evil = {
        "system": Runs(os.system, f"touch {witness}"),
        "eval": Runs(eval, f"open({str(witness)!r}, 'w')"),
        "open": Runs(io.open, str(witness), "w"),
        "getattr": Runs(getattr, 3, "real"),
        "fromfile": Runs(np.fromfile, str(tmp_path)),
        "load": Runs(np.load, str(witness)),
    }[means]
    own = files("cifar10", "python")
    own[name] = legacy_pickle(pickle.loads(own[name]) | {b"extra": evil} if means != "load" else evil)
    path = put(tmp_path, "cifar10", "python", own, packed=packed)
    with pytest.raises(DataError, match=r"cifar-10.*no part of a CIFAR file"):
        read_cifar(path, "cifar10", CIFAR10)
    assert not witness.exists()
    if means == "system":  # the bait works
        pickle.loads(own[name])
        assert witness.exists()


@pytest.mark.parametrize(("kind", "version"), VERSIONS)
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "unpacked"])
def test_a_missing_part_is_named(kind, version, packed, tmp_path):
    whole = files(kind, version)
    for i, name in enumerate(name for name in whole if name != "readme.html"):
        (tmp_path / str(i)).mkdir()
        own = {key: value for key, value in whole.items() if key != name}
        path = put(tmp_path / str(i), kind, version, own, packed=packed)
        with pytest.raises(DataError, match=name.removesuffix(".bin")):
            read_cifar(path, kind, ARCHIVES[kind])


@pytest.mark.parametrize(("kind", "version"), VERSIONS)
def test_an_archive_that_is_cut_is_refused_by_name(kind, version, tmp_path):
    blob = tar(files(kind, version), FOLDERS[kind, version])
    path = tmp_path / PACKED[kind, version]
    for share in (0, 1, 10, 100, len(blob) // 3, len(blob) // 2, len(blob) * 4 // 5):
        path.write_bytes(blob[:share])
        with pytest.raises(DataError, match=path.name):
            read_cifar(path, kind, ARCHIVES[kind])


def test_an_archive_of_which_the_tar_is_cut_is_refused_by_name(tmp_path):
    blob = gzip.decompress(tar(files("cifar10", "binary"), FOLDERS["cifar10", "binary"]))
    path = tmp_path / PACKED["cifar10", "binary"]
    for length in (0, 100, 512, 700, 5000, 20_000, 60_000):
        path.write_bytes(gzip.compress(blob[:length]))
        with pytest.raises(DataError, match=path.name):
            read_cifar(path, "cifar10", CIFAR10)


def test_something_else_under_the_name_of_an_archive_is_refused(tmp_path):
    path = tmp_path / PACKED["cifar10", "python"]
    for blob in (b"<html>not found</html>", zlib.compress(b"hello"), gzip.compress(b"hello"), bytes(10_000)):
        path.write_bytes(blob)
        with pytest.raises(DataError, match=path.name):
            read_cifar(path, "cifar10", CIFAR10)


def test_a_link_in_an_archive_to_nowhere_is_refused(tmp_path):
    own = files("cifar10", "python")
    del own["data_batch_2"]
    path = put(tmp_path, "cifar10", "python", own, packed=True)
    raw = io.BytesIO(gzip.decompress(path.read_bytes()))
    with tarfile.open(fileobj=raw, mode="a") as archive:
        link = tarfile.TarInfo("cifar-10-batches-py/data_batch_2")
        link.type, link.linkname = tarfile.SYMTYPE, "../../etc/passwd"
        archive.addfile(link)
    path.write_bytes(gzip.compress(raw.getvalue()))
    with pytest.raises(DataError, match=path.name):
        read_cifar(path, "cifar10", CIFAR10)


def batch(**changes):
    """A pickled batch of CIFAR-10 with other entries."""
    own = pickle.loads(files("cifar10", "python")["data_batch_2"])
    for key, value in changes.items():
        own[key.encode()] = value
    return legacy_pickle({key: value for key, value in own.items() if value is not None})


TABLE = np.zeros((BATCH, 3072), np.uint8)
BROKEN = {
    "one label too few": batch(labels=[0, 1, 2]),
    "one label too many": batch(labels=[0, 1, 2, 3, 4]),
    "a label that is too large": batch(labels=[0, 1, 2, 10]),
    "a label that is negative": batch(labels=[0, 1, 2, -1]),
    "labels that are text": batch(labels=["a", "b", "c", "d"]),
    "labels in two columns": batch(labels=[[0, 1]] * BATCH),
    "labels that are no list": batch(labels=4),
    "labels beyond 64 bits": batch(labels=[2**70] * BATCH),
    "no labels": batch(labels=None),
    "a label that is none": batch(labels=[0, 1, 2, None]),
    "no images": batch(data=None),
    "images cut": batch(data=TABLE[:, :-1]),
    "one image too few": batch(data=TABLE[1:]),
    "images in a list": batch(data=TABLE.tolist()),
    "images with axes": batch(data=TABLE.reshape(BATCH, 3, 32, 32)),
    "images that are no bytes": batch(data=TABLE + np.nan),
    "images without any": batch(data=TABLE[:0], labels=[]),
    "a list": legacy_pickle([1, 2]),
    "a number": legacy_pickle(3),
    "nothing": b"",
    "text": b"<html>not found</html>",
    "half": batch()[:200],
    "all but the end": batch()[:-1],
    "an array of objects": batch(data=np.full((BATCH, 3072), "a", object)),
    "an array of absurd size": b"\x80\x02cnumpy\nndarray\n\x8a\x05\xff\xff\xff\xff\x7f\x85R.",
    "a call that fails": b"\x80\x02cnumpy\ndtype\nX\x03\x00\x00\x00xyz\x85R.",
}


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "unpacked"])
@pytest.mark.parametrize("damage", BROKEN)
def test_damaged_batches_are_refused_as_data_errors_that_name_the_file(damage, packed, tmp_path):
    own = files("cifar10", "python") | {"data_batch_2": BROKEN[damage]}
    path = put(tmp_path, "cifar10", "python", own, packed=packed)
    with pytest.raises(DataError, match=f"{path.name}|data_batch_2"):
        read_cifar(path, "cifar10", CIFAR10)


def test_bytes_flipped_in_a_pickle_are_harmless_or_refused(tmp_path):
    """Pixels and labels may change; nothing else may happen."""
    whole = files("cifar10", "python")
    blob = whole["data_batch_2"]
    places = sorted({*range(120), *range(len(blob) - 60, len(blob))})
    path = put(tmp_path, "cifar10", "python", whole, packed=False)
    escaped = {}
    for place in places:
        for mask in (0xFF, 0x01):
            damaged = bytearray(blob)
            damaged[place] ^= mask
            (path / "data_batch_2").write_bytes(damaged)
            try:
                part = read_cifar(path, "cifar10", CIFAR10)
                assert part.x_train.shape[1:] == (32, 32, 3)
            except DataError:
                continue
            except Exception as error:
                escaped.setdefault(f"{type(error).__name__}: {error}", (place, mask))
    assert escaped == {}


BROKEN_BINARY = {
    "one byte missing": ("data_batch_4.bin", files("cifar10", "binary")["data_batch_4.bin"][:-1]),
    "one byte too many": ("data_batch_4.bin", files("cifar10", "binary")["data_batch_4.bin"] + b"\0"),
    "empty": ("test_batch.bin", b""),
    "a label that is too large": ("test_batch.bin", b"\x0a" + bytes(3072)),
    "names that are no text": ("batches.meta.txt", b"\xff\xfe\xfa"),
    "no names": ("batches.meta.txt", b""),
}


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "unpacked"])
@pytest.mark.parametrize("damage", BROKEN_BINARY)
def test_damaged_binary_files_are_refused_as_data_errors_that_name_the_file(damage, packed, tmp_path):
    name, blob = BROKEN_BINARY[damage]
    path = put(tmp_path, "cifar10", "binary", files("cifar10", "binary") | {name: blob}, packed=packed)
    with pytest.raises(DataError, match=f"{path.name}|{name}"):
        read_cifar(path, "cifar10", CIFAR10)


@pytest.mark.parametrize("name", ["batches.meta", "meta"])
@pytest.mark.parametrize("value", [{}, {b"label_names": 3}, {b"label_names": []}, [1], 7], ids=str)
def test_damaged_names_are_refused(name, value, tmp_path):
    kind = "cifar10" if name == "batches.meta" else "cifar100"
    path = put(tmp_path, kind, "python", files(kind, "python") | {name: legacy_pickle(value)}, packed=False)
    with pytest.raises(DataError, match=name):
        read_cifar(path, kind, ARCHIVES[kind])


def test_a_folder_with_nothing_of_cifar_says_what_it_holds(root):
    (root / "cifar10").mkdir()
    with pytest.raises(DataError, match="nothing"):
        data.load("cifar10")
    (root / "cifar10" / "readme.md").write_text("hello")
    with pytest.raises(DataError, match=r"readme\.md"):
        data.load("cifar10")


# Folders and zips of images.


def picture(value, size=(4, 5), mode="RGB"):
    """An image (height, width) whose pixels differ."""
    height, width = size
    rng = np.random.default_rng(value)
    shape = {"L": (height, width), "RGB": (height, width, 3), "RGBA": (height, width, 4), "LA": (height, width, 2)}
    array = rng.integers(0, 256, shape[mode], np.uint8)
    array.flat[0] = value  # what tells them apart
    return array


def png(array, **options):
    buffer = io.BytesIO()
    (array if isinstance(array, Image.Image) else Image.fromarray(array)).save(buffer, "PNG", **options)
    return buffer.getvalue()


def write(parent, tree, kind):
    """Files as a folder or as a zip."""
    if kind == "folder":
        for name, blob in tree.items():
            (parent / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
            (parent / "pictures" / name).write_bytes(blob)
        return parent / "pictures"
    path = parent / "pictures.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for folder in sorted({str(Path(name).parent) for name in tree}):
            archive.writestr(f"{folder}/", b"")
        for name, blob in tree.items():
            archive.writestr(name, blob)
    return path


both = pytest.mark.parametrize("form", ["folder", "zip"])


def separate(prefix="", modes=("RGB",)):
    """Two classes, three training and two test images each, by path."""
    arrays = {}
    for own, name in enumerate(("cat", "dog")):
        for part, count in (("train", 3), ("test", 2)):
            for i in range(count):
                value = 100 * own + 10 * (part == "test") + i
                arrays[f"{prefix}{part}/{name}/{i}.png"] = picture(value, mode=modes[value % len(modes)])
    return arrays


def encode(arrays):
    return {name: png(array) for name, array in arrays.items()}


@both
@pytest.mark.parametrize("prefix", ["", "a/", "a/b c/"])
def test_images_in_train_and_test_folders_come_one_of_each_class_in_turn(prefix, form, tmp_path):
    arrays = separate(prefix)
    part = data.read(write(tmp_path, encode(arrays), form))
    order = [f"{prefix}train/{name}/{i}.png" for i in range(3) for name in ("cat", "dog")]
    assert np.array_equal(part.x_train, np.stack([arrays[name] for name in order]) / 255)
    order = [f"{prefix}test/{name}/{i}.png" for i in range(2) for name in ("cat", "dog")]
    assert np.array_equal(part.x_test, np.stack([arrays[name] for name in order]) / 255)
    assert part.y_train.tolist() == [0, 1] * 3
    assert part.y_test.tolist() == [0, 1] * 2
    assert part.x_train.dtype == np.float64
    assert (part.class_names, part.num_classes, part.name) == (("cat", "dog"), 2, "pictures")


@both
@pytest.mark.parametrize(("train", "test"), [("Training", "validation"), ("TRAIN", "val"), ("train", "valid")])
def test_parts_have_their_usual_names(train, test, form, tmp_path):
    tree = {
        name.replace("train/", f"{train}/").replace("test/", f"{test}/"): blob
        for name, blob in encode(separate()).items()
    }
    part = data.read(write(tmp_path, tree, form))
    assert (len(part.x_train), len(part.x_test)) == (6, 4)
    assert part.x_train[0].flat[0] == 0 / 255
    assert part.x_test[1].flat[0] == 110 / 255


def unsplit(sizes, prefix=""):
    """Class folders of several sizes; the first byte of an image is its place in its class, the second its class."""
    tree = {}
    for own, count in enumerate(sizes):
        for i in range(count):
            array = picture(i)
            array.flat[1] = own
            tree[f"{prefix}class {own}/{i:03}.png"] = png(array)
    return tree


@both
@pytest.mark.parametrize("prefix", ["", "top/"])
def test_without_a_test_folder_a_fifth_of_each_class_is_held_out_the_same_each_time(prefix, form, tmp_path):
    path = write(tmp_path, unsplit((20, 10), prefix), form)
    part = data.read(path)
    assert np.bincount(part.y_train).tolist() == [16, 8]
    assert np.bincount(part.y_test).tolist() == [4, 2]
    seen = set()
    for x, y in ((part.x_train, part.y_train), (part.x_test, part.y_test)):
        first = np.rint(255 * x.reshape(len(x), -1)[:, :2]).astype(int)
        assert np.array_equal(first[:, 1], y)
        seen |= {tuple(row) for row in first.tolist()}
    assert seen == {(i, 0) for i in range(20)} | {(i, 1) for i in range(10)}
    assert data.read(path).fingerprint == part.fingerprint
    assert data.read(path, seed=1).fingerprint != part.fingerprint
    assert len(data.read(path, fraction=0.5).y_test) == 15


def test_the_first_training_images_are_balanced_also_where_the_test_images_were_drawn(tmp_path):
    path = write(tmp_path, unsplit((20, 20, 20)), "folder")
    for seed in range(5):
        part = data.read(path, seed=seed, fraction=0.4)
        for y in (part.y_train, part.y_test):
            assert y.tolist() == [0, 1, 2] * (len(y) // 3)


@both
def test_gray_images_have_one_channel_and_one_in_color_makes_all_of_them_three(form, tmp_path):
    gray, mixed = separate(modes=("L",)), separate(modes=("L", "RGB"))
    part = data.read(write(tmp_path, encode(gray), form))
    assert part.x_train.shape == (6, 4, 5, 1)
    assert np.array_equal(part.x_train[0, ..., 0], gray["train/cat/0.png"] / 255)
    (tmp_path / "b").mkdir()
    part = data.read(write(tmp_path / "b", encode(mixed), form))
    assert part.x_train.shape == (6, 4, 5, 3)
    for channel in range(3):
        assert np.array_equal(part.x_train[0, ..., channel], mixed["train/cat/0.png"] / 255)
    assert np.array_equal(part.x_train[2], mixed["train/cat/1.png"] / 255)


def test_color_in_the_test_images_alone_gives_all_images_three_channels(tmp_path):
    arrays = separate(modes=("L",)) | {"test/dog/1.png": picture(7)}
    part = data.read(write(tmp_path, encode(arrays), "folder"))
    assert part.x_train.shape == (6, 4, 5, 3)
    assert np.array_equal(part.x_test[3], picture(7) / 255)
    assert np.array_equal(part.x_train[0, ..., 2], arrays["train/cat/0.png"] / 255)


def test_images_of_sixteen_bits_keep_the_upper_eight(tmp_path):
    deep = np.random.default_rng(0).integers(0, 2**16, (4, 5)).astype(np.uint16)
    deep.flat[:3] = 0, 255, 65535
    arrays = separate(modes=("L",))
    tree = encode(arrays) | {"train/cat/0.png": png(deep)}
    assert b"\x10\x00" in tree["train/cat/0.png"][24:26]  # depth 16, gray
    part = data.read(write(tmp_path, tree, "folder"))
    assert np.array_equal(np.rint(part.x_train[0, ..., 0] * 255), deep // 256)
    assert np.array_equal(part.x_train[1, ..., 0], arrays["train/dog/0.png"] / 255)


def test_palettes_and_transparency_become_plain_colors(tmp_path):
    rgba, la = picture(1, mode="RGBA"), picture(2, mode="LA")
    palette = Image.new("P", (5, 4))
    palette.putpalette([v for i in range(256) for v in (i, 255 - i, i // 2)])
    places = np.arange(20, dtype=np.uint8).reshape(4, 5) * 12
    palette.putdata(places.ravel().tolist())
    bits = Image.fromarray(places > 90)
    tree = encode(separate()) | {
        "train/cat/0.png": png(rgba),
        "train/cat/1.png": png(Image.merge("LA", [Image.fromarray(la[..., i].copy()) for i in range(2)])),
        "train/dog/0.png": png(palette),
        "train/dog/1.png": png(palette, transparency=3),
        "train/cat/2.png": png(palette, transparency=bytes(range(256))),
        "train/dog/2.png": png(bits),
    }
    x = np.rint(255 * data.read(write(tmp_path, tree, "folder")).x_train)
    colors = np.stack([places, 255 - places, places // 2], axis=-1)
    assert np.array_equal(x[0], rgba[..., :3])
    assert np.array_equal(x[2], np.repeat(la[..., :1], 3, axis=-1))
    for i in (1, 3, 4):
        assert np.array_equal(x[i], colors)
    assert np.array_equal(x[5, ..., 0], 255 * (places > 90))


@both
def test_hidden_files_and_what_is_no_image_are_ignored(form, tmp_path):
    tree = encode(separate())
    plain = data.read(write(tmp_path, tree, form))
    (tmp_path / "b").mkdir()
    junk = {
        "__MACOSX/train/cat/._0.png": b"junk",
        "__MACOSX/train/bird/0.png": b"junk",
        "train/cat/._0.png": b"junk",
        "train/.ipynb_checkpoints/0.png": b"junk",
        ".git/train/cat/0.png": b"junk",
        "train/cat/.DS_Store": b"junk",
        "train/labels.csv": b"junk",
        "readme.txt": b"junk",
        "train/cat/Thumbs.db": b"junk",
    }
    assert data.read(write(tmp_path / "b", tree | junk, form)).fingerprint == plain.fingerprint


def test_other_formats_and_upper_case_endings_are_read(tmp_path):
    array = picture(5)
    tree = encode(separate())
    for name, form in (("0.BMP", "BMP"), ("0.ppm", "PPM"), ("0.tiff", "TIFF")):
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, form)
        tree[f"train/cat/{name}"] = buffer.getvalue()
    part = data.read(write(tmp_path, tree, "folder"))
    assert len(part.x_train) == 9
    same = [np.array_equal(own, array / 255) for own in part.x_train]
    assert sum(same) == 3


DAMAGE = {
    "text": b"<html>",
    "empty": b"",
    "cut": png(picture(3, (40, 50)))[:900],
    "cut at the header": png(picture(3))[:20],
    "a flipped byte": png(picture(3))[:50] + b"\xff\xff" + png(picture(3))[52:],
}


@both
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_image_is_named(damage, form, tmp_path):
    path = write(tmp_path, encode(separate()) | {"train/dog/1.png": DAMAGE[damage]}, form)
    with pytest.raises(DataError, match=r"'train/dog/1\.png' of .*pictures.* cannot be read"):
        data.read(path)


def test_bytes_flipped_in_an_image_are_harmless_or_refused(tmp_path):
    blob = png(picture(3, (3, 3)))
    tree = encode({name: picture(1, (3, 3)) for name in separate()})
    path = write(tmp_path, tree, "folder")
    escaped = {}
    for place in range(len(blob)):
        damaged = bytearray(blob)
        damaged[place] ^= 0xFF
        (path / "train/dog/1.png").write_bytes(damaged)
        try:
            data.read(path)
        except DataError:
            continue
        except Exception as error:
            escaped.setdefault(type(error).__name__, (place, str(error)))
    assert escaped == {}


def test_bytes_flipped_in_a_zip_are_harmless_or_refused(tmp_path):
    path = write(tmp_path, encode({name: picture(1, (3, 3)) for name in separate()}), "zip")
    blob = path.read_bytes()
    escaped = {}
    for place in range(0, len(blob), 5):
        damaged = bytearray(blob)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        try:
            data.read(path)
        except DataError:
            continue
        except Exception as error:
            escaped.setdefault(type(error).__name__, (place, str(error)))
    assert escaped == {}


@pytest.mark.parametrize("share", [0, 10, 200, -1])
def test_a_cut_zip_is_refused_by_name(share, tmp_path):
    path = write(tmp_path, encode(separate()), "zip")
    path.write_bytes(path.read_bytes()[:share])
    with pytest.raises(DataError, match=r"pictures\.zip"):
        data.read(path)


@both
def test_sizes_that_differ_are_named_and_mended_by_size(form, tmp_path):
    tree = encode(separate()) | {"train/dog/1.png": png(picture(9, (6, 3)))}
    path = write(tmp_path, tree, form)
    with pytest.raises(DataError, match=r"train/cat/0\.png' has \(4, 5\).*train/dog/1\.png' \(6, 3\)(.|\n)*`size`"):
        data.read(path)
    part = data.read(path, size=(6, 3))
    assert part.x_train.shape == (6, 6, 3, 3)
    assert np.array_equal(part.x_train[3], picture(9, (6, 3)) / 255)  # it had this size already
    assert 0 <= part.x_train.min() < part.x_train.max() <= 1


def test_resizing_keeps_images_upright(tmp_path):
    """The upper half is white and the left half of the lower half gray."""
    array = np.zeros((8, 12), np.uint8)
    array[:4], array[4:, :6] = 255, 100
    path = write(tmp_path, encode(dict.fromkeys(separate(), array)), "folder")
    x = np.rint(255 * data.read(path, size=(2, 4)).x_train[0, ..., 0])
    assert x.shape == (2, 4)
    assert (x[0] > 200).all()
    assert (np.abs(x[1, :2] - 100) < 40).all()
    assert (x[1, 3] < 40).all()


def test_sizes_that_differ_between_training_and_test_images_are_named(tmp_path):
    arrays = {name: picture(1, (4, 5) if name.startswith("train") else (5, 4)) for name in separate()}
    path = write(tmp_path, encode(arrays), "folder")
    with pytest.raises(DataError, match=r"\(4, 5\) and test images of \(5, 4\) pixels; give `size`"):
        data.read(path)
    assert data.read(path, size=(5, 4)).x_train.shape == (6, 5, 4, 3)


@pytest.mark.parametrize("size", [5, (0, 3), (3,), (3, 4, 3), (2.5, 3), (-1, 3)], ids=str)
def test_a_size_that_is_none_is_refused_by_name(size, tmp_path):
    path = write(tmp_path, encode(separate()), "folder")
    with pytest.raises((ValueError, TypeError), match="`size`"):
        data.read(path, size=size)


@both
def test_a_single_class_is_refused(form, tmp_path):
    tree = {name: blob for name, blob in encode(separate()).items() if "dog" not in name}
    with pytest.raises(DataError, match=r"\['cat'\]; a classification needs at least two"):
        data.read(write(tmp_path, tree, form))


@both
def test_a_test_class_without_training_images_is_refused_by_name(form, tmp_path):
    tree = encode(separate()) | {"test/bird/0.png": png(picture(1))}
    with pytest.raises(DataError, match=r"\['bird'\], of which there are no training images"):
        data.read(write(tmp_path, tree, form))


@both
def test_a_class_without_test_images_keeps_its_number(form, tmp_path):
    tree = encode(separate()) | {"train/bird/0.png": png(picture(1))}
    part = data.read(write(tmp_path, tree, form))
    assert part.class_names == ("bird", "cat", "dog")
    assert part.y_test.tolist() == [1, 2, 1, 2]
    assert part.y_train.tolist() == [0, 1, 2, 1, 2, 1, 2]


@both
@pytest.mark.parametrize(
    ("tree", "match"),
    [
        ({"readme.txt": b""}, "no images"),
        ({"a.png": png(picture(1)), "cat/b.png": png(picture(1))}, r"'a\.png' outside of any class folder"),
        ({"train/cat/a.png": b"", "train/dog/b.png": b""}, "in the parts train;"),
        ({"test/cat/a.png": b"", "test/dog/b.png": b""}, "in the parts test;"),
        ({"train/cat/a.png": b"", "test/cat/b.png": b"", "dog/b.png": b""}, "in the parts all, test, train"),
    ],
    ids=["no images", "outside", "train alone", "test alone", "mixed"],
)
def test_other_layouts_are_refused_with_the_accepted_ones(tree, match, form, tmp_path):
    with pytest.raises(DataError, match=match):
        data.read(write(tmp_path, tree, form))


def test_a_known_name_may_be_a_folder_or_one_zip_of_images(root):
    tree = encode(separate())
    (root / "cifar10").mkdir()
    write(root / "cifar10", tree, "zip")
    zipped = data.load("cifar10")
    assert (zipped.name, len(zipped.x_train)) == ("cifar10", 6)
    (root / "cifar10" / ".cache").mkdir()  # hidden folders do not count
    (root / "cifar10" / "__MACOSX").mkdir()
    assert data.load("cifar10").fingerprint == zipped.fingerprint
    (root / "cifar10" / "second.zip").write_bytes((root / "cifar10" / "pictures.zip").read_bytes())
    with pytest.raises(DataError, match=r"pictures\.zip, second\.zip"):
        data.load("cifar10")
    (root / "mnist").mkdir()
    write(root / "mnist", tree, "folder")
    assert data.load("mnist").fingerprint == zipped.fingerprint


@pytest.mark.slow
def test_the_quarter_of_cifar10_that_tests_have_is_whole_and_balanced():
    folder = os.environ.get("WIDESCAPE_DATA")
    if not folder or not (Path(folder) / "cifar10" / "cifar10-25k.zip").exists():
        pytest.skip("needs cifar10/cifar10-25k.zip in the folder that WIDESCAPE_DATA names")
    part = data.load("cifar10")
    assert part.x_train.shape == (20_000, 32, 32, 3)
    assert part.x_test.shape == (5_000, 32, 32, 3)
    assert np.bincount(part.y_train[:2000]).tolist() == [200] * 10
    assert np.bincount(part.y_train).tolist() == [2000] * 10
    assert np.bincount(part.y_test).tolist() == [500] * 10
    assert part.class_names == tuple(NAMES["cifar10"])
    assert np.allclose(part.x_train.mean(axis=(0, 1, 2)), [0.4914, 0.4822, 0.4465], atol=0.01)  # as published
    with zipfile.ZipFile(Path(folder) / "cifar10" / "cifar10-25k.zip") as archive:
        image = np.asarray(Image.open(io.BytesIO(archive.read("train/bird/0007.jpg"))))
    assert np.array_equal(part.x_train[72], image / 255)
    assert part.y_train[72] == 2


def _pictures(folder, places):
    for i, place in enumerate(places):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((3, 3), i, np.uint8)).save(folder / place)


def test_a_validation_folder_is_the_test_set_only_where_there_is_no_other(tmp_path):
    _pictures(tmp_path / "two", ["train/a/0.png", "train/b/0.png", "val/a/0.png", "val/b/0.png"])
    assert (255 * data.read(tmp_path / "two").x_test[:, 0, 0, 0]).round().tolist() == [2, 3]
    three = ["train/a/0.png", "train/b/0.png", "val/a/0.png", "val/b/0.png", "test/a/0.png"]
    _pictures(tmp_path / "three", three)
    assert (255 * data.read(tmp_path / "three").x_test[:, 0, 0, 0]).round().tolist() == [4]


def test_images_in_train_and_test_without_class_folders_are_refused(tmp_path):
    _pictures(tmp_path, ["train/0.png", "train/1.png", "test/0.png"])
    with pytest.raises(DataError, match="test, train without class folders"):
        data.read(tmp_path)
