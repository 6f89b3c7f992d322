"""All draws of annexes for one call: random subsets and starts, training layer by layer, and resumption."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax
import numpy as np

from widescape.core.random import named_generator
from widescape.paths.annexes import Judged, he_uniform, judged, passthrough, restricted, scaled, stacked, trained
from widescape.paths.layered import Layered, Pairs
from widescape.paths.objective import Objective, outputs_of
from widescape.train import checkpoint as _checkpoint

AnnexMode = Literal["train", "linear_passthrough", "user"]
_PROBED = 64  # examples whose outputs tell activations apart
Outcome = tuple[np.ndarray | None, Pairs, Judged]


@dataclass(frozen=True)
class Draws:
    """A checked request.

    Attributes:
        chain, objective: the network, its data and loss.
        mode: how annexes are made.
        sizes: hidden widths of the annexes.
        count: draws of each hidden layer.
        fixed: units that are read, in place of random ones.
        given: where annexes start, in place of random weights and the network's own.
        steps, lr, batch: of training.
        key: of all random draws.
        folder: where the trained layers are kept; None for nowhere.
        progress: show a progress bar.
    """

    chain: Layered
    objective: Objective
    mode: AnnexMode
    sizes: tuple[int, ...]
    count: int
    fixed: tuple[np.ndarray, ...] | None
    given: tuple[Pairs, ...] | None
    steps: int
    lr: float
    batch: int
    key: jax.Array | None
    folder: Path | None
    progress: bool | None

    def of_layer(self, layer: int) -> Outcome:
        """Subsets (K, |I|) of a layer, the annexes that read them, and what they reach."""
        if self.folder is None:
            return self._made(layer)
        path, mark = self.folder / f"layer{layer}.safetensors", self._fingerprint(layer)
        if path.exists():
            return _unpacked(_checkpoint.load(path, mark)[0])
        found = self._made(layer)
        path.parent.mkdir(parents=True, exist_ok=True)
        _checkpoint.save(path, _packed(found), mark, {"layer": layer})
        return found

    def _made(self, layer: int) -> Outcome:
        chain = self.chain
        most = 1 if self.mode == "linear_passthrough" else 2  # the input has no subsets: one draw of each start
        count = 1 if self.given is not None else min(self.count, most) if layer == 0 else self.count
        rows = self._subsets(layer, count)
        if self.mode == "linear_passthrough":
            parts = [None] * count if rows is None else list(rows)
            stack = stacked([passthrough(chain, layer, part, self.sizes, self.objective, self.steps) for part in parts])
            return rows, stack, judged(chain, layer, stack, rows, self.objective)
        stack = stacked([self.given[layer]]) if self.given is not None else self._started(layer, rows, count)
        stack, outcome = trained(
            chain,
            layer,
            stack,
            rows,
            self.objective,
            steps=self.steps,
            lr=self.lr,
            batch=self.batch,
            generator=named_generator(self.key, "batches", layer),
            progress=self.progress,
        )
        return rows, stack, outcome

    def _subsets(self, layer: int, count: int) -> np.ndarray | None:
        if layer == 0:
            return None
        if self.fixed is not None:
            return np.repeat(self.fixed[layer - 1][None], count, axis=0)
        units = self.chain.widths[layer]
        generator = named_generator(self.key, "subsets", layer)
        return random_subsets(units, units - self.sizes[layer - 1], count, generator)

    def _started(self, layer: int, rows: np.ndarray | None, count: int) -> Pairs:
        """Half of the annexes random, the rest the network's own layers between kept units at their best scale."""
        chain, generator = self.chain, named_generator(self.key, "start", layer)
        reads = chain.widths[0] if rows is None else rows.shape[1]
        inner = self.sizes[layer:]
        warm = count - count // 2
        fresh = he_uniform(chain, layer, (reads, *inner), count // 2, generator)
        widths = chain.widths[layer + 1 : -1]
        kept = [random_subsets(n, m, warm, generator) for n, m in zip(widths, inner, strict=True)]
        own = None if rows is None else rows[count // 2 :]
        sub = restricted(chain, layer, [own, *kept], warm)
        sub = scaled(sub, judged(chain, layer, sub, own, self.objective, rescale=True).scales)
        if layer == chain.num_layers - 1:
            fresh = jax.tree.map(np.zeros_like, fresh)  # a convex problem
        joined: Pairs = jax.tree.map(lambda a, b: np.concatenate([a, b]), fresh, sub)
        return joined

    def _fingerprint(self, layer: int) -> str:
        """What two calls must share to train the same annexes of a layer."""
        numbers = (layer, self.mode, self.sizes, self.count, self.steps, self.lr, self.batch)
        chain, objective, key = self.chain, self.objective, jax.random.key(0) if self.key is None else self.key
        outputs = outputs_of(chain, objective.x[:_PROBED])  # functions are known by what they do, not by their names
        probes = np.random.default_rng(0).standard_normal((3, objective.num_examples, chain.widths[-1]))
        return _checkpoint.fingerprint(
            f"{numbers} {chain.how}",
            (chain.layers, objective.x, objective.y, self.fixed or (), self.given or ()),
            (key, outputs, objective.values(probes)),
        )


def random_subsets(units: int, size: int, count: int, generator: np.random.Generator) -> np.ndarray:
    """Sorted random subsets (count, size)."""
    rows = [np.sort(generator.permutation(units)[:size]) for _ in range(count)]
    return np.array(rows, dtype=np.int64).reshape(count, size)


def _packed(found: Outcome) -> dict[str, np.ndarray]:
    """Arrays by name."""
    rows, stack, outcome = found
    arrays = {"losses": outcome.losses, "scales": outcome.scales}
    if rows is not None:
        arrays["rows"] = rows
    if outcome.errors is not None:
        arrays["errors"] = outcome.errors
    for i, (w, b) in enumerate(stack):
        arrays[f"weight{i}"] = w
        if b is not None:
            arrays[f"bias{i}"] = b
    return arrays


def _unpacked(arrays: dict[str, np.ndarray]) -> Outcome:
    """The inverse of `_packed`."""
    count = sum(name.startswith("weight") for name in arrays)
    stack = tuple((arrays[f"weight{i}"], arrays.get(f"bias{i}")) for i in range(count))
    return arrays.get("rows"), stack, Judged(arrays["losses"], arrays.get("errors"), arrays["scales"])
