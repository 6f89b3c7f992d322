"""A result is frozen, says what stands behind each number, and comes back from its file bit for bit."""

import dataclasses
import json
import math
import re
import subprocess
import sys
import zipfile
from functools import cache

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import features_results
import landscape_results
import minima_results
import paths_results
from widescape import arch, estimators, kernels, predict, train
from widescape.core.chart import Chart, Drawable
from widescape.core.errors import ResultFormatError, WidescapeError
from widescape.core.evidence import EXACT, Evidence, bound, certified, estimate, proved, published
from widescape.core.result import Result, quantity
from widescape.core.status import Status
from widescape.curvature import System
from widescape.predict.score import ClassificationScore

TINY = 5e-324  # the smallest denormal
SPECIALS = (math.nan, math.inf, -math.inf, -0.0, 0.0, TINY, -2.5e-310, 1 / 3, 1.7976931348623157e308)


class Ending(Status):
    OK = "it worked"
    STALLED = "it stopped for no reason"


class Inner(Result):
    source = "nobody1900, lemma 1"
    value: float = quantity(EXACT, "a number")


class Everything(Result):
    """One field of every kind that a result may hold."""

    source = "nobody1900, theorem 2"
    number: float = quantity(estimate("number_stderr", "10 draws"), "a number", unit="m")
    number_stderr: float = quantity(EXACT, "its standard error", unit="m")
    count: int = quantity(EXACT, "a count")
    flag: bool = quantity(EXACT, "a truth")
    text: str = quantity(EXACT, "a text")
    absent: float | None = quantity(EXACT, "nothing", default=None)
    array: np.ndarray = quantity(bound("upper", "by a lemma"), "an array")
    several: tuple = quantity(EXACT, "a tuple")
    named: dict = quantity(EXACT, "a dictionary")
    nested: Inner = quantity(EXACT, "a result")
    ending: Ending = quantity(EXACT, "how it ended")


class Holder(Result):
    source = "nobody1900"
    held: object = quantity(EXACT, "anything")


class OtherHolder(Result):
    source = "nobody1900"
    held: object = quantity(EXACT, "anything")


def everything(**changes):
    parts = {
        "number": -0.0,
        "number_stderr": TINY,
        "count": -(2**70),
        "flag": True,
        "text": 'é "quoted"\n\x00 ∞',
        "array": np.array(SPECIALS),
        "several": (1, math.nan, "two", (None, False), np.arange(3)),
        "named": {"a": -math.inf, 2: (TINY,), (1, "x"): np.array([True, False])},
        "nested": Inner(value=math.nan, provenance={"seed": "1"}),
        "ending": Ending.STALLED,
        "stands": {"count": certified("margin 1e-3"), "number": estimate("number_stderr", "20 draws")},
        "provenance": {"seed": "7", "versions": "a, b"},
    }
    return Everything(**(parts | changes))


@cache
def problem():
    rng = np.random.default_rng(3)
    net = arch.fc(depth=1, width=8, n_out=3, activation=arch.Relu(), w_std=1.5, b_std=0.1)
    x, x_test = rng.normal(size=(40, 5)), rng.normal(size=(9, 5))
    labels, test_labels = rng.integers(0, 3, 40), rng.integers(0, 3, 9)
    return net, x, x_test, labels, test_labels


@cache
def gram_matrices():
    net, x, x_test, *_ = problem()
    return kernels.gram(net, x, get="nngp"), kernels.gram(net, x_test, x, get="nngp")


def gp():
    return predict.GP(gram_matrices()[0], predict.one_hot(problem()[3], 3), reg=0.1)


def curve_arguments():
    _, _, _, labels, test_labels = problem()
    return (gram_matrices()[0], labels, gram_matrices()[1]), test_labels


def regularizer_curve():
    arguments, test_labels = curve_arguments()
    return predict.regularizer_curve(*arguments, test_labels=test_labels, regs=(0.01, 0.1, 1.0))


def learning_curve():
    arguments, test_labels = curve_arguments()
    return predict.learning_curve(*arguments, test_labels=test_labels, sizes=(10, 40), reg=0.1)


