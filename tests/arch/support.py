"""What each layer supports, found by trying it.

``python tests/arch/support.py`` writes it to docs/concepts/layers.md.
"""

import contextlib
import inspect
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from widescape import arch, kernels
from widescape.arch.covariance import Level
from widescape.arch.limit import Limit
from widescape.core.errors import NonGaussianInputError, NonSmoothWarning, NotTractableError, ShapeError

PAGE = Path(__file__).resolve().parents[2] / "docs" / "concepts" / "layers.md"
BEGIN, END = "<!-- begin: written by tests/arch/support.py -->\n", "<!-- end -->\n"
YES, NO, WARNS = "yes", "no", "warns"
HEADS = (
    "layer",
    "finite network",
    "NNGP limit",
    "NTK limit",
    "ntk",
    "standard",
    "improved",
    "jacobian",
    "ntvp",
    "structured",
    "positions",
)
PARAMETERIZATIONS: dict[str, dict[str, Any]] = {
    "ntk": {},
    "standard": {"param": "standard"},
    "improved": {"param": "standard", "base_width": 4},
}
LEVELS = {Level.FLAT: "none", Level.POSITIONS: "equal", Level.FULL: "all"}


class Weights(NamedTuple):
    """Layers with weights in one parameterization."""

    options: dict[str, Any]

    def dense(self) -> arch.Layer:
        return arch.Dense(8, 0.8, 0.3, **self.options)

    def conv(self) -> arch.Layer:
        return arch.Conv(3, (3, 3), w_std=0.8, b_std=0.3, **self.options)

    def local(self) -> arch.Layer:
        return arch.LocalConv(3, (3, 3), w_std=0.8, b_std=0.3, **self.options)


# Layers that need arguments, or that hold weights. Degrees are low where a default would only take longer.
EXAMPLES: dict[str, Callable[[Weights], arch.Layer]] = {
    "ABRelu": lambda w: arch.ABRelu(-0.3, 1.2),
    "Activation": lambda w: arch.Activation(jax.numpy.tanh, deg=32),
    "Concat": lambda w: arch.Concat(w.dense(), w.dense()),
    "Conv": lambda w: w.conv(),
    "Dense": lambda w: w.dense(),
    "Frozen": lambda w: arch.Frozen(w.dense()),
    "Hermite": lambda w: arch.Hermite(2),
    "LocalConv": lambda w: w.local(),
    "Parallel": lambda w: arch.Sequential(arch.Parallel(w.dense(), w.dense()), arch.Sum()),
    "Polynomial": lambda w: arch.Polynomial((0.3, -1.0, 0.5)),
    "Prod": lambda w: arch.Prod(w.dense(), w.dense()),
    "RectifiedPower": lambda w: arch.RectifiedPower(2),
    "Repeat": lambda w: arch.Repeat(arch.Sequential(arch.Relu(), w.dense()), 2),
    "Residual": lambda w: arch.Residual(arch.Sequential(arch.Relu(), w.dense())),
    "Sequential": lambda w: arch.Sequential(arch.Relu(), w.dense()),
    "Sigmoid": lambda w: arch.Sigmoid(deg=32),
    "Silu": lambda w: arch.Silu(deg=32),
    "Softplus": lambda w: arch.Softplus(deg=32),
    "Sum": lambda w: arch.Sum(w.dense(), w.dense()),
    "Tanh": lambda w: arch.Tanh(deg=32),
}


class Trial(NamedTuple):
    """A small network around a layer, and examples for it.

    Attributes:
        layer: the layer.
        net: the network.
        own: the places of the layer in it.
        x: examples.
    """

    layer: arch.Layer
    net: arch.Sequential
    own: range
    x: np.ndarray


def layer_names() -> list[str]:
    """The layers that `widescape.arch` exports."""
    found = ((name, getattr(arch, name)) for name in arch.__all__)
    return [
        name for name, it in found if inspect.isclass(it) and issubclass(it, arch.Layer) and not inspect.isabstract(it)
    ]


def trial(name: str, parameterization: str) -> Trial:
    """The layer between two layers with weights: on vectors where it takes them, else on images."""
    weights = Weights(PARAMETERIZATIONS[parameterization])
    layer = EXAMPLES[name](weights) if name in EXAMPLES else getattr(arch, name)()
    rng = np.random.default_rng(0)
    for before, shape in ((weights.dense(), (6,)), (weights.conv(), (4, 4, 2))):
        body = arch.Sequential(before, layer)
        with contextlib.suppress(ShapeError):
            end = body.out(arch.Signal(shape, shape[-1]))
            after = (weights.dense(),) if len(end.shape) == 1 else (arch.Flatten(), weights.dense())
            net = arch.Sequential(body, *after)
            return Trial(layer, net, range(1, len(body.layers)), rng.normal(size=(3, *shape)) / 2)
    raise AssertionError(f"{name} takes neither vectors nor images of two axes; give it an entry in EXAMPLES.")


