"""Chains of layers in plain NumPy, and random networks with annexes, for the tests of constructed paths.

The forward passes here are written from the definition, one example and one output position at a time for
convolutions, and share nothing with the library.
"""

import itertools
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from widescape.paths.condition import ConditionReport
from widescape.paths.layered import ChainLayer, Layered

# name: the activation for the library, and the same function in NumPy
ACTIVATIONS: dict[str, tuple[Any, Any]] = {
    "relu": (jax.nn.relu, lambda z: np.maximum(z, 0)),
    "tanh": (jnp.tanh, np.tanh),
    "gelu": (
        lambda z: jax.nn.gelu(z, approximate=False),
        lambda z: z * (1 + special.erf(z / np.sqrt(2))) / 2,
    ),
    "sin": (jnp.sin, np.sin),
    "cubic": (lambda z: z**3 - z, lambda z: z**3 - z),
}


@dataclass(frozen=True)
class Plain:
    """A chain in NumPy: activations of the hidden layers, and for each layer what it does beside its weights."""

    activations: tuple[Any, ...]
    convolutions: dict[int, tuple[tuple[int, int], str]] = field(default_factory=dict)  # index: strides, padding
    after: dict[int, Any] = field(default_factory=dict)

    def features(self, layers, x, start=0, stop=None):
        """F_stop where `x` is F_start, in float64."""
        h = np.asarray(x, np.float64)
        for i in range(start, len(self.activations) + 1 if stop is None else stop):
            w, b = layers[i]
            w = np.asarray(w, np.float64)
            if i in self.convolutions:
                z = convolved(h, w, *self.convolutions[i])
            else:
                z = np.einsum("ni,io->no", h.reshape(len(h), -1), w)
            if b is not None:
                z = z + np.asarray(b, np.float64)
            if i < len(self.activations):
                z = self.activations[i](z)
            h = self.after[i](z) if i in self.after else z
        return h

    def tail(self, start):
        """The chain of the layers behind F_start."""
        return Plain(
            self.activations[start:],
            {i - start: c for i, c in self.convolutions.items() if i >= start},
            {i - start: f for i, f in self.after.items() if i >= start},
        )


