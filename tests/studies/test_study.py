"""A verdict follows from the numbers, and a study prints, draws, saves and loads what stands behind it."""

import dataclasses
import math
import sys
from statistics import NormalDist
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from widescape.core.chart import Chart, Series
from widescape.core.errors import DataError, ResultFormatError
from widescape.core.evidence import EXACT, bound, certified, estimate
from widescape.core.result import Result, quantity
from widescape.studies import catalog
from widescape.studies.study import Study, StudyClaim, Verdict, claim, claim_of_count

INF = math.inf
REPRODUCED, NOT_REPRODUCED, INCONCLUSIVE = Verdict.REPRODUCED, Verdict.NOT_REPRODUCED, Verdict.INCONCLUSIVE

numbers = st.floats(-1e6, 1e6)
errors = st.none() | st.floats(0, 1e6)


@st.composite
def intervals(draw):
    """An interval of which at least one end is there."""
    low, high = draw(st.sampled_from([(1, 1), (1, 0), (0, 1)]))
    a, b = sorted((draw(numbers), draw(numbers)))
    return (a if low else None, b if high else None)


def decided(value, interval, **options):
    return claim("E1", "It holds.", value=value, low=interval[0], high=interval[1], **options).verdict


def ends(interval):
    return (-INF if interval[0] is None else interval[0], INF if interval[1] is None else interval[1])


class Slope(Result):
    """A measurement with two charts."""

    source = "nobody1900"
    widths: np.ndarray = quantity(EXACT, "widths (T,)")
    norms: np.ndarray = quantity(EXACT, "norms (T,)")

    def charts(self):
        series = (Series(self.widths, self.norms, "norm"),)
        return tuple(Chart(name, "Norm against width", "width", "norm", series) for name in ("norm", "fit"))


def slope(scale=1.0):
    return Slope(widths=np.array([1.0, 2.0, 4.0]), norms=scale / np.array([1.0, 3.0, 7.0]))


def study(**changes):
    parts = {
        "name": "nobody1900tested",
        "title": "On the testing of studies",
        "citation": "Nobody. Proceedings of nothing, 1900.",
        "claims": (
            claim("E1", "The norm falls.", value=-0.5, stderr=0.1 / 3, low=-0.6, high=-0.4, published="-1/2"),
            claim("E2", "It stays.", value=0.3, high=0.1),
            claim_of_count("E3", "Most runs end.", held=1, trials=5, needed=3, undecided=3),
            claim("E4", "It was measured.", value=math.nan, low=0.0),
            claim("E5", "It is bounded.", value=2.0, high=2.5, evidence=certified("with a margin of 0.1")),
        ),
        "results": {"E1_linear": slope(), "E1_curved": slope(1 / 3), "E2": slope(0.0)},
        "figures": ("E1_curved", "E1_linear"),
        "seed": 3,
        "quick": True,
    }
    return Study(**(parts | changes))


# The verdict.


@given(numbers, intervals())
def test_a_number_without_error_is_reproduced_exactly_inside_of_the_closed_interval(value, interval):
    low, high = ends(interval)
    assert decided(value, interval) is (REPRODUCED if low <= value <= high else NOT_REPRODUCED)
    assert decided(value, interval, stderr=0.0) is decided(value, interval)


@given(intervals())
def test_the_ends_of_the_interval_are_accepted(interval):
    for end in interval:
        if end is not None:
            assert decided(end, interval) is REPRODUCED


@given(numbers, st.floats(0, 1e6), intervals(), st.floats(-2, 2))
def test_no_true_value_within_two_standard_errors_contradicts_a_verdict(value, stderr, interval, shift):
    truth = value + shift * stderr
    assume(value - 2 * stderr <= truth <= value + 2 * stderr)  # to rounding
    verdict, (low, high) = decided(value, interval, stderr=stderr), ends(interval)
    if verdict is REPRODUCED:
        assert low <= truth <= high
    if verdict is NOT_REPRODUCED:
        assert not low <= truth <= high


@given(numbers, st.floats(0, 1e6), intervals())
def test_an_estimate_is_inconclusive_exactly_if_two_standard_errors_reach_across_an_end(value, stderr, interval):
    least, most = value - 2 * stderr, value + 2 * stderr
    across = any(end is not None and least < end <= most for end in interval[:1])
    across |= any(end is not None and least <= end < most for end in interval[1:])
    assert (decided(value, interval, stderr=stderr) is INCONCLUSIVE) == across


