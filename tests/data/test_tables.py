"""Arrays and tables of a user become the data set they describe, and what does not fit is refused by row and column."""

import csv
import io
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from widescape import data
from widescape.core.errors import DataError, ShapeError
from widescape.data.dataset import in_turn

# npz.


def npz(folder, **arrays):
    path = folder / "own.npz"
    np.savez(path, **arrays)
    return path


def rows_of(part):
    """All examples with their targets, sorted."""
    x = np.concatenate([part.x_train, part.x_test])
    y = np.concatenate([part.y_train, part.y_test])
    return sorted(zip(x.reshape(len(x), -1).tolist(), y.tolist(), strict=True))


def numbers(n, width=3):
    """A table of which all entries differ."""
    return np.arange(float(n * width)).reshape(n, width) + 0.25


def test_an_npz_with_both_parts_keeps_them_as_they_are(tmp_path):
    x, y = numbers(30), np.arange(30) % 3
    part = data.read(npz(tmp_path, x_train=x[:20], y_train=y[:20], x_test=x[20:], y_test=y[20:]))
    for own, expected in zip(part.arrays(), (x[:20], y[:20], x[20:], y[20:]), strict=True):
        assert np.array_equal(own, expected)
    assert (part.name, part.num_classes, part.class_names) == ("own", 3, ("0", "1", "2"))
    assert data.load(tmp_path / "own.npz").fingerprint == part.fingerprint
    assert data.load(str(tmp_path / "own.npz")).fingerprint == part.fingerprint


@pytest.mark.parametrize(
    ("x", "y"), [("x", "y"), ("X", "y"), ("data", "target"), ("images", "labels"), ("inputs", "targets")]
)
def test_an_npz_with_one_pair_is_split_at_random(x, y, tmp_path):
    inputs, labels = numbers(50), np.repeat([0, 1], [30, 20])
    path = npz(tmp_path, **{x: inputs, y: labels, "other": np.zeros(3)})
    part = data.read(path)
    assert rows_of(part) == sorted(zip(inputs.tolist(), labels.tolist(), strict=True))
    assert np.bincount(part.y_test).tolist() == [6, 4]
    assert data.read(path, fraction=0.5).y_test.size == 25
    assert data.read(path, seed=1).fingerprint != part.fingerprint == data.read(path).fingerprint


def test_images_of_bytes_are_scaled_and_tables_of_bytes_are_not(tmp_path):
    rng = np.random.default_rng(0)
    y = np.arange(10) % 2
    for shape in ((6, 5), (6, 5, 3)):
        x = rng.integers(0, 256, (10, *shape), np.uint8)
        part = data.read(npz(tmp_path, x_train=x, y_train=y, x_test=x, y_test=y))
        expected = x.reshape(10, 6, 5, -1) / 255
        assert np.array_equal(part.x_train, expected)
        assert np.array_equal(part.x_test, expected)
    table = rng.integers(0, 256, (10, 5), np.uint8)
    assert np.array_equal(data.read(npz(tmp_path, x_train=table, y_train=y, x_test=table, y_test=y)).x_train, table)
    assert data.read(npz(tmp_path, x=(x / 255).astype(np.float32), y=y)).x_train.dtype == np.float64


CLASSES = {
    "text": (np.array(["b", "a"] * 8), ("a", "b")),
    "truth values": (np.array([True, False] * 8), ("0", "1")),
    "few whole numbers": (np.array([3, -7] * 8), ("-7", "3")),
    "whole numbers as doubles": (np.array([2.0, 10.0] * 8), ("2", "10")),
    "whole numbers in a column": (np.array([[5], [4]] * 8), ("4", "5")),
    "as many as the root": (np.arange(16) % 4, ("0", "1", "2", "3")),
}


@pytest.mark.parametrize("kind", CLASSES)
def test_what_looks_like_classes_becomes_classes(kind, tmp_path):
    y, names = CLASSES[kind]
    part = data.read(npz(tmp_path, x_train=numbers(16), y_train=y, x_test=numbers(16), y_test=y))
    assert (part.class_names, part.num_classes) == (names, len(names))
    assert part.y_train.dtype == np.int64
    expected = np.unique(y.ravel(), return_inverse=True)[1]
    assert np.array_equal(part.y_train, expected)
    assert np.array_equal(part.y_test, expected)