def system():
    net, x, _, labels, _ = problem()
    params = net.init(jax.random.key(1), (5,), dtype="float64")
    return System(net.apply, params, x, predict.one_hot(labels, 3), reduction="mean")


def ensemble_arguments():
    net, x, _, labels, _ = problem()
    return net, jax.random.key(2), 2, x, predict.one_hot(labels, 3)


MADE = {
    "everything": everything,
    "spectrum": lambda: kernels.spectrum(gram_matrices()[0]),
    "spectrum too small to fit": lambda: kernels.spectrum(gram_matrices()[0][:4, :4]),
    "spectrum of rank one": lambda: kernels.spectrum(np.ones((40, 40))),
    "precision measured": lambda: kernels.precision_report(
        gram_matrices()[0], lower=kernels.gram(*problem()[:2], get="nngp", dtype="float32")
    ),
    "precision bounded": lambda: kernels.precision_report(gram_matrices()[0], "bfloat16"),
    "plan": lambda: kernels.gram(*problem()[:2], plan=True),
    "network plan": lambda: arch.cnn_gap(2, 8, 1).describe((4, 4, 1)),
    "kernel": lambda: problem()[0].kernel(problem()[1], problem()[2]),
    "kernel without tangent": lambda: problem()[0].kernel(problem()[1], get="nngp"),
    "kernel in float32": lambda: problem()[0].kernel(problem()[1], dtype="float32"),
    "leave one out": lambda: gp().loo(),
    "posterior": lambda: gp().mean_cov(gram_matrices()[1], np.eye(9)),
    "posterior variances": lambda: gp().mean_cov(gram_matrices()[1], np.ones(9)),
    "score": lambda: predict.classification_score(np.eye(3)[[0, 1, 1]], np.array([0, 1, 2])),
    "regularizer curve": regularizer_curve,
    "learning curve": learning_curve,
    "chosen regularizer": lambda: predict.loo_regularizer(
        gram_matrices()[0], np.sin(np.arange(len(gram_matrices()[0])))
    ),
    "probability score": lambda: predict.probability_score(np.eye(2), np.array([0, 1])),
    "regression score": lambda: predict.regression_score(np.arange(5.0) ** 2, np.arange(5.0)),
    "augmentation ensemble": lambda: predict.augmentation_ensemble(
        problem()[0],
        problem()[1],
        np.ones((len(problem()[1]), 2)),
        problem()[1][:2],
        augment=lambda key, x: (
            x + 0.1 * jax.random.normal(key, x.shape, "float64" if jax.config.jax_enable_x64 else "float32")
        ),
        n_members=2,
        key=jax.random.key(0),
        reg=0.1,
    ),
    "paired difference": lambda: predict.paired_difference(np.array([True, False]), np.array([True, True])),
    "plan of a fit": lambda: estimators.plan_fit(problem()[0], problem()[1], get="ntk"),
    "tangent plan": lambda: kernels.empirical_ntk(system(), plan=True),
    "sampled kernels": lambda: kernels.monte_carlo(problem()[0], jax.random.key(0), 2, problem()[1][:3]),
    "one sampled kernel": lambda: kernels.monte_carlo(problem()[0], jax.random.key(0), 3, problem()[1][:3], get="nngp"),
    "training": lambda: train.fit(system(), 0.1, 4),
    "diverged training": lambda: train.fit(system(), 1e200, 4),
    "ensemble": lambda: train.ensemble(*ensemble_arguments(), 0.1, 4),
    "distance to the limit": lambda: train.limit_distance(
        *ensemble_arguments()[:2], *ensemble_arguments()[3:], problem()[2], widths=(2, 3, 4), num_members=2, steps=2
    ),
    "distance to the linearization": lambda: train.linearization_distance(system(), 3, drift_examples=3),
    **landscape_results.RESULTS,
    **features_results.RESULTS,
    **minima_results.RESULTS,
    **paths_results.RESULTS,
}
made = pytest.mark.parametrize("name", MADE)
_cached = {}


