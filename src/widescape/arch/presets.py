"""Common architectures in one call."""

from functools import partial
from itertools import pairwise
from typing import Literal

from widescape.arch.activations import Gelu, Relu
from widescape.arch.affine import Affine, Parameterization
from widescape.arch.base import Layer
from widescape.arch.branches import Residual
from widescape.arch.conv import Conv
from widescape.arch.dense import Dense
from widescape.arch.pooling import AvgPool, Flatten, GlobalAvgPool
from widescape.arch.structure import Identity, Sequential
from widescape.arch.windows import Padding
from widescape.core import checks

_MYRTLE = {5: (2, 1, 1), 7: (2, 2, 2), 10: (3, 3, 3)}  # convolutions between poolings
_RELU = Relu()


def fc(
    depth: int,
    width: int,
    n_out: int,
    *,
    activation: Layer,
    w_std: float = 1.0,
    b_std: float | None = None,
    param: Parameterization = "ntk",
    base_width: int | None = None,
) -> Sequential:
    """A fully connected network: `depth` hidden layers of `width` units, then a linear read-out.

    Images are flattened first.

    Args:
        depth: hidden layers; 0 gives a linear model.
        width: units of each hidden layer.
        n_out: outputs.
        activation: the nonlinearity after each hidden layer.
        w_std: scale of the weights of every layer, the read-out included.
        b_std: scale of the biases; None for no bias.
        param: the parameterization of every layer.
        base_width: base width of the hidden layers for the improved standard parameterization; the
            read-out's is `n_out`.

    Example:
        >>> from widescape import arch
        >>> net = arch.fc(depth=3, width=512, n_out=10, activation=arch.Relu(), w_std=2**0.5, b_std=0.1)
        >>> len(net.layers)
        8
    """
    checks.count(depth, "depth", "fc", minimum=0)
    hidden = Dense(width, w_std, b_std, param, base_width)
    return Sequential(Flatten(), *[hidden, activation] * depth, _readout(n_out, hidden))


def default_network(n_out: int) -> Sequential:
    """The network that is taken where none is given: three hidden layers of 512 GELU units, with biases.

    It is smooth, so that everything that needs derivatives applies to it; weights have the variance that keeps a
    signal's scale over depth (w_std = sqrt 2), biases are small (b_std = 0.1).

    Args:
        n_out: outputs.
    """
    return fc(depth=3, width=512, n_out=n_out, activation=Gelu(), w_std=2**0.5, b_std=0.1)


def cnn_vec(
    depth: int = 8,
    width: int = 512,
    n_out: int = 10,
    *,
    activation: Layer = _RELU,
    w_std: float = 2**0.5,
    b_std: float | None = 0.1,
    filter: tuple[int, ...] = (3, 3),  # noqa: A002 - as the field of Conv
    padding: Padding = "SAME",
    param: Parameterization = "ntk",
    base_width: int | None = None,
) -> Sequential:
    """A convolutional network that ends in a flattened image: `depth` convolutions of stride 1, then a read-out.

    Its limit needs every position with itself only. The defaults are those of lee2020finite.

    Args:
        depth: convolutions.
        width: channels of each.
        n_out: outputs.
        activation: the nonlinearity after each convolution.
        w_std: scale of the weights of every layer, the read-out included.
        b_std: scale of the biases; None for no bias.
        filter: size of the filters along each axis of positions.
        padding: of the convolutions.
        param: the parameterization of every layer.
        base_width: base width of the convolutions for the improved standard parameterization; the read-out's is
            `n_out`.

    Example:
        >>> cnn_vec(depth=2, width=64, n_out=1).layers[-2:]
        (Flatten(), Dense(width=1, w_std=1.4142135623730951, b_std=0.1, param='ntk', base_width=None))
    """
    checks.count(depth, "depth", "cnn_vec")
    conv = Conv(width, filter, None, padding, w_std, b_std, param, base_width)
    return _convolutional(depth, conv, activation, Flatten(), n_out)


def cnn_gap(
    depth: int = 8,
    width: int = 512,
    n_out: int = 10,
    *,
    activation: Layer = _RELU,
    w_std: float = 2**0.5,
    b_std: float | None = 0.1,
    filter: tuple[int, ...] = (3, 3),  # noqa: A002 - as the field of Conv
    padding: Padding = "SAME",
    param: Parameterization = "ntk",
    base_width: int | None = None,
) -> Sequential:
    """A convolutional network that ends in the mean over all positions; else like `cnn_vec`, with its arguments.

    Its limit needs all pairs of positions, one shift between them after the other.

    Example:
        >>> cnn_gap(depth=2, width=64, n_out=1).layers[-2]
        GlobalAvgPool()
    """
    checks.count(depth, "depth", "cnn_gap")
    conv = Conv(width, filter, None, padding, w_std, b_std, param, base_width)
    return _convolutional(depth, conv, activation, GlobalAvgPool(), n_out)


