"""Kernels of finite networks, averaged over random parameters."""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from widescape.arch.base import Layer
from widescape.arch.limit import Get
from widescape.core import checks
from widescape.core.evidence import EXACT, estimate
from widescape.core.precision import double_scope
from widescape.core.progress import track
from widescape.core.random import named_key
from widescape.core.result import Result, quantity
from widescape.curvature.tangent import PreparedKernel, prepare
from widescape.kernels.empirical import empirical_nngp

Initializer = Callable[..., Any]
_BY_PLACE = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
Pair = tuple[Initializer, Callable[[Any, Any], Any]]


class SampledKernels(Result):
    """A number for each pair of examples and each kind of kernel; ``k["ntk"]`` is ``k.ntk``."""

    nngp: Any = quantity(EXACT, "of the NNGP kernel, (n1, n2)", default=None)
    ntk: Any = quantity(EXACT, "of the tangent kernel, (n1, n2)", default=None)

    def __getitem__(self, name: str) -> Any:
        if name not in ("nngp", "ntk"):
            raise KeyError(name)
        return getattr(self, name)


class MonteCarloKernel(Result):
    """The mean kernel of random finite networks, with its standard error.

    Where several kernels were asked for, `mean`, `stderr` and `squares` hold one array each under ``.nngp`` and
    ``.ntk``; for a single one they are arrays.
    """

    source = "lee2020finite; novak2019bayesian"
    mean: Any = quantity(estimate("stderr", "over networks, drawn independently"), "mean kernel over networks")
    stderr: Any = quantity(EXACT, "standard error of the mean; infinite for a single network")
    count: int = quantity(EXACT, "networks")
    squares: Any = quantity(EXACT, "sum over networks of the squared deviation from the mean")

    def more(self, n_samples: int, *, progress: bool | None = None) -> "MonteCarloKernel":
        """The estimate with `n_samples` further networks: bit for bit what one call with all of them returns.

        Raises:
            ValueError: the result was loaded from a file, without the network.
        """
        sampler: _Sampler | None = getattr(self, "_sampler", None)
        if sampler is None:
            raise ValueError("this result was loaded or copied, without its network; call `monte_carlo` again.")
        checks.count(n_samples, "n_samples", "more")
        mean, squares = (sampler.parts(values) for values in (self.mean, self.squares))
        return sampler.extend(self.count, mean, squares, n_samples, progress)


def monte_carlo(
    net: Layer | Pair,
    key: jax.Array,
    n_samples: int,
    x1: Any,
    x2: Any = None,
    get: Get | Iterable[Get] = ("nngp", "ntk"),
    width: int | None = None,
    *,
    progress: bool | None = None,
) -> MonteCarloKernel:
    """Kernels of finite networks at random parameters: mean, standard error, count.

    Works for every architecture, with or without a closed-form limit. The NNGP sample is f(x) f(x')^T / c, the NTK
    sample the trace kernel of `empirical_ntk`.

    Args:
        net: an architecture, sampled in float64; or a pair (init, apply) with ``init(key)`` or ``init(key,
            input_shape)`` and ``apply(params, x)``, sampled in the precision of its parameters and inputs.
        key: sample i uses a key of its own, derived from this one and i.
        n_samples: networks to draw.
        x1: examples, as for `empirical_ntk`.
        x2: likewise.
        get: ``"nngp"`` or ``"ntk"``, or several.
        width: replaces every hidden width of an architecture.
        progress: show a progress bar; None shows it on a terminal.

    Returns:
        a `MonteCarloKernel`; ``.more(n)`` continues it.

    Raises:
        ShapeError, DtypeError, TypeError, ValueError: arguments that do not fit.

    Cost: `n_samples` times a forward pass and an `empirical_ntk`. The standard error falls as n_samples^-1/2; the bias
    towards the limit falls as 1/width and is not part of it.

    Example:
        >>> from widescape import arch
        >>> net = arch.fc(1, 64, 1, activation=arch.Erf())
        >>> k = monte_carlo(net, jax.random.key(0), 50, np.eye(2), get="nngp")
        >>> bool((abs(k.mean - net.kernel(np.eye(2)).nngp) < 5 * k.stderr).all())
        True
    """
    checks.count(n_samples, "n_samples", "monte_carlo")
    names: tuple[Get, ...] = (get,) if isinstance(get, str) else tuple(get)
    for name in names:
        checks.choice(name, "get", Get)
    if not names:
        raise ValueError("`get` is empty; choose 'nngp', 'ntk' or both.")
    draw, apply = initializer_of(net, x1, width)
    sampler = _Sampler(draw, apply, key, x1, x2, names, single=isinstance(get, str))
    return sampler.extend(0, {}, {}, n_samples, progress)