@given(numbers, st.floats(0, 1e6), st.floats(0, 1e6), intervals())
def test_a_larger_error_makes_a_verdict_inconclusive_or_leaves_it(value, first, second, interval):
    small, large = sorted((first, second))
    before, after = (decided(value, interval, stderr=error) for error in (small, large))
    assert after in (before, INCONCLUSIVE)


@given(numbers, errors, intervals())
def test_mirroring_the_axis_leaves_the_verdict(value, stderr, interval):
    mirrored = tuple(None if end is None else -end for end in reversed(interval))
    assert decided(-value, mirrored, stderr=stderr) is decided(value, interval, stderr=stderr)


@given(numbers, intervals(), st.floats(0, 1e6))
def test_no_true_value_on_the_side_of_a_bound_contradicts_a_verdict(value, interval, distance):
    low, high = ends(interval)
    for side, truth in (("upper", value - distance), ("lower", value + distance)):
        verdict = decided(value, interval, evidence=bound(side))
        if verdict is REPRODUCED:
            assert low <= truth <= high
        if verdict is NOT_REPRODUCED:
            assert not low <= truth <= high


@pytest.mark.parametrize(
    ("side", "interval", "verdict"),
    [
        ("upper", (None, 3.0), REPRODUCED),
        ("upper", (2.5, None), NOT_REPRODUCED),
        ("upper", (1.0, None), INCONCLUSIVE),
        ("upper", (1.0, 3.0), INCONCLUSIVE),
        ("upper", (None, 1.0), INCONCLUSIVE),
        ("lower", (1.0, None), REPRODUCED),
        ("lower", (None, 1.0), NOT_REPRODUCED),
        ("lower", (None, 3.0), INCONCLUSIVE),
        ("lower", (1.0, 3.0), INCONCLUSIVE),
    ],
)
def test_a_bound_of_2_decides_only_what_follows_from_it(side, interval, verdict):
    assert decided(2.0, interval, evidence=bound(side)) is verdict


@given(st.integers(1, 30), st.data())
def test_a_count_has_the_verdict_that_every_outcome_of_the_undecided_trials_gives(trials, data):
    held = data.draw(st.integers(0, trials))
    undecided = data.draw(st.integers(0, trials - held))
    needed = data.draw(st.integers(1, trials))
    outcomes = {held + more >= needed for more in range(undecided + 1)}
    verdict = claim_of_count("E", "S.", held=held, trials=trials, needed=needed, undecided=undecided).verdict
    assert verdict is {(True,): REPRODUCED, (False,): NOT_REPRODUCED}.get(tuple(outcomes), INCONCLUSIVE)


@pytest.mark.parametrize("nothing", [{"value": None}, {"value": math.nan}, {"value": math.nan, "stderr": 1.0}])
@pytest.mark.parametrize("interval", [(0.0, 1.0), (None, 1.0), (0.0, None)])
def test_nothing_measured_is_inconclusive(nothing, interval):
    assert claim("E", "S.", low=interval[0], high=interval[1], **nothing).verdict is INCONCLUSIVE


@pytest.mark.parametrize("stderr", [math.nan, INF])
def test_an_error_that_is_not_finite_as_of_a_single_draw_is_inconclusive(stderr):
    assert decided(0.5, (0.0, 1.0), stderr=stderr) is INCONCLUSIVE
    assert decided(INF, (0.0, None), stderr=stderr) is INCONCLUSIVE


def test_a_value_that_overflowed_is_outside_of_every_bounded_interval():
    assert decided(INF, (0.0, 1.0)) is NOT_REPRODUCED
    assert decided(-INF, (0.0, None), stderr=1.0) is NOT_REPRODUCED
    assert decided(INF, (0.0, None)) is REPRODUCED


@pytest.mark.parametrize("truth", [-0.61, -0.39])
def test_a_true_value_outside_is_called_reproduced_at_most_once_in_40_times(truth, rng):
    n, stderr = 20_000, 0.01
    verdicts = [decided(value, (-0.6, -0.4), stderr=stderr) for value in rng.normal(truth, stderr, n)]
    wrong = verdicts.count(REPRODUCED) / n
    expected = NormalDist().cdf(-3)  # one standard error outside, two more to be called inside
    assert expected <= 1 / 40
    assert abs(wrong - expected) <= 4 * math.sqrt(expected * (1 - expected) / n)