NUMBERS = {
    "fractions": np.array([0.0, 0.5] * 8),
    "more whole numbers than the root": np.arange(16) % 7,
    "several outputs": np.arange(32).reshape(16, 2),
    "labels as vectors": np.eye(2)[np.arange(16) % 2],
}


@pytest.mark.parametrize("kind", NUMBERS)
def test_other_targets_are_numbers(kind, tmp_path):
    y = NUMBERS[kind]
    part = data.read(npz(tmp_path, x_train=numbers(16), y_train=y, x_test=numbers(16), y_test=y))
    assert (part.num_classes, part.class_names) == (None, ())
    assert part.y_train.dtype == np.float64
    assert np.array_equal(part.y_train, y)
    with pytest.raises(DataError, match="regression"):
        part.subset(2, 2, balanced=True)


def test_the_task_can_be_given(tmp_path):
    y = np.array([0, 1] * 8)
    path = npz(tmp_path, x=numbers(16), y=y)
    assert data.read(path, task="numbers").num_classes is None
    path = npz(tmp_path, x=numbers(16), y=np.arange(16) % 8)
    assert data.read(path).num_classes is None
    assert data.read(path, task="classes").num_classes == 8
    path = npz(tmp_path, x=numbers(16), y=np.array([0.5, 1.5] * 8))
    assert data.read(path, task="classes").class_names == ("0.5", "1.5")
    with pytest.raises(ValueError, match=r"`task` is 'regression'.*'auto', 'classes', 'numbers'"):
        data.read(path, task="regression")
    path = npz(tmp_path, x=numbers(4), y=np.array(["a", "b"] * 2))
    with pytest.raises(DataError, match="text and not numbers"):
        data.read(path, task="numbers")


LABELS = np.arange(10) % 2
BAD_NPZ = {
    "objects": {"x": np.array([[1, "a"]] * 10, object), "y": LABELS},
    "objects as targets": {"x": numbers(10), "y": np.array([0, None] * 5, object)},
    "text as inputs": {"x": np.array([["a"]] * 10), "y": LABELS},
    "complex inputs": {"x": numbers(10) + 1j, "y": LABELS},
    "complex targets": {"x": numbers(10), "y": LABELS + 0.5j},
    "a vector of inputs": {"x": np.arange(10.0), "y": LABELS},
    "a single number": {"x": np.array(1.0), "y": np.array(1.0)},
    "a single target": {"x": numbers(10), "y": np.array(1.0)},
    "one target too few": {"x": numbers(10), "y": LABELS[1:]},
    "one target too many": {"x": numbers(9), "y": LABELS},
    "NaN in the inputs": {"x": np.where(numbers(10) == 1.25, np.nan, 0), "y": LABELS},
    "infinite inputs": {"x": np.where(numbers(10) == 1.25, np.inf, 0), "y": LABELS},
    "NaN in the targets": {"x": numbers(10), "y": np.where(LABELS, np.nan, 0.5)},
    "infinite targets": {"x": numbers(10), "y": np.where(LABELS, np.inf, 0.5)},
    "no examples": {"x": numbers(0), "y": LABELS[:0]},
    "no targets": {"x": numbers(10), "y": LABELS[:0]},
    "no features": {"x": np.zeros((10, 0)), "y": LABELS},
    "one example": {"x": numbers(1), "y": LABELS[:1]},
    "one class": {"x": numbers(10), "y": np.full(10, "a")},
    "constant numbers": {"x": numbers(10), "y": np.full(10, 0.5)},
    "no pair": {"x": numbers(10), "labels": LABELS},
    "nothing": {},
    "no test targets": {"x_train": numbers(10), "y_train": LABELS, "x_test": numbers(10)},
    "lengths that differ and add up": {
        "x_train": numbers(10), "y_train": LABELS[:9], "x_test": numbers(8), "y_test": LABELS[:9],
    },
    "targets of the other part's length": {
        "x_train": numbers(10), "y_train": LABELS[:8], "x_test": numbers(8), "y_test": LABELS,
    },
    "test inputs of another width": {
        "x_train": numbers(10), "y_train": LABELS, "x_test": numbers(10, 4), "y_test": LABELS,
    },
    "test targets with another axis": {
        "x_train": numbers(10), "y_train": LABELS, "x_test": numbers(10), "y_test": LABELS[:, None] * np.ones(2),
    },
    "single targets": {
        "x_train": numbers(10), "y_train": np.array(1), "x_test": numbers(10), "y_test": np.array(1),
    },
}  # fmt: skip


