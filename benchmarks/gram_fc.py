"""Gram matrices of a fully connected ReLU network: time, memory and accuracy, against the floor and a peer.

    python benchmarks/gram_fc.py [--n 5000] [--d 3072] [--depth 3] [--peer PYTHON]

The floor is the matrix product of the inputs with themselves (half of it, by symmetry). The peer is
neural-tangents, run by another interpreter that has it (``pip install neural-tangents==0.6.5 jax==0.4.34
jaxlib==0.4.34``); it needs the number of examples to be a multiple of its block. Runs alternate. Each
figure is a median of warm runs; the first run, which compiles, is shown apart. The error is the largest
relative one on a corner of the matrix, against the same recursion in extended precision.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

REPEATS = 3
CORNER = 64


def inputs(n: int, d: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, d))


def reference(x: np.ndarray, depth: int) -> np.ndarray:
    """The tangent kernel in extended precision, by the arc-cosine recursion with angles from differences."""
    x = x.astype(np.longdouble)
    pi = np.longdouble("3.14159265358979323846264338327950288")
    k = x @ x.T / x.shape[1]
    theta = np.zeros_like(k)
    for layer in range(depth + 1):
        if layer > 0:
            q = np.sqrt(np.diag(k))
            cosine = np.clip(k / np.outer(q, q), -1, 1)
            np.fill_diagonal(cosine, 1)
            angle = np.arccos(cosine)
            theta = theta * (pi - angle) / (2 * pi)
            k = np.outer(q, q) * (np.sin(angle) + (pi - angle) * cosine) / (2 * pi)
        k = 2 * k + np.longdouble("0.01")
        theta = k + 2 * theta
    return theta


def timed(run: Callable[[], np.ndarray]) -> tuple[float, float, np.ndarray]:
    """Seconds of the first run, median seconds of the later ones, and the result."""
    start = time.perf_counter()
    result = run()
    first = time.perf_counter() - start
    later = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        result = run()
        later.append(time.perf_counter() - start)
    return first, statistics.median(later), result


def ours(n: int, d: int, depth: int, dtype: str) -> Callable[[], np.ndarray]:
    from widescape import arch, kernels

    net = arch.fc(depth=depth, width=8, n_out=1, activation=arch.Relu(), w_std=2**0.5, b_std=0.1)
    x = inputs(n, d).astype(dtype)
    return lambda: kernels.gram(net, x, get="ntk", dtype=dtype, progress=False)


def peer(n: int, d: int, depth: int, dtype: str) -> Callable[[], np.ndarray]:
    import jax

    jax.config.update("jax_enable_x64", dtype == "float64")
    import neural_tangents as nt
    from neural_tangents import stax

    layers = [layer for _ in range(depth) for layer in (stax.Dense(8, 2**0.5, 0.1), stax.Relu())]
    kernel_fn = stax.serial(*layers, stax.Dense(1, 2**0.5, 0.1))[2]
    tiled = nt.batch(jax.jit(kernel_fn, static_argnums=2), batch_size=n // 5 if n % 5 == 0 else 0)
    x = inputs(n, d).astype(dtype)
    return lambda: np.asarray(tiled(x, None, "ntk"))


def floor(n: int, d: int, dtype: str) -> float:
    """Seconds of half the matrix product, by BLAS."""
    from scipy.linalg import blas

    x = np.asfortranarray(inputs(n, d).astype(dtype).T)
    product = blas.dsyrk if dtype == "float64" else blas.ssyrk
    return timed(lambda: product(1.0, x, trans=1))[1]


def child(arguments: argparse.Namespace) -> None:
    """One workload in a process of its own, so that its peak memory is its own."""
    make = ours if arguments.child == "ours" else peer
    run = make(arguments.n, arguments.d, arguments.depth, arguments.dtype)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    first, warm, matrix = timed(run)
    exact = reference(inputs(arguments.n, arguments.d)[:CORNER].astype(arguments.dtype), arguments.depth)
    error = float(np.max(np.abs(matrix[:CORNER, :CORNER] - exact) / np.abs(exact)))
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    print(json.dumps({"first": first, "warm": warm, "peak_gib": peak, "error": error}))


def measure(who: str, python: str, dtype: str, arguments: argparse.Namespace) -> dict[str, float]:
    command = [python, __file__, "--child", who, "--dtype", dtype]
    command += ["--n", str(arguments.n), "--d", str(arguments.d), "--depth", str(arguments.depth)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=5000)
    parser.add_argument("--d", type=int, default=3072)
    parser.add_argument("--depth", type=int, default=3)
    parser.add_argument("--peer", help="an interpreter that has neural-tangents")
    parser.add_argument("--child", choices=("ours", "peer"), help=argparse.SUPPRESS)
    parser.add_argument("--dtype", choices=("float32", "float64"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments)
        return
    print(f"NTK, {arguments.depth} hidden ReLU layers, n = {arguments.n}, d = {arguments.d}\n")
    print("| | precision | first run, s | warm, s | over floor | peak memory, GiB | largest relative error |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for dtype in ("float32", "float64"):
        least = floor(arguments.n, arguments.d, dtype)
        pythons = {"ours": sys.executable} | ({"peer": str(Path(arguments.peer))} if arguments.peer else {})
        for who, python in pythons.items():
            m = measure(who, python, dtype, arguments)
            name = "widescape" if who == "ours" else "neural-tangents"
            print(
                f"| {name} | {dtype} | {m['first']:.2f} | {m['warm']:.2f} | {m['warm'] / least:.1f} "
                f"| {m['peak_gib']:.2f} | {m['error']:.1e} |"
            )
        print(f"| floor: half a matrix product | {dtype} | | {least:.2f} | 1 | | |")


if __name__ == "__main__":
    main()
