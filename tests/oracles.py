"""Independent numerical oracles for the tests of widescape.

Nothing here imports widescape or jax, and Gaussian expectations are integrals evaluated by piecewise
Gauss-Legendre quadrature, not closed forms, so a mistake in a closed form cannot be shared. The one exception
is `relu_angle_kernel_mp`, which uses the arc-cosine formula with 50 digits, where cancellation is harmless.

Everything is written for clarity, in float64 numpy, one pair of inputs at a time.
"""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction

import mpmath
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Array = NDArray[np.float64]
Function = Callable[[Array], Array]

# The standard normal weight outside [-12, 12] is below 1e-32.
_RADIUS = 12.0
# Nodes of the Gauss-Legendre rule on each panel.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)


def _panel_rule(edges: Array) -> tuple[Array, Array]:
    """Builds a composite Gauss-Legendre rule for the standard normal weight.

    Args:
        edges: Panel edges, shape (rows, panels + 1), ascending along the last axis; empty panels are allowed.

    Returns:
        Nodes and weights, each of shape (rows, panels * 16). The weights include the normal density.
    """
    left, right = edges[:, :-1, None], edges[:, 1:, None]
    half = (right - left) / 2
    nodes = (left + right) / 2 + half * _NODES
    weights = half * _WEIGHTS * np.exp(-(nodes**2) / 2) / math.sqrt(2 * math.pi)
    rows = edges.shape[0]
    return nodes.reshape(rows, -1), weights.reshape(rows, -1)


def _panel_edges(scale: float, breakpoints: Array) -> Array:
    """Returns panel edges on [-12, 12]: a uniform grid, merged with breakpoints.

    Args:
        scale: Standard deviation of the variable that the integrand's function sees; panels are narrow enough
            for functions that vary over unit length of that variable.
        breakpoints: Extra edges, shape (rows, count); those outside the interval are moved to its ends.

    Returns:
        Edges of shape (rows, panels + 1), ascending.
    """
    width = float(np.clip(1 / max(scale, 1e-3), 0.1, 0.5))
    grid = np.linspace(-_RADIUS, _RADIUS, math.ceil(2 * _RADIUS / width) + 1)
    rows = breakpoints.shape[0]
    inside = np.clip(breakpoints, -_RADIUS, _RADIUS)
    return np.sort(np.concatenate([np.broadcast_to(grid, (rows, grid.size)), inside], axis=1), axis=1)


def gaussian_mean(f: Function, q: float, kinks: Sequence[float] = ()) -> float:
    """Computes E[f(sqrt(q) Z)] for a standard normal Z by piecewise Gauss-Legendre quadrature.

    Args:
        f: Vectorized function, analytic between the kinks, varying over lengths of order one.
        q: Variance, zero allowed; accuracy holds up to about 100 (any q for functions that are polynomial
            between kinks at zero).
        kinks: Points where f or one of its derivatives jumps.

    Returns:
        The mean, with a relative error near 1e-14 unless the integral itself cancels.
    """
    if q < 0:
        raise ValueError(f"negative variance {q}")
    scale = math.sqrt(q)
    if scale == 0:
        return float(f(np.zeros(1))[0])
    z, weight = _panel_rule(_panel_edges(scale, np.array([[k / scale for k in kinks]])))
    return float(np.sum(weight * f(scale * z)))


