"""Common architectures in one call."""

from widescape.arch.activations import Gelu
from widescape.arch.base import Layer
from widescape.arch.dense import Dense, Parameterization
from widescape.arch.structure import Flatten, Sequential
from widescape.core import checks


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
    readout = Dense(n_out, w_std, b_std, param, None if base_width is None else n_out)
    layers = [layer for _ in range(depth) for layer in (hidden, activation)]
    return Sequential(Flatten(), *layers, readout)


def default_network(n_out: int) -> Sequential:
    """The network that is taken where none is given: three hidden layers of 512 GELU units, with biases.

    It is smooth, so that everything that needs derivatives applies to it; weights have the variance that keeps a
    signal's scale over depth (w_std = sqrt 2), biases are small (b_std = 0.1).

    Args:
        n_out: outputs.
    """
    return fc(depth=3, width=512, n_out=n_out, activation=Gelu(), w_std=2**0.5, b_std=0.1)
