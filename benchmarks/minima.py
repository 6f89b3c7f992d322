"""Minima: many seeds in one program against a loop, batched searches against one by one, and what certificates cost.

    python benchmarks/minima.py [--seeds 50] [--steps 6000]

Rows that compute the same are compared with the first of their block. Peak memory is what the process holds at most
beyond what it held when the row began, measured for each row in a process of its own.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np


def census(seeds: int, steps: int, *, together: bool) -> Callable[[], np.ndarray]:
    """Final losses of the three arms from many starts, all of them in one program, or start by start."""
    import jax
    import optax

    from widescape.landscape import elimination_census, problems

    teacher = problems.relu_teacher(0)
    starts = teacher.starts(seeds)
    parts = [starts] if together else [jax.tree.map(lambda a, k=k: a[k : k + 1], starts) for k in range(seeds)]
    adam = optax.adam(optax.cosine_decay_schedule(2e-2, steps))

    def run() -> np.ndarray:
        found = [
            elimination_census(
                teacher.f, teacher.loss, part, teacher.X, teacher.y, opt=adam, steps=steps, progress=False
            )
            for part in parts
        ]
        return np.concatenate([own.plain_loss for own in found])

    return run


def searches(seeds: int, steps: int, *, together: bool) -> Callable[[], np.ndarray]:
    """Losses at the ends of Newton-MR on a linear autoencoder, from all starts at once, or one after the other."""
    from widescape.landscape import find_critical_points, problems

    problem = problems.linear_autoencoder()
    generator = np.random.default_rng(0)
    shapes = [np.shape(leaf) for leaf in problem.params("{1,2}").values()]
    names = list(problem.params("{1,2}"))
    starts = [
        {name: 0.5 * generator.normal(size=shape) for name, shape in zip(names, shapes, strict=True)}
        for _ in range(seeds)
    ]
    groups = [starts] if together else [[start] for start in starts]

    def run() -> np.ndarray:
        reports = [
            report
            for group in groups
            for report in find_critical_points(problem.objective, group, max_steps=100, progress=False)
        ]
        return np.array([report.loss for report in reports])

    return run


def certificate(width: int, mode: str) -> Callable[[], np.ndarray]:
    """The stationarity of a random tanh network on 20 examples of 8 features."""
    import jax.numpy as jnp

    from widescape.curvature import System
    from widescape.landscape import model_basis, pgb_certificate

    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(20, 8)), generator.normal(size=(20, 2))
    params = {"a": generator.normal(size=(8, width)), "b": generator.normal(size=(width, 2)) / width**0.5}
    system = System(lambda p, x: jnp.tanh(x @ p["a"]) @ p["b"], params, x, y, reduction="mean")
    phi, outer = model_basis(system)

    def run() -> np.ndarray:
        report = pgb_certificate(phi, outer, params, n_dirs=16, mode=mode, progress=False)  # type: ignore[arg-type]
        return np.array([report.value, float(report.n_accepted)])

    return run


ROWS: dict[str, Callable[[int, int], Callable[[], np.ndarray]]] = {
    "census, all starts in one program": lambda seeds, steps: census(seeds, steps, together=True),
    "census, start by start": lambda seeds, steps: census(seeds, steps, together=False),
    "searches, all starts at once": lambda seeds, steps: searches(seeds, steps, together=True),
    "searches, one after the other": lambda seeds, steps: searches(seeds, steps, together=False),
    "certificate, 200 parameters, full": lambda seeds, steps: certificate(20, "full"),
    "certificate, 200 parameters, vjp": lambda seeds, steps: certificate(20, "vjp"),
    "certificate, 2,000 parameters, full": lambda seeds, steps: certificate(200, "full"),
    "certificate, 2,000 parameters, vjp": lambda seeds, steps: certificate(200, "vjp"),
    "certificate, 20,000 parameters, vjp": lambda seeds, steps: certificate(2000, "vjp"),
}


def row(name: str, seeds: int, steps: int) -> dict[str, Any]:
    """Times, memory and numbers of one row."""
    run = ROWS[name](seeds, steps)
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = []
    for _ in range(3):
        start = time.perf_counter()
        numbers = run()
        times.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"first": times[0], "warm": min(times[1:]), "memory": (peak - held) / 2**10, "numbers": numbers.tolist()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--row", choices=tuple(ROWS), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.row:
        print(json.dumps(row(given.row, given.seeds, given.steps)))
        return
    reference: dict[str, np.ndarray] = {}
    for name in ROWS:
        command = [sys.executable, __file__, "--row", name, f"--seeds={given.seeds}", f"--steps={given.steps}"]
        out = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        numbers, block = np.array(out["numbers"]), name.split(",")[0]
        first = reference.setdefault(block, numbers)
        far = "" if block == "certificate" else f", differs by at most {np.abs(numbers - first).max():.1e}"
        print(f"{name:<36} first {out['first']:6.2f} s, warm {out['warm']:6.2f} s, {out['memory']:5.0f} MiB{far}")


if __name__ == "__main__":
    main()
