"""The start of a limit over vectors: moments of all pairs of examples, and their complements from differences."""

import jax
import jax.numpy as jnp
import numpy as np

from widescape.arch.covariance import InputBlock
from widescape.core.errors import NonFiniteError
from widescape.duals.angle import safe_sqrt

NEAR = {"float64": 1e-3, "float32": 1e-2}
"""1 - |cosine| below which it is found from the difference of the normalized examples, not from their product."""
_CHUNK = 2**20  # entries of the differences formed at once


def variances(x: np.ndarray) -> np.ndarray:
    """|x_i|^2 / d of flattened rows, (n,); summed row by row, so equal rows get equal results.

    Raises:
        NonFiniteError: a product of variances would overflow.
    """
    rows = x.reshape(len(x), -1)
    step = max(1, _CHUNK // rows.shape[1])
    with np.errstate(over="ignore"):
        parts = [np.square(rows[i : i + step]).sum(axis=1) for i in range(0, len(rows), step)]
    var = np.concatenate(parts) / rows.shape[1]
    if var.max() > np.finfo(rows.dtype).max ** 0.5 / 1e3:
        raise NonFiniteError(f"inputs are so large that products of variances overflow in {rows.dtype}; scale them.")
    return var


def input_block(x1: np.ndarray, x2: np.ndarray | None, var1: np.ndarray, var2: np.ndarray) -> InputBlock:
    """<x, x'>/d of all pairs and its complement, by one matrix product of normalized examples.

    For nearly parallel or antiparallel pairs the cosine is found from the difference or the sum of the two, so the
    complement has full accuracy where it is small. With `x2` None the block is symmetric and its diagonal exact.
    """
    unit1 = _normalized(x1, var1)
    unit2 = unit1 if x2 is None else _normalized(x2, var2)
    cosine = unit1 @ unit2.T
    complement = 1 - np.abs(cosine)
    left, right = np.nonzero(complement < NEAR[str(cosine.dtype)])
    step = max(1, _CHUNK // unit1.shape[1])
    for start in range(0, len(left), step):
        i, j = left[start : start + step], right[start : start + step]
        sign = np.sign(cosine[i, j])
        difference = unit1[i] - sign[:, None] * unit2[j]
        complement[i, j] = np.square(difference, out=difference).sum(axis=1) / 2
        cosine[i, j] = sign * (1 - complement[i, j])
    product = np.sqrt(var1)[:, None] * np.sqrt(var2)[None, :]
    cosine *= product
    complement *= product
    if x2 is None:
        np.fill_diagonal(cosine, var1)
        np.fill_diagonal(complement, 0)
    return InputBlock(cosine, complement, var1, var2)


def _normalized(x: np.ndarray, var: np.ndarray) -> np.ndarray:
    """Flattened rows divided by their norms; zero rows stay zero."""
    rows = x.reshape(len(x), -1)
    norm = np.sqrt(var * rows.shape[1])
    return rows / np.where(norm > 0, norm, 1)[:, None]


@jax.jit
def traced_input_block(x1: jax.Array, x2: jax.Array | None) -> InputBlock:
    """The same moments as JAX operations, always from differences; differentiable in x1 and x2."""
    rows1 = x1.reshape(x1.shape[0], -1)
    rows2 = rows1 if x2 is None else x2.reshape(x2.shape[0], -1)
    features = rows1.shape[1]
    var1, var2 = (jnp.sum(rows**2, axis=1) / features for rows in (rows1, rows2))
    unit1, unit2 = (_traced_unit(rows, var) for rows, var in ((rows1, var1), (rows2, var2)))
    nngp = jnp.matmul(rows1, rows2.T, precision="highest") / features

    def complement(example: tuple[jax.Array, jax.Array]) -> jax.Array:
        unit, covariance = example
        sign = jnp.where(covariance < 0, -1.0, 1.0)
        return jnp.sum((unit[None] - sign[:, None] * unit2) ** 2, axis=1) / 2

    product = safe_sqrt(var1)[:, None] * safe_sqrt(var2)[None, :]
    return InputBlock(nngp, product * jax.lax.map(complement, (unit1, nngp)), var1, var2)


def _traced_unit(rows: jax.Array, var: jax.Array) -> jax.Array:
    norm = safe_sqrt(var * rows.shape[1])
    return rows / jnp.where(norm > 0, norm, 1)[:, None]
