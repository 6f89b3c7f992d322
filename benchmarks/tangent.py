"""Tangent kernels by three methods: time, memory and accuracy, on a perceptron and a small convolutional function.

    python benchmarks/tangent.py [--n 200 500] [--outputs trace full] [--models mlp conv] [--peer PYTHON]

The reference of time is the Jacobian contraction; the reference of accuracy the same in float64 by NumPy from a
Jacobian of its own, on the first 24 examples. The peer is neural-tangents, run by another interpreter that has it
(``pip install neural-tangents==0.6.5 jax==0.4.34 jaxlib==0.4.34``). Each row is a process of its own, so that its peak
memory is its own; it is what the process holds beyond its start. Warm times are the median of up to three runs.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

CORNER = 24
PATIENCE = 420.0  # seconds after which a method is not run again


def model(name: str, n: int, dtype: str) -> tuple[Callable[[Any, Any], Any], Any, np.ndarray]:
    """A function, its parameters and inputs, in plain JAX so that the peer runs the same."""
    import jax
    import jax.numpy as jnp

    r = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return (r.normal(size=shape) * (2 / np.prod(shape[:-1])) ** 0.5).astype(dtype)

    if name == "mlp":
        widths = (784, 512, 512, 512, 10)
        params: Any = [(draw(a, b), np.zeros((1, b), dtype)) for a, b in pairwise(widths)]

        def mlp(p: Any, x: Any) -> Any:
            for w, b in p[:-1]:
                x = jax.nn.relu(x @ w + b)
            return x @ p[-1][0] + p[-1][1]

        return mlp, params, r.normal(size=(n, 784)).astype(dtype)
    layers = [(draw(3, 3, a, b), np.zeros((1, 1, 1, b), dtype)) for a, b in ((3, 16), (16, 32), (32, 32))]

    def conv(p: Any, x: Any) -> Any:
        for w, b in p[0]:
            numbers = ("NHWC", "HWIO", "NHWC")
            x = jax.nn.relu(jax.lax.conv_general_dilated(x, w, (2, 2), "SAME", dimension_numbers=numbers) + b)
        return jnp.mean(x, axis=(1, 2)) @ p[1]

    return conv, (layers, draw(32, 10)), r.normal(size=(n, 16, 16, 3)).astype(dtype)


def reference(f: Any, params: Any, x: np.ndarray, outputs: str) -> np.ndarray:
    """The kernel of a few examples from their dense Jacobian, in float64."""
    import jax

    jax.config.update("jax_enable_x64", True)
    leaves = jax.tree.leaves(jax.jacrev(f)(jax.tree.map(lambda a: a.astype(np.float64), params), x.astype(np.float64)))
    j = np.concatenate([np.asarray(leaf).reshape(len(x), 10, -1) for leaf in leaves], axis=2)
    if outputs == "trace":
        return np.einsum("nop,mop->nm", j, j, optimize=True) / 10
    return np.einsum("nop,mqp->nmoq", j, j, optimize=True)


def ours(f: Any, params: Any, x: np.ndarray, method: str, outputs: str) -> Callable[[], np.ndarray]:
    from widescape import kernels

    return lambda: kernels.empirical_ntk(f, params, x, method=method, outputs=outputs, progress=False)  # type: ignore[arg-type]


def peer(f: Any, params: Any, x: np.ndarray, _: str, outputs: str) -> Callable[[], np.ndarray]:
    import jax
    import neural_tangents as nt

    implementation = nt.NtkImplementation.JACOBIAN_CONTRACTION  # its structured derivatives fail on this JAX
    axes = {"trace_axes": (-1,)} if outputs == "trace" else {"trace_axes": ()}
    kernel = jax.jit(nt.empirical_ntk_fn(f, vmap_axes=0, implementation=implementation, **axes))
    return lambda: np.asarray(kernel(x, None, params))


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    import jax

    if arguments.dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    f, params, x = model(arguments.model, arguments.n, arguments.dtype)
    np.asarray(f(params, x[:2]))
    run = (peer if arguments.method.startswith("nt-") else ours)(f, params, x, arguments.method, arguments.outputs)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = []
    for _ in range(4):
        start = time.perf_counter()
        kernel = run()
        times.append(time.perf_counter() - start)
        if sum(times) > 40:
            break
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    exact = reference(f, params, x[:CORNER], arguments.outputs)
    error = np.abs(kernel[:CORNER, :CORNER] - exact).max() / np.abs(exact).max()
    return {
        "first": times[0],
        "warm": statistics.median(times[1:] or times),
        "peak": peak,
        "error": float(error),
    }


def row(python: str, **options: Any) -> dict[str, Any] | None:
    """One measurement in a process of its own; None if it fails or takes too long."""
    command = [python, str(Path(__file__).resolve()), "--measure"]
    for key, value in options.items():
        command += [f"--{key}", str(value)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
        print(
            f"  {options['method']}: {type(error).__name__} {str(getattr(error, 'stderr', ''))[-200:]}", file=sys.stderr
        )
        return None
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, nargs="+", default=[200, 500])
    parser.add_argument("--models", nargs="+", default=["mlp", "conv"])
    parser.add_argument("--outputs", nargs="+", default=["trace", "full"])
    parser.add_argument("--methods", nargs="+", default=["structured", "ntvp", "jacobian"])
    parser.add_argument("--dtype", default="float64")
    parser.add_argument("--peer", help="an interpreter with neural-tangents")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    parser.add_argument("--method", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        arguments.n, arguments.outputs = arguments.n[0], arguments.outputs[0]
        print(json.dumps(measure(arguments)))
        return
    print("| model, n, outputs | method | first run, s | warm, s | faster than jacobian | peak, GiB | error |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in arguments.models:
        for n in arguments.n:
            for outputs in arguments.outputs:
                peers = ["nt-jacobian"] if arguments.peer else []
                rows = {
                    method: row(
                        arguments.peer if method in peers else sys.executable,
                        model=name, n=n, outputs=outputs, method=method, dtype=arguments.dtype,
                    )
                    for method in [*arguments.methods, *peers]
                }  # fmt: skip
                base = rows.get("jacobian")
                for method, r in rows.items():
                    case = f"{name}, {n}, {outputs}"
                    if r is None:
                        print(f"| {case} | {method} | | over {PATIENCE:.0f} s or memory | | | |", flush=True)
                        continue
                    ratio = f"{base['warm'] / r['warm']:.1f}" if base else ""
                    print(
                        f"| {case} | {method} | {r['first']:.2f} | {r['warm']:.3f} | {ratio} | {r['peak']:.2f} | "
                        f"{r['error']:.0e} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