def instance(name):
    if name not in _cached:
        _cached[name] = MADE[name]()
    return _cached[name]


def field_names(result):
    return [f.name for f in dataclasses.fields(result) if f.name not in ("stands", "provenance")]


def bits(value):
    """Everything that distinguishes a value, so that comparing it is comparing bits."""
    if isinstance(value, Result):
        return type(value), {f.name: bits(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, np.ndarray):
        return "array", value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, float):
        return "float", value.hex()
    if isinstance(value, tuple):
        return "tuple", [bits(v) for v in value]
    if isinstance(value, dict):
        return "dict", [(bits(k), bits(v)) for k, v in value.items()]
    return type(value).__name__, value


def rewrite(path, document, **arrays):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("result.json", document if isinstance(document, str) else json.dumps(document))
        for name, content in arrays.items():
            archive.writestr(name, content)
    return path


# The contract that every result of the library meets.


@made
def test_every_result_prints_itself_in_under_20_lines(name):
    text = str(instance(name))
    assert 2 <= len(text.splitlines()) < 20
    assert type(instance(name)).__name__ in text
    assert repr(instance(name)) == text


@made
def test_every_result_names_its_source_and_the_evidence_and_meaning_of_every_field(name):
    result = instance(name)
    assert result.source
    for row in Result.table(result):
        assert isinstance(result.evidence(row["name"]), Evidence)
        assert row["meaning"]
        assert row["stands"]


@made
def test_every_estimate_has_a_finite_standard_error_of_its_own_shape(name):
    result = instance(name)
    for field in field_names(result):
        evidence = result.evidence(field)
        if evidence.kind != "estimate":
            continue
        value, error = getattr(result, field), getattr(result, evidence.stderr)
        if value is None:
            assert error is None
        elif isinstance(value, Result):  # a number in each of its fields
            for part in field_names(value):
                assert np.shape(getattr(error, part)) == np.shape(getattr(value, part))
                assert np.all(np.isfinite(getattr(error, part)))
        else:
            assert np.shape(error) == np.shape(value)
            assert np.all(np.isfinite(error))
            assert np.all(np.asarray(error) >= 0)


@made
def test_every_result_comes_back_from_its_file_bit_for_bit(name, tmp_path):
    result = instance(name)
    path = result.save(tmp_path / "result.zip")
    loaded = type(result).load(path)
    assert bits(loaded) == bits(result)
    assert loaded == result
    assert Result.load(path) == result


@made
def test_every_result_is_strict_json(name):
    result = instance(name)
    document = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert document["result"] == type(result).__name__
    assert list(document["fields"]) == field_names(result)
    for field, entry in document["fields"].items():
        assert entry["stands"] == str(result.evidence(field))
        assert entry["stderr_field"] == result.evidence(field).stderr


@made
def test_every_chart_of_a_result_can_be_drawn(name):
    charts = instance(name).charts()
    assert len({chart.name for chart in charts}) == len(charts)
    for chart in charts:
        assert isinstance(chart, Drawable)
        assert re.fullmatch(r"[A-Za-z0-9_]+(-[A-Za-z0-9_]+)*", chart.name)
        assert chart.title
        assert not chart.title.endswith(".")
        assert chart.x_label
        assert chart.y_label
        json.dumps(chart.to_dict(), allow_nan=False)
        if not isinstance(chart, Chart):
            continue
        assert chart.series
        for series in chart.series:
            assert series.label
            assert np.isfinite(series.x).all()
            assert np.isfinite(series.y).all()
            assert chart.x_scale == "linear" or (series.x > 0).all()
            assert chart.y_scale == "linear" or (series.y > 0).all()
        json.dumps(chart.to_dict(), allow_nan=False)


def test_every_class_of_results_is_held_to_this_contract():
    def descendants(cls):
        return {cls, *(c for child in cls.__subclasses__() for c in descendants(child))}

    ours = {c for c in descendants(Result) if c.__module__.startswith("widescape.") and not c.__subclasses__()}
    made_of = {type(instance(name)) for name in MADE}
    elsewhere = {"PredictionDistances", "LayerFeatures", "SampledKernels"}  # of chapters, and inside another result
    assert {c.__name__ for c in ours - made_of} - elsewhere == set()


