"""Kernels over images: the fused path and XLA's, against the floor and a peer.

    python benchmarks/conv.py [--peer PYTHON] [--rounds 2] [--only myrtle]

Tangent kernels of convolutional ReLU networks, on random images. An entry is a pair of positions of a pair of images in
a layer; times are divided by the n (n + 1) / 2 pairs of a Gram matrix, also where all n^2 are computed. Time per pair
is elapsed, time per entry that of processors, all cores added up. The floor is 33 vector operations per entry (53 in
float64), at the rate at which BLAS multiplies and adds in a product of matrices on one core. XLA's path is the one
without numba.

The peer is neural-tangents, run by another interpreter that has it (``pip install neural-tangents==0.6.5 jax==0.4.34
jaxlib==0.4.34``). Every way is a process that waits its turn, so that the rounds alternate; warm times are the least of
the rounds. The first run of the fused path loads machine code that numba kept from an earlier run: with
``NUMBA_CACHE_DIR`` an empty folder it compiles. The error is the largest relative one on two images, diagonal included,
against all pairs of positions in extended precision.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

OPERATIONS = {"float32": 33, "float64": 53}  # filters, nonlinearity, tangent kernel; polynomials grow with precision
W_STD, B_STD = 2**0.5, 0.1
DEPTH = 8
WAYS = ("fused", "XLA", "neural-tangents")


@dataclass(frozen=True)
class Workload:
    """A network on some images."""

    network: str
    side: int
    n: int

    @property
    def entries(self) -> int:
        """Pairs of positions of a pair of images, over all layers."""
        positions = self.side**2
        if self.network == "cnn_vec":
            return DEPTH * positions
        if self.network == "cnn_gap":
            return DEPTH * positions**2
        return 2 * positions**2 + (positions // 4) ** 2 + (positions // 16) ** 2

    def images(self, dtype: str) -> np.ndarray:
        """The same numbers in either precision."""
        shape = (self.n, self.side, self.side, 3)
        return np.random.default_rng(0).normal(size=shape).astype("float32").astype(dtype)


WORKLOADS = {
    "vec": Workload("cnn_vec", 32, 64),
    "gap": Workload("cnn_gap", 16, 8),
    "myrtle": Workload("myrtle", 32, 4),
}


# The ways.


def ours(work: Workload, dtype: str, *, fused: bool) -> Callable[[], np.ndarray]:
    if not fused:
        sys.modules["numba"] = None  # type: ignore[assignment]  # as if it were not installed
    from widescape import arch, kernels

    if work.network == "myrtle":
        net = arch.myrtle(5, width=8, n_out=1, w_std=W_STD, b_std=B_STD)
    else:
        net = getattr(arch, work.network)(DEPTH, width=8, n_out=1, w_std=W_STD, b_std=B_STD)
    x = work.images(dtype)
    return lambda: kernels.gram(net, x, dtype=dtype, progress=False)


def peer(work: Workload, dtype: str) -> Callable[[], np.ndarray]:
    import jax

    jax.config.update("jax_enable_x64", dtype == "float64")
    from neural_tangents import stax

    layers = []
    pooled_after = (2, 3) if work.network == "myrtle" else ()
    for depth in range(1, (4 if work.network == "myrtle" else DEPTH) + 1):
        layers += [stax.Conv(8, (3, 3), padding="SAME", W_std=W_STD, b_std=B_STD), stax.Relu()]
        if depth in pooled_after:
            layers.append(stax.AvgPool((2, 2), strides=(2, 2)))
    end = stax.Flatten() if work.network == "cnn_vec" else stax.GlobalAvgPool()
    kernel_fn = jax.jit(stax.serial(*layers, end, stax.Dense(1, W_STD, B_STD))[2], static_argnums=2)
    x = work.images(dtype)
    return lambda: np.asarray(kernel_fn(x, None, "ntk"))


# The reference: all pairs of positions (h, w, h', w') of a pair of images, or equal ones (h, w), in extended precision.

PI = np.longdouble("3.14159265358979323846264338327950288")


def moved(a: np.ndarray, offset: int, axes: tuple[int, ...]) -> np.ndarray:
    """Entries at positions + offset along the axes, zero outside."""
    out = np.zeros_like(a)
    to, here = [slice(None)] * a.ndim, [slice(None)] * a.ndim
    for axis in axes:
        to[axis], here[axis] = (slice(-1), slice(1, None)) if offset > 0 else (slice(1, None), slice(-1))
    out[tuple(to)] = a[tuple(here)]
    return out


def box(a: np.ndarray) -> np.ndarray:
    for axis in (0, 1):
        axes = (axis,) if a.ndim == 2 else (axis, axis + 2)
        a = (a + moved(a, -1, axes) + moved(a, 1, axes)) / 3
    return a


def halved(a: np.ndarray) -> np.ndarray:
    h, w = a.shape[0] // 2, a.shape[1] // 2
    result: np.ndarray = a.reshape(h, 2, w, 2, h, 2, w, 2).mean((1, 3, 5, 7))
    return result


def equal_positions(a: np.ndarray) -> np.ndarray:
    return a if a.ndim == 2 else np.einsum("ijij->ij", a)


def rectified(k: np.ndarray, theta: np.ndarray, size: np.ndarray, same: bool) -> tuple[np.ndarray, np.ndarray]:
    angle = np.arccos(np.clip(k / size, -1, 1))
    if same:
        at = tuple(np.indices(angle.shape[:2]))
        angle[at if angle.ndim == 2 else at + at] = 0
    slope = (PI - angle) / (2 * PI)
    return size * np.sin(angle) / (2 * PI) + slope * k, theta * slope


def reference(work: Workload) -> np.ndarray:
    """The tangent kernel of the first two images."""
    pairs = ((0, 0), (1, 1), (0, 1))
    x = work.images("float64")[:2].astype(np.longdouble)
    weight, bias = np.longdouble(W_STD) ** 2, np.longdouble(B_STD) ** 2
    letters = "ijc,ijc->ij" if work.network == "cnn_vec" else "ijc,klc->ijkl"
    k = {pair: np.einsum(letters, x[pair[0]], x[pair[1]]) / 3 for pair in pairs}
    theta = {pair: np.zeros_like(k[pair]) for pair in pairs}
    for layer in range(1, (4 if work.network == "myrtle" else DEPTH) + 1):
        k = {pair: weight * box(k[pair]) + bias for pair in pairs}
        theta = {pair: k[pair] + weight * box(theta[pair]) for pair in pairs}
        roots = [np.sqrt(equal_positions(k[i, i])) for i in (0, 1)]
        for i, j in pairs:
            first = roots[i] if k[i, j].ndim == 2 else roots[i][:, :, None, None]
            k[i, j], theta[i, j] = rectified(k[i, j], theta[i, j], first * roots[j], i == j)
        if work.network == "myrtle" and layer in (2, 3):
            k, theta = ({pair: halved(a[pair]) for pair in pairs} for a in (k, theta))
    ends = {p: weight * k[p].mean() + bias + weight * theta[p].mean() for p in pairs}
    return np.array([[ends[0, 0], ends[0, 1]], [ends[0, 1], ends[1, 1]]])


# Processes that wait their turn.


def child(way: str, work: Workload, dtype: str) -> None:
    """Runs once for every line of the standard input; at its end prints memory and the kernel of two images."""
    run = peer(work, dtype) if way == "neural-tangents" else ours(work, dtype, fused=way == "fused")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter(), time.process_time()
        matrix = run()
        print(time.perf_counter() - start[0], time.process_time() - start[1], flush=True)
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10
    print(json.dumps({"peak": peak, "corner": matrix[:2, :2].astype(float).tolist()}))


class Turns:
    """A way as a process."""

    def __init__(self, python: str, way: str, workload: str, dtype: str) -> None:
        self.way = way
        command = [python, __file__, "--child", way, "--only", workload, "--dtype", dtype]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.seconds: list[list[float]] = []

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.way} failed; its message is above.")
        return line

    def wait(self) -> None:
        """Until it has imported what it needs."""
        self._line()

    def run(self) -> None:
        """Once: seconds that passed, and seconds of processors."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.seconds.append([float(word) for word in self._line().split()])

    def end(self) -> tuple[float, np.ndarray]:
        """Peak memory in MiB, and the kernel of two images."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        answer = json.loads(self._line())
        self.process.wait()
        return answer["peak"], np.array(answer["corner"])


def floor(dtype: str) -> float:
    """Nanoseconds of one core for the vector operations of an entry, at the rate of a product of matrices."""
    from scipy.linalg import blas

    from widescape.core.blas import serial_blas

    n = 1500
    a = np.asfortranarray(np.random.default_rng(0).normal(size=(n, n)).astype(dtype))
    product = blas.dgemm if dtype == "float64" else blas.sgemm
    seconds = []
    with serial_blas():
        for _ in range(6):
            start = time.process_time()
            product(1.0, a, a)
            seconds.append(time.process_time() - start)
    return OPERATIONS[dtype] * min(seconds) / n**3 * 1e9


def measure(name: str, dtype: str, least: float, exact: np.ndarray, arguments: argparse.Namespace) -> None:
    work = WORKLOADS[name]
    pythons = dict.fromkeys(WAYS[:2], sys.executable) | ({WAYS[2]: arguments.peer} if arguments.peer else {})
    ways = [Turns(python, way, name, dtype) for way, python in pythons.items()]
    for way in ways:
        way.wait()
    for _ in range(1 + arguments.rounds):
        for way in ways:
            way.run()
    pairs = work.n * (work.n + 1) // 2
    for way in ways:
        peak, corner = way.end()
        warm, busy = np.min(way.seconds[1:], axis=0) / pairs
        ratio = warm * pairs / min(elapsed for elapsed, _ in ways[0].seconds[1:])
        per_entry = busy / work.entries * 1e9
        error = np.max(np.abs(corner - exact) / np.abs(exact))
        print(
            f"| {work.network}, {work.side}x{work.side}, n = {work.n} | {dtype} | {way.way} | {way.seconds[0][0]:.2f} "
            f"| {warm * 1e3:.3g} | {per_entry:.3g} | {ratio:.3g} | {100 * least / per_entry:.2g}% | {peak:.0f} "
            f"| {error:.1e} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", help="an interpreter that has neural-tangents")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", choices=WORKLOADS, help="one of the networks")
    parser.add_argument("--child", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--dtype", choices=("float32", "float64"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child, WORKLOADS[arguments.only], arguments.dtype)
        return
    floors = {dtype: floor(dtype) for dtype in ("float64", "float32")}
    print(
        "floor, ns of a core per entry: "
        + ", ".join(f"{least:.2g} ({dtype})" for dtype, least in floors.items())
        + "\n"
    )
    columns = ["network", "precision", "way", "first run, s", "warm, ms per pair", "core ns per entry", "times fused"]
    columns += ["share of floor", "peak, MiB", "largest relative error"]
    print("| " + " | ".join(columns) + " |\n|" + " --- |" * len(columns))
    for name in [arguments.only] if arguments.only else WORKLOADS:
        exact = reference(WORKLOADS[name])
        for dtype, least in floors.items():
            measure(name, dtype, least, exact, arguments)


if __name__ == "__main__":
    main()
