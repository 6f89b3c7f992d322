"""Curvature of a million parameters on a thousand examples: time, memory, and what certifies the answer.

    python benchmarks/landscape.py [--n 1000] [--width 1024] [--chunk 250]

Each row is a process of its own, so that its peak memory is its own: what the process holds beyond its start. The floor
is the time of the matrix products that the answer cannot do without, measured on the same machine.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

import numpy as np


def system(n: int, width: int, chunk: int | None) -> Any:
    """A perceptron 784-width-200-1 of tanh units on random inputs, in float64."""
    from widescape import arch
    from widescape.curvature import System

    r = np.random.default_rng(0)
    net = arch.Sequential(
        arch.Dense(width, b_std=0.1), arch.Tanh(), arch.Dense(200, b_std=0.1), arch.Tanh(), arch.Dense(1, b_std=0.1)
    )
    import jax

    x = r.normal(size=(n, 784))
    params = net.init(jax.random.key(0), (784,), dtype="float64")
    return System(net.apply, params, x, np.sign(r.normal(size=(n, 1))), reduction="mean", chunk=chunk)


def hessian(n: int, width: int, chunk: int) -> dict[str, float]:
    """The largest eigenvalue of the Hessian of the loss."""
    from widescape.curvature import top_eigs

    own = system(n, width, chunk)
    v = np.random.default_rng(1).normal(size=own.num_params)
    start = time.perf_counter()
    own.hvp(v)
    compiled = time.perf_counter() - start
    start = time.perf_counter()
    own.hvp(v)
    product = time.perf_counter() - start
    start = time.perf_counter()
    found = top_eigs(own.hvp, own.num_params, 1, tol=1e-6)
    return {
        "parameters": own.num_params,
        "first product, s": compiled,
        "product, s": product,
        "floor of a product, s": products(n, width, 8),
        "seconds": time.perf_counter() - start,
        "products": found.num_products,
        "value": float(found.eigs[0]),
        "error": float(found.resid[0] / found.eigs[0]),
    }


def kernel(n: int, width: int, method: str) -> dict[str, float]:
    """The smallest eigenvalue of the tangent kernel, certified by a Cholesky factorization."""
    from widescape.curvature import certify_lambda_min, kernel_spectrum, tangent_kernel

    own = system(n, width, None)
    start = time.perf_counter()
    gram = tangent_kernel(own, method=method, progress=False)  # type: ignore[arg-type]
    compiled = time.perf_counter() - start
    start = time.perf_counter()
    tangent_kernel(own, method=method, progress=False)  # type: ignore[arg-type]
    warm = time.perf_counter() - start
    start = time.perf_counter()
    spectrum = kernel_spectrum(own, method="dense", progress=False) if method == "auto" else None
    lower = 0.0 if spectrum is None or spectrum.lam_min_lower is None else spectrum.lam_min_lower
    proof = certify_lambda_min(gram, 0.999 * lower)
    return {
        "parameters": own.num_params,
        "first kernel, s": compiled,
        "kernel, s": warm,
        "floor of a Jacobian contraction, s": products(n, width, 1) * n / 2,
        "spectrum, s": time.perf_counter() - start,
        "value": lower,
        "certified": float(proof.holds),
        "error": proof.margin,
    }


def products(n: int, width: int, passes: int) -> float:
    """Seconds of `passes` matrix products of the examples with all weights."""
    weights, x = np.ones((784, width)), np.ones((n, 784))
    inner, hidden = np.ones((width, 200)), np.ones((n, width))
    best = np.inf
    for _ in range(3):
        start = time.perf_counter()
        x @ weights
        hidden @ inner
        best = min(best, time.perf_counter() - start)
    return passes * best


def certificates(n: int, width: int) -> dict[str, float]:
    """A certificate of a two-layer network, anchored bounds included."""
    import jax

    from widescape import arch, landscape
    from widescape.curvature import System

    r = np.random.default_rng(0)
    x = r.normal(size=(n, n))
    x *= n**0.5 / np.linalg.norm(x, axis=1, keepdims=True)
    net = arch.Sequential(arch.Dense(width), arch.Tanh(), arch.Dense(1))
    own = System(net.apply, net.init(jax.random.key(0), (n,), dtype="float64"), x, np.sign(r.normal(size=(n, 1))))
    start = time.perf_counter()
    landscape.certify_pl_star(own)
    compiled = time.perf_counter() - start
    start = time.perf_counter()
    found = landscape.certify_pl_star(own)
    return {
        "parameters": own.num_params,
        "first, s": compiled,
        "seconds": time.perf_counter() - start,
        "value": found.h,
    }


def row(part: str, options: argparse.Namespace) -> dict[str, Any]:
    """One part in a process of its own."""
    command = [sys.executable, __file__, "--part", part, "--n", str(options.n), "--width", str(options.width)]
    done = subprocess.run(
        [*command, "--chunk", str(options.chunk)], capture_output=True, text=True, check=True, timeout=1800
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    """All parts, or one of them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--chunk", type=int, default=250)
    parser.add_argument("--part", choices=("hessian", "kernel", "kernel-jacobian", "certificate"))
    options = parser.parse_args()
    if options.part is None:
        for part in ("hessian", "kernel", "kernel-jacobian", "certificate"):
            print(part, json.dumps(row(part, options), indent=1))
        return
    import widescape.landscape  # noqa: F401  what every row needs is not its own

    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    figures = {
        "hessian": lambda: hessian(options.n, options.width, options.chunk),
        "kernel": lambda: kernel(options.n, options.width, "auto"),
        "kernel-jacobian": lambda: kernel(options.n, options.width, "jacobian"),
        "certificate": lambda: certificates(100, 4096),
    }[options.part]()
    figures["peak GiB"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held) / 2**20
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
