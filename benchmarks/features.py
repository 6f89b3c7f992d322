"""Representations and Taylor models beside what a script would do: time, memory, and how far the answers are apart.

    python benchmarks/features.py [--part NAME]

Each row is a process of its own on one thread, so that its peak memory is its own: what it holds at most beyond what it
held when the row began, with its inputs made and its libraries loaded. Rows of a block compute the same; they are held
against the first of their block, or against what the block says. "First" includes compiling.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

Run = Callable[[], np.ndarray]
REPEATS = 3


def rows(n: int, d: int, seed: int = 0) -> np.ndarray:
    """Inputs uniform on the sphere of radius sqrt(d)."""
    x = np.random.default_rng(seed).normal(size=(n, d))
    return x * (d**0.5 / np.linalg.norm(x, axis=1, keepdims=True))


# Representations: what comes back is how far the second moments of the whitened features are from the identity.


def representation(n_features: int) -> Run:
    """A random ReLU layer, whitened."""
    from widescape.features import neural_representation

    x = rows(20 * n_features, 16)

    def run() -> np.ndarray:
        return _off(neural_representation(x, n_features, activation="relu", rank_tol=0.0, whiten="pca")(x))

    return run


def peer_representation(n_features: int) -> Run:
    """A ReLU layer of NumPy and scikit-learn's PCA, which centers."""
    from sklearn.decomposition import PCA

    x, r = rows(20 * n_features, 16), np.random.default_rng(1)
    v, b = r.normal(size=(n_features, 16)) / 4, r.normal(size=n_features)

    def run() -> np.ndarray:
        h = np.maximum(x @ v.T + b, 0)
        return _off(PCA(whiten=True).fit(h).transform(h) * (len(h) / (len(h) - 1)) ** 0.5)  # it divides by n - 1

    return run


def random_map(n_features: int) -> Run:
    """A random layer alone."""
    from widescape.features import random_features

    x = rows(20 * n_features, 16)
    layer = random_features(16, n_features, activation="relu")
    return lambda: layer(x)[:1]


def peer_map(n_features: int) -> Run:
    """scikit-learn's random Fourier features: cosines in place of ReLUs."""
    from sklearn.kernel_approximation import RBFSampler

    x = rows(20 * n_features, 16)
    layer = RBFSampler(n_components=n_features, random_state=0).fit(x)
    return lambda: layer.transform(x)[:1]


def _off(h: np.ndarray) -> np.ndarray:
    """The distance from the identity, where there is any variance, and the number of such directions."""
    second = h.T @ h / len(h)
    kept = np.diag(second) > 0.5
    return np.array([np.abs(second[kept][:, kept] - np.eye(kept.sum())).max(), kept.sum()])


# The linear Taylor model: predictions at 100 inputs.


def linear(n: int, m: int, k: int, solver: str) -> Run:
    from widescape.features import fit_linear_taylor, linear_taylor_outputs, taylor_weights

    r = np.random.default_rng(0)
    h, new = r.normal(size=(n, k)), r.normal(size=(100, k))
    y = h[:, 0] * h[:, 1] + h[:, 2]
    w0, a = taylor_weights(m, k)

    def run() -> np.ndarray:
        fit = fit_linear_taylor(h, y, w0, a, reg=1e-2, solver=solver, tol=1e-10)  # type: ignore[arg-type]
        return linear_taylor_outputs(new, w0, a, fit.W)

    return run


def peer_linear(n: int, m: int, k: int) -> Run:
    """The features written out, and scikit-learn's ridge regression."""
    from sklearn.linear_model import Ridge

    from widescape.features import taylor_weights

    r = np.random.default_rng(0)
    h, new = r.normal(size=(n, k)), r.normal(size=(100, k))
    y = h[:, 0] * h[:, 1] + h[:, 2]
    w0, a = taylor_weights(m, k)

    def features(h: np.ndarray) -> np.ndarray:
        slopes = (h @ w0.T > 0) * (a / (m * k) ** 0.5)
        return (slopes[:, :, None] * h[:, None, :]).reshape(len(h), m * k)

    def run() -> np.ndarray:
        z = features(h)
        ridge = Ridge(alpha=1e-2 * float((z**2).sum(axis=1).mean()), fit_intercept=False).fit(z, y)
        return np.asarray(ridge.predict(features(new)))

    return run