def test_a_verdict_is_never_given_by_hand():
    good = claim("E1", "S.", value=0.5, low=0.0, high=1.0)
    for other in (NOT_REPRODUCED, INCONCLUSIVE):
        with pytest.raises(ValueError, match="its numbers give REPRODUCED"):
            dataclasses.replace(good, verdict=other)
    with pytest.raises(ValueError, match="its numbers give NOT_REPRODUCED"):
        dataclasses.replace(good, high=0.4)


def test_only_a_reproduced_claim_is_ok():
    assert [verdict.ok for verdict in (REPRODUCED, NOT_REPRODUCED, INCONCLUSIVE)] == [True, False, False]
    assert NOT_REPRODUCED.words == "not reproduced"


# What a claim says.


@pytest.mark.parametrize(
    ("options", "accepted", "measured"),
    [
        ({"value": -0.471, "stderr": 0.0213, "low": -0.6, "high": -0.4}, "-0.6 to -0.4", "-0.471 ± 0.021"),
        ({"value": 1 / 3, "low": 0.25}, "at least 0.25", "0.3333"),
        ({"value": 3, "high": 0.25}, "at most 0.25", "3"),
        ({"value": np.float32(2), "low": 2, "high": 2}, "exactly 2", "2"),
        ({"value": 2.0, "high": 3, "evidence": bound("upper")}, "at most 3", "at most 2"),
        ({"value": 2.0, "high": 3, "evidence": bound("lower")}, "at most 3", "at least 2"),
        ({"value": None, "high": 3}, "at most 3", "nothing"),
        ({"value": math.nan, "high": 3}, "at most 3", "not a number"),
        ({"value": 2.0, "high": 3, "measured": "two"}, "at most 3", "two"),
    ],
)
def test_a_claim_says_in_words_what_is_accepted_and_what_was_measured(options, accepted, measured):
    own = claim("E1", "S.", **options)
    assert (own.accepted, own.measured) == (accepted, measured)


def test_a_claim_says_what_stands_behind_its_value():
    assert claim("E", "S.", value=1.0, stderr=0.1, low=0).evidence("value") == estimate("stderr")
    assert claim("E", "S.", value=1.0, low=0).evidence("value").kind == "sampled"
    assert claim("E", "S.", value=1.0, low=0, evidence=EXACT).evidence("value") == EXACT
    assert claim_of_count("E", "S.", held=1, trials=2, needed=1).evidence("value") == EXACT


@pytest.mark.parametrize(
    ("options", "kind", "reason"),
    [
        ({"value": 1.0}, ValueError, "no tolerance; give `low`, `high` or both"),
        ({"value": 1.0, "low": 2, "high": 1}, ValueError, "interval is empty"),
        ({"value": 1.0, "low": math.nan}, ValueError, "`low` is nan"),
        ({"value": 1.0, "high": INF}, ValueError, "`high` is inf"),
        ({"value": 1.0, "low": "0"}, TypeError, "`low` is '0'"),
        ({"value": 1.0, "stderr": -0.1, "low": 0}, ValueError, "`stderr` is -0.1; it must not be negative"),
        ({"value": "1", "low": 0}, TypeError, "`value` is '1'"),
        ({"value": np.ones(1), "low": 0}, TypeError, "`value` is array"),
        ({"value": True, "low": 0}, TypeError, "claim_of_count"),
        ({"value": 1.0, "low": 0, "stderr": 0.1, "evidence": EXACT}, ValueError, "an estimate has a standard error"),
        ({"value": 1.0, "low": 0, "evidence": estimate("stderr")}, ValueError, "an estimate has a standard error"),
    ],
)
def test_a_claim_that_cannot_be_judged_is_refused(options, kind, reason):
    with pytest.raises(kind, match=reason):
        claim("E1", "S.", **options)


