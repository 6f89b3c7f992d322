"""Branches of a network, and how they come together again."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from itertools import combinations
from operator import mul
from typing import Any

import jax
import jax.numpy as jnp

from widescape.arch.base import Layer, Params
from widescape.arch.covariance import Covariance, Level
from widescape.arch.fused_program import Branch, Step
from widescape.arch.spec import Signal, scale
from widescape.arch.structure import Identity, check_layer, naming
from widescape.arch.windows import common_axes
from widescape.core.errors import NotTractableError, ShapeError
from widescape.core.random import named_key


class _Branching(Layer):
    """Base of layers that hold branches; each branch sees the same input, or its own one behind a `Parallel`."""

    takes_branches = True
    needs_mean = True
    ends_stage = True
    branches: tuple[Layer, ...]

    def __init__(self, *branches: Layer) -> None:
        for branch in branches:
            check_layer(branch, type(self).__name__)
        object.__setattr__(self, "branches", branches)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.branches))})"

    def children(self) -> tuple[Layer, ...]:
        return self.branches

    def with_hidden_width(self, width: int, *, is_last: bool = True) -> Layer:
        return type(self)(*(branch.with_hidden_width(width, is_last=is_last) for branch in self.branches))

    def parameters(self, key: jax.Array, signal: Any, dtype: Any) -> Params:
        return tuple(
            branch.parameters(named_key(key, i), own, dtype) for i, (branch, own) in enumerate(self._each(signal))
        )

    def spreads(self, signal: Any) -> Any:
        return tuple(branch.spreads(own) for branch, own in self._each(signal))

    def prepared(self, signal: Any) -> Layer:
        return type(self)(*(branch.prepared(own) for branch, own in self._each(signal)))

    def carried(self, after: Level, signal: Any) -> Level:
        return max((branch.carried(after, own) for branch, own in self._each(signal)), default=after)

    def plane_axes(self, signal: Any) -> tuple[str, ...] | None:
        if _are_parts(signal):
            return None
        return common_axes([branch.plane_axes(signal) for branch in self.branches])

    def _each(self, *values: Any) -> Iterator[tuple[Any, ...]]:
        """The branches, each with its own part of some values."""
        return zip(self.branches, *map(self._inputs, values), strict=True)

    def _inputs(self, value: Any) -> tuple[Any, ...]:
        """What each branch gets of a value: one for all, or one each."""
        if not (self.branches and _are_parts(value)):
            return (value,) * len(self.branches)
        if len(value) != len(self.branches):
            raise ShapeError(f"{len(value)} branches reach {type(self).__name__}, which holds {len(self.branches)}.")
        return tuple(value)

    def _outs(self, signal: Any) -> tuple[Signal, ...]:
        found = []
        for i, (branch, own) in enumerate(self._each(signal)):
            with naming(i, branch, "branch"):
                found.append(branch.out(own))
        return tuple(found)

    def _forwards(self, params: Params, h: Any, signal: Any) -> tuple[jax.Array, ...]:
        if len(params) != len(self.branches):
            raise ShapeError(f"`params` has {len(params)} entries for {len(self.branches)} branches.")
        found = []
        for i, (branch, x, before) in enumerate(self._each(h, signal)):
            with naming(i, branch, "branch"):
                found.append(branch.forward(params[i], x, before))
        return tuple(found)

    def _limits(self, cov: Any) -> tuple[Covariance, ...]:
        """The limit of each branch; draws, errors and pooled variances pass from one to the next."""
        found: list[Covariance] = []
        for i, (branch, own) in enumerate(self._each(cov)):
            before = _continuing(own, found[-1]) if found else own
            with naming(i, branch, "branch"):
                found.append(branch.limit(before))
        return tuple(found)


@dataclass(frozen=True, init=False, repr=False)
class Parallel(_Branching):
    """Several branches of one input; several signals come out, which `Sum`, `Prod` or `Concat` bring together.

    Behind another `Parallel` each branch takes one of its outputs.

    Example:
        >>> from widescape import arch
        >>> both = arch.Sequential(arch.Parallel(arch.Dense(4), arch.Dense(4)), arch.Sum(), arch.Relu())
        >>> both == arch.Sequential(arch.Parallel(arch.Dense(4), arch.Dense(4)), arch.Sum(), arch.Relu())
        True
    """

    branches: tuple[Layer, ...]

    def __init__(self, *branches: Layer) -> None:
        super().__init__(*branches)
        if len(branches) < 2:
            raise ValueError(f"Parallel has {len(branches)} branches; give at least two.")

    def out(self, signal: Any) -> Any:
        return self._outs(signal)

    def forward(self, params: Params, h: Any, signal: Any) -> Any:
        return self._forwards(params, h, signal)

    def limit(self, cov: Any) -> Any:
        found = self._limits(cov)
        return tuple(_continuing(own, found[-1]) for own in found)


class _Merge(_Branching):
    """Base of the layers that make one signal of several: of their own branches, or of those of a `Parallel`."""

    def __init__(self, *branches: Layer) -> None:
        super().__init__(*branches)
        if len(branches) == 1:
            raise ValueError(f"{type(self).__name__} has one branch; give at least two, or none behind a Parallel.")

    def _merged(self, signals: Sequence[Signal]) -> Signal:
        """The signal that comes out: that of each branch."""
        return _same(signals, type(self).__name__)

    @abstractmethod
    def _joined(self, values: Sequence[jax.Array]) -> jax.Array:
        """The finite outputs, brought together."""

    @abstractmethod
    def _limit(self, parts: Sequence[Covariance]) -> Covariance:
        """The limits of the branches, brought together."""

    def out(self, signal: Any) -> Signal:
        return self._merged(self._parts(signal, self._outs))

    def forward(self, params: Params, h: Any, signal: Any) -> jax.Array:
        return self._joined(h if not self.branches else self._forwards(params, h, signal))

    def limit(self, cov: Any) -> Covariance:
        parts = self._parts(cov, self._limits)
        return _continuing(self._limit(parts), parts[-1])

    def _parts(self, value: Any, apply: Any) -> Any:
        if self.branches:
            return apply(value)
        if not _are_parts(value):
            raise ShapeError(f"{type(self).__name__} has no branches and is not behind a Parallel; give it branches.")
        return value


class _Addition(_Merge):
    """Base of the layers that add up their branches."""

    def steps(self, signal: Signal, *, frozen: bool) -> tuple[Step, ...] | None:
        # Each branch but the last on a copy of the state, which is then exchanged for its result; sums at the end.
        found: list[Step] = []
        for i, branch in enumerate(self.branches):
            steps = branch.steps(signal, frozen=frozen)
            if steps is None:
                return None
            last = i == len(self.branches) - 1
            found.extend(steps if last else (Branch("push"), *steps, Branch("swap")))
        return (*found, *[Branch("add")] * (len(self.branches) - 1)) if self.branches else None

    def _joined(self, values: Sequence[jax.Array]) -> jax.Array:
        return sum(values[1:], start=values[0])

    def _limit(self, parts: Sequence[Covariance]) -> Covariance:
        _check_independent(parts, type(self).__name__)
        biased = [i for i, part in enumerate(parts) if part.mean_zero is False]
        if len(biased) > 1:
            raise NotTractableError(
                f"branches {biased[0]} and {biased[1]} of a sum both have a mean, whose product the kernel would need. "
                "End all branches but one with a Dense or Conv layer."
            )
        means = [part.mean_zero for part in parts]
        return (
            parts[0]
            .added(parts)
            .replace(
                gaussian=all(part.gaussian for part in parts),
                mean_zero=False if biased else None if None in means else True,
                origins=frozenset[int]().union(*(part.origins for part in parts)),
                signal=self._merged([part.signal._replace(shape=(*part.signal.shape[:-1], 1)) for part in parts]),
            )
        )


@dataclass(frozen=True, init=False, repr=False)
class Sum(_Addition):
    """The sum of its branches: ``Sum(branch1, branch2, ...)``, or ``Sum()`` behind a `Parallel`.

    Kernels add up if the branches are independent and at most one of them does not have mean zero. Both are read from
    the description: each branch ends in its own random layers, or at most one of them is the input itself.
    """

    branches: tuple[Layer, ...]


@dataclass(frozen=True, init=False, repr=False)
class Residual(_Addition):
    """main(x) + shortcut(x), with the conditions of `Sum`.

    Args:
        main: the branch with layers.
        shortcut: the other one; by default the input itself.

    Example:
        >>> from widescape import arch
        >>> block = arch.Residual(arch.Sequential(arch.Relu(), arch.Dense(8)))
        >>> block.out(arch.Signal((8,), None)).shape
        (8,)
    """

    main: Layer
    shortcut: Layer

    def __init__(self, main: Layer, shortcut: Layer | None = None) -> None:
        shortcut = Identity() if shortcut is None else shortcut
        for branch in (main, shortcut):
            check_layer(branch, "Residual")
        object.__setattr__(self, "main", main)
        object.__setattr__(self, "shortcut", shortcut)

    @property
    def branches(self) -> tuple[Layer, ...]:  # type: ignore[override]
        """Both branches."""
        return (self.main, self.shortcut)

    def __repr__(self) -> str:
        other = "" if self.shortcut == Identity() else f", shortcut={self.shortcut!r}"
        return f"Residual({self.main!r}{other})"


@dataclass(frozen=True, init=False, repr=False)
class Prod(_Merge):
    """The product of its branches, entry by entry; they must be independent. The output is not Gaussian."""

    branches: tuple[Layer, ...]

    def _joined(self, values: Sequence[jax.Array]) -> jax.Array:
        return reduce(mul, values)

    def _limit(self, parts: Sequence[Covariance]) -> Covariance:
        _check_independent(parts, "Prod")
        total = parts[0]
        for part in parts[1:]:
            ntk = None
            if total.ntk is not None and part.ntk is not None:
                ntk = total.ntk * part.nngp + total.nngp * part.ntk
            pair, other = total.pair, part.pair
            total = total.replace(
                nngp=total.nngp * part.nngp,
                complement=total.complement * other.product + jnp.abs(pair.q12) * part.complement,
                ntk=ntk,
                var1=total.var1 * part.var1,
                var2=total.var2 * part.var2,
                positive=total.positive and part.positive,
                origins=total.origins | part.origins,
            )
        means = [part.mean_zero for part in parts]
        return total.replace(gaussian=False, mean_zero=True if True in means else None if None in means else False)


@dataclass(frozen=True, init=False, repr=False)
class Concat(_Merge):
    """The channels of its branches side by side. In the limit the mean of their kernels, weighted by their widths.

    The output is not Gaussian, because channels of different branches have different covariances.
    """

    branches: tuple[Layer, ...]
    shares: tuple[float, ...] | None = scale(None)

    def __init__(self, *branches: Layer, shares: tuple[float, ...] | None = None) -> None:
        super().__init__(*branches)
        object.__setattr__(self, "shares", None if shares is None else tuple(float(s) for s in shares))

    def __repr__(self) -> str:
        shares = "" if self.shares is None else f", shares={self.shares!r}"
        return f"Concat({', '.join(map(repr, self.branches))}{shares})"

    def prepared(self, signal: Any) -> Layer:
        widths = [own.shape[-1] for own in self._parts(signal, self._outs)]
        ready = [branch.prepared(own) for branch, own in self._each(signal)]
        return Concat(*ready, shares=tuple(w / sum(widths) for w in widths))

    def _merged(self, signals: Sequence[Signal]) -> Signal:
        _check_single(signals, "Concat")
        if len({own.shape[:-1] for own in signals}) > 1:
            raise ShapeError(f"Concat meets branches with positions {[own.shape[:-1] for own in signals]}.")
        bases = [own.base for own in signals]
        base = None if None in bases else sum(b for b in bases if b is not None)
        return Signal((*signals[0].shape[:-1], sum(own.shape[-1] for own in signals)), base)

    def _joined(self, values: Sequence[jax.Array]) -> jax.Array:
        return jnp.concatenate(values, axis=-1)

    def _limit(self, parts: Sequence[Covariance]) -> Covariance:
        if self.shares is None:
            raise ValueError("the shares of a Concat are not known; take the limit by `kernel` or `gram`.")
        weighted = [part.scaled(partial(mul, share)) for share, part in zip(self.shares, parts, strict=True)]
        means = [part.mean_zero for part in parts]
        return (
            parts[0]
            .added(weighted)
            .replace(
                gaussian=False,
                mean_zero=False if False in means else None if None in means else True,
                origins=frozenset[int]().union(*(part.origins for part in parts)),
                signal=self._merged([part.signal for part in parts]),
            )
        )


def _continuing(cov: Covariance, done: Covariance) -> Covariance:
    """A state, with the draws, errors and pooled variances of the branch that was followed last."""
    return cov.replace(draws=done.draws, known=done.known, errors=done.errors, sources=done.sources)


def _are_parts(value: Any) -> bool:
    return isinstance(value, tuple) and not isinstance(value, Signal)


def _same(signals: Sequence[Signal], owner: str) -> Signal:
    _check_single(signals, owner)
    if len({own.shape for own in signals}) > 1:
        shapes = ", ".join(str(own.shape) for own in signals)
        raise ShapeError(f"{owner} meets branches of different shapes: {shapes}.")
    bases = {own.base for own in signals}
    return Signal(signals[0].shape, bases.pop() if len(bases) == 1 else None)


def _check_single(signals: Sequence[Any], owner: str) -> None:
    if not all(isinstance(own, Signal) for own in signals):
        raise ShapeError(f"{owner} meets a branch that ends in several branches itself; bring those together first.")


def _check_independent(parts: Sequence[Covariance], owner: str) -> None:
    for (i, one), (j, other) in combinations(enumerate(parts), 2):
        if one.origins & other.origins:
            raise NotTractableError(
                f"branches {i} and {j} of {owner} depend on the same random layer, so their kernels do not combine. "
                "End one of them with a Dense or Conv layer of its own."
            )