@pytest.mark.parametrize("what", BAD_NPZ)
def test_arrays_that_are_no_data_set_are_refused_by_the_name_of_the_file(what, tmp_path):
    with pytest.raises(DataError, match=r"own\.npz"):
        data.read(npz(tmp_path, **BAD_NPZ[what]))


class Runs:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_pickled_objects_in_an_npz_do_not_run(tmp_path):
    path = npz(tmp_path, x=numbers(10), y=np.array([Runs(tmp_path / "witness")] * 10))
    with pytest.raises(DataError, match=r"own\.npz is not an npz file of plain arrays"):
        data.read(path)
    assert not (tmp_path / "witness").exists()


def test_damaged_npz_files_are_refused_by_name(tmp_path):
    path = npz(tmp_path, x=numbers(10), y=LABELS)
    blob = path.read_bytes()
    for content in (b"", b"text", blob[:100], blob[:-10], b"\x93NUMPY", b"\x80\x04N."):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"own\.npz"):
            data.read(path)
    np.save(tmp_path / "one.npy", numbers(3))
    (tmp_path / "one.npy").rename(path)
    with pytest.raises(DataError, match=r"own\.npz"):
        data.read(path)


def test_bytes_flipped_in_an_npz_are_harmless_or_refused(tmp_path):
    path = tmp_path / "own.npz"
    np.savez_compressed(path, x=numbers(10, 2), y=LABELS)
    blob = path.read_bytes()
    escaped = {}
    for place in range(len(blob)):
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


# csv.


