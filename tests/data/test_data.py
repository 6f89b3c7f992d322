"""Data sets have the shapes, ranges and labels they promise, and damaged files are refused by name."""

import gzip
import struct

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from widescape import data
from widescape.core.errors import DataError, ShapeError
from widescape.data.idx import read_idx

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def idx(array, *, code=8):
    """The bytes of an IDX file."""
    array = np.asarray(array, np.uint8)
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape) + array.tobytes()


def small_mnist():
    rng = np.random.default_rng(5)
    arrays = []
    for n in (6, 4):
        arrays += [rng.integers(0, 256, (n, 28, 28)), np.arange(n)]
    return dict(zip(FILES, map(idx, arrays), strict=True))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a small MNIST that WIDESCAPE_DATA names; `put` writes or removes its files."""
    monkeypatch.setenv("WIDESCAPE_DATA", str(tmp_path))
    (tmp_path / "mnist").mkdir()
    for name, content in small_mnist().items():
        (tmp_path / "mnist" / f"{name}.gz").write_bytes(gzip.compress(content))
    return tmp_path / "mnist"


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


# Digits.


def test_digits_are_1797_images_in_the_unit_interval_with_ten_labels(digits):
    x_train, y_train, x_test, y_test = digits.arrays()
    assert (x_train.shape, x_test.shape) == ((1297, 8, 8, 1), (500, 8, 8, 1))
    assert (y_train.shape, y_test.shape) == ((1297,), (500,))
    for x, y in ((x_train, y_train), (x_test, y_test)):
        assert x.dtype == np.float64
        assert (x.min(), x.max()) == (0.0, 1.0)
        assert y.dtype.kind == "i"
        assert np.unique(y).tolist() == list(range(10))
    assert (digits.name, digits.num_classes) == ("digits", 10)
    assert digits.source


def test_digits_are_those_of_scikit_learn_in_its_order_the_last_500_for_testing(digits):
    from sklearn.datasets import load_digits

    bundle = load_digits()
    x = np.concatenate([digits.x_train, digits.x_test])
    assert np.array_equal(16 * x[..., 0], bundle.images)
    assert np.array_equal(np.concatenate([digits.y_train, digits.y_test]), bundle.target)


def test_the_fingerprint_of_digits_is_the_same_each_time_and_changes_with_the_data(digits):
    assert digits.fingerprint == data.load("digits").fingerprint
    assert len(digits.fingerprint) == 12
    changed = data.load("digits")
    changed.y_test[-1] = (changed.y_test[-1] + 1) % 10
    assert changed.fingerprint != digits.fingerprint


def test_an_unknown_name_is_refused_and_the_known_ones_listed():
    assert {"digits", "mnist", "cifar10", "iris", "diabetes", "spirals"} <= set(data.names())
    with pytest.raises(DataError, match=f"'cifar99'; choose one of {', '.join(data.names())}"):
        data.load("cifar99")


# Subsets.


def rows(x):
    return {row.tobytes() for row in x}


def numbered(n_train=60, n_test=40):
    """Images that are their own number, so that a draw shows which it took."""

    def images(n):
        return np.arange(float(n)).reshape(n, 1, 1, 1)

    return data.Dataset("numbered", images(n_train), np.arange(n_train), images(n_test), np.arange(n_test), 60, "here")


def test_without_a_seed_a_subset_is_the_first_examples(digits):
    part = digits.subset(7, 3)
    assert np.array_equal(part.x_train, digits.x_train[:7])
    assert np.array_equal(part.y_train, digits.y_train[:7])
    assert np.array_equal(part.x_test, digits.x_test[:3])
    assert np.array_equal(part.y_test, digits.y_test[:3])
    assert (part.name, part.num_classes, part.source) == (digits.name, digits.num_classes, digits.source)


@given(st.integers(0, 2**32), st.integers(1, 60), st.integers(1, 40))
@settings(deadline=None, max_examples=40)
def test_a_drawn_subset_takes_no_example_twice_and_keeps_its_label(seed, n_train, n_test):
    part = numbered().subset(n_train, n_test, seed=seed)
    for x, y, n in ((part.x_train, part.y_train, n_train), (part.x_test, part.y_test, n_test)):
        assert len(np.unique(x)) == len(x) == n
        assert np.array_equal(x.ravel(), y)


@given(st.integers(0, 2**32))
@settings(deadline=None, max_examples=20)
def test_the_same_seed_draws_the_same_and_a_larger_draw_begins_with_the_smaller(seed):
    large, again, small = (numbered().subset(n, 5, seed=seed) for n in (30, 30, 10))
    assert np.array_equal(large.y_train, again.y_train)
    assert np.array_equal(large.y_train[:10], small.y_train)


def test_other_seeds_and_the_other_part_draw_other_permutations():
    whole = numbered(40, 40)
    draws = [whole.subset(40, 40, seed=seed) for seed in range(5)]
    orders = {part.y_train.tobytes() for part in draws} | {part.y_test.tobytes() for part in draws}
    assert len(orders) == 10
    assert np.arange(40).tobytes() not in orders


def test_every_example_is_drawn_equally_often():
    counts = np.zeros(60)
    for seed in range(400):
        counts[numbered().subset(15, 1, seed=seed).y_train] += 1
    deviation = (counts - 100) / np.sqrt(400 * 0.25 * 0.75)
    assert np.abs(deviation).max() < 4.5


def test_changing_a_subset_leaves_the_whole_alone():
    whole = numbered()
    for seed in (None, 1):
        part = whole.subset(5, 5, seed=seed)
        for array in part.arrays():
            array[...] = -1
    assert whole.fingerprint == numbered().fingerprint


@pytest.mark.parametrize(
    ("n_train", "n_test", "name"), [(0, 1, "train"), (61, 1, "train"), (1, 0, "test"), (1, 41, "test")]
)
@pytest.mark.parametrize("seed", [None, 3])
def test_a_subset_has_at_least_one_and_at_most_all_examples(n_train, n_test, name, seed):
    with pytest.raises(ValueError, match=f"`n_{name}`.*'numbered'"):
        numbered().subset(n_train, n_test, seed=seed)


@pytest.mark.parametrize("seed", [None, 3])
def test_a_subset_of_no_whole_number_is_refused_by_name(seed):
    with pytest.raises((TypeError, ValueError), match="n_train"):
        numbered().subset(2.5, 1, seed=seed)


def test_a_negative_seed_is_refused_by_name():
    with pytest.raises(ValueError, match="seed"):
        numbered().subset(2, 1, seed=-1)


@pytest.mark.parametrize("labels", [np.arange(2), np.arange(3)[:, None], np.array(0)])
def test_images_without_a_label_each_are_refused(labels):
    x = np.zeros((3, 1, 1, 1))
    for arrays in ((x, labels, x, np.arange(3)), (x, np.arange(3), x, labels)):
        with pytest.raises(ShapeError, match="'odd': 3"):
            data.Dataset("odd", *arrays, 3, "here")


def test_a_data_set_without_examples_is_refused():
    x, y = np.zeros((1, 1, 1, 1)), np.zeros(1, int)
    with pytest.raises(ShapeError, match="'odd': 0 test"):
        data.Dataset("odd", x, y, x[:0], y[:0], 3, "here")


# Standardizing.

VALUES = st.floats(-1e3, 1e3)


@given(hnp.arrays(np.float64, (4, 3), elements=VALUES), hnp.arrays(np.float64, (2, 3), elements=VALUES))
@settings(deadline=None, max_examples=50)
def test_standardized_training_entries_have_mean_zero_and_variance_one_and_others_follow(train, other):
    spread = train.std()
    assume(spread > 1e-6 * max(1, np.abs(train).max()))
    before = train.copy()
    a, b = data.standardize(train, other)
    assert abs(a.mean()) < 1e-8
    assert abs(a.std() - 1) < 1e-8
    assert np.allclose(b * spread + train.mean(), other, rtol=0, atol=1e-9 * (1 + np.abs(b).max()) * 1e3)
    assert np.array_equal(train, before)


def test_standardizing_uses_one_mean_and_one_deviation_for_all_entries():
    train = np.array([[0.0, 2.0], [4.0, 2.0]])
    (a,) = data.standardize(train)
    assert np.allclose(a, (train - 2) / 2**0.5, rtol=1e-15)


@given(st.floats(-1e10, 1e10), st.sampled_from([1, 3, 7, 100]))
@settings(deadline=None, max_examples=100)
def test_constant_training_data_cannot_be_standardized(value, n):
    with pytest.raises(ValueError, match="constant"):
        data.standardize(np.full(n, value))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_training_data_that_are_not_finite_cannot_be_standardized(bad):
    with pytest.raises(ValueError, match=r"NaN|finite"):
        data.standardize(np.array([0.0, 1.0, bad]))


# MNIST.


def test_mnist_has_its_published_sizes_and_label_counts(mnist):
    assert mnist.x_train.shape == (60000, 28, 28, 1)
    assert mnist.x_test.shape == (10000, 28, 28, 1)
    assert np.bincount(mnist.y_train).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(mnist.y_test).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert (mnist.name, mnist.num_classes) == ("mnist", 10)


def test_mnist_begins_with_its_well_known_digits(mnist):
    assert mnist.y_train[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert mnist.y_test[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    first = np.rint(mnist.x_train[0, ..., 0] * 255)
    assert first[5, 12:24].tolist() == [3, 18, 18, 18, 126, 136, 175, 26, 166, 255, 247, 127]
    assert not first[:5].any()


def test_mnist_pixels_are_255ths_in_the_unit_interval_with_the_published_mean_and_deviation(mnist):
    part = mnist.x_train[:1000] * 255
    assert np.array_equal(part, np.rint(part))
    assert (mnist.x_train.min(), mnist.x_train.max()) == (0.0, 1.0)
    assert mnist.x_train.dtype == np.float64
    assert round(float(mnist.x_train.mean()), 4) == 0.1307
    assert round(float(mnist.x_train.std()), 4) == 0.3081


def test_files_may_be_plain_or_compressed(folder):
    compressed = data.load("mnist")
    for name, content in small_mnist().items():
        (folder / f"{name}.gz").unlink()
        (folder / name).write_bytes(content)
    plain = data.load("mnist")
    assert plain.fingerprint == compressed.fingerprint
    assert plain.x_train.shape == (6, 28, 28, 1)
    raw = np.frombuffer(small_mnist()[FILES[2]], np.uint8, offset=16)
    assert np.array_equal(np.rint(plain.x_test.ravel() * 255), raw)
    assert plain.y_train.tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("value", [None, ""])
def test_without_a_folder_for_data_mnist_is_refused_with_what_to_set(value, monkeypatch):
    monkeypatch.delenv("WIDESCAPE_DATA", raising=False)
    if value is not None:
        monkeypatch.setenv("WIDESCAPE_DATA", value)
    with pytest.raises(DataError, match=r"WIDESCAPE_DATA is not set, and it is not in .*set WIDESCAPE_DATA"):
        data.load("mnist", download=False)


def test_a_missing_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("WIDESCAPE_DATA", str(tmp_path))
    with pytest.raises(DataError, match=f"no folder {tmp_path}/mnist"):
        data.load("mnist", download=False)
    (tmp_path / "mnist").write_text("a file")
    with pytest.raises(DataError, match=f"no folder {tmp_path}/mnist"):
        data.load("mnist", download=False)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(name, folder):
    (folder / f"{name}.gz").unlink()
    with pytest.raises(DataError, match=name):
        data.load("mnist")


@pytest.mark.parametrize("name", FILES)
def test_a_folder_in_place_of_a_file_is_refused(name, folder):
    (folder / f"{name}.gz").unlink()
    (folder / name).mkdir()
    with pytest.raises(DataError, match=name):
        data.load("mnist")


IMAGES = idx(np.zeros((6, 28, 28)))
WRAPPING = struct.pack(">BBBB3I", 0, 0, 8, 3, 2**31, 2**31, 4)  # 2^64 bytes, which is 0 in 64-bit integers
DAMAGED = {
    "empty": b"",
    "three bytes": IMAGES[:3],
    "header cut": IMAGES[:10],
    "no pixels": IMAGES[:16],
    "one pixel missing": IMAGES[:-1],
    "one byte too many": IMAGES + b"\0",
    "wrong magic": b"\x01" + IMAGES[1:],
    "second byte of the magic": b"\0\x01" + IMAGES[2:],
    "signed bytes": idx(np.zeros((6, 28, 28)), code=9),
    "doubles": idx(np.zeros((6, 28, 28)), code=14),
    "no axes": idx(0)[:4] + b"\0",
    "no axes and no content": b"\0\0\x08\0",
    "one axis": idx(np.zeros(6)),
    "four axes": idx(np.zeros((6, 28, 28, 1))),
    "more axes than bytes": b"\0\0\x08\xff" + bytes(40),
    "a size that wraps around": WRAPPING,
    "no images": idx(np.zeros((0, 28, 28))),
    "images without pixels": idx(np.zeros((6, 0, 28))),
    "another number of images": idx(np.zeros((5, 28, 28))),
    "other images than for testing": idx(np.zeros((6, 14, 14))),
    "text": b"<html>not found</html>",
    "compressed twice": gzip.compress(IMAGES),
}


@pytest.mark.parametrize("compressed", [True, False], ids=["gzip", "plain"])
@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_images_are_refused_as_data_errors(damage, compressed, folder):
    (folder / f"{FILES[0]}.gz").unlink()
    if compressed:
        (folder / f"{FILES[0]}.gz").write_bytes(gzip.compress(DAMAGED[damage]))
    else:
        (folder / FILES[0]).write_bytes(DAMAGED[damage])
    with pytest.raises(DataError):
        data.load("mnist")


@pytest.mark.parametrize(
    "labels", [np.arange(5), np.arange(7), np.zeros((6, 1)), [0, 1, 2, 3, 4, 10], [255] * 6], ids=str
)
@pytest.mark.parametrize("name", FILES[1::2])
def test_labels_that_do_not_fit_their_images_are_refused(labels, name, folder):
    shift = 0 if name == FILES[1] else 2
    content = idx(np.asarray(labels)[shift:])
    (folder / f"{name}.gz").write_bytes(gzip.compress(content))
    with pytest.raises(DataError):
        data.load("mnist")


def test_a_compressed_file_that_is_cut_anywhere_is_refused(tmp_path):
    content = gzip.compress(idx(np.random.default_rng(0).integers(0, 256, 40)))
    for length in range(len(content)):
        (tmp_path / "a.gz").write_bytes(content[:length])
        with pytest.raises(DataError, match=r"a\.gz"):
            read_idx(tmp_path / "a.gz")


def test_a_flipped_byte_in_a_compressed_file_is_noticed_or_harmless(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, 40)
    content = gzip.compress(idx(array))
    escaped = {}
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        (tmp_path / "a.gz").write_bytes(damaged)
        try:
            assert np.array_equal(read_idx(tmp_path / "a.gz"), array)
        except DataError:
            continue
        except Exception as error:  # what a reader would have to catch beside the named one
            escaped.setdefault(type(error).__name__, place)
    assert escaped == {}


def test_a_plain_file_named_as_compressed_is_refused(tmp_path):
    (tmp_path / "a.gz").write_bytes(IMAGES)
    with pytest.raises(DataError, match=r"a\.gz cannot be read"):
        read_idx(tmp_path / "a.gz")


@given(hnp.arrays(np.uint8, st.sampled_from([(1,), (3,), (2, 3), (2, 1, 4), (2, 1, 2, 2)])))
@settings(deadline=None, max_examples=40)
def test_an_array_of_bytes_comes_back_from_its_file(tmp_path_factory, array):
    path = tmp_path_factory.getbasetemp() / "array"
    path.write_bytes(idx(array))
    assert np.array_equal(read_idx(path), array)
    assert read_idx(path).shape == array.shape