@made
def test_every_array_of_a_result_is_read_only(name):
    for field in field_names(instance(name)):
        value = getattr(instance(name), field)
        if isinstance(value, np.ndarray):
            with pytest.raises(ValueError, match="read-only"):
                value[...] = 0


@made
def test_no_field_of_a_result_can_be_set(name):
    result = instance(name)
    for field in (*field_names(result), "stands", "provenance"):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(result, field, None)


def test_the_spectrum_draws_a_chart():
    assert [len(chart.series) for chart in instance("spectrum").charts()] == [2]
    assert [len(chart.series) for chart in instance("spectrum too small to fit").charts()] == [1]


# Freezing.


def test_arrays_of_jax_and_lists_become_arrays_of_numpy_and_tuples():
    assert isinstance(Holder(held=jnp.ones(2)).held, np.ndarray)
    assert Holder(held=[1, 2]).held == (1, 2)
    assert type(Holder(held=np.float64(2.0)).held) is float
    assert type(Holder(held=np.int32(2)).held) is int
    assert Holder(held=np.bool_(True)).held is True


def test_the_callers_array_stays_writeable():
    array = np.zeros(2)
    Holder(held=array)
    array[0] = 1.0
    assert array[0] == 1.0


@pytest.mark.parametrize("wrap", [lambda a: (a,), lambda a: {"a": a}, lambda a: ((a,),)], ids=["tuple", "dict", "deep"])
def test_arrays_inside_of_tuples_and_dictionaries_are_read_only(wrap):
    held = Holder(held=wrap(np.zeros(2))).held
    while not isinstance(held, np.ndarray):
        held = held["a"] if isinstance(held, dict) else held[0]
    assert not held.flags.writeable


@pytest.mark.parametrize(
    "held",
    [(np.int64(3),), {"a": np.float32(0.5)}, (jnp.ones(2),), [[1, 2], [3]], {"a": [1, 2]}],
    ids=["int64 in tuple", "float32 in dict", "jax in tuple", "lists in a list", "list in dict"],
)
def test_what_is_inside_of_a_tuple_or_dictionary_is_treated_as_outside_of_it(held, tmp_path):
    result = Holder(held=held)
    assert Holder.load(result.save(tmp_path / "r")) == result


def test_dictionaries_of_a_result_cannot_be_changed():
    result = everything()
    for mapping in (result.provenance, result.stands, result.named):
        with pytest.raises(TypeError):
            mapping["a"] = "b"


def test_changing_a_dictionary_after_it_was_given_changes_no_result():
    provenance = {"seed": "1"}
    result = Inner(value=1.0, provenance=provenance)
    provenance["seed"] = "2"
    assert result.provenance["seed"] == "1"


def test_a_result_cannot_be_a_dictionary_key():
    with pytest.raises(TypeError, match="unhashable"):
        hash(Inner(value=1.0))


# Printing.


@pytest.mark.parametrize("count", [17, 18, 19, 40])
def test_a_result_of_many_fields_prints_at_most_19_lines_and_says_how_many_are_hidden(count):
    fields = {f"field{i}": quantity(EXACT, "a number") for i in range(count)}
    annotations = dict.fromkeys(fields, float)
    wide = type("Wide", (Result,), {"__annotations__": annotations, "__module__": __name__, **fields})
    lines = str(wide(**dict.fromkeys(fields, 1.0))).splitlines()
    assert len(lines) == min(count + 1, 19)
    shown = sum("field" in line.split()[0] for line in lines[1:])
    assert shown == count or f"{count - shown} more" in lines[-1]


@pytest.mark.parametrize("held", ["a\n" * 25, ("x\r" * 25), (np.zeros((8, 2)),)], ids=["text", "returns", "matrix"])
def test_a_field_of_several_lines_prints_on_one_line(held):
    assert len(str(Holder(held=held)).splitlines()) == 2


