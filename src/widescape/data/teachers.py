"""Synthetic data from functions that are known."""

from collections.abc import Callable
from typing import Literal

import numpy as np

from widescape.core import checks
from widescape.data.dataset import Dataset
from widescape.data.harmonics import zonal_harmonic

Link = Literal["relu", "tanh", "sin", "square", "hermite3"]
Inputs = Literal["gaussian", "sphere", "cube"]

LINKS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "relu": lambda u: np.maximum(u, 0.0),
    "tanh": np.tanh,
    "sin": np.sin,
    "square": np.square,
    "hermite3": lambda u: (u**3 - 3 * u) / 6**0.5,
}
_N_TRAIN, _N_TEST = 1000, 1000


def single_index(
    n_train: int = _N_TRAIN,
    n_test: int = _N_TEST,
    dim: int = 20,
    *,
    link: Link = "hermite3",
    noise: float = 0.0,
    seed: int = 0,
) -> Dataset:
    """Numbers y = g(beta . x) + noise for one hidden unit direction beta and standard normal x.

    Args:
        n_train: training examples.
        n_test: test examples.
        dim: dimension d of the inputs.
        link: the function g; ``"hermite3"`` is (u^3 - 3 u)/sqrt(6), orthogonal to all of lower degree.
        noise: standard deviation of Gaussian noise on the training and test targets.
        seed: of everything.

    Example:
        >>> single_index(5, 3, 4).x_train.shape
        (5, 4)
    """
    checks.choice(link, "link", Link)
    rng = _generator(seed, "single_index", n_train, n_test, dim)
    beta = directions(rng, 1, dim)
    x = rng.standard_normal((n_train + n_test, dim))
    y = LINKS[link](x @ beta[:, 0])
    return _regression("single_index", x, _noisy(rng, y, noise), n_train, f"g = {link} of one direction of {dim}")


def low_rank_polynomial(
    n_train: int = _N_TRAIN,
    n_test: int = _N_TEST,
    dim: int = 16,
    *,
    degree: int = 2,
    rank: int = 2,
    inputs: Inputs = "gaussian",
    noise: float = 0.0,
    seed: int = 0,
) -> Dataset:
    """Numbers y = sum over s of a_s (beta_s . x)^degree / c, for few orthonormal directions beta_s and signs a_s.

    The constant c makes each term one of unit second moment for standard normal inputs: c^2 = (2 degree - 1)!!.

    Args:
        n_train: training examples.
        n_test: test examples.
        dim: dimension d of the inputs.
        degree: of the polynomial.
        rank: number of directions, at most `dim`.
        inputs: standard normal, uniform on the sphere of radius sqrt(d), or uniform signs.
        noise: standard deviation of Gaussian noise on the targets.
        seed: of everything.

    Raises:
        ValueError: `rank` exceeds `dim`.

    Source: the target class of chen2020hierarchical.
    """
    rng = _generator(seed, "low_rank_polynomial", n_train, n_test, dim)
    checks.count(degree, "degree", "low_rank_polynomial")
    checks.count(rank, "rank", "low_rank_polynomial")
    if rank > dim:
        raise ValueError(f"`rank` is {rank}, but there are {dim} dimensions; choose 1 <= rank <= {dim}.")
    beta = directions(rng, rank, dim)
    signs = rng.choice([-1.0, 1.0], rank)
    x = draw_inputs(rng, n_train + n_test, dim, inputs)
    y = ((x @ beta) ** degree / double_factorial(2 * degree - 1) ** 0.5) @ signs
    what = f"degree {degree}, rank {rank} of {dim}, {inputs} inputs"
    return _regression("low_rank_polynomial", x, _noisy(rng, y, noise), n_train, what)


def sparse_parity(
    n_train: int = _N_TRAIN,
    n_test: int = _N_TEST,
    dim: int = 12,
    *,
    sparsity: int = 3,
    flip: float = 0.0,
    seed: int = 0,
) -> Dataset:
    """Labels 1 where the product of a few coordinates of a vector of random signs is positive, else 0.

    Args:
        n_train: training examples.
        n_test: test examples.
        dim: dimension d of the inputs.
        sparsity: number of coordinates in the product, drawn at random.
        flip: probability with which a label is exchanged.
        seed: of everything.

    Raises:
        ValueError: `sparsity` exceeds `dim`, or `flip` is no probability.
    """
    rng = _generator(seed, "sparse_parity", n_train, n_test, dim)
    checks.count(sparsity, "sparsity", "sparse_parity")
    if sparsity > dim:
        raise ValueError(f"`sparsity` is {sparsity}, but there are {dim} dimensions; choose 1 <= sparsity <= {dim}.")
    if not 0 <= checks.number(flip, "flip", "sparse_parity") <= 1:
        raise ValueError(f"`flip` is {flip}; it is a probability, in [0, 1].")
    chosen = np.sort(rng.permutation(dim)[:sparsity])
    x = rng.choice([-1.0, 1.0], (n_train + n_test, dim))
    labels = (x[:, chosen].prod(axis=1) > 0) ^ (rng.random(len(x)) < flip)
    what = f"the product of coordinates {', '.join(map(str, chosen))} of {dim}"
    return _classes("sparse_parity", x, labels.astype(np.int64), n_train, what, ("odd", "even"))