def convolved(h, w, strides, padding):
    """A convolution of images (n, rows, columns, channels) as a loop over output positions."""
    before, shape = [(0, 0)], []
    for size, k, s in zip(h.shape[1:3], w.shape[:2], strides, strict=True):
        out = -(-size // s) if padding == "SAME" else (size - k) // s + 1
        total = max((out - 1) * s + k - size, 0) if padding == "SAME" else 0
        before.append((total // 2, total - total // 2))
        shape.append(out)
    padded = np.pad(h, [*before, (0, 0)])
    z = np.zeros((len(h), *shape, w.shape[-1]))
    for i in range(shape[0]):
        for j in range(shape[1]):
            patch = padded[
                :, i * strides[0] : i * strides[0] + w.shape[0], j * strides[1] : j * strides[1] + w.shape[1]
            ]
            z[:, i, j] = np.einsum("nabi,abio->no", patch, w)
    return z


def half_squares(outputs, y):
    """The mean over examples of half the squared distance."""
    return float(np.mean(np.sum((outputs - y) ** 2, axis=1)) / 2)


def cross_entropy(outputs, y):
    """The mean negative logarithm of the probability of the label."""
    return float(np.mean(special.logsumexp(outputs, axis=1) - outputs[np.arange(len(y)), y]))


def error(outputs, y):
    """The share of labels that do not have the greatest output."""
    return float(np.mean(outputs.argmax(axis=1) != y))


def random_layers(rng, widths, *, bias=True, dtype=np.float64, scale=1.0):
    """Random weights with a spread of scale / sqrt(fan-in)."""
    return [
        (
            (scale * rng.normal(size=(n, m)) / n**0.5).astype(dtype),
            rng.normal(size=m).astype(dtype) / 2 if bias else None,
        )
        for n, m in itertools.pairwise(widths)
    ]


def random_chain(rng, widths, *, activation="tanh", bias=True, dtype=np.float64, scale=1.0):
    """A fully connected chain and the same in NumPy."""
    phi, plain = ACTIVATIONS[activation]
    net = Layered(random_layers(rng, widths, bias=bias, dtype=dtype, scale=scale), phi)
    return net, Plain((plain,) * (len(widths) - 2))


def random_sizes(rng, hidden, share=0.5):
    """Annex widths of at most a share of each layer, and subsets that leave room for them."""
    widths = tuple(int(rng.integers(1, max(1, int(share * n)) + 1)) for n in hidden)
    subsets = tuple(rng.permutation(n)[: int(rng.integers(1, n - m + 1))] for n, m in zip(hidden, widths, strict=True))
    return widths, subsets


def random_annexes(rng, net, widths, subsets, *, scale=1.0):
    """Untrained annexes of given hidden widths, one for each layer, shaped like the layers of the network."""
    annexes = []
    for start in range(net.num_layers):
        reads = net.widths[0] if start == 0 else len(subsets[start - 1])
        units = [reads, *widths[start:], net.widths[-1]]
        pairs = []
        for i, (w, b) in enumerate(net.layers[start:]):
            inside, out = units[i], units[i + 1]
            block = w.shape[-2] // net.widths[start + i]
            shape = (*w.shape[:-2], block * inside, out)
            fan = np.prod(shape[:-1])
            pairs.append(
                (
                    (scale * rng.normal(size=shape) / fan**0.5).astype(w.dtype),
                    None if b is None else rng.normal(size=out).astype(b.dtype) / 2,
                )
            )
        annexes.append(tuple(pairs))
    return tuple(annexes)


def outputs_of_annexes(net, plain, subsets, annexes, x):
    """What each annex puts out on the features that it reads."""
    found = []
    for start, pairs in enumerate(annexes):
        h = plain.features(net.layers, x, 0, start)
        chosen = h if start == 0 else h[..., subsets[start - 1]]
        found.append(plain.tail(start).features(pairs, chosen))
    return found


def report_of(net, plain, subsets, annexes, x, y, loss=half_squares):
    """The report on given annexes, with losses of the NumPy forward pass."""
    losses = np.array([loss(z, y) for z in outputs_of_annexes(net, plain, subsets, annexes, x)])
    own = loss(plain.features(net.layers, x), y)
    return ConditionReport(
        subsets=tuple(subsets),
        widths=tuple(int(w.shape[-1]) for w, _ in annexes[0][:-1]),
        annexes=annexes,
        losses=losses,
        errors=None,
        net_loss=own,
        net_error=None,
        bound=max(own, float(losses.max())),
        draw_losses=tuple(losses[:, None]),
        draw_errors=None,
    )


def random_end(rng, net, plain, x, y, share=0.5):
    """The report on random annexes of random sizes."""
    widths, subsets = random_sizes(rng, net.widths[1:-1], share)
    return report_of(net, plain, subsets, random_annexes(rng, net, widths, subsets), x, y)


def images(rng, *, dtype=np.float64, activation="relu", bias=True):
    """Two convolutions, the second with strides and pooling behind it, a flatten, and two fully connected layers."""
    phi, plain = ACTIVATIONS[activation]
    shapes = [(3, 3, 2, 6), (2, 3, 6, 5), (4 * 5, 7), (7, 3)]
    layers = [
        (
            (rng.normal(size=s) / np.prod(s[:-1]) ** 0.5).astype(dtype),
            rng.normal(size=s[-1]).astype(dtype) / 2 if bias else None,
        )
        for s in shapes
    ]
    how = {
        0: ChainLayer(padding="SAME"),
        1: ChainLayer(strides=(1, 2), padding="VALID", after=pooled),
        2: ChainLayer(block=4),
    }
    net = Layered(layers, phi, how)
    numpy_chain = Plain((plain,) * 3, {0: ((1, 1), "SAME"), 1: ((1, 2), "VALID")}, {1: plain_pooled})
    return net, numpy_chain


def pooled(h):
    """The mean over 2 x 2 positions of each channel."""
    n, rows, columns, channels = h.shape
    return h.reshape(n, rows // 2, 2, columns // 2, 2, channels).mean(axis=(2, 4))


def plain_pooled(h):
    """The same by slices."""
    return (h[:, ::2, ::2] + h[:, 1::2, ::2] + h[:, ::2, 1::2] + h[:, 1::2, 1::2]) / 4


IMAGE_SHAPE = (5, 9, 2)  # 5 x 9 stays under SAME; (2, 3) VALID with strides (1, 2) makes 4 x 4; pooling 2 x 2