def gaussian_pair_mean(
    f: Function, g: Function, q11: float, q12: float, q22: float, kinks: Sequence[float] = ()
) -> float:
    """Computes E[f(u) g(v)] for (u, v) ~ N(0, [[q11, q12], [q12, q22]]).

    Nested quadrature in whitened coordinates u = sqrt(q11) z1, v = a z1 + b z2. The inner integral over z2 is
    split exactly where v crosses a kink, the outer one where u does, and the outer panels are refined where
    the inner integral changes quickly, which is within a few b of v's kinks; so nearly coincident pairs cost
    no accuracy.

    A pair counts as exactly coincident (or opposite) when |q12| >= sqrt(q11 q22) evaluated in float64.
    Otherwise the three numbers are taken as exact. Beware that float64 covariances do not resolve angles
    below 1e-8.

    A zero variance means that the variable is 0, and then f(0) or g(0) counts; see `ACTIVATIONS` on jumps.

    Args:
        f: Vectorized function of u, analytic between the kinks, varying over lengths of order one.
        g: Vectorized function of v, the same.
        q11: Variance of u, zero allowed; variances up to about 100 are resolved.
        q12: Covariance.
        q22: Variance of v, zero allowed.
        kinks: Points where f or g or one of their derivatives jumps.

    Returns:
        The mean, with a relative error near 1e-13 unless the integral itself cancels.
    """
    unit = 2.0 ** math.frexp(max(q11, q22))[1]  # scales exactly, against underflow of the product
    bound = math.sqrt((q11 / unit) * (q22 / unit)) * unit
    if abs(q12) > bound * (1 + 1e-12):
        raise ValueError(f"not a covariance: {q11=} {q12=} {q22=}")
    if q11 == 0 or q22 == 0:
        return gaussian_mean(f, q11, kinks) * gaussian_mean(g, q22, kinks)

    scale_u, scale_v = math.sqrt(q11), math.sqrt(q22)
    determinant = Fraction(q11) * Fraction(q22) - Fraction(q12) ** 2  # exact, no cancellation
    if abs(q12) >= bound or determinant <= 0:  # v is a multiple of u
        ratio = math.copysign(scale_v / scale_u, q12)
        both_kinks = [*kinks, *(k / ratio for k in kinks)]
        if scale_v > scale_u:  # integrate over the wider variable, so that panels are narrow enough
            both_kinks = [*kinks, *(k * ratio for k in kinks)]
            return gaussian_mean(lambda v: f(v / ratio) * g(v), q22, both_kinks)
        return gaussian_mean(lambda u: f(u) * g(ratio * u), q11, both_kinks)

    a, b = q12 / scale_u, math.sqrt(determinant / Fraction(q11))

    outer_breaks = [k / scale_u for k in kinks]
    if a != 0:
        outer_breaks += [(k + b * step) / a for k in kinks for step in range(-12, 13, 2)]
    z1, weight1 = _panel_rule(_panel_edges(max(scale_u, abs(a)), np.array([outer_breaks])))
    z1, weight1 = z1[0], weight1[0]

    inner = np.empty_like(z1)  # E[g(v) | z1]
    for start in range(0, z1.size, 512):
        part = z1[start : start + 512, None]
        crossings = (np.array([kinks]) - a * part) / b if len(kinks) else np.empty((1, 0))
        z2, weight2 = _panel_rule(_panel_edges(b, crossings))
        inner[start : start + 512] = np.sum(weight2 * g(a * part + b * z2), axis=1)
    return float(np.sum(weight1 * f(scale_u * z1) * inner))


def _step(x: Array) -> Array:
    """Returns the unit step, with the midpoint 1/2 at the jump."""
    return np.heaviside(x, 0.5)


def _abrelu(a: float, b: float) -> tuple[Function, Function, tuple[float, ...]]:
    """Returns a min(x, 0) + b max(x, 0)."""
    return (
        lambda x: a * np.minimum(x, 0.0) + b * np.maximum(x, 0.0),
        lambda x: a + (b - a) * _step(x),
        (0.0,),
    )


def _rectified_power(degree: int) -> tuple[Function, Function, tuple[float, ...]]:
    """Returns max(x, 0)^degree for a degree of at least 2."""
    return (
        lambda x: np.maximum(x, 0.0) ** degree,
        lambda x: degree * np.maximum(x, 0.0) ** (degree - 1),
        (0.0,),
    )


def _erf(a: float, b: float, c: float) -> tuple[Function, Function, tuple[float, ...]]:
    """Returns a erf(b x) + c."""
    return (
        lambda x: a * special.erf(b * x) + c,
        lambda x: a * b * 2 / math.sqrt(math.pi) * np.exp(-((b * x) ** 2)),
        (),
    )


def _sin(a: float, b: float, c: float) -> tuple[Function, Function, tuple[float, ...]]:
    """Returns a sin(b x + c)."""
    return lambda x: a * np.sin(b * x + c), lambda x: a * b * np.cos(b * x + c), ()


def _rbf(gamma: float) -> tuple[Function, Function, tuple[float, ...]]:
    """Returns sqrt(2) sin(sqrt(2 gamma) x + pi/4)."""
    return _sin(math.sqrt(2), math.sqrt(2 * gamma), math.pi / 4)


def _exp(a: float, b: float) -> tuple[Function, Function, tuple[float, ...]]:
    """Returns a exp(b x)."""
    return lambda x: a * np.exp(b * x), lambda x: a * b * np.exp(b * x), ()


def _gaussian(a: float, b: float) -> tuple[Function, Function, tuple[float, ...]]:
    """Returns a exp(b x^2) for negative b."""
    return lambda x: a * np.exp(b * x**2), lambda x: 2 * a * b * x * np.exp(b * x**2), ()


def _polynomial(coefficients: Sequence[float]) -> tuple[Function, Function, tuple[float, ...]]:
    """Returns the polynomial with these coefficients, the constant first."""
    poly = np.polynomial.Polynomial(coefficients)
    return poly, poly.deriv(), ()