def table(folder, text, name="own.csv"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


PLAIN = "a,b,kind\n" + "".join(f"{i},{-i / 4},{'yes' if i % 2 else 'no'}\n" for i in range(10))


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("ending", ["csv", "tsv", "txt", "CSV"])
def test_a_table_has_commas_semicolons_or_tabs_between_its_cells(separator, ending, tmp_path):
    part = data.read(table(tmp_path, PLAIN.replace(",", separator), f"own.{ending}"))
    assert part.feature_names == ("a", "b")
    assert part.class_names == ("no", "yes")
    assert rows_of(part) == [([i, -i / 4], i % 2) for i in range(10)]
    assert len(part.x_test) == 2


@pytest.mark.parametrize("change", [lambda t: "\ufeff" + t, lambda t: t.replace("\n", "\r\n"), lambda t: t.strip()])
def test_byte_order_marks_and_line_ends_do_not_matter(change, tmp_path):
    plain = data.read(table(tmp_path, PLAIN))
    other = data.read(table(tmp_path, change(PLAIN)))
    assert other.fingerprint == plain.fingerprint
    assert other.feature_names == plain.feature_names == ("a", "b")


def test_a_table_without_header_has_numbered_columns_and_its_last_is_the_target(tmp_path):
    part = data.read(table(tmp_path, "".join(f"{i},{i * i},{i / 4 + 0.1}\n" for i in range(10))))
    assert part.feature_names == ("column 1", "column 2")
    assert part.num_classes is None
    assert rows_of(part) == [([i, i * i], i / 4 + 0.1) for i in range(10)]
    part = data.read(tmp_path / "own.csv", target="column 1", task="numbers")
    assert part.feature_names == ("column 2", "column 3")
    text = "".join(f"{i},{i * i},{'pq'[i % 2]}\n" for i in range(10))
    assert data.read(table(tmp_path, text)).class_names == ("p", "q")


def test_quoted_cells_may_hold_separators_quotes_and_line_ends(tmp_path):
    rows = [
        ["size, in cm", 'the "kind"'],
        *([str(i), ("red, dark", 'so-called "blue"', "two\nlines")[i % 3]] for i in range(12)),
    ]
    buffer = io.StringIO()
    csv.writer(buffer).writerows(rows)
    part = data.read(table(tmp_path, buffer.getvalue()))
    assert part.feature_names == ("size, in cm",)
    assert part.class_names == ("red, dark", 'so-called "blue"', "two\nlines")
    assert len(rows_of(part)) == 12


@pytest.mark.parametrize("header", ["Target", "label", "LABELS", "class", "y"])
def test_a_column_with_a_usual_name_is_the_target_wherever_it_is(header, tmp_path):
    text = f"{header},a,b\n" + "".join(f"{i % 2},{i},{i}\n" for i in range(10))
    part = data.read(table(tmp_path, text))
    assert part.feature_names == ("a", "b")
    assert part.num_classes == 2
    assert data.read(tmp_path / "own.csv", target="a", task="numbers").feature_names == (header, "b")
    with pytest.raises(DataError, match=r"no column 'c'; there are .*a, b"):
        data.read(tmp_path / "own.csv", target="c")


def test_targets_of_a_table_are_labels_or_numbers_by_what_they_look_like_or_as_told(tmp_path):
    def own(values):
        return table(tmp_path, "a,t\n" + "".join(f"{i},{v}\n" for i, v in enumerate(values)))

    assert data.read(own([3, 5] * 8)).class_names == ("3", "5")
    assert data.read(own([3, 5] * 8), task="numbers").num_classes is None
    assert data.read(own(range(16))).num_classes is None
    assert data.read(own(range(16)), task="classes").num_classes == 16
    assert data.read(own([0.5, 1.5] * 8)).num_classes is None
    assert data.read(own(["10", "9", "1e1"] * 8)).class_names == ("9", "10")


@pytest.mark.parametrize("bad", ["", "  ", "NA", "nan", "inf", "x1"])
def test_a_cell_that_is_missing_or_no_number_is_named_by_row_and_column(bad, tmp_path):
    lines = PLAIN.splitlines()
    lines[4] = f"3,{bad},yes"  # the fourth row below the header
    with pytest.raises(DataError, match=r"column 'b' of .*own\.csv has .* in row 4"):
        data.read(table(tmp_path, "\n".join(lines)))


@pytest.mark.parametrize("bad", ["", "   "])
@pytest.mark.parametrize("values", [["p", "q"] * 5, list(range(10)), [i + 0.5 for i in range(10)]], ids=str)
@pytest.mark.parametrize("task", ["auto", "classes", "numbers"])
def test_a_missing_target_is_named_by_row_and_is_no_class_of_its_own(bad, values, task, tmp_path):
    values = list(values)
    values[6] = bad
    path = table(tmp_path, "a,t\n" + "".join(f"{i},{v}\n" for i, v in enumerate(values)))
    with pytest.raises(DataError, match=r"column 't' of .*own\.csv.*row 7"):
        data.read(path, task=task)


BAD_TABLES = {
    "empty": (b"", "is empty"),
    "blank": (b"\n \n\n", "is empty"),
    "header alone": (b"a,b\n", "a header and no rows"),
    "one row": (b"a,b\n1,2\n", "one row"),
    "one column": (b"a\n1\n2\n", "only the column 'a'"),
    "a short row": (b"a,b\n1,2\n3\n5,6\n", "line 3 .* has 1 cells, the first has 2"),
    "a long row": (b"a,b\n1,2\n3,4\n5,6,7\n", "line 4 .* has 3 cells, the first has 2"),
    "a short row below blank lines": (b"\na,b\n\n1,2\n3\n", "line 5 .* has 1 cells, the first has 2"),
    "names twice": (b"a,a,b\n1,2,3\n4,5,6\n", "two columns alike"),
    "no text": (b"a,b\n1,\xff\xfe\n", "cannot be read as text"),
    "one class": (b"a,b\n1,x\n2,x\n", "one class only, 'x'"),
    "one number": (b"a,b\n1,0.5\n2,0.5\n", "constant, 0.5"),
    "a quote that never ends": (b'a,b\n"' + b"x" * 200_000 + b"\n", "cannot be read"),
}


@pytest.mark.parametrize("what", BAD_TABLES)
def test_tables_that_make_no_data_set_are_refused_by_the_name_of_the_file(what, tmp_path):
    text, match = BAD_TABLES[what]
    with pytest.raises(DataError, match=match) as caught:
        data.read(table(tmp_path, text))
    assert "own.csv" in str(caught.value)


@given(st.text(alphabet='0123456789.,;-+e_ ni"\t\n٣\u2028aN', max_size=60))
@settings(deadline=None, max_examples=300)
def test_any_text_is_a_table_or_refused(tmp_path_factory, text):
    path = table(tmp_path_factory.getbasetemp(), text, "any.csv")
    try:
        part = data.read(path)
    except DataError:
        return
    assert np.isfinite(part.x_train).all()
    assert part.x_train.shape[1] == len(part.feature_names)


def test_separators_in_the_quotes_of_the_first_line_do_not_count(tmp_path):
    part = data.read(table(tmp_path, '"a, in m, cm, or mm";b;t\n' + "1;2;p\n3;4;q\n" * 4))
    assert part.feature_names == ("a, in m, cm, or mm", "b")


def test_labels_that_doubles_cannot_tell_apart_stay_apart(tmp_path):
    y = 2**53 + np.array([0, 1] * 8)
    part = data.read(npz(tmp_path, x=numbers(16), y=y), task="classes")
    assert part.class_names == (str(2**53), str(2**53 + 1))


# Parquet.


@pytest.fixture
def pandas():
    pytest.importorskip("pyarrow")
    return pytest.importorskip("pandas")


def parquet(pandas, folder, **columns):
    path = folder / "own.parquet"
    pandas.DataFrame(columns).to_parquet(path)
    return path


def test_a_parquet_table_is_read_as_a_csv_table_is(pandas, tmp_path):
    path = parquet(
        pandas, tmp_path, a=range(10), b=[-i / 4 for i in range(10)], kind=["yes" if i % 2 else "no" for i in range(10)]
    )
    part = data.read(path)
    assert part.fingerprint == data.read(table(tmp_path, PLAIN)).fingerprint
    assert (part.feature_names, part.class_names) == (("a", "b"), ("no", "yes"))


def test_a_missing_cell_in_parquet_is_named(pandas, tmp_path):
    holes = {
        "float": [1.0, None, 3.0, 4.0],
        "whole": pandas.array([1, None, 3, 4], dtype="Int64"),
        "text": ["a", None, "c", "d"],
        "truth": pandas.array([True, None, False, True], dtype="boolean"),
    }
    for kind, values in holes.items():
        path = parquet(pandas, tmp_path, a=values, t=["p", "q"] * 2)
        row = 1 if kind == "text" else 2
        with pytest.raises(DataError, match=rf"column 'a' of .*own\.parquet has .* in row {row}"):
            data.read(path)
        path = parquet(pandas, tmp_path, a=range(4), t=values)
        with pytest.raises(DataError, match=r"column 't' of .*own\.parquet"):
            data.read(path)


def test_columns_of_times_are_no_numbers(pandas, tmp_path):
    path = parquet(pandas, tmp_path, a=pandas.date_range("2020-01-01", periods=4), t=["p", "q"] * 2)
    with pytest.raises(DataError, match="column 'a'"):
        data.read(path)


def test_damaged_parquet_is_refused_by_name(pandas, tmp_path):
    path = parquet(pandas, tmp_path, a=range(10), t=["p", "q"] * 5)
    blob = path.read_bytes()
    for content in (b"", b"text", blob[:-20], blob[:50]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"own\.parquet"):
            data.read(path)


# Any file.


@pytest.mark.parametrize("name", ["own.xlsx", "own", "own.npy", "own.tar.gz"])
def test_a_file_of_another_kind_is_refused_with_the_known_ones(name, tmp_path):
    (tmp_path / name).write_bytes(b"hello")
    for function in (data.read, lambda path: data.read_inputs(path, (3,))):
        with pytest.raises(DataError, match=rf"{name}' is none of \.npz, \.csv"):
            function(tmp_path / name)


@pytest.mark.parametrize("name", ["own.csv", "own.npz", "own.parquet", "own.zip", "folder/own", "own.xyz"])
def test_an_absent_file_is_named(name, tmp_path):
    for function in (data.read, data.load, lambda path: data.read_inputs(path, (3,))):
        with pytest.raises(DataError, match=f"there is no file or folder '.*{name}'"):
            function(tmp_path / name)
        with pytest.raises(DataError, match=f"there is no file or folder '.*{name}'"):
            function(str(tmp_path / name))


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, np.nan])
def test_a_fraction_outside_of_the_unit_interval_is_refused_by_name(fraction, tmp_path):
    with pytest.raises(ValueError, match="`fraction`"):
        data.read(table(tmp_path, PLAIN), fraction=fraction)


