"""Ainsworth, Hayase, Srinivasa (2022): Git Re-Basin, merging models modulo permutation symmetries.

Networks of two hidden layers on the digits of scikit-learn at several widths, and the paper's network on MNIST, three
hidden layers of 512 units in batches of 500, with 20,000 images and 25 epochs instead of 60,000 and 100. The paper's
residual networks on CIFAR-10 and its straight-through estimator are not run.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax

from widescape import arch, data
from widescape.core.errors import DataError
from widescape.core.progress import track
from widescape.core.random import named_generator, named_key
from widescape.core.result import Result
from widescape.curvature import System
from widescape.paths import (
    Merge,
    activation_matching,
    apply_permutation,
    hidden_activations,
    merge,
    permutation_spec,
    weight_matching,
)
from widescape.studies.study import Study, StudyClaim, claim, claim_of_count
from widescape.train import fit

NAME = "ainsworth2022rebasin"
WIDTHS = (16, 64, 256)
"""Units of each of the two hidden layers on the digits."""
WEIGHTS, ACTIVATIONS = 0.6, 0.35
"""Shares of the barrier that may be left after weight matching, and after activation matching from 64 units on."""
ZERO = 0.05
"""Barrier of the loss on MNIST that counts as near zero; guessing costs 2.3."""

_ADAM = optax.adam(1e-3)  # one object, so that all runs share their compiled program
_EPOCHS, _BATCH = 40, 100
_ROUNDING = 1e-5  # of the largest output
_MNIST_IMAGES, _MNIST_EPOCHS, _MNIST_BATCH, _MNIST_TEST = 20_000, 25, 500, 2000


@dataclass(frozen=True)
class _Pair:
    """Two networks trained from different initializations on different orders, and their merges."""

    net: arch.Layer
    system: System
    a: Any
    b: Any
    weights: Merge
    activations: Merge

    @property
    def naive(self) -> float:
        return self.weights.naive.value

    @property
    def shares(self) -> tuple[float, float]:
        """The barriers after weight and after activation matching, in parts of that before."""
        return self.weights.aligned.value / self.naive, self.activations.aligned.value / self.naive


_Pairs = dict[int, list[_Pair]]


def run(
    *,
    seed: int = 0,
    quick: bool = False,
    say: Callable[[str], None] = lambda line: None,
    progress: bool | None = None,
) -> Study:
    """Measure the claims: barriers before and after both matchings at three widths, planted permutations, MNIST.

    Args:
        seed: every random draw derives from it.
        quick: two pairs of networks at each width instead of eight; MNIST is left out.
        say: called with lines of progress.
        progress: show progress bars; None shows them on a terminal.

    Returns:
        a `Study`; its results hold the barriers of every pair, and both merges of the first pair of each width.
        Without the files of MNIST its claims are inconclusive.

    Cost: about four minutes of two cores, most of it for MNIST; of `quick` half a minute.
    """
    key = named_key(jax.random.key(seed), NAME)
    count = 2 if quick else 8
    x, y = _digits()
    pairs: _Pairs = {}
    for width in WIDTHS:
        say(f"digits, {count} pairs of {width} units a layer")
        indices = track(range(count), f"width {width}", show=progress)
        pairs[width] = [_pair(named_key(key, width, i), width, x, y) for i in indices]
    mnist, missing = (None, "left out of the quick study") if quick else _mnist(key, say)
    results = _results(pairs) | ({} if mnist is None else {"mnist_weights": mnist[0], "mnist_activations": mnist[1]})
    return Study(
        name=NAME,
        title="Git Re-Basin: Merging Models modulo Permutation Symmetries",
        citation="Ainsworth, Hayase, Srinivasa. International Conference on Learning Representations, 2023.",
        claims=(
            *_symmetry(named_key(key, "planted"), pairs),
            *(_lowered(0, width, pairs[width]) for width in WIDTHS),
            *(_lowered(1, width, pairs[width]) for width in WIDTHS if width >= 64),
            _falls("weights", pairs),
            _falls("activations", pairs),
            *_mnist_claims(mnist, missing),
        ),
        results=results,
        figures=tuple(name for name, own in results.items() if isinstance(own, Merge)),
        seed=seed,
        quick=quick,
    )


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """1,437 of the digits, of a fixed permutation of all."""
    bundled = data.load("digits")
    x = np.concatenate([bundled.x_train, bundled.x_test])
    y = np.concatenate([bundled.y_train, bundled.y_test])
    kept = np.random.default_rng(0).permutation(len(x))[:1437]
    return x[kept].reshape(len(kept), -1).astype(np.float32), y[kept]


def _pair(key: jax.Array, width: int, x: np.ndarray, y: np.ndarray) -> _Pair:
    net = arch.fc(2, width, 10, activation=arch.Relu(), w_std=2**0.5, b_std=0.0, param="standard")
    a, b = (_trained(net, named_key(key, i), (x, y), _EPOCHS, _BATCH) for i in range(2))
    system = System(net.apply, a, x, y, loss="cross_entropy", reduction="mean")
    return _Pair(net, system, a, b, *_merges(net, system, a, b, key))


def _trained(net: arch.Layer, key: jax.Array, examples: tuple[np.ndarray, np.ndarray], epochs: int, batch: int) -> Any:
    """Parameters after some epochs of Adam at 0.001."""
    x, y = examples
    start = net.init(named_key(key, "initialization"), x.shape[1:])
    system = System(net.apply, start, x, y, loss="cross_entropy", reduction="mean")
    own = named_key(key, "order")
    return fit(system, _ADAM, epochs * (len(x) // batch), batch_size=batch, key=own, progress=False).params


def _merges(net: arch.Layer, system: System, a: Any, b: Any, key: jax.Array) -> tuple[Merge, Merge]:
    """The merges after weight matching and after activation matching on the inputs of the system."""
    spec = permutation_spec(net, a)
    acts_a, acts_b = (hidden_activations(net, params, system.x) for params in (a, b))
    alike = activation_matching(acts_a, acts_b)
    by_weights = merge(system, a, b, spec, key=named_key(key, "matching"), progress=False)
    return by_weights, merge(system, a, b, spec, alignment=alike, progress=False)


def _results(pairs: _Pairs) -> dict[str, Result]:
    """Both merges of the first pair at each width, and the barriers of all."""
    found: dict[str, Result] = {}
    for width, some in pairs.items():
        found |= {f"width_{width}_weights": some[0].weights, f"width_{width}_activations": some[0].activations}
        for i, own in enumerate(some):
            found[f"barrier_{width}_{i}_naive"] = own.weights.naive
            found[f"barrier_{width}_{i}_weights"] = own.weights.aligned
            found[f"barrier_{width}_{i}_activations"] = own.activations.aligned
    return found


def _symmetry(key: jax.Array, pairs: _Pairs) -> tuple[StudyClaim, StudyClaim]:
    """Random permutations of trained networks: the function stays, and weight matching finds the way back."""
    changes, cosines = [], []
    for width, some in pairs.items():
        for i, own in enumerate(some):
            spec = permutation_spec(own.net, own.a)
            generator = named_generator(key, width, i)
            planted = apply_permutation(spec, {group: generator.permutation(width) for group in spec}, own.a)
            outputs, moved = (own.system.F(own.system.vector(params)) for params in (own.a, planted))
            changes.append(float(np.abs(moved - outputs).max() / np.abs(outputs).max()))
            cosines.append(weight_matching(spec, own.a, planted, key=key, progress=False).similarity_after)
    return (
        _counted(
            "permuted",
            "A network whose hidden units are permuted computes the same function, to rounding in float32.",
            [change <= _ROUNDING for change in changes],
            f"outputs change by {max(changes):.1g} of the largest at most",
            published="an identity",
            needed=len(changes),
        ),
        _counted(
            "planted",
            "Weight matching brings a permuted network back to the parameters that it was.",
            [cosine >= 1 - 1e-12 for cosine in cosines],
            f"cosines {min(cosines):.6g} or more",
            published="no number recovered",
            needed=len(cosines),
        ),
    )


def _lowered(method: int, width: int, some: list[_Pair]) -> StudyClaim:
    name, share = (("weights", WEIGHTS), ("activations", ACTIVATIONS))[method]
    shares = [own.shares[method] for own in some]
    return _counted(
        f"{name}_{width}",
        f"With {width} units a layer, matching {name} leaves at most {share} of the barrier in most pairs.",
        [found <= share for found in shares],
        f"shares {min(shares):.2f} to {max(shares):.2f}, mean {np.mean(shares):.2f}; barriers before "
        f"{np.mean([own.naive for own in some]):.2f} in the mean",
        published="permutations lower barriers; no number for these networks",
    )


def _falls(method: str, pairs: _Pairs) -> StudyClaim:
    """Barriers from width to width, pair by pair."""
    heights = np.array([[getattr(own, method).aligned.value for own in some] for some in pairs.values()])
    means = ", ".join(f"{mean:.3f} at {width}" for width, mean in zip(pairs, heights.mean(axis=1), strict=True))
    return _counted(
        f"wider_{method}",
        f"The barrier after matching {method} falls from width to width in most pairs.",
        np.all(np.diff(heights, axis=0) < 0, axis=0).tolist(),
        f"means {means}",
        published="wider networks have lower barriers after matching",
    )


def _mnist(key: jax.Array, say: Callable[[str], None]) -> tuple[tuple[Merge, Merge] | None, str]:
    """Merges of two networks by their losses on test images; without MNIST none, and why."""
    try:
        examples = data.load("mnist", download=False)
    except DataError as error:
        return None, str(error)
    say("MNIST, two networks of three hidden layers of 512 units")
    net = arch.fc(3, 512, 10, activation=arch.Relu(), w_std=2**0.5, b_std=0.0, param="standard")
    x, y = _flat(examples.x_train[:_MNIST_IMAGES]), examples.y_train[:_MNIST_IMAGES]
    a, b = (_trained(net, named_key(key, "mnist", i), (x, y), _MNIST_EPOCHS, _MNIST_BATCH) for i in range(2))
    test_x, test_y = _flat(examples.x_test[:_MNIST_TEST]), examples.y_test[:_MNIST_TEST]
    system = System(net.apply, a, test_x, test_y, loss="cross_entropy", reduction="mean")
    return _merges(net, system, a, b, named_key(key, "mnist")), ""


def _flat(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), -1).astype(np.float32)


def _mnist_claims(found: tuple[Merge, Merge] | None, missing: str) -> tuple[StudyClaim, ...]:
    claims = []
    for i, method in enumerate(("weights", "activations")):
        own = None if found is None else found[i]
        claims.append(
            claim(
                f"mnist_{method}",
                f"On MNIST, three hidden layers of 512 units: after matching {method} the barrier is near zero, "
                f"at most {ZERO} on test images.",
                value=None if own is None else own.aligned.value,
                high=ZERO,
                published="near zero for these networks; no number recovered",
                measured=f"not run: {missing}"
                if own is None
                else f"{own.aligned.value:.3f}, before {own.naive.value:.3f}; losses of the two {own.loss_a:.3f} and "
                f"{own.loss_b:.3f}",
            )
        )
    return tuple(claims)


def _counted(
    name: str, statement: str, held: list[Any], numbers: str, *, published: str, needed: int | None = None
) -> StudyClaim:
    """A claim that something holds in most trials, or in as many as are needed."""
    number = int(np.sum(held))
    return claim_of_count(
        name,
        statement,
        held=number,
        trials=len(held),
        needed=len(held) // 2 + 1 if needed is None else needed,
        published=published,
        measured=f"{number} of {len(held)}; {numbers}",
    )
