"""Evidence is one of seven kinds, and says the side of a bound and the standard error of an estimate."""

import dataclasses
from typing import get_args
from unittest import mock

import pytest

from widescape.core.evidence import (
    EXACT,
    MEANING,
    Evidence,
    Kind,
    bound,
    certified,
    estimate,
    proved,
    published,
    sampled,
)
from widescape.core.status import Status

MADE = {
    "proved": proved("theorem 1"),
    "certified": certified("margin 1e-9"),
    "bound": bound("upper", "by a lemma"),
    "estimate": estimate("error", "10 draws"),
    "sampled": sampled("20 draws on a sphere"),
    "exact": EXACT,
    "published": published("table 2"),
}


def test_each_kind_has_a_meaning_and_a_way_to_make_it():
    assert set(MEANING) == set(get_args(Kind)) == set(MADE)
    assert all(MADE[kind].kind == kind for kind in MADE)


@pytest.mark.parametrize("kind", MADE)
def test_evidence_prints_its_kind_and_a_bound_its_side(kind):
    assert str(MADE[kind]) == ("upper bound" if kind == "bound" else kind)


def test_both_sides_of_a_bound_print():
    assert (str(bound("lower")), str(bound("upper"))) == ("lower bound", "upper bound")


@pytest.mark.parametrize("kind", sorted(set(MADE) - {"bound"}))
def test_only_a_bound_has_a_side(kind):
    with pytest.raises(ValueError, match="side"):
        Evidence(kind, side="upper", stderr="error" if kind == "estimate" else None)


@pytest.mark.parametrize("kind", sorted(set(MADE) - {"estimate"}))
def test_only_an_estimate_has_a_standard_error(kind):
    with pytest.raises(ValueError, match="stderr"):
        Evidence(kind, stderr="error", side="lower" if kind == "bound" else None)


def test_a_bound_without_a_side_and_an_estimate_without_an_error_are_refused():
    with pytest.raises(ValueError, match="side"):
        Evidence("bound")
    with pytest.raises(ValueError, match="stderr"):
        Evidence("estimate")


def test_unknown_kinds_are_refused_and_the_known_ones_listed():
    with pytest.raises(ValueError, match=r"'rumor'.*proved.*published"):
        Evidence("rumor")


@pytest.mark.parametrize("side", ["middle", "", "Upper"])
def test_unknown_sides_are_refused(side):
    with pytest.raises(ValueError, match="side"):
        bound(side)


def test_evidence_is_compared_by_what_it_says_and_cannot_be_changed():
    assert bound("upper", "a") == bound("upper", "a")
    assert len({bound("upper", "a"), bound("upper", "a"), bound("lower", "a"), bound("upper", "b")}) == 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        EXACT.kind = "proved"


def test_a_status_equals_itself_and_its_name_in_lower_case_only():
    class Light(Status):
        OK = "The light is on."
        DARK = "The light is off."

    class Lamp(Status):
        OK = "The lamp is on."

    assert Light.OK == Light.OK == "ok"
    assert Light.OK not in (Light.DARK, Lamp.OK, "OK", "dark", "The light is on.", None)
    assert {"ok": 1}[Light.OK] == 1
    assert Light.OK == mock.ANY