def _normal_cdf(x: Array) -> Array:
    """Returns P(Z <= x)."""
    return np.asarray(special.ndtr(x))


def _normal_pdf(x: Array) -> Array:
    """Returns the standard normal density."""
    return np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)


# Probabilists' Hermite polynomials He_d / sqrt(d!), written out.
_HERMITE = {
    1: [0.0, 1.0],
    2: [-1 / math.sqrt(2), 0.0, 1 / math.sqrt(2)],
    3: [0.0, -3 / math.sqrt(6), 0.0, 1 / math.sqrt(6)],
    4: [3 / math.sqrt(24), 0.0, -6 / math.sqrt(24), 0.0, 1 / math.sqrt(24)],
}

ACTIVATIONS: dict[str, tuple[Function, Function, tuple[float, ...]]] = {
    "relu": _abrelu(0.0, 1.0),
    "leaky_relu": _abrelu(0.1, 1.0),
    "abrelu": _abrelu(-0.3, 1.2),
    "abs": _abrelu(-1.0, 1.0),
    "erf": _erf(1.0, 1.0, 0.0),
    "erf_scaled": _erf(1.3, 0.7, 0.2),
    "gelu": (
        lambda x: x * _normal_cdf(x),
        lambda x: _normal_cdf(x) + x * _normal_pdf(x),
        (),
    ),
    "sin": _sin(1.0, 1.0, 0.0),
    "sin_scaled": _sin(2.0, 0.5, 0.3),
    "cos": (np.cos, lambda x: -np.sin(x), ()),
    "rbf_1": _rbf(1.0),
    "rbf_0.4": _rbf(0.4),
    "exp": _exp(1.0, 1.0),
    "exp_scaled": _exp(0.5, 0.3),
    "gaussian": _gaussian(1.0, -1.0),
    "gaussian_scaled": _gaussian(0.7, -0.4),
    "sign": (np.sign, np.zeros_like, (0.0,)),
    "step": (lambda x: np.heaviside(x, 1.0), np.zeros_like, (0.0,)),
    "relu_2": _rectified_power(2),
    "relu_3": _rectified_power(3),
    "hermite_1": _polynomial(_HERMITE[1]),
    "hermite_2": _polynomial(_HERMITE[2]),
    "hermite_3": _polynomial(_HERMITE[3]),
    "hermite_4": _polynomial(_HERMITE[4]),
    "polynomial": _polynomial([0.3, -1.0, 0.5, 0.2]),
    "tanh": (np.tanh, lambda x: 1 / np.cosh(x) ** 2, ()),
    "sigmoid": (special.expit, lambda x: special.expit(x) * special.expit(-x), ()),
    "softplus": (lambda x: np.logaddexp(0.0, x), special.expit, ()),
    "silu": (
        lambda x: x * special.expit(x),
        lambda x: special.expit(x) * (1 + x * special.expit(-x)),
        (),
    ),
}
"""Name -> (phi, derivative of phi, kinks).

`leaky_relu` has slope 0.1; `abrelu` is -0.3 min(x,0) + 1.2 max(x,0); `erf_scaled` is 1.3 erf(0.7 x) + 0.2;
`sin_scaled` is 2 sin(x/2 + 0.3); `exp_scaled` is 0.5 exp(0.3 x); `gaussian` is exp(-x^2); `gaussian_scaled`
is 0.7 exp(-0.4 x^2); `polynomial` is 0.3 - x + 0.5 x^2 + 0.2 x^3.

Where phi or its derivative jumps, the value at the jump is the midpoint. This matters only for zero variance,
where it agrees with the convention that a zero input is at a right angle to everything. Only the `step` is 1 at 0.
The derivatives of `sign` and `step` are the almost-everywhere ones, zero.
"""