# Inputs without targets.


def test_inputs_of_an_npz_are_its_first_known_array(tmp_path):
    for key in ("x", "X", "x_test", "inputs", "images", "data"):
        x, names = data.read_inputs(npz(tmp_path, **{key: numbers(4), "y": np.arange(4)}), (3,))
        assert np.array_equal(x, numbers(4))
        assert names == ["1", "2", "3", "4"]
    gray = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    x, _ = data.read_inputs(npz(tmp_path, x=gray), [3, 4, 1])
    assert np.array_equal(x, gray[..., None] / 255)
    with pytest.raises(DataError, match="holds z"):
        data.read_inputs(npz(tmp_path, z=numbers(4)), (3,))
    with pytest.raises(DataError, match=r"shape \(3,\), but \(4,\) is needed"):
        data.read_inputs(npz(tmp_path, x=numbers(4)), (4,))
    with pytest.raises(DataError, match="not finite"):
        data.read_inputs(npz(tmp_path, x=numbers(4) * np.nan), (3,))


def test_inputs_of_a_table_are_the_columns_that_were_learned_from_in_their_order(tmp_path):
    path = table(tmp_path, "b,t,a\n1,yes,2\n3,no,4\n")
    x, names = data.read_inputs(path, (2,), feature_names=("a", "b"))
    assert x.tolist() == [[2, 1], [4, 3]]
    assert names == ["1", "2"]
    with pytest.raises(DataError, match="no column 'c'"):
        data.read_inputs(path, (2,), feature_names=("a", "c"))
    path = table(tmp_path, "1,2,7\n3,4,7\n")
    for feature_names in ((), ("a", "b"), ("column 1", "column 2")):
        assert data.read_inputs(path, (2,), feature_names=feature_names)[0].tolist() == [[1, 2], [3, 4]]
    with pytest.raises(DataError, match=r"\(3,\), but \(4,\) is needed"):
        data.read_inputs(path, (4,))
    with pytest.raises(DataError, match=r"column 'b' .* row 2"):
        data.read_inputs(table(tmp_path, "a,b\n1,2\n3,\n"), (2,))