@pytest.mark.parametrize(
    ("options", "kind", "reason"),
    [
        ({"held": -1, "trials": 3, "needed": 1}, ValueError, "`held` is -1"),
        ({"held": 1.0, "trials": 3, "needed": 1}, TypeError, "`held` is 1.0"),
        ({"held": 0, "trials": 0, "needed": 1}, ValueError, "`trials` is 0"),
        ({"held": 0, "trials": 3, "needed": 0}, ValueError, "`needed` is 0"),
        ({"held": 0, "trials": 3, "needed": 4}, ValueError, "`needed` is 4, of 3 `trials`"),
        ({"held": 2, "trials": 3, "needed": 1, "undecided": 2}, ValueError, "`held` is 2 and `undecided` 2, of 3"),
        ({"held": 2, "trials": 3, "needed": 1, "undecided": -1}, ValueError, "`undecided` is -1"),
    ],
)
def test_counts_that_do_not_fit_are_refused(options, kind, reason):
    with pytest.raises(kind, match=reason):
        claim_of_count("E1", "S.", **options)


# The study.


def test_the_summary_counts_and_names_the_claims():
    assert study().verdict == "2 of 5 claims reproduced; not reproduced: E2; inconclusive: E3, E4."
    assert study(claims=study().claims[:1]).verdict == "1 of 1 claim reproduced."


def test_the_table_has_a_row_per_claim_with_the_words_and_the_numbers():
    rows = study().table()
    assert [row["name"] for row in rows] == ["E1", "E2", "E3", "E4", "E5"]
    assert rows[0] == {
        "name": "E1",
        "statement": "The norm falls.",
        "published": "-1/2",
        "accepted": "-0.6 to -0.4",
        "measured": "-0.5 ± 0.033",
        "verdict": "reproduced",
        "value": -0.5,
        "stderr": 0.1 / 3,
        "low": -0.6,
        "high": -0.4,
        "stands": "estimate",
    }
    assert [row["verdict"] for row in rows[1:4]] == ["not reproduced", "inconclusive", "inconclusive"]


@pytest.mark.parametrize("count", [1, 16, 17, 18, 19, 20, 40])
def test_a_study_prints_in_under_20_lines_and_says_what_it_hides(count):
    long = "A statement that does not end " + "and does not end " * 20
    claims = tuple(claim(f"E{i}", long, value=1.0, low=0) for i in range(count))
    lines = str(study(claims=claims, title=long)).splitlines()
    assert len(lines) == min(count + 2, 19)
    assert max(map(len, lines)) <= 110
    assert lines[1].startswith(f"{count} of {count} claim")
    named = sum(line.lstrip().startswith("E") for line in lines)
    assert named == (count if count <= 17 else 16)
    assert (f"... and {count - named} more" in lines[-1]) == (named < count)


def test_a_study_prints_its_verdicts_in_columns():
    assert (
        str(study())
        == repr(study())
        == "\n".join(
            [
                "Study nobody1900tested: On the testing of studies",
                "2 of 5 claims reproduced; not reproduced: E2; inconclusive: E3, E4. Seed 3, quick.",
                "  E1  reproduced      -0.5 ± 0.033: The norm falls.",
                "  E2  not reproduced  0.3: It stays.",
                "  E3  inconclusive    1 of 5, 3 undecided: Most runs end.",
                "  E4  inconclusive    not a number: It was measured.",
                "  E5  reproduced      2: It is bounded.",
            ]
        )
    )


def test_the_charts_are_those_of_the_named_results_in_their_order_with_names_of_their_own():
    charts = study().charts()
    assert [chart.name for chart in charts] == ["E1_curved-norm", "E1_curved-fit", "E1_linear-norm", "E1_linear-fit"]
    assert charts[0].title == "E1_curved: Norm against width"
    assert np.array_equal(charts[0].series[0].y, slope(1 / 3).norms)
    assert study(figures=()).charts() == ()


def test_a_study_comes_back_from_its_file_bit_for_bit(tmp_path):
    saved = dataclasses.replace(study(), seconds=0.1, provenance={"seed": "3"})
    loaded = Study.load(saved.save(tmp_path / "study.zip"))
    assert loaded == saved
    assert loaded.claims[0].stderr.hex() == (0.1 / 3).hex()
    assert math.isnan(loaded.claims[3].value)
    assert loaded.claims[4].evidence("value") == certified("with a margin of 0.1")
    assert loaded.results["E1_linear"].norms.tobytes() == slope().norms.tobytes()
    assert loaded != dataclasses.replace(saved, seconds=np.nextafter(0.1, 1))


