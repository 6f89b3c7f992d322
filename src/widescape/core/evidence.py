"""What stands behind a number: a proof, a certificate, a bound, an estimate, a sample, an identity, a paper."""

from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["proved", "certified", "bound", "estimate", "sampled", "exact", "published"]
Side = Literal["lower", "upper"]

MEANING: dict[str, str] = {
    "proved": "follows from a theorem whose assumptions were checked",
    "certified": "verified in floating point with a margin for rounding",
    "bound": "the true value lies on one known side of it",
    "estimate": "sampled; comes with its standard error",
    "sampled": "found by sampling or searching; no guarantee, and no known side",
    "exact": "a closed form or an identity, up to rounding",
    "published": "quoted from the literature, not computed here",
}


@dataclass(frozen=True)
class Evidence:
    """What stands behind one field of a result.

    Attributes:
        kind: one of the seven kinds; their meanings are in `MEANING`.
        side: for a bound, the side on which the field lies: an ``"upper"`` bound is at least the
            true value.
        stderr: for an estimate, the name of the field that holds its standard error.
        note: the theorem, the margin, the sampling scheme or the reference, in a few words.
    """

    kind: Kind
    side: Side | None = None
    stderr: str | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"`kind` is {self.kind!r}; choose one of {', '.join(get_args(Kind))}.")
        if (self.kind == "bound") != (self.side is not None) or self.side not in (None, *get_args(Side)):
            raise ValueError("`side` belongs to a bound, and a bound needs one: 'lower' or 'upper'.")
        if (self.kind == "estimate") != (self.stderr is not None):
            raise ValueError(
                "`stderr` belongs to an estimate, and an estimate needs one: the name of the field "
                "that holds its standard error."
            )

    def __str__(self) -> str:
        return f"{self.side} bound" if self.kind == "bound" else self.kind


def proved(note: str) -> Evidence:
    """Follows from a theorem, named in `note`, whose assumptions were checked."""
    return Evidence("proved", note=note)


def certified(note: str) -> Evidence:
    """Verified in floating point; `note` says with what margin."""
    return Evidence("certified", note=note)


def bound(side: Side, note: str = "") -> Evidence:
    """A bound, and on which side of the true value it lies."""
    return Evidence("bound", side=side, note=note)


def estimate(stderr: str, note: str = "") -> Evidence:
    """A sampled value whose standard error is in the field named `stderr`."""
    return Evidence("estimate", stderr=stderr, note=note)


def sampled(note: str) -> Evidence:
    """Found by sampling or by a search, whose scheme `note` names; neither a bound nor an estimate with an error."""
    return Evidence("sampled", note=note)


def published(note: str) -> Evidence:
    """Quoted from the literature; `note` is the reference."""
    return Evidence("published", note=note)


EXACT = Evidence("exact")
"""A closed form or an identity, evaluated up to rounding; also counts and settings."""