def row(name: str) -> tuple[str, ...]:
    """What was found for a layer, in the order of `HEADS`."""
    plain = trial(name, "ntk")
    has_weights = bool(jax.tree.leaves([_params(plain)[i] for i in plain.own]))
    found = {
        parameterization: limits(trial(name, parameterization), computed=has_weights or parameterization == "ntk")
        for parameterization in PARAMETERIZATIONS
    }
    kinds = ("both" if ntk != NO else "NNGP" if nngp != NO else "finite" for nngp, ntk in found.values())
    return (f"`{name}`", finite(plain), *found["ntk"], *kinds, *methods(plain), positions(plain, found["ntk"][0]))


def finite(own: Trial) -> str:
    """Whether the finite network can be initialized and applied."""
    outputs = np.asarray(own.net.apply(_params(own), own.x))
    assert outputs.shape == (len(own.x), 8)
    return YES if np.isfinite(outputs).all() else NO


def limits(own: Trial, *, computed: bool) -> tuple[str, str]:
    """Whether the NNGP and the tangent kernel of infinite width exist; and are finite, if they are to be computed."""
    both = _limit(own, ("nngp", "ntk"), computed)
    return (_limit(own, ("nngp",), computed), NO) if both == NO else (YES, both)


def methods(own: Trial) -> tuple[str, str, str]:
    """Whether each method gives the tangent kernel of the layer's weights, or of those around a layer without any."""
    params = _params(own)
    chosen = [i for i in own.own if jax.tree.leaves(params[i]) and not isinstance(own.net.layers[i], arch.Frozen)]
    chosen = chosen or [0, len(params) - 1]
    places = tuple(f"[{i}]" for i in chosen)

    def kernel(method: Any, **options: Any) -> Any:
        def trainable(path: str) -> bool:
            return path.startswith(places)

        return kernels.empirical_ntk(own.net.apply, params, own.x, method=method, trainable=trainable, **options)

    expected = kernel("jacobian")
    assert np.isfinite(expected).all()
    cells = [YES]
    for method in ("ntvp", "structured"):
        try:
            actual = kernel(method)
        except ValueError:
            cells.append(NO)
            continue
        np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)
        cells.append(YES)
    if cells[-1] == YES:
        held = kernel("structured", plan=True).structured_params
        weights = [a for i in chosen for a in jax.tree.leaves(params[i]) if a.ndim > 1]
        cells[-1] = YES if held == sum(a.size for a in weights) else "partly"
    return cells[0], cells[1], cells[2]


def positions(own: Trial, nngp: str) -> str:
    """Which pairs of positions the limit needs before the layer, if all that follows needs none."""
    layer = own.layer
    if nngp == NO:
        return "no limit"
    if layer.children():
        return "as inside"
    for shape in ((4, 4, 2), (6,)):
        with contextlib.suppress(ShapeError):
            layer.out(arch.Signal(shape, None))
            return LEVELS[layer.carried(Level.FLAT, arch.Signal(shape, None))] if len(shape) > 1 else "vectors"
    raise AssertionError(f"{layer} takes neither vectors nor images of two axes.")


def _limit(own: Trial, get: tuple[Any, ...], computed: bool) -> str:
    """Whether these kernels exist, and whether a caution comes with them."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("error")
        warnings.simplefilter("always", NonSmoothWarning)
        try:
            Limit.of(own.net, own.x.shape[1:], get)
        except (NotTractableError, NonGaussianInputError):
            return NO
    if computed:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NonSmoothWarning)
            kernel = own.net.kernel(own.x, get=get)
        for name in get:
            assert np.isfinite(getattr(kernel, name)).all()
            assert np.all(np.diag(getattr(kernel, name)) > 0)
    return WARNS if caught else YES


def _params(own: Trial) -> Any:
    return own.net.init(jax.random.key(0), own.x.shape[1:], dtype="float64")


def line(cells: Sequence[str]) -> str:
    """A row of a table in Markdown."""
    return f"| {' | '.join(cells)} |"


def table() -> str:
    """The table of the page."""
    rows = (HEADS, ["---"] * len(HEADS), *(row(name) for name in layer_names()))
    return "".join(f"{line(cells)}\n" for cells in rows)


def printed() -> str:
    """The table that the page holds now."""
    return PAGE.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0]


def write() -> None:
    """Put the table into the page."""
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    PAGE.write_text(before + BEGIN + table() + END + rest.split(END)[1], encoding="utf-8")


if __name__ == "__main__":
    write()