# The quadratic Taylor model: objectives after 150 iterations, and of the convex solver.


def _quadratic(n: int, m: int, k: int) -> tuple[np.ndarray, ...]:
    from widescape.features import taylor_weights

    r = np.random.default_rng(0)
    h = r.normal(size=(n, k))
    y = h[:, 0] * h[:, 1] - h[:, 2] ** 2 / 2 + 0.1 * r.normal(size=n)
    return h, y, *taylor_weights(m, k)


def quadratic(n: int, m: int, k: int, dtype: str, solver: str = "lbfgs") -> Run:
    from widescape.features import fit_quadratic_taylor

    h, y, w0, a = _quadratic(n, m, k)

    def run() -> np.ndarray:
        fit = fit_quadratic_taylor(
            h, y, w0, a, lam=1e-2, activation="square", solver=solver, max_iter=150, tol=1e-6,  # type: ignore[arg-type]
            dtype=dtype, progress=False,  # type: ignore[arg-type]
        )  # fmt: skip
        return np.array([fit.objective])

    return run


def peer_quadratic(n: int, m: int, k: int) -> Run:
    """Value and gradient in NumPy, float64, under the same L-BFGS."""
    from scipy.optimize import minimize

    from widescape.features.quadratic_fit import start_of

    h, y, _, a = _quadratic(n, m, k)
    gates, start = a / (2 * m**0.5), start_of((m, k), None, 0.3, 0)

    def value(flat: np.ndarray) -> tuple[float, np.ndarray]:
        w = flat.reshape(m, k)
        moved = h @ w.T
        off = moved**2 @ gates - y
        squares = (w**2).sum(axis=1)
        gradient = 4 / n * (off[:, None] * gates * moved).T @ h + 4e-2 * squares[:, None] * w
        return float(off @ off / n + 1e-2 * (squares**2).sum()), gradient.ravel()

    def run() -> np.ndarray:
        options = {"maxcor": 8, "maxiter": 150, "maxfun": 15_000, "ftol": 0.0, "gtol": 0.0}
        done = minimize(value, start.ravel(), jac=True, method="L-BFGS-B", options=options)
        return np.array([done.fun])

    return run


def convex(n: int, k: int, tol: float) -> Run:
    from widescape.features import solve_convex_quadratic

    h, y, _, _ = _quadratic(n, 2, k)

    def run() -> np.ndarray:
        return np.array([solve_convex_quadratic(h, y, lam=1e-2, tol=tol, progress=False).objective])

    return run


# Similarity of two layers.


def _layers(n: int, p: int) -> tuple[np.ndarray, np.ndarray]:
    r = np.random.default_rng(0)
    shared = r.normal(size=(n, 64))
    return tuple(np.maximum(shared @ r.normal(size=(64, p)) + r.normal(size=(n, p)), 0) for _ in range(2))  # type: ignore[return-value]


def similarity(n: int, p: int, metric: str) -> Run:
    from widescape import features

    x, y = _layers(n, p)
    return lambda: np.array([float(features.similarity(x, y, metric))])  # type: ignore[arg-type]


def peer_cka(n: int, p: int) -> Run:
    """By the Gram matrices of the definition."""
    x, y = _layers(n, p)

    def run() -> np.ndarray:
        first, second = (own - own.mean(axis=0) for own in (x, y))
        k, m = first @ first.T, second @ second.T
        return np.array([(k * m).sum() / (np.linalg.norm(k) * np.linalg.norm(m))])

    return run


def peer_cca(n: int, p: int) -> Run:
    """Bases by singular value decompositions of the layers, and the mean correlation."""
    x, y = _layers(n, p)

    def run() -> np.ndarray:
        bases = [np.linalg.svd(own - own.mean(axis=0), full_matrices=False)[0] for own in (x, y)]
        return np.array([(np.linalg.svd(bases[0].T @ bases[1], compute_uv=False)).mean()])

    return run