def test_printing_shows_value_unit_evidence_and_meaning_and_leaves_out_what_is_absent():
    text = str(everything(number=0.25, number_stderr=0.5))
    assert re.search(r"number +0\.25 ± 0\.5 m +\(estimate: a number\)", text)
    assert re.search(r"array +array 9 float64, .*\(upper bound: an array\)", text)
    assert re.search(r"count .*\(certified: a count\)", text)
    assert "it stopped for no reason" in text
    assert "absent" not in text


def test_the_table_has_one_row_per_field():
    table = everything().table()
    assert [row["name"] for row in table] == field_names(everything())
    assert table[0] == {"name": "number", "value": -0.0, "unit": "m", "stands": "estimate", "meaning": "a number"}


# Evidence.


def test_the_evidence_of_an_instance_goes_before_that_of_its_class():
    result = everything()
    assert result.evidence("count") == certified("margin 1e-3")
    assert result.evidence("number").note == "20 draws"
    assert result.evidence("array") == bound("upper", "by a lemma")
    with pytest.raises(KeyError, match="color"):
        result.evidence("color")


def test_evidence_for_a_field_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="color"):
        Inner(value=1.0, stands={"color": EXACT})


def test_an_estimate_without_a_field_for_its_standard_error_is_refused_with_the_class():
    with pytest.raises(TypeError, match="value_stderr"):
        type(
            "Bad",
            (Result,),
            {"__annotations__": {"value": float}, "value": quantity(estimate("value_stderr"), "a number")},
        )


def test_an_estimate_without_a_field_for_its_standard_error_is_refused_with_the_instance():
    with pytest.raises((TypeError, ValueError), match="value_stderr"):
        Inner(value=1.0, stands={"value": estimate("value_stderr")})


@pytest.mark.parametrize("body", [{}, {"value": 3.0}, {"value": dataclasses.field(default=2.0)}])
def test_a_field_without_evidence_is_refused_with_the_class(body):
    with pytest.raises(TypeError, match="quantity"):
        type("Bare", (Result,), {"__annotations__": {"value": float}, **body})


def test_a_subclass_keeps_the_fields_of_its_base():
    class More(Inner):
        extra: int = quantity(proved("lemma 2"), "a count")

    assert field_names(More(value=1.0, extra=2)) == ["value", "extra"]
    assert More(value=1.0, extra=2).evidence("value") == EXACT
    assert More(value=1.0, extra=2) != Inner(value=1.0)


# Equality.


@given(st.sampled_from(SPECIALS), st.sampled_from(SPECIALS))
@settings(deadline=None)
def test_results_are_equal_exactly_when_their_bits_are(a, b):
    same = a.hex() == b.hex()
    assert (Inner(value=a) == Inner(value=b)) is same
    assert (Holder(held=np.array([a])) == Holder(held=np.array([b]))) is same
    assert (Holder(held=(a, {"k": a})) == Holder(held=(b, {"k": b}))) is same
    assert (Holder(held=Inner(value=a)) == Holder(held=Inner(value=b))) is same


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (1, 1.0),
        (True, 1),
        (np.zeros(2), np.zeros(2, np.float32)),
        (np.zeros((1, 2)), np.zeros((2, 1))),
        ((1, 2), (1, 2, 3)),
        ({"a": 1}, {"b": 1}),
        (Ending.OK, Ending.STALLED),
        (None, 0),
        (np.zeros(1), 0.0),
    ],
)
def test_values_of_different_kinds_are_never_equal(a, b):
    assert Holder(held=a) != Holder(held=b)
    assert Holder(held=a) == Holder(held=a)


def test_results_of_different_classes_evidence_or_provenance_are_not_equal():
    assert Holder(held=1) != OtherHolder(held=1)
    assert Inner(value=1.0) != 1.0
    assert Inner(value=1.0) != Inner(value=1.0, provenance={"seed": "1"})
    assert Inner(value=1.0) != Inner(value=1.0, stands={"value": published("a table")})


# Files.