def test_inputs_of_a_parquet_table_are_its_columns(pandas, tmp_path):
    path = parquet(pandas, tmp_path, b=[1.0, 3.0], t=["yes", "no"], a=[2, 4])
    assert data.read_inputs(path, (2,), feature_names=("a", "b"))[0].tolist() == [[2, 1], [4, 3]]


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_inputs_of_a_folder_or_a_zip_are_all_of_its_images_resized(form, tmp_path):
    rng = np.random.default_rng(1)
    arrays = {name: rng.integers(0, 256, (4, 5), np.uint8) for name in ("b.png", "a/c.png", "a/b/a.png")}
    path = tmp_path / ("images.zip" if form == "zip" else "images")
    blobs = {}
    for name, array in arrays.items():
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, "PNG")
        blobs[name] = buffer.getvalue()
    blobs |= {"readme.txt": b"hello", ".hidden.png": b"junk", "__MACOSX/b.png": b"junk"}
    if form == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, blob in blobs.items():
                archive.writestr(name, blob)
    else:
        for name, blob in blobs.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(blob)
    x, names = data.read_inputs(path, (4, 5, 1))
    assert names == ["a/b/a.png", "a/c.png", "b.png"]
    assert np.array_equal(x, np.stack([arrays[name] for name in names])[..., None] / 255)
    colored, _ = data.read_inputs(path, (4, 5, 3))
    assert np.array_equal(colored, np.repeat(x, 3, axis=-1))
    small, _ = data.read_inputs(path, (2, 3, 1))
    assert small.shape == (3, 2, 3, 1)
    with pytest.raises(DataError, match=r"examples of shape \(20,\) are needed"):
        data.read_inputs(path, (20,))