def fc_kernel(
    x1: ArrayLike,
    x2: ArrayLike,
    phi: Function,
    dphi: Function,
    w_vars: Sequence[float],
    b_vars: Sequence[float | None],
    kinks: Sequence[float] = (),
    parameterization: str = "ntk",
    base_widths: Sequence[int] | None = None,
) -> tuple[Array, Array]:
    """Computes the NNGP and NTK of a fully connected net, pair by pair and layer by layer.

    The net is dense, phi, dense, phi, ..., dense: one dense layer per entry of `w_vars`, the last one the
    readout.

    Args:
        x1: Inputs, shape (n1, d).
        x2: Inputs, shape (n2, d).
        phi: Nonlinearity, the same in all hidden layers.
        dphi: Its derivative.
        w_vars: Weight variance of each dense layer, readout last.
        b_vars: Bias variance of each dense layer; None for a layer without a bias.
        kinks: Points where phi or dphi is not smooth.
        parameterization: 'ntk', or 'standard' for the improved standard parameterization.
        base_widths: For 'standard', the base output width of each hidden layer; the fan-in of the first layer
            is d.

    Returns:
        The kernels nngp and ntk of the readout, each of shape (n1, n2).
    """
    x1, x2 = np.asarray(x1, dtype=np.float64), np.asarray(x2, dtype=np.float64)
    dim = x1.shape[1]
    if len(w_vars) != len(b_vars):
        raise ValueError("one weight and one bias variance per dense layer")
    if parameterization == "ntk":
        fan_ins = None
    elif parameterization == "standard":
        if base_widths is None or len(base_widths) != len(w_vars) - 1:
            raise ValueError("standard parameterization needs the base width of each hidden layer")
        fan_ins = [dim, *base_widths]
    else:
        raise ValueError(f"unknown parameterization {parameterization!r}")

    def dense(layer: int, covariance: float) -> float:
        return w_vars[layer] * covariance + (b_vars[layer] or 0.0)

    def variances(x: Array) -> list[float]:
        """Variance of one input after each dense layer."""
        track = [dense(0, math.fsum(x * x) / dim)]
        for layer in range(1, len(w_vars)):
            q = track[-1]
            track.append(dense(layer, gaussian_pair_mean(phi, phi, q, q, q, kinks)))
        return track

    variances1, variances2 = [variances(x) for x in x1], [variances(x) for x in x2]
    nngp, ntk = np.empty((len(x1), len(x2))), np.empty((len(x1), len(x2)))
    for i in range(len(x1)):
        for j in range(len(x2)):
            k, theta = math.fsum(x1[i] * x2[j]) / dim, 0.0
            for layer in range(len(w_vars)):
                if layer > 0:
                    q11, q22 = variances1[i][layer - 1], variances2[j][layer - 1]
                    theta *= gaussian_pair_mean(dphi, dphi, q11, k, q22, kinks)
                    k = gaussian_pair_mean(phi, phi, q11, k, q22, kinks)
                if fan_ins is None:
                    theta = dense(layer, k) + w_vars[layer] * theta
                else:
                    has_bias = 0.0 if b_vars[layer] is None else 1.0
                    theta = fan_ins[layer] * k + w_vars[layer] * theta + has_bias
                k = dense(layer, k)
            nngp[i, j], ntk[i, j] = k, theta
    return nngp, ntk


def relu_angle_kernel_mp(
    x1: Sequence[float],
    x2: Sequence[float],
    w_vars: Sequence[float],
    b_vars: Sequence[float | None],
    digits: int = 50,
) -> tuple[float, float]:
    """Computes NNGP and NTK of a fully connected ReLU net for one pair of inputs with many digits.

    NTK parameterization, layers as in `fc_kernel`. The inputs are taken as exact numbers, so this is the
    reference for near-duplicate inputs, whose angle float64 covariances cannot resolve.

    Args:
        x1: One input, a sequence of d floats (or of mpmath numbers, which may hold more digits).
        x2: Another.
        w_vars: Weight variance of each dense layer, readout last.
        b_vars: Bias variance of each dense layer; None for a layer without a bias.
        digits: Decimal digits of the arithmetic.

    Returns:
        The scalars nngp and ntk, rounded to float64.
    """
    with mpmath.workdps(digits):
        first, second = [mpmath.mpf(value) for value in x1], [mpmath.mpf(value) for value in x2]
        dim = len(first)
        q11, q12, q22 = (
            sum(p * q for p, q in zip(left, right, strict=True)) / dim
            for left, right in ((first, first), (first, second), (second, second))
        )
        theta = mpmath.mpf(0)
        scales = [(mpmath.mpf(w), mpmath.mpf(b or 0)) for w, b in zip(w_vars, b_vars, strict=True)]
        for layer, (w_var, b_var) in enumerate(scales):
            if layer > 0:
                norm = mpmath.sqrt(q11 * q22)
                determinant = max(q11 * q22 - q12**2, mpmath.mpf(0))
                sine_part = mpmath.sqrt(determinant)  # norm * sin(angle)
                angle = mpmath.pi / 2 if norm == 0 else mpmath.atan2(sine_part, q12)
                theta *= (mpmath.pi - angle) / (2 * mpmath.pi)
                q12 = (sine_part + (mpmath.pi - angle) * q12) / (2 * mpmath.pi)
                q11, q22 = q11 / 2, q22 / 2
            theta = w_var * q12 + b_var + w_var * theta
            q11, q12, q22 = w_var * q11 + b_var, w_var * q12 + b_var, w_var * q22 + b_var
        return float(q12), float(theta)