DTYPES = ("float64", "float32", "float16", "int64", "uint8", "bool", "complex128", "<U3", ">f8")
SHAPES = ((), (0,), (3,), (2, 3))


@given(
    st.one_of(
        hnp.arrays(np.float64, st.sampled_from(SHAPES)),
        st.tuples(st.sampled_from(DTYPES), st.sampled_from(SHAPES)).flatmap(lambda p: hnp.arrays(np.dtype(p[0]), p[1])),
    )
)
@settings(deadline=None, max_examples=60)
def test_arrays_of_any_bits_come_back_bit_for_bit(tmp_path_factory, array):
    path = tmp_path_factory.getbasetemp() / "arrays.zip"
    loaded = Holder.load(Holder(held=array).save(path))
    assert bits(loaded.held) == bits(array)
    assert not loaded.held.flags.writeable


def test_arrays_in_any_memory_order_come_back(tmp_path):
    array = np.asfortranarray(np.arange(12.0).reshape(3, 4))
    for variant in (array, array[::-1, ::2], array.T, np.broadcast_to(1.0, (2, 2))):
        assert np.array_equal(Holder.load(Holder(held=variant).save(tmp_path / "r")).held, variant)


def test_the_payload_of_a_nan_survives(tmp_path):
    array = np.array([0x7FF8000000000123, 0xFFF0000000000001], np.uint64).view(np.float64)
    assert Holder.load(Holder(held=array).save(tmp_path / "r")).held.tobytes() == array.tobytes()


def test_an_array_of_bfloat16_comes_back_or_is_refused(tmp_path):
    result = Holder(held=np.arange(3).astype(ml_dtypes.bfloat16))
    try:
        path = result.save(tmp_path / "r")
    except TypeError:
        return
    assert Holder.load(path) == result


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner, max_size=3),
    max_leaves=6,
)


@given(VALUES)
@settings(deadline=None, max_examples=60)
def test_plain_values_of_any_nesting_come_back_and_are_strict_json(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "values.zip"
    result = Holder(held=value)
    loaded = Holder.load(result.save(path))
    assert bits(loaded.held) == bits(value)
    assert loaded == result
    json.dumps(result.to_dict(), allow_nan=False)


def test_json_writes_numbers_that_are_not_finite_by_name():
    document = everything().to_dict()
    assert document["fields"]["array"]["value"][:3] == ["nan", "inf", "-inf"]
    assert document["fields"]["named"]["value"]["a"] == "-inf"
    assert document["fields"]["nested"]["value"]["fields"]["value"]["value"] == "nan"
    assert document["fields"]["ending"]["value"] == {"status": "STALLED", "sentence": "it stopped for no reason"}
    assert document["fields"]["several"]["value"] == [1, "nan", "two", [None, False], [0, 1, 2]]


@pytest.mark.parametrize(
    "held", [object(), b"bytes", {1, 2}, 1j, np.array([object()])], ids=["object", "bytes", "set", "complex", "objects"]
)
def test_what_cannot_be_saved_is_refused_and_leaves_no_file(held, tmp_path):
    with pytest.raises(TypeError, match="cannot"):
        Holder(held=held).save(tmp_path / "r")
    assert list(tmp_path.iterdir()) == []


def test_saving_over_a_folder_fails_and_leaves_no_partial_file(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError):  # noqa: PT011
        Inner(value=1.0).save(tmp_path / "taken")
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]


def test_an_interrupted_save_leaves_the_earlier_file_alone(tmp_path, monkeypatch):
    path = Holder(held=np.zeros(3)).save(tmp_path / "r")

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(np.lib.format, "write_array", interrupt)
    with pytest.raises(KeyboardInterrupt):
        Holder(held=np.ones(3)).save(path)
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["r"]
    assert Holder.load(path) == Holder(held=np.zeros(3))


def test_saving_again_replaces_the_file(tmp_path):
    Inner(value=1.0).save(tmp_path / "r")
    Inner(value=2.0).save(str(tmp_path / "r"))
    assert Inner.load(str(tmp_path / "r")).value == 2.0


