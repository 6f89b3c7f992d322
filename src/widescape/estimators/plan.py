"""What a fit will take, before it starts."""

import time
from collections.abc import Callable

import numpy as np

from widescape.arch.base import Layer
from widescape.arch.limit import Get
from widescape.core import checks
from widescape.core.evidence import EXACT, bound, estimate
from widescape.core.memory import available_bytes
from widescape.core.result import Result, quantity
from widescape.estimators.solver import MATRICES
from widescape.kernels import gram
from widescape.predict import GP, loo_regularizer

_PROBE = 512
_TRIALS = 3


class FitPlan(Result):
    """The size of a fit: memory by a model, time by a small trial on this machine."""

    source = "lee2020finite"
    num_examples: int = quantity(EXACT, "training examples m")
    num_test: int = quantity(EXACT, "examples that are predicted afterwards")
    pairs: int = quantity(EXACT, "pairs of examples whose kernel is computed")
    peak_bytes: int = quantity(bound("upper", "a model of the matrices that are held"), "memory", unit="B")
    free_bytes: int = quantity(EXACT, "memory that is free now", unit="B")
    seconds: float = quantity(
        estimate("seconds_stderr", "over trials with few examples, scaled; other work on the machine adds to it"),
        "time of the fit and the predictions",
        unit="s",
    )
    seconds_stderr: float = quantity(EXACT, "standard error of the time", unit="s")

    @property
    def fits(self) -> bool:
        """Whether the memory is there."""
        return self.peak_bytes <= self.free_bytes


def plan_fit(net: Layer, x: np.ndarray, *, get: Get, num_test: int = 0, spectral: bool = True) -> FitPlan:
    """Estimate what a fit of all of `x` takes, from a trial with at most 512 of its examples.

    Args:
        net: the architecture.
        x: training inputs (m, ...), floating point.
        get: which kernel.
        num_test: examples to predict afterwards.
        spectral: whether the fit takes an eigendecomposition: to choose the regularizer, or to train for a finite time.

    Cost: seconds; the trial runs four times, the first to compile.
    """
    x = checks.batch(x, "x")
    m, probe = len(x), min(len(x), _PROBE)
    trial = x[:probe]
    kernel = gram(net, trial, get=get, progress=False)
    y = np.arange(float(probe))[:, None]
    pairs = m * (m + 1) // 2 + m * num_test
    trials = []
    for _ in range(_TRIALS):
        between = _seconds(lambda: gram(net, trial, get=get, progress=False))
        cube = _seconds(lambda: GP(kernel, y, reg=1e-2).loo())
        cube += _seconds(lambda: loo_regularizer(kernel, y)) if spectral else 0.0
        trials.append(between * pairs / (probe * (probe + 1) / 2) + cube * (m / probe) ** 3)
    return FitPlan(
        num_examples=m,
        num_test=num_test,
        pairs=pairs,
        peak_bytes=8 * m * m * MATRICES["spectral fit" if spectral else "fit"],
        free_bytes=available_bytes(),
        seconds=float(np.mean(trials)),
        seconds_stderr=float(np.std(trials, ddof=1) / _TRIALS**0.5),
        provenance={"architecture": repr(net), "kernel": get},
    )


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