BLOCKS: dict[str, dict[str, Callable[[], Run]]] = {
    "whitened ReLU features, n0 = 3,840, D = 192": {
        "neural_representation": lambda: representation(192),
        "NumPy and PCA(whiten=True)": lambda: peer_representation(192),
    },
    "whitened ReLU features, n0 = 20,480, D = 1,024": {
        "neural_representation": lambda: representation(1024),
        "NumPy and PCA(whiten=True)": lambda: peer_representation(1024),
    },
    "random features alone, 20,480 by 1,024": {
        "random_features": lambda: random_map(1024),
        "RBFSampler": lambda: peer_map(1024),
    },
    "linear Taylor model, n = 1,000, m k = 3,200": {
        "dual": lambda: linear(1000, 100, 32, "dual"),
        "primal": lambda: linear(1000, 100, 32, "primal"),
        "conjugate gradients": lambda: linear(1000, 100, 32, "cg"),
        "features and Ridge": lambda: peer_linear(1000, 100, 32),
    },
    "linear Taylor model, n = 2,000, m k = 152,000": {
        "dual": lambda: linear(2000, 1000, 152, "dual"),
        "conjugate gradients": lambda: linear(2000, 1000, 152, "cg"),
    },
    "linear Taylor model, n = 20,000, m k = 1,024": {
        "primal": lambda: linear(20_000, 32, 32, "primal"),
        "conjugate gradients": lambda: linear(20_000, 32, 32, "cg"),
        "features and Ridge": lambda: peer_linear(20_000, 32, 32),
    },
    "quadratic Taylor model, n = 2,000, m = 16, k = 152": {
        "L-BFGS, float64": lambda: quadratic(2000, 16, 152, "float64"),
        "L-BFGS, float32": lambda: quadratic(2000, 16, 152, "float32"),
        "NumPy prototype, float64": lambda: peer_quadratic(2000, 16, 152),
        "Adam, 150 epochs": lambda: quadratic(2000, 16, 152, "float32", "adam"),
        "convex, gap 1e-3": lambda: convex(2000, 152, 1e-3),
        "convex, gap 1e-6": lambda: convex(2000, 152, 1e-6),
    },
    "linear CKA of 5,000 by 512": {
        "cka": lambda: similarity(5000, 512, "cka"),
        "Gram matrices": lambda: peer_cka(5000, 512),
    },
    "mean CCA correlation of 5,000 by 512": {
        "cca": lambda: similarity(5000, 512, "cca"),
        "singular value decompositions": lambda: peer_cca(5000, 512),
    },
}


def measure(block: str, name: str) -> dict[str, Any]:
    """Times, memory and numbers of one row."""
    run = BLOCKS[block][name]()
    import jax
    import sklearn  # noqa: F401  what every row needs is not its own

    jax.devices()
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        numbers = run()
        times.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"first": times[0], "warm": min(times[1:]), "memory": (peak - held) / 2**10, "numbers": numbers.tolist()}


def alone(block: str, name: str) -> dict[str, Any]:
    """A row in a process of its own, on one thread."""
    command = [sys.executable, __file__, "--block", block, "--row", name]
    threads = {"OPENBLAS_NUM_THREADS": "1", "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=1800, env={**os.environ, **threads}
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def apart(block: str, numbers: np.ndarray, first: np.ndarray) -> str:
    """The accuracy of a row in the words of its block."""
    if block.startswith("whitened"):
        return f"{numbers[0]:.0e} from the identity, {numbers[1]:.0f} directions"
    if block.startswith("random features"):
        return ""
    if block.startswith("quadratic"):
        return f"objective {numbers[0]:.7f}"
    return f"{np.abs(numbers - first).max() / np.abs(first).max():.0e}" if numbers is not first else ""


def main() -> None:
    """All blocks as tables, one of them, or one row as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", help="only blocks whose name holds this")
    parser.add_argument("--block", choices=tuple(BLOCKS), help=argparse.SUPPRESS)
    parser.add_argument("--row", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row is not None:
        print(json.dumps(measure(options.block, options.row)))
        return
    for block, entries in BLOCKS.items():
        if options.part is not None and options.part not in block:
            continue
        print(f"\n| {block} | first, s | warm, s | peak memory, MiB | differs by |\n| --- | --- | --- | --- | --- |")
        first: np.ndarray | None = None
        for name in entries:
            found = alone(block, name)
            numbers = np.array(found["numbers"])
            first = numbers if first is None else first
            print(
                f"| {name} | {found['first']:.3g} | {found['warm']:.3g} | {found['memory']:.0f} "
                f"| {apart(block, numbers, first)} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