def test_a_saved_file_has_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_text("")
    saved = Inner(value=1.0).save(tmp_path / "r")
    assert saved.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_file_of_format_1_written_by_hand_is_readable(tmp_path):
    fields = {
        "stands": {"kind": "dict", "items": []},
        "provenance": {"kind": "dict", "items": [["seed", "5"]]},
        "accuracy": {"kind": "float", "hex": "0x1.8p-1"},
        "accuracy_stderr": {"kind": "float", "hex": "0x1p-3"},
        "mse": {"kind": "float", "hex": "nan"},
        "mse_stderr": {"kind": "float", "hex": "-inf"},
        "num_points": 12,
    }
    root = {"kind": "result", "class": "widescape.predict.score:ClassificationScore", "fields": fields}
    loaded = ClassificationScore.load(rewrite(tmp_path / "r", {"format": 1, "root": root}))
    expected = ClassificationScore(
        accuracy=0.75,
        accuracy_stderr=0.125,
        mse=math.nan,
        mse_stderr=-math.inf,
        num_points=12,
        provenance={"seed": "5"},
    )
    assert loaded == expected


def test_a_process_that_never_imported_the_class_can_read_the_file(tmp_path):
    path = instance("score").save(tmp_path / "r")
    code = f"from widescape.core.result import Result; print(Result.load({str(path)!r}))"
    read = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert read.stdout.strip() == str(instance("score"))


def test_a_file_that_holds_another_class_is_refused(tmp_path):
    path = Holder(held=1).save(tmp_path / "r")
    with pytest.raises(ResultFormatError, match="Holder, not a OtherHolder"):
        OtherHolder.load(path)


def test_a_missing_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        Inner.load(tmp_path / "absent")


def inner(value=2.0, **changes):
    empty = {"kind": "dict", "items": []}
    fields = {"stands": empty, "provenance": empty, "value": value} | changes.pop("fields", {})
    return {"kind": "result", "class": f"{__name__}:Inner", "fields": fields} | changes


def test_the_document_that_the_damaged_ones_derive_from_is_sound(tmp_path):
    assert Inner.load(rewrite(tmp_path / "r", {"format": 1, "root": inner()})) == Inner(value=2.0)


DAMAGED = {
    "no json": "{",
    "a list": [],
    "a number": 3,
    "nothing": {},
    "another format": {"format": 2, "root": inner()},
    "no format": {"root": inner()},
    "no root": {"format": 1},
    "a bare number": {"format": 1, "root": 3},
    "a list as root": {"format": 1, "root": [inner()]},
    "an unknown part": {"format": 1, "root": {"kind": "spell"}},
    "a part without kind": {"format": 1, "root": {}},
    "an unknown class": {"format": 1, "root": inner(**{"class": f"{__name__}:Outer"})},
    "a class that is no result": {"format": 1, "root": inner(**{"class": "os:system"})},
    "a status as a result": {"format": 1, "root": inner(**{"class": f"{__name__}:Ending"})},
    "an unknown room": {"format": 1, "root": inner(**{"class": "widescape.nowhere:Inner"})},
    "an unknown name": {"format": 1, "root": inner(**{"class": "widescape.core.result:Inner"})},
    "an address that is no text": {"format": 1, "root": inner(**{"class": 3})},
    "an address without module": {"format": 1, "root": inner(**{"class": "widescape.:"})},
    "no fields": {"format": 1, "root": {"kind": "result", "class": f"{__name__}:Inner"}},
    "fields as a list": {"format": 1, "root": inner() | {"fields": [1]}},
    "a field too many": {"format": 1, "root": inner(fields={"color": 1})},
    "a field too few": {"format": 1, "root": inner() | {"fields": {}}},
    "an absent array": {"format": 1, "root": inner({"kind": "array", "name": "array0.npy"})},
    "a float that is none": {"format": 1, "root": inner({"kind": "float", "hex": "0xg"})},
    "a float that is a number": {"format": 1, "root": inner({"kind": "float", "hex": 1.5})},
    "an unknown outcome": {
        "format": 1,
        "root": inner({"kind": "status", "class": f"{__name__}:Ending", "name": "LOST"}),
    },
    "a tuple of nothing": {"format": 1, "root": inner({"kind": "tuple", "items": None})},
    "an odd dictionary": {"format": 1, "root": inner({"kind": "dict", "items": [[1]]})},
    "a dictionary as key": {
        "format": 1,
        "root": inner({"kind": "dict", "items": [[{"kind": "dict", "items": []}, 1]]}),
    },
    "evidence of an unknown kind": {"format": 1, "root": inner({"kind": "evidence", "fields": {"kind": "rumor"}})},
    "evidence with a field too many": {"format": 1, "root": inner({"kind": "evidence", "fields": {"weight": 1}})},
    "evidence for an unknown field": {
        "format": 1,
        "root": inner(
            fields={
                "stands": {"kind": "dict", "items": [["color", {"kind": "evidence", "fields": {"kind": "exact"}}]]},
            }
        ),
    },
    "nesting without end": '{"format": 1, "root": ' + '{"kind": "tuple", "items": [' * 50_000,
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_document_is_refused_by_name(name, tmp_path):
    with pytest.raises(ResultFormatError) as refusal:
        Result.load(rewrite(tmp_path / "r", DAMAGED[name]))
    assert isinstance(refusal.value, WidescapeError)


@pytest.mark.parametrize("content", [b"", b"PK", b"hello" * 100, b"\x93NUMPY" + bytes(200)])
def test_a_file_that_is_no_archive_is_refused(content, tmp_path):
    (tmp_path / "r").write_bytes(content)
    with pytest.raises(ResultFormatError, match="r is not a readable result file"):
        Result.load(tmp_path / "r")


def test_a_foreign_archive_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "r", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ResultFormatError):
        Result.load(tmp_path / "r")


