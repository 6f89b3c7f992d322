"""The state that an infinite-width limit carries through an architecture."""

import dataclasses
from collections.abc import Callable, Sequence
from enum import IntEnum
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from widescape.arch.spec import Signal
from widescape.arch.windows import add_up
from widescape.duals import Pair
from widescape.duals.angle import safe_sqrt


class Level(IntEnum):
    """Which pairs of positions have to be carried to a place of the network, so that all behind it can be computed."""

    FLAT = 0
    """The mean over equal positions alone, as for vectors."""
    POSITIONS = 1
    """Every position of one example with the same position of the other."""
    FULL = 2
    """All pairs of positions."""


class Layout(NamedTuple):
    """Which pairs of examples and of positions the arrays of a `Covariance` hold, and in which order.

    Positions come first and examples last, so that filters and nonlinearities run along contiguous memory. With
    positions S and batches of n1 and n2 the arrays of pairs are

    ============= =================== ==========================================================
    kind          pairs               what they hold
    ============= =================== ==========================================================
    "flat"        (n1, n2)            no positions, or the mean over equal ones
    "positions"   (*S, n1, n2)        equal positions
    "planes"      (*S, D, n1, n2)     position s and position s + shift, for each of D shifts
    "full"        (*S, *S, n1, n2)    all pairs of positions
    ============= =================== ==========================================================

    Attributes:
        kind: see above.
        axes: axes of positions.
        linear: for planes, along which axes shifts do not wrap around.
        each: the pairs are those of each example with itself, (n,) instead of (n1, n2).
    """

    kind: Literal["flat", "positions", "planes", "full"] = "flat"
    axes: int = 0
    linear: tuple[bool, ...] = ()
    each: bool = False


