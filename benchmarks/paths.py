"""The feature condition: all draws of a layer in one compiled program, against plain loops over draws and steps.

    python benchmarks/paths.py [--n 2000] [--width 128] [--draws 20] [--steps 300]

Every row is a process of its own, with its own compilation and its own peak memory (what it holds beyond its start).
All of them train the same annexes from the same starts on the same batches, and the losses of each are compared with
those of the first row. The floor is the time of the matrix products that the steps cannot do without, measured on the
same machine.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

import numpy as np

LAYER = 1  # annexes read half of the first hidden layer
BATCH = 100


def problem(n: int, width: int, draws: int) -> Any:
    """A random network 784-width-width-width-10 of ReLU units, data, random annexes, and the units they read."""
    import jax

    from widescape.paths import Layered
    from widescape.paths.annexes import he_uniform
    from widescape.paths.objective import as_objective

    r = np.random.default_rng(0)
    sizes = ((784, width), (width, width), (width, width), (width, 10))
    layers = [((r.normal(size=s) * (2 / s[0]) ** 0.5).astype(np.float32), np.zeros(s[1], np.float32)) for s in sizes]
    x = r.normal(size=(n, 784)).astype(np.float32)
    chain, objective = as_objective(Layered(layers, jax.nn.relu), x, r.integers(0, 10, n), "cross_entropy")
    rows = np.array([np.sort(r.permutation(width)[: width // 2]) for _ in range(draws)])
    stack = he_uniform(chain, LAYER, (width // 2,) * 3, draws, r)
    return chain, objective, rows, stack


def batches(n: int, steps: int) -> np.ndarray:
    """The rows of every step."""
    r = np.random.default_rng(1)
    return np.array([r.permutation(n)[:BATCH] for _ in range(steps)])


def together(n: int, width: int, draws: int, steps: int) -> tuple[Any, Any]:
    """All draws in one program, as `feature_condition` trains them."""
    chain, objective, rows, stack = problem(n, width, draws)
    return one_program(chain, objective, rows, stack, steps)


def one_program(chain: Any, objective: Any, rows: np.ndarray, stack: Any, steps: int) -> tuple[Any, Any]:
    """The compiled steps of the library on a stack of annexes."""
    import jax
    import optax

    from widescape.paths.annexes import Shape, _descend
    from widescape.paths.objective import outputs_of

    features = outputs_of(chain, objective.x, LAYER).astype(np.float32)
    order = batches(len(features), steps)

    def run() -> Any:
        state = optax.scale_by_adam().init(stack)
        shape, loss = Shape.of(chain, LAYER), objective.loss
        trained, _ = _descend(shape, loss, stack, state, features, objective.y, rows, order, steps, 1e-3)
        return jax.block_until_ready(trained)

    return run, (chain, objective, rows)


def each_draw(n: int, width: int, draws: int, steps: int) -> tuple[Any, Any]:
    """A loop over draws; the steps of each are one program."""
    import jax

    chain, objective, rows, stack = problem(n, width, draws)
    parts = [
        one_program(chain, objective, rows[k : k + 1], jax.tree.map(lambda leaf, k=k: leaf[k : k + 1], stack), steps)[0]
        for k in range(draws)
    ]

    def run() -> Any:
        trained = [part() for part in parts]
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *trained)

    return run, (chain, objective, rows)


def each_step(n: int, width: int, draws: int, steps: int) -> tuple[Any, Any]:
    """A loop over draws and over steps; a step is one program, as a training script has it."""
    import jax
    import optax

    from widescape.paths.annexes import Shape
    from widescape.paths.objective import outputs_of

    chain, objective, rows, stack = problem(n, width, draws)
    features = outputs_of(chain, objective.x, LAYER).astype(np.float32)
    order, shape, adam = batches(n, steps), Shape.of(chain, LAYER), optax.adam(1e-3)

    @jax.jit
    def step(layers: Any, state: Any, h: Any, y: Any) -> Any:
        gradient = jax.grad(lambda layers: objective.loss(shape.chain(layers)(h), y))(layers)
        updates, state = adam.update(gradient, state)
        return optax.apply_updates(layers, updates), state

    def run() -> Any:
        trained = []
        for k in range(draws):
            layers, own = jax.tree.map(lambda leaf, k=k: leaf[k], stack), features[:, rows[k]]
            state = adam.init(layers)
            for chosen in order:
                layers, state = step(layers, state, own[chosen], objective.y[chosen])
            trained.append(layers)
        return jax.tree.map(lambda *leaves: np.stack(leaves), *trained)

    return run, (chain, objective, rows)


ROWS = {"one program": together, "a program for each draw": each_draw, "a program for each step": each_step}


def row(name: str, n: int, width: int, draws: int, steps: int) -> dict[str, Any]:
    """Times, memory and losses of one way."""
    import jax

    from widescape.paths.annexes import judged

    run, (chain, objective, rows) = ROWS[name](n, width, draws, steps)
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    run()
    first = time.perf_counter() - start
    times = []
    for _ in range(3):
        start = time.perf_counter()
        trained = run()
        times.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    losses = judged(chain, LAYER, jax.tree.map(np.asarray, trained), rows, objective).losses
    return {"first": first, "warm": min(times), "memory": (peak - held) / 2**10, "losses": losses.tolist()}


def floor(width: int, draws: int, steps: int) -> float:
    """Seconds of the products forwards and backwards of all steps, at the speed of one large product."""
    half = width // 2
    a, b = np.ones((2000, 2000), np.float32), np.ones((2000, 2000), np.float32)
    a @ b
    start = time.perf_counter()
    a @ b
    speed = 2 * 2000**3 / (time.perf_counter() - start)
    return 6 * BATCH * (2 * half * half + half * 10) * draws * steps / speed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("n", 2000), ("width", 128), ("draws", 20), ("steps", 300)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--row", choices=tuple(ROWS), help=argparse.SUPPRESS)
    given = parser.parse_args()
    sizes = (given.n, given.width, given.draws, given.steps)
    if given.row:
        print(json.dumps(row(given.row, *sizes)))
        return
    print(f"floor: {floor(*sizes[1:]):.2f} s")
    reference = None
    for name in ROWS:
        command = [sys.executable, __file__, "--row", name]
        command += [f"--{key}={value}" for key, value in zip(("n", "width", "draws", "steps"), sizes, strict=True)]
        out = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        losses = np.array(out["losses"])
        reference = losses if reference is None else reference
        print(
            f"{name:<25} first {out['first']:6.2f} s, warm {out['warm']:6.2f} s, {out['memory']:6.0f} MiB, "
            f"losses differ by at most {np.abs(losses / reference - 1).max():.1e} of themselves"
        )


if __name__ == "__main__":
    main()
