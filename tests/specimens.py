"""Functions and matrices that several files of tests measure."""

import jax
import jax.numpy as jnp
import numpy as np


def bowl(w):
    return jnp.sum(w**2)


def product(w, x):
    """K = |w|^2."""
    return w[:1] * w[1:]


def linear(w, x):
    return jnp.matmul(x, w)


def quadratic(w, x):
    """F_i = w . A_i w / 2 with the matrices A as inputs (n, p, p)."""
    return jnp.matmul(jnp.matmul(x, w), w) / 2


def tanh_net(params, x):
    return jnp.matmul(jnp.tanh(jnp.matmul(x, params["w"])), params["b"])


def relu_net(params, x):
    return (jax.nn.relu(x @ params[0]) @ params[1])[:, 0]


def doubled(w, x):
    """Two halves of tanh units (2, d, m) that cancel where they are equal, over sqrt(2 m)."""
    hidden = jnp.tanh(jnp.einsum("nd,sdr->snr", x, w)).sum(axis=2)
    return (hidden[0] - hidden[1]) / (2 * w.shape[2]) ** 0.5


def symmetric(rng, n, eigenvalues=None):
    """A matrix in a random orthonormal basis, with normal eigenvalues where none are given."""
    basis = np.linalg.qr(rng.normal(size=(n, n)))[0]
    values = rng.normal(size=n) if eigenvalues is None else np.asarray(eigenvalues, float)
    return (basis * values) @ basis.T