FLAT = Layout()


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["nngp", "complement", "var1", "var2", "ntk", "errors", "shifts", "known"],
    meta_fields=[
        "sources",
        "signal",
        "layout",
        "gaussian",
        "mean_zero",
        "positive",
        "origins",
        "draws",
        "frozen",
        "abstract",
    ],
)
@dataclasses.dataclass(frozen=True)
class Covariance:
    """Second moments of the signals of two batches at one place of an infinitely wide network.

    Shapes below are those of vectors; `Layout` says what positions add. Variances have no axes but their own: (*S, n1)
    and (*S, n2), the second one shifted where the layout is one of planes, (*S, D, n2).

    Attributes:
        nngp: E[z(x) z(x')] per channel, (n1, n2).
        complement: sqrt(var1 var2) - |nngp|, (n1, n2), accurate where it is small.
        var1, var2: E[z(x)^2] of each example, (n1,) and (n2,).
        ntk: the tangent kernel of the layers so far, (n1, n2); None when it was not asked for.
        errors: relative error estimates of the numerical integrals so far, one per layer that has one.
        shifts: for planes, the shift of each plane along each axis, (D,) each.
        known: variances of both batches after each pooling to come; where pairs of each example with itself are
            computed, those after each pooling so far.
        sources: the names of the layers of `errors`.
        signal: shape and base width of one example.
        layout: which pairs the arrays hold.
        gaussian: whether the signals are jointly Gaussian, as nonlinearities need.
        mean_zero: whether their means vanish, as sums of branches need; None where a traced scale decides it.
        positive: whether no entry of `nngp` is negative.
        origins: the random layers that the signal depends on directly, numbered; branches that share one are dependent.
        draws: random layers so far.
        frozen: whether parameters of the layers that act now are held fixed.
        abstract: whether only what is known without numbers is asked for.
    """

    nngp: jax.Array
    complement: jax.Array
    var1: jax.Array
    var2: jax.Array
    ntk: jax.Array | None
    errors: tuple[jax.Array, ...]
    shifts: tuple[jax.Array, ...]
    known: tuple[Any, ...]
    sources: tuple[str, ...]
    signal: Signal
    layout: Layout
    gaussian: bool
    mean_zero: bool | None
    positive: bool
    origins: frozenset[int]
    draws: int
    frozen: bool
    abstract: bool = False

    @classmethod
    def of_input(cls, block: "InputBlock", signal: Signal, *, ntk: bool, layout: Layout = FLAT) -> "Covariance":
        """The state at the input: raw data are not Gaussian, and no parameter has acted yet."""
        nngp, complement, var1, var2 = map(jnp.asarray, block[:4])
        return cls(
            nngp=nngp,
            complement=complement,
            var1=var1,
            var2=var2,
            ntk=jnp.zeros_like(nngp) if ntk else None,
            errors=(),
            shifts=block.shifts,
            known=block.known,
            sources=(),
            signal=signal,
            layout=layout,
            gaussian=False,
            mean_zero=False,
            positive=False,
            origins=frozenset((0,)),
            draws=1,
            frozen=False,
        )

    @property
    def pair(self) -> Pair:
        """The moments in the form that duals take: arrays that broadcast against each other."""
        return Pair(self.first(self.var1), self.nngp, self.second(self.var2), self.complement)

    def first(self, values: jax.Array) -> jax.Array:
        """Values of the first batch, shaped to broadcast against the pairs."""
        kind, axes, _, each = self.layout
        if kind == "full":
            values = values.reshape(values.shape[:axes] + (1,) * axes + values.shape[axes:])
        elif kind == "planes":
            values = values[..., None, :]
        return values if each else values[..., :, None]

    def second(self, values: jax.Array) -> jax.Array:
        """Values of the second batch, shaped to broadcast against the pairs."""
        kind, axes, _, each = self.layout
        if kind == "full":
            values = values.reshape((1,) * axes + values.shape)
        return values if each else values[..., None, :]

    def replace(self, **changes: Any) -> "Covariance":
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def renumbered(self) -> "Covariance":
        """The same state with its origins counted anew, so that programs are shared between depths."""
        return self.replace(origins=frozenset((0,)), draws=1)

    def affine(self, w2: Any, b2: Any) -> "Covariance":
        """The moments w2 q + b2; the tangent kernel is left as it is."""
        pair = self.pair.affine(w2, b2)
        return self.replace(
            nngp=pair.q12, complement=pair.complement, var1=w2 * self.var1 + b2, var2=w2 * self.var2 + b2
        )

    def scaled(self, factor: Callable[[jax.Array], jax.Array]) -> "Covariance":
        """The state with every moment multiplied by the same number, which `factor` does to an array."""
        return self.replace(
            nngp=factor(self.nngp),
            complement=factor(self.complement),
            var1=factor(self.var1),
            var2=factor(self.var2),
            ntk=None if self.ntk is None else factor(self.ntk),
        )

    def drawn(self, **changes: Any) -> "Covariance":
        """The state after a layer with independent random weights of mean zero."""
        return self.replace(
            gaussian=True, mean_zero=True, origins=frozenset((self.draws,)), draws=self.draws + 1, **changes
        )

    def added(self, parts: Sequence["Covariance"]) -> "Covariance":
        """This state with the moments of a sum of independent parts; their complements add up without cancellation.

        With q_i the variances of the parts, r^2 = sum_i q_i and w_i = sqrt(q_i) / r,
        r r' - sum_i k_i = sum_i (sqrt(q_i q'_i) - k_i) + r r' |w - w'|^2 / 2. Parts may be views of one state.
        """
        first = [part.var1 for part in parts]
        second = [part.var2 for part in parts]
        nngp = add_up([part.nngp for part in parts])
        gap = gap_of_sum(nngp, lambda *gaps: add_up(gaps), *parts)
        positive = all(part.positive for part in parts)
        ntks = [part.ntk for part in parts if part.ntk is not None]
        ntk = add_up(ntks) if ntks else None
        moved = self.replace(nngp=nngp, ntk=ntk, var1=add_up(first), var2=add_up(second), positive=positive)
        return moved.replace(complement=gap + moved.bend(first, second))

    def bend(self, first: Sequence[jax.Array], second: Sequence[jax.Array]) -> jax.Array:
        """R r' |w - w'|^2 / 2 for variances that add up to those of this state: what sums add to the complement."""
        root1, root2 = safe_sqrt(self.var1), safe_sqrt(self.var2)
        inverse1, inverse2 = (jnp.where(r > 0, 1 / jnp.where(r > 0, r, 1), 0) for r in (root1, root2))
        squares = [
            (self.first(safe_sqrt(a) * inverse1) - self.second(safe_sqrt(b) * inverse2)) ** 2
            for a, b in zip(first, second, strict=True)
        ]
        return self.first(root1) * self.second(root2) * (add_up(squares) / 2)

    def pooled(self, nngp: jax.Array, ntk: jax.Array | None, signal: Signal, kind: str) -> "Covariance":
        """The state after positions were mixed, whose variances are not found from variances."""
        moved = self.replace(nngp=nngp, ntk=ntk, signal=signal, shifts=())
        if kind == "flat":
            moved = moved.replace(layout=Layout(each=self.layout.each))
        if self.layout.each:
            var1 = var2 = nngp if kind == "flat" else equal_positions(nngp, self.layout.axes)
            known = (*self.known, var1)
        else:
            (var1, var2), known = self.known[0], self.known[1:]
        moved = moved.replace(var1=var1, var2=var2, known=known)
        product = moved.first(safe_sqrt(var1)) * moved.second(safe_sqrt(var2))
        return moved.replace(complement=difference(product, nngp))

    def flattened(self) -> "Covariance":
        """The state of one vector per example: means over equal positions, whose weights are independent."""
        if self.layout.kind == "flat":
            return self
        cov = self._at_equal_positions() if self.layout.kind == "full" else self
        axes = tuple(range(cov.layout.axes))

        def mean(a: jax.Array) -> jax.Array:
            return jnp.mean(a, axis=axes)

        nngp, var1, var2 = (mean(a) for a in (cov.nngp, cov.var1, cov.var2))
        gap = gap_of_sum(nngp, mean, cov)
        root1, root2 = safe_sqrt(var1), safe_sqrt(var2)
        ahead = (None,) * len(axes)
        weight1, weight2 = (
            safe_sqrt(var) / jnp.where(root > 0, root, 1)[ahead] for var, root in ((cov.var1, root1), (cov.var2, root2))
        )
        apart = mean((cov.first(weight1) - cov.second(weight2)) ** 2) / 2
        flat = cov.replace(
            nngp=nngp,
            var1=var1,
            var2=var2,
            ntk=None if cov.ntk is None else mean(cov.ntk),
            layout=Layout(each=cov.layout.each),
        )
        return flat.replace(complement=gap + flat.first(root1) * flat.second(root2) * apart)

    def _at_equal_positions(self) -> "Covariance":
        axes = self.layout.axes
        return self.replace(
            nngp=equal_positions(self.nngp, axes),
            complement=equal_positions(self.complement, axes),
            ntk=None if self.ntk is None else equal_positions(self.ntk, axes),
            layout=self.layout._replace(kind="positions"),
        )