def spherical_harmonic(
    n_train: int = _N_TRAIN,
    n_test: int = _N_TEST,
    dim: int = 10,
    *,
    degree: int = 3,
    noise: float = 0.0,
    seed: int = 0,
) -> Dataset:
    """Numbers y = P(beta . x) of unit second moment, with the zonal harmonic P and x uniform on the sphere.

    P is the polynomial of the given degree in t = beta . x that is orthogonal to all of lower degree on the
    sphere of radius sqrt(d), a multiple of the Gegenbauer polynomial of index d/2 - 1.

    Args:
        n_train: training examples.
        n_test: test examples.
        dim: dimension d of the inputs, at least 3.
        degree: of the harmonic.
        noise: standard deviation of Gaussian noise on the targets.
        seed: of everything.

    Source: the lower-bound targets of chen2020hierarchical.
    """
    rng = _generator(seed, "spherical_harmonic", n_train, n_test, dim)
    checks.count(dim, "dim", "spherical_harmonic", minimum=3)
    checks.count(degree, "degree", "spherical_harmonic")
    beta = directions(rng, 1, dim)
    x = draw_inputs(rng, n_train + n_test, dim, "sphere")
    y = zonal_harmonic(x @ beta[:, 0] / dim**0.5, dim, degree)
    return _regression("spherical_harmonic", x, _noisy(rng, y, noise), n_train, f"degree {degree} in {dim} dimensions")


def spirals(
    n_train: int = _N_TRAIN,
    n_test: int = _N_TEST,
    *,
    turns: float = 1.5,
    noise: float = 0.05,
    num_classes: int = 2,
    seed: int = 0,
) -> Dataset:
    """Points on spirals that wind around each other in the plane, one spiral a class.

    A point at a share s of its spiral's length parameter lies at radius s and angle 2 pi (turns s + class/classes),
    plus Gaussian noise.

    Args:
        n_train: training examples.
        n_test: test examples.
        turns: full turns of each spiral.
        noise: standard deviation of the noise on both coordinates.
        num_classes: how many spirals.
        seed: of everything.
    """
    rng = _generator(seed, "spirals", n_train, n_test, 2)
    checks.count(num_classes, "num_classes", "spirals", minimum=2)
    checks.positive(checks.number(turns, "turns", "spirals"), "turns", "spirals")
    checks.not_negative(checks.number(noise, "noise", "spirals"), "noise", "spirals")
    labels = rng.integers(0, num_classes, n_train + n_test)
    share = rng.random(len(labels)) ** 0.5
    angle = 2 * np.pi * (turns * share + labels / num_classes)
    x = share[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1) + noise * rng.standard_normal((len(share), 2))
    names = tuple(f"spiral {i}" for i in range(num_classes))
    return _classes("spirals", x, labels, n_train, f"{num_classes} spirals of {turns:g} turns, noise {noise:g}", names)


def _generator(seed: int, owner: str, n_train: int, n_test: int, dim: int) -> np.random.Generator:
    checks.count(seed, "seed", owner, minimum=0)
    checks.count(n_train, "n_train", owner)
    checks.count(n_test, "n_test", owner)
    checks.count(dim, "dim", owner)
    return np.random.default_rng(seed)


def directions(rng: np.random.Generator, count: int, dim: int) -> np.ndarray:
    """Random orthonormal columns (dim, count); the lines that they span are uniform, their signs are not."""
    return np.linalg.qr(rng.standard_normal((dim, count)))[0]


def double_factorial(n: int) -> float:
    """The product n (n - 2) ... 1 for odd n, the moment E[z^(n + 1)] of a standard normal z; 1 for n = -1."""
    return float(np.prod(np.arange(1, n + 1, 2, dtype=np.float64)))


def draw_inputs(rng: np.random.Generator, n: int, dim: int, kind: Inputs) -> np.ndarray:
    """Standard normal rows (n, dim), uniform ones on the sphere of radius sqrt(dim), or uniform signs."""
    checks.choice(kind, "inputs", Inputs)
    if kind == "cube":
        return rng.choice([-1.0, 1.0], (n, dim))
    x = rng.standard_normal((n, dim))
    return x if kind == "gaussian" else x * (dim**0.5 / np.linalg.norm(x, axis=1, keepdims=True))


def _noisy(rng: np.random.Generator, y: np.ndarray, noise: float) -> np.ndarray:
    checks.not_negative(checks.number(noise, "noise", "teacher"), "noise", "teacher")
    return y + noise * rng.standard_normal(y.shape)


def _regression(name: str, x: np.ndarray, y: np.ndarray, cut: int, what: str) -> Dataset:
    return Dataset(name, x[:cut], y[:cut], x[cut:], y[cut:], None, f"synthetic: {what}")


def _classes(name: str, x: np.ndarray, y: np.ndarray, cut: int, what: str, names: tuple[str, ...]) -> Dataset:
    return Dataset(name, x[:cut], y[:cut], x[cut:], y[cut:], len(names), f"synthetic: {what}", names)
