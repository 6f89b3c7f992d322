"""Kernel regression averaged over randomly augmented copies of the training set."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from widescape.arch.base import Layer
from widescape.arch.limit import Get
from widescape.core import checks
from widescape.core.errors import CheckpointError
from widescape.core.evidence import EXACT, estimate
from widescape.core.files import replacing
from widescape.core.progress import track
from widescape.core.random import named_key
from widescape.core.result import Result, quantity
from widescape.kernels import gram
from widescape.predict.gp import GP
from widescape.predict.modes import RegScale


class AugmentationEnsemble(Result):
    """The mean prediction over augmented training sets, and the spread. Unpacks as ``mean, member_std = ...``."""

    source = "lee2020finite"
    mean: np.ndarray = quantity(
        estimate("stderr", "over random augmentations"), "mean over members of their predictions, (M,) or (M, C)"
    )
    stderr: np.ndarray = quantity(EXACT, "standard error of the mean, shaped like it; infinite for one member")
    member_std: np.ndarray = quantity(
        EXACT, "standard deviation over members, shaped like the mean; infinite for one member"
    )
    num_members: int = quantity(EXACT, "augmented copies of the training set")

    def __iter__(self) -> Iterator[np.ndarray]:
        yield self.mean
        yield self.member_std


def augmentation_ensemble(
    net: Layer,
    x: Any,
    y: Any,
    x_test: Any,
    *,
    augment: Callable[[jax.Array, Any], Any],
    n_members: int,
    key: jax.Array,
    get: Get = "nngp",
    reg: float = 1e-1,
    reg_scale: RegScale = "mean_trace",
    checkpoint: str | Path | None = None,
    progress: bool | None = None,
) -> AugmentationEnsemble:
    """Kernel regression on the test set, averaged over augmented copies of the training set.

    Member e draws a copy x_e of the training set, builds the kernel of the copy, and predicts the test set, which is
    not augmented, by K(x_test, x_e) G_e^-1 y. Predictions are averaged, not labels.

    Args:
        net: an architecture with a limit.
        x: training inputs (m, ...), floating point.
        y: targets (m,) or (m, C).
        x_test: test inputs (M, ...).
        augment: a function of a key and inputs, as `widescape.data.augment` makes them.
        n_members: copies E.
        key: of the augmentations; member e has the key `named_key(key, "member", e)`.
        get: which kernel.
        reg: the regularizer of each member, as for `GP`.
        reg_scale: its unit, as for `GP`.
        checkpoint: a file that keeps the running mean after each member; a run that was killed goes on from there,
            and ends with the same bits. It stays, so that more members can be added.
        progress: whether to show a bar; None shows it on a terminal.

    Raises:
        CheckpointError: the file is damaged, belongs to another run, or has more members already.
        and whatever `kernels.gram` and `GP` raise.

    Cost: E (m^3/3 + m^2/2 + m M pairs of kernels), instead of (E m)^3/3 for one regression on all copies.
    """
    checks.count(n_members, "n_members", "augmentation_ensemble")

    def predicted(member: int) -> np.ndarray:
        copy = augment(named_key(key, "member", member), x)
        gp = GP(gram(net, copy, get=get, progress=False), y, reg=reg, reg_scale=reg_scale)
        return gp.mean(gram(net, x_test, copy, get=get, progress=False))

    print_of_run = _fingerprint(net, augment(named_key(key, "member", 0), x), y, x_test, (get, reg, reg_scale))
    running = _Running() if checkpoint is None else _Running.resumed(Path(checkpoint), print_of_run)
    if running.count > n_members:
        raise CheckpointError(
            f"{checkpoint} has {running.count} members already, but `n_members` is {n_members}; give at least as many."
        )
    for member in track(range(running.count, n_members), "augmented members", show=progress):
        running.add(predicted(member))
        if checkpoint is not None:
            running.save(Path(checkpoint), print_of_run)
    return running.result(net)


@dataclass
class _Running:
    """The mean and the sum of squared deviations of what was added so far."""

    count: int = 0
    mean: Any = 0.0
    squares: Any = 0.0

    def add(self, value: np.ndarray) -> None:
        self.count += 1
        step = value - self.mean
        self.mean = self.mean + step / self.count
        self.squares = self.squares + step * (value - self.mean)

    def result(self, net: Layer) -> AugmentationEnsemble:
        spread = np.full_like(self.mean, np.inf) if self.count < 2 else np.sqrt(self.squares / (self.count - 1))
        return AugmentationEnsemble(
            mean=self.mean,
            stderr=spread / self.count**0.5,
            member_std=spread,
            num_members=self.count,
            provenance={"architecture": repr(net)},
        )

    def save(self, path: Path, fingerprint: str) -> None:
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, count=self.count, mean=self.mean, squares=self.squares, fingerprint=np.array(fingerprint))

    @classmethod
    def resumed(cls, path: Path, fingerprint: str) -> "_Running":
        """What the file holds; nothing if there is none."""
        if not path.exists():
            return cls()
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as saved:
                found, own = str(saved["fingerprint"]), cls(int(saved["count"]), saved["mean"], saved["squares"])
        except Exception as error:
            raise CheckpointError(f"{path} is no checkpoint of an augmentation ensemble: {error}") from error
        if found != fingerprint:
            raise CheckpointError(
                f"{path} belongs to another run: the network, the data, the augmentation, the key or the regularizer "
                "differ. Give another file, or remove this one."
            )
        return own


def _fingerprint(net: Layer, copy: Any, y: Any, x_test: Any, options: tuple[Any, ...]) -> str:
    """The first member's inputs tell the data, the augmentation and the key apart."""
    digest = hashlib.sha256(repr((net, options)).encode())
    for array in (copy, y, x_test):
        values = np.ascontiguousarray(array)
        digest.update(f"{values.dtype} {values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()