def gap_of_sum(nngp: jax.Array, total: Callable[..., jax.Array], *parts: Covariance) -> jax.Array:
    """The complement of a sum over independent parts with covariance `nngp`, up to what `Covariance.bend` adds.

    It is the sum of sqrt(q q') - k of the parts, or of sqrt(q q') + k where the sum of k is negative.

    Args:
        nngp: the sum of the covariances.
        total: adds up arrays, one of each part.
        parts: the states of the parts; one alone if `total` sums over its entries.
    """
    minus = total(*(part.complement if part.positive else part.pair.minus for part in parts))
    if all(part.positive for part in parts):
        return minus
    return jnp.where(nngp < 0, total(*(part.pair.plus for part in parts)), minus)


def difference(product: Any, nngp: Any) -> jax.Array:
    """The complement sqrt(q q') - |k| by subtraction, zero below rounding: so equal examples stay equal.

    Where it is small it has few digits; it is for places to which no better one is carried.

    Args:
        product: sqrt(q q').
        nngp: k.
    """
    rest = product - abs(nngp)
    return jnp.where(rest > 8 * jnp.finfo(rest.dtype).eps * product, rest, 0)


def equal_positions(pairs: jax.Array, axes: int) -> jax.Array:
    """Of all pairs of positions (*S, *S, ...) those of equal ones, (*S, ...)."""
    letters = "abc"[:axes]
    found: jax.Array = jnp.einsum(f"{letters}{letters}...->{letters}...", pairs)
    return found


class InputBlock(NamedTuple):
    """Moments of two batches of inputs: what a `Covariance` starts from."""

    nngp: Any
    complement: Any
    var1: Any
    var2: Any
    shifts: tuple[Any, ...] = ()
    known: tuple[Any, ...] = ()