def test_color_is_refused_where_gray_is_needed_and_empty_folders_are_refused(tmp_path):
    with pytest.raises(DataError, match="has no images"):
        data.read_inputs(tmp_path, (4, 5, 1))
    Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="color"):
        data.read_inputs(tmp_path, (4, 5, 1))
    (tmp_path / "b.png").write_bytes(b"junk")
    with pytest.raises(DataError, match=r"b\.png"):
        data.read_inputs(tmp_path, (4, 5, 3))


# Splits and orders.

LABEL_LISTS = st.lists(st.integers(0, 5), min_size=2, max_size=80)
FRACTIONS = st.floats(0.01, 0.99)


@given(LABEL_LISTS, FRACTIONS, st.integers(0, 2**32), st.booleans())
@settings(deadline=None, max_examples=150)
def test_a_split_is_two_rising_lists_of_all_places_of_the_size_asked_for(labels, fraction, seed, balanced):
    train, test = data.split(np.array(labels), fraction, seed=seed, balanced=balanced)
    assert sorted([*train, *test]) == list(range(len(labels)))
    assert (np.diff(train) > 0).all()
    assert (np.diff(test) > 0).all()
    assert len(train) >= 1
    assert len(test) >= 1
    assert abs(len(test) - fraction * len(labels)) <= 0.5 or len(test) in (1, len(labels) - 1)
    again = data.split(np.array(labels), fraction, seed=seed, balanced=balanced)
    assert np.array_equal(again[1], test)


@given(LABEL_LISTS, FRACTIONS, st.integers(0, 2**32))
@settings(deadline=None, max_examples=150)
def test_a_balanced_split_holds_out_one_share_of_every_class_up_to_rounding(labels, fraction, seed):
    """There is a share s so that each class of n examples has s n of them held out, rounded up or down."""
    y = np.array(labels)
    _, test = data.split(y, fraction, seed=seed, balanced=True)
    sizes = np.bincount(y, minlength=6)
    held = np.bincount(y[test], minlength=6)
    present = sizes > 0
    low = ((held - 0.5) / np.maximum(sizes, 1))[present]
    high = ((held + 0.5) / np.maximum(sizes, 1))[present]
    assert low.max() <= high.min() + 1e-12


@given(st.integers(1, 6), st.integers(2, 20), FRACTIONS, st.integers(0, 2**32))
@settings(deadline=None, max_examples=100)
def test_classes_of_one_size_differ_by_at_most_one_held_out_example(classes, size, fraction, seed):
    y = np.random.default_rng(seed).permutation(np.repeat(np.arange(classes), size))
    train, test = data.split(y, fraction, seed=seed, balanced=True)
    assert np.ptp(np.bincount(y[test], minlength=classes)) <= 1
    assert np.abs(np.bincount(y[test], minlength=classes) - len(test) / classes).max() < 1
    assert len(train) + len(test) == classes * size


@pytest.mark.parametrize("balanced", [True, False])
def test_every_example_is_held_out_equally_often_and_seeds_differ(balanced):
    y = np.repeat([0, 1], [20, 30])
    counts = np.zeros(50)
    for seed in range(400):
        counts[data.split(y, 0.3, seed=seed, balanced=balanced)[1]] += 1
    assert np.abs(counts - 120).max() < 4.5 * np.sqrt(400 * 0.3 * 0.7)


def test_splits_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="1 examples"):
        data.split(np.zeros(1))
    with pytest.raises(ValueError, match="`fraction` is 1"):
        data.split(np.zeros(5), 1)
    with pytest.raises(ValueError, match="`seed`"):
        data.split(np.zeros(5), seed=-1)
    with pytest.raises(ShapeError, match=r"\(5, 2\)"):
        data.split(np.zeros((5, 2)), balanced=True)
    assert len(data.split(np.zeros((5, 2)))[0]) == 4