def test_pickled_objects_in_a_file_are_refused(tmp_path):
    np.save(tmp_path / "evil.npy", np.array([{}], object), allow_pickle=True)
    document = {"format": 1, "root": inner({"kind": "array", "name": "a.npy"})}
    path = rewrite(tmp_path / "r", document, **{"a.npy": (tmp_path / "evil.npy").read_bytes()})
    with pytest.raises(ResultFormatError):
        Result.load(path)


def test_reading_a_file_imports_nothing_outside_of_the_library(tmp_path, monkeypatch):
    (tmp_path / "stranger.py").write_text("raise SystemExit('a strange module was imported')")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        with pytest.raises(ResultFormatError, match="stranger:Inner is not known"):
            Result.load(rewrite(tmp_path / "r", {"format": 1, "root": inner(**{"class": "stranger:Inner"})}))
    except SystemExit as stop:
        pytest.fail(str(stop))


def test_reading_a_file_runs_no_program(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["widescape", "--version"])
    root = inner(**{"class": "widescape.__main__:Inner"})
    try:
        with pytest.raises(ResultFormatError):
            Result.load(rewrite(tmp_path / "r", {"format": 1, "root": root}))
    except SystemExit:
        pytest.fail("reading a file ran the command line")


def test_a_truncated_file_is_refused_at_every_length(tmp_path):
    content = Holder(held=np.arange(3.0)).save(tmp_path / "r").read_bytes()
    for length in range(len(content)):
        (tmp_path / "r").write_bytes(content[:length])
        with pytest.raises(ResultFormatError):
            Holder.load(tmp_path / "r")


@pytest.mark.parametrize("mask", [0x01, 0x08, 0xFF])
def test_a_flipped_bit_is_noticed_or_harmless_wherever_it_is(mask, tmp_path):
    result = Holder(held=np.arange(3.0))
    content = result.save(tmp_path / "r").read_bytes()
    escaped = {}
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= mask
        (tmp_path / "r").write_bytes(damaged)
        try:
            assert Holder.load(tmp_path / "r") == result
        except ResultFormatError:
            continue
        except Exception as error:  # what a reader would have to catch beside the named one
            escaped.setdefault(type(error).__name__, place)
    assert escaped == {}
