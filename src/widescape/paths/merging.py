"""Averaging two networks after their units were aligned."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from widescape.core import checks
from widescape.core.chart import Chart, Marker, Series
from widescape.core.evidence import EXACT
from widescape.core.precision import has_float64
from widescape.core.result import Result, quantity
from widescape.curvature.segment import as_system
from widescape.curvature.system import System
from widescape.paths.barriers import Barrier, barrier
from widescape.paths.matching import Alignment, weight_matching
from widescape.paths.permutations import Spec, apply_permutation
from widescape.paths.polyline import between


class Merge(Result):
    """The average of a network a and a permuted network b, beside the average of the two as they are."""

    source = "ainsworth2022rebasin"
    t: float = quantity(EXACT, "share of b in the averages")
    w: np.ndarray = quantity(EXACT, "flattened parameters (1 - t) a + t pi(b), (p,)")
    loss_a: float = quantity(EXACT, "loss at a")
    loss_b: float = quantity(EXACT, "loss at b")
    naive_loss: float = quantity(EXACT, "loss at (1 - t) a + t b")
    aligned_loss: float = quantity(EXACT, "loss at (1 - t) a + t pi(b)")
    naive: Barrier = quantity(EXACT, "barrier of the mean kind between a and b")
    aligned: Barrier = quantity(EXACT, "barrier of the mean kind between a and pi(b)")
    alignment: Alignment = quantity(EXACT, "the permutations pi")

    @property
    def params(self) -> Any:
        """The merged parameters as the PyTree in which the ends came.

        Raises:
            ValueError: the result was loaded from a file; `unravel` of a system gives them from `w`.
        """
        unravel: Callable[[Any], Any] | None = getattr(self, "_unravel", None)
        if unravel is None:
            raise ValueError("this result was loaded or copied; `system.unravel(merged.w)` gives its parameters.")
        return unravel(self.w)

    def charts(self) -> tuple[Chart, ...]:
        """The loss on the straight line and on the aligned line."""
        return (
            Chart(
                name="merge",
                title="Loss between two networks, before and after their units are aligned",
                x_label="position t",
                y_label="loss",
                series=(
                    Series(self.naive.t, self.naive.loss, "as they are"),
                    Series(self.aligned.t, self.aligned.loss, "aligned"),
                ),
                markers=(Marker(self.t, "merged", axis="x"),),
                caption=f"Barrier {self.naive.value:.3g} as they are, {self.aligned.value:.3g} with units aligned by "
                f"{self.alignment.method}.",
            ),
        )


def merge(
    loss: System | Callable[[Any], Any],
    a: Any,
    b: Any,
    spec: Spec,
    *,
    alignment: Alignment | None = None,
    t: float = 0.5,
    num: int = 25,
    key: jax.Array | None = None,
    progress: bool | None = None,
) -> Merge:
    """The parameters (1 - t) a + t pi(b), with pi the permutations that bring the units of b close to those of a.

    Args:
        loss: a `System`, or a function of the parameters that returns one number.
        a: parameters: a PyTree, or for a system also a flat vector.
        b: others of the same structure and shapes, whose units are permuted.
        spec: the axes of each group of units, as from `permutation_spec`.
        alignment: pi, as from `activation_matching`; None for `weight_matching`.
        t: share of b, from 0 to 1.
        num: positions at which both barriers are taken before they are refined.
        key: of weight matching; `jax.random.key(0)` if None.
        progress: show progress bars; None shows them on a terminal.

    Returns:
        a `Merge`, in float64 if one of the ends holds doubles.

    Raises:
        ValueError: `t` lies outside of [0, 1], a permutation does not fit, or the loss at b changes as units are
            permuted, so that `spec` is no symmetry.
        ShapeError, DtypeError, TypeError: arguments that do not fit.
        NonFiniteError: the loss is NaN or infinite on one of the lines.

    Cost: that of the matching, and two barriers.

    Example:
        >>> def loss(p):
        ...     return (p["w"].prod() - 6) ** 2
        >>> a, b = {"w": np.array([2.0, 3.0])}, {"w": np.array([3.0, 2.0])}
        >>> merged = merge(loss, a, b, {"P": [("w", 0)]})
        >>> merged.params["w"].tolist(), merged.naive_loss, merged.aligned_loss
        ([2.0, 3.0], 0.0625, 0.0)
    """
    share = checks.number(t, "t", "merge")
    if not 0 <= share <= 1:
        raise ValueError(f"`t` is {share}; it must lie from 0 to 1.")
    system = as_system(loss, a)
    if has_float64(a, b):
        system = system.as_float64()
    first, second = (system.unravel(system.vector(end)) for end in (a, b))
    if alignment is None:
        alignment = weight_matching(spec, first, second, key=key, progress=progress)
    moved = apply_permutation(spec, alignment, second)
    naive = barrier(system, first, second, num=num, progress=progress)
    aligned = barrier(system, first, moved, num=num, progress=progress)
    _require_symmetry(naive, aligned, np.finfo(system.flat.dtype).eps)
    w = system.vector(between(first, moved, share))
    result = Merge(
        t=share,
        w=w,
        loss_a=float(naive.loss[0]),
        loss_b=float(naive.loss[-1]),
        naive_loss=system.value(system.vector(between(first, second, share))),
        aligned_loss=system.value(w),
        naive=naive,
        aligned=aligned,
        alignment=alignment,
    )
    object.__setattr__(result, "_unravel", system.unravel)
    return result


def _require_symmetry(naive: Barrier, aligned: Barrier, rounding: float) -> None:
    """Refuse permutations that change the loss at b beyond rounding, in units of the losses on the line."""
    before, after = float(naive.loss[-1]), float(aligned.loss[-1])
    if abs(after - before) > rounding**0.5 * float(np.abs(naive.loss).max()):
        raise ValueError(
            f"the loss at `b` is {before:.6g}, and {after:.6g} after its units were permuted: `spec` is no symmetry of "
            "the network. `check_spec` finds the group, and the leaf that may be missing."
        )