@given(LABEL_LISTS)
@settings(deadline=None, max_examples=150)
def test_one_of_each_class_comes_in_turn_in_the_order_of_the_examples(labels):
    """Against the obvious way: take the first of each class that is left, again and again."""
    left = list(range(len(labels)))
    expected = []
    while left:
        firsts = [next(i for i in left if labels[i] == own) for own in sorted({labels[i] for i in left})]
        expected += firsts
        left = [i for i in left if i not in firsts]
    assert in_turn(np.array(labels)).tolist() == expected


@given(LABEL_LISTS, st.data(), st.one_of(st.none(), st.integers(0, 2**32)))
@settings(deadline=None, max_examples=100)
def test_a_balanced_subset_has_as_many_of_each_class_as_there_can_be(labels, drawn, seed):
    y = np.array(labels)
    n = drawn.draw(st.integers(1, len(y)))
    x = np.arange(float(len(y)))[:, None]
    whole = data.Dataset("own", x, y, x, y, 6, "here")
    part = whole.subset(n, n, seed=seed, balanced=True)
    sizes = np.bincount(y, minlength=6)
    for own_x, own_y in ((part.x_train, part.y_train), (part.x_test, part.y_test)):
        places = own_x[:, 0].astype(int)
        assert len(set(places.tolist())) == n
        assert np.array_equal(y[places], own_y)
        counts = np.bincount(own_y, minlength=6)
        short = counts < sizes  # classes of which there are more
        assert counts.max() - counts[short].min(initial=counts.max()) <= 1
    if seed is None:
        for own in range(6):
            taken = part.x_train[part.y_train == own, 0]
            assert np.array_equal(taken, np.flatnonzero(y == own)[: len(taken)])


@given(hnp.arrays(np.float64, (5, 3, 2), elements=st.floats(-100, 100)), st.sampled_from(["all", "channel", "feature"]))
@settings(deadline=None, max_examples=60)
def test_scalings_are_those_of_all_entries_or_each_channel_or_each_feature(x, per):
    groups = {
        "all": [(..., x.ravel())],
        "channel": [((c,), x[..., c]) for c in range(2)],
        "feature": [((i, c), x[:, i, c]) for i in range(3) for c in range(2)],
    }[per]
    if all(values.std() <= 1e-9 * np.abs(values).max() for _, values in groups):
        return
    mean, std = data.scaling(x, per)
    for place, values in groups:
        assert np.allclose(mean[place], values.mean(), rtol=1e-12, atol=1e-12)
        if values.std() > 1e-9 * np.abs(values).max():
            assert np.allclose(std[place], values.std(), rtol=1e-9)
    constant = [place for place, values in groups if np.ptp(values) == 0]
    assert all(std[place] == 1 for place in constant)


@given(
    st.floats(-1e6, 1e6),
    st.floats(-1e6, 1e6),
    st.sampled_from([2, 7, 50, 123]),
    st.sampled_from(["channel", "feature"]),
)
@settings(deadline=None, max_examples=60)
def test_constant_images_have_no_scaling(red, green, n, per):
    x = np.stack([np.full((n, 3, 3), red), np.full((n, 3, 3), green)], axis=-1)
    with pytest.raises(DataError, match="constant"):
        data.scaling(x, per)


def test_the_usual_scaling_is_by_feature_for_tables_and_one_for_images():
    rng = np.random.default_rng(0)
    shape = rng.random((6, 4)), rng.random((6, 4, 4, 2))
    assert [np.shape(data.scaling(x)[0]) for x in shape] == [(4,), ()]
    with pytest.raises(ValueError, match="`per` is 'row'"):
        data.scaling(shape[0], "row")


def test_a_number_with_a_typing_error_does_not_turn_a_regression_into_a_classification(tmp_path):
    file = tmp_path / "prices.csv"
    file.write_text("a,price\n" + "\n".join(f"{i},{i / 7}" for i in range(10)) + "\n10,1.5x\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"also '1\.5x'"):
        data.read(file)
    assert data.read(file, task="classes").num_classes == 11


def test_a_target_is_for_tables_only(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones((4, 2)), y=np.arange(4.0))
    with pytest.raises(DataError, match="no table"):
        data.read(tmp_path / "a.npz", target="y")