def myrtle(
    depth: Literal[5, 7, 10],
    width: int = 64,
    n_out: int = 10,
    *,
    activation: Layer = _RELU,
    w_std: float = 2**0.5,
    b_std: float | None = None,
) -> Sequential:
    """A Myrtle network: 3x3 convolutions with two poolings by two between them, and a global one at the end.

    At 32x32 pixels it is that of shankar2020neural, whose last three poolings by two are a global one. Every
    convolution has the same width, as in its kernel.

    Args:
        depth: 5, 7 or 10, the layers with weights.
        width: channels of each convolution.
        n_out: outputs.
        activation: the nonlinearity after each convolution.
        w_std: scale of the weights of every layer.
        b_std: scale of the biases; None for no bias.

    Example:
        >>> sum(isinstance(layer, AvgPool) for layer in myrtle(5).layers)
        2
    """
    checks.choice(depth, "depth", tuple(_MYRTLE))
    conv = Conv(width, (3, 3), w_std=w_std, b_std=b_std)
    first, second, third = ([conv, activation] * count for count in _MYRTLE[depth])
    pool = AvgPool((2, 2))
    return Sequential(*first, pool, *second, pool, *third, GlobalAvgPool(), Dense(n_out, w_std, b_std))


def resnet(
    depth: int = 20,
    width: int = 16,
    n_out: int = 10,
    *,
    activation: Layer = _RELU,
    w_std: float = 2**0.5,
    b_std: float | None = None,
) -> Sequential:
    """A residual network for small images, activations before convolutions, without normalization (he2016identity).

    One convolution, three groups of n blocks of two convolutions each, a global mean and a read-out: 6 n + 2 layers.
    The second and third group halve the image and double the channels; their first shortcut is a convolution of one
    position.

    Args:
        depth: 8, 14, 20, 26, ...
        width: channels of the first group.
        n_out: outputs.
        activation: the nonlinearity before each convolution of a block.
        w_std: scale of the weights of every layer. Each block adds its variance to that of its input; with the default
            the variance doubles with every block.
        b_std: scale of the biases; None for no bias.

    Example:
        >>> len(resnet(8, 4, 1).layers)
        7
    """
    blocks = _blocks_of(depth, 2, "resnet")
    checks.count(width, "width", "resnet")
    return _residual(blocks, (width, width, 2 * width, 4 * width), n_out, activation, w_std, b_std)


def wide_resnet(
    depth: int = 28,
    factor: int = 10,
    n_out: int = 10,
    *,
    activation: Layer = _RELU,
    w_std: float = 2**0.5,
    b_std: float | None = None,
) -> Sequential:
    """A wide residual network without normalization: 16, then 16 k, 32 k, 64 k channels (zagoruyko2016wide).

    Every group begins with a shortcut by convolution: 6 n + 4 convolutions, these included.

    Args:
        depth: 10, 16, 22, 28, ...
        factor: the k of the widths.
        n_out: outputs.
        activation: the nonlinearity before each convolution of a block.
        w_std: scale of the weights of every layer.
        b_std: scale of the biases; None for no bias.

    Example:
        >>> wide_resnet(10, 2, 1).layers[1].shortcut.width
        32
    """
    blocks = _blocks_of(depth, 4, "wide_resnet")
    checks.count(factor, "factor", "wide_resnet")
    widths = (16, 16 * factor, 32 * factor, 64 * factor)
    return _residual(blocks, widths, n_out, activation, w_std, b_std, shortcut_first=True)


def _readout(n_out: int, hidden: Affine) -> Dense:
    """The read-out behind hidden layers, with their scales and parameterization."""
    return Dense(n_out, hidden.w_std, hidden.b_std, hidden.param, None if hidden.base_width is None else n_out)


def _convolutional(depth: int, conv: Conv, activation: Layer, end: Layer, n_out: int) -> Sequential:
    """Convolutions with activations, the layer that takes the positions away, and a read-out."""
    return Sequential(*[conv, activation] * depth, end, _readout(n_out, conv))


def _blocks_of(depth: int, others: int, owner: str) -> int:
    """Blocks in each of the three groups of a residual network: the n of a depth 6 n + others."""
    checks.count(depth, "depth", owner)
    if depth < 6 + others or (depth - others) % 6:
        smallest = ", ".join(str(6 * n + others) for n in (1, 2, 3))
        raise ValueError(f"{owner}: `depth` is {depth}; choose 6 n + {others} for some n >= 1: {smallest}, ...")
    return (depth - others) // 6


def _residual(
    blocks: int,
    widths: tuple[int, ...],
    n_out: int,
    activation: Layer,
    w_std: float,
    b_std: float | None,
    *,
    shortcut_first: bool = False,
) -> Sequential:
    conv = partial(Conv, w_std=w_std, b_std=b_std)
    layers: list[Layer] = [conv(widths[0])]
    for group, (before, width) in enumerate(pairwise(widths)):
        for block in range(blocks):
            steps = (2, 2) if group and not block else (1, 1)
            changes = not block and (before != width or shortcut_first)
            main = Sequential(activation, conv(width, strides=steps), activation, conv(width))
            shortcut = conv(width, (1, 1), steps) if changes else Identity()
            layers.append(Residual(main, shortcut))
    return Sequential(*layers, activation, GlobalAvgPool(), Dense(n_out, w_std, b_std))