def test_a_claim_comes_back_from_its_own_file_and_is_no_study(tmp_path):
    own = claim_of_count("E3", "Most runs end.", held=1, trials=5, needed=3, undecided=3)
    path = own.save(tmp_path / "claim.zip")
    assert StudyClaim.load(path) == own
    with pytest.raises(ResultFormatError, match="not a Study"):
        Study.load(path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"claims": ()}, "no claims"),
        ({"claims": study().claims[:1] * 2}, "two claims 'E1'"),
        ({"results": {"width 10": slope()}, "figures": ()}, "'width 10' names a study or a result"),
        ({"name": "no-body"}, "'no-body' names a study"),
        ({"figures": ("E9",)}, "`figures` names 'E9', but there are E1_linear, E1_curved, E2"),
        ({"figures": ("E9",), "results": {}}, "but there are no results"),
    ],
)
def test_a_study_that_could_not_be_shown_is_refused(changes, reason):
    with pytest.raises(ValueError, match=reason):
        study(**changes)


# The catalog.


@pytest.fixture
def calls(monkeypatch):
    """What a study in the catalog was asked for."""
    asked = []

    def run(*, seed, quick, say, progress):
        asked.append({"seed": seed, "quick": quick, "progress": progress})
        say("at work")
        return study(seed=seed, quick=quick, provenance={"data": "none"})

    monkeypatch.setitem(catalog.SUMMARIES, "nobody1900tested", "how studies are tested")
    monkeypatch.setitem(sys.modules, "widescape.studies.nobody1900tested", SimpleNamespace(run=run))
    return asked


def test_the_catalog_has_a_line_for_each_paper():
    assert catalog.names() == (
        "liu2020loss",
        "du2018gradient",
        "lucas2021monotonic",
        "cohen2021edge",
        "nguyen2021connectivity",
        "garipov2018loss",
        "ainsworth2022rebasin",
        "frankle2020linear",
        "kawaguchi2019elimination",
        "kawaguchi2018depth",
        "kawaguchi2018resnets",
        "frye2019critical",
        "chen2020hierarchical",
        "kumar2021implicit",
        "kornblith2019similarity",
    )
    assert all(catalog.summary(name) for name in catalog.names())


def test_running_a_study_passes_everything_on_and_adds_time_and_provenance(calls):
    said = []
    own = catalog.run("nobody1900tested", seed=7, quick=True, say=said.append, progress=False)
    assert calls == [{"seed": 7, "quick": True, "progress": False}]
    assert said == ["at work"]
    assert own == dataclasses.replace(
        study(seed=7, quick=True), seconds=own.seconds, provenance=own.provenance, stands=own.stands
    )
    assert 0 <= own.seconds < 10
    assert own.provenance["data"] == "none"
    assert (own.provenance["seed"], own.provenance["size"]) == ("7", "quick")
    assert own.provenance["numpy"] == np.__version__


def test_by_default_the_whole_study_runs_with_seed_0(calls):
    own = catalog.run("nobody1900tested")
    assert calls == [{"seed": 0, "quick": False, "progress": None}]
    assert own.provenance["size"] == "usual"


def test_the_size_of_the_paper_is_for_studies_that_have_it(monkeypatch, calls):
    with pytest.raises(DataError, match="nobody1900tested has no sizes beyond its usual ones"):
        catalog.run("nobody1900tested", full=True)
    with pytest.raises(ValueError, match="`quick` and `full`"):
        catalog.run("nobody1900tested", quick=True, full=True)
    assert calls == []
    module = sys.modules["widescape.studies.nobody1900tested"]
    usual = module.run

    def sized(*, full=False, **options):
        calls.append({"full": full})
        return usual(**options)

    monkeypatch.setattr(module, "run", sized)
    assert catalog.run("nobody1900tested", full=True).provenance["size"] == catalog.PAPER_SIZE
    assert calls[0] == {"full": True}
    assert catalog.run("nobody1900tested").provenance["size"] == "usual"


def test_an_unknown_study_is_refused_with_the_known_ones():
    for refuse in (catalog.run, catalog.summary):
        with pytest.raises(DataError, match="no study 'liu2021'; choose one of liu2020loss, du2018gradient, lucas"):
            refuse("liu2021")


@pytest.mark.parametrize(("seed", "kind"), [(-1, ValueError), (1.5, TypeError), (True, TypeError)])
def test_a_seed_that_is_none_is_refused_before_the_work(calls, seed, kind):
    with pytest.raises(kind, match="`seed`"):
        catalog.run("nobody1900tested", seed=seed)
    assert calls == []