@dataclass(frozen=True)
class _Sampler:
    """What it takes to draw further networks."""

    draw: Callable[[jax.Array], Any]
    apply: Callable[[Any, Any], Any]
    key: jax.Array
    x1: Any
    x2: Any
    names: tuple[Get, ...]
    single: bool

    def extend(
        self,
        count: int,
        mean: dict[str, np.ndarray],
        squares: dict[str, np.ndarray],
        n_samples: int,
        progress: bool | None,
    ) -> MonteCarloKernel:
        ready: PreparedKernel | None = None
        for i in track(range(count, count + n_samples), "networks", show=progress):
            params = self.draw(named_key(self.key, "sample", i))
            if "ntk" in self.names and ready is None:
                ready = prepare(self.apply, params, self.x1, self.x2)
            for name, value in self._sample(params, ready).items():
                if i == 0:
                    mean[name], squares[name] = value, np.zeros_like(value)
                    continue
                step = value - mean[name]
                mean[name] = mean[name] + step / (i + 1)
                squares[name] = squares[name] + step * (value - mean[name])
        total = count + n_samples
        errors = {name: np.sqrt(s / total / (total - 1)) if total > 1 else s + np.inf for name, s in squares.items()}
        result = MonteCarloKernel(
            mean=self._arranged(mean),
            stderr=self._arranged(errors),
            count=total,
            squares=self._arranged(squares),
        )
        object.__setattr__(result, "_sampler", self)
        return result

    def _sample(self, params: Any, ready: PreparedKernel | None) -> dict[str, np.ndarray]:
        sample = {}
        if "nngp" in self.names:
            sample["nngp"] = empirical_nngp(self.apply, params, self.x1, self.x2)
        if ready is not None:
            sample["ntk"] = ready.at(params)
        return sample

    def parts(self, values: Any) -> dict[str, np.ndarray]:
        """The arrays of a mean or of squares, by name."""
        return {name: values if self.single else values[name] for name in self.names}

    def _arranged(self, values: dict[str, np.ndarray]) -> Any:
        if self.single:
            return values[self.names[0]]
        return SampledKernels(nngp=values.get("nngp"), ntk=values.get("ntk"))


def initializer_of(
    net: Any, x1: Any, width: int | None, dtype: Any = "float64"
) -> tuple[Callable[[jax.Array], Any], Callable[[Any, Any], Any]]:
    """How to draw parameters from a key, and how to apply them.

    Raises:
        TypeError, ValueError: `net` is neither an architecture nor a pair of functions, or a pair comes with a width.
    """
    if isinstance(net, Layer):
        shape = tuple(checks.batch(x1, "x1").shape[1:])
        if width is not None:
            checks.count(width, "width", "monte_carlo")
            net = net.with_hidden_width(width)
        return partial(_drawn, net, shape, np.dtype(dtype).name), net.apply
    if not (isinstance(net, tuple) and len(net) == 2 and all(map(callable, net))):
        raise TypeError(f"`net` is {net!r}; give an architecture or a pair (init, apply) of functions.")
    if width is not None:
        raise ValueError("`width` belongs to an architecture; a pair (init, apply) has its own widths.")
    init, apply = net
    if _takes_two(init):
        shapes = jax.tree.map(lambda leaf: tuple(np.shape(leaf)[1:]), x1)
        return lambda key: init(key, shapes), apply
    return init, apply


def _takes_two(init: Initializer) -> bool:
    try:
        parameters = list(inspect.signature(init).parameters.values())[1:]
    except (TypeError, ValueError):  # a callable without a signature
        return False
    return any(p.name == "input_shape" or p.default is p.empty for p in parameters if p.kind in _BY_PLACE)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _drawn_program(net: Layer, shape: tuple[int, ...], dtype: str, key: jax.Array) -> Any:
    return net.init(key, shape, dtype=dtype)


def _drawn(net: Layer, shape: tuple[int, ...], dtype: str, key: jax.Array) -> Any:
    with double_scope(dtype == "float64"):
        return jax.tree.map(np.asarray, _drawn_program(net, shape, dtype, key))
