"""A tangent kernel that was asked for: its arguments, checked, as arrays on the host."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from widescape.core import checks
from widescape.core.errors import DtypeError, ShapeError
from widescape.core.precision import double_scope, has_float64
from widescape.curvature.factors import Model, Outputs
from widescape.curvature.program import Uses

Trainable = Callable[[str], bool] | Any


@dataclass(frozen=True)
class Job:
    """A checked request: arrays on the host, examples first."""

    model: Model
    params: Any
    x1: Any
    x2: Any
    outputs: Outputs
    num_outputs: int
    sizes: tuple[int, ...]
    uses: Uses
    dtype: Any
    double: bool

    @property
    def shape(self) -> tuple[int, int]:
        return length(self.x1), length(self.x1 if self.x2 is None else self.x2)

    @property
    def output_shape(self) -> tuple[int, ...]:
        tail = {"trace": (), "diag": (self.num_outputs,), "full": (self.num_outputs,) * 2}[self.outputs]
        return (*self.shape, *tail)

    @property
    def pairs(self) -> float:
        """Pairs of examples to contract."""
        n1, n2 = self.shape
        return n1 * (n1 + 1) / 2 if self.x2 is None else float(n1 * n2)


def checked(f: Any, params: Any, x1: Any, x2: Any, outputs: Outputs, trainable: Trainable, mixes: bool) -> Job:
    """Check the arguments once; later code trusts them.

    Raises:
        ShapeError, DtypeError, TypeError, ValueError: arguments that do not fit.
    """
    if not callable(f):
        raise TypeError(f"`f` is {f!r}; give a function of (params, x), for instance `net.apply`.")
    chosen = selected(params, trainable)
    double = has_float64(params, x1, x2)
    params, x1 = on_host(params, double, "params"), on_host(x1, double, "x1")
    x2 = None if x2 is None else on_host(x2, double, "x2")
    n1 = count_examples(x1, "x1")
    if x2 is not None:
        count_examples(x2, "x2")
        _same_features(x1, x2)
    model = Model(hashable(f), chosen, mixes)
    with double_scope(double):
        out = jax.eval_shape(f, params, x1)
        check_outputs(out, n1)
        uses = model.uses(params, x1)
    sizes = tuple(leaf.size for use, leaf in zip(chosen, jax.tree.leaves(params), strict=True) if use)
    c = 1 if len(out.shape) == 1 else out.shape[1]
    return Job(model, params, x1, x2, outputs, c, sizes, uses, out.dtype, double)


def check_outputs(out: Any, n: int) -> None:
    """Refuse anything but one real array with examples first."""
    shape, dtype = getattr(out, "shape", None), getattr(out, "dtype", None)
    if shape is None or len(shape) not in (1, 2) or shape[0] != n:
        raise ShapeError(
            f"`f` returns {shape or type(out).__name__} for {n} examples; it must return one array ({n},) or ({n}, c), "
            "examples first."
        )
    if not jnp.issubdtype(np.dtype(dtype), jnp.floating):
        raise DtypeError(f"`f` returns {dtype}; it must return real floating-point numbers.")


def selected(params: Any, trainable: Trainable) -> tuple[bool, ...]:
    """For each leaf, whether it is differentiated."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if not leaves:
        raise ShapeError("`params` has no arrays; a tangent kernel needs at least one parameter.")
    if trainable is None:
        chosen = [True] * len(leaves)
    elif callable(trainable):
        chosen = [bool(trainable(jax.tree_util.keystr(path))) for path, _ in leaves]
    else:
        try:
            spread = jax.tree.map(lambda use, part: jax.tree.map(lambda _: bool(use), part), trainable, params)
        except ValueError as error:
            raise ShapeError(f"`trainable` must be a function of a path, or a prefix of `params`: {error}") from error
        chosen = jax.tree.leaves(spread)
    if not any(chosen):
        raise ValueError("`trainable` selects no parameter; the kernel would be zero.")
    for use, (path, leaf) in zip(chosen, leaves, strict=True):
        if use and not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise DtypeError(
                f"params{jax.tree_util.keystr(path)} holds {jnp.result_type(leaf)}; only real floating-point numbers "
                "are differentiated. Leave it out with `trainable`."
            )
    return tuple(chosen)


def on_host(tree: Any, double: bool, name: str) -> Any:
    """NumPy arrays; floating-point leaves in float64 if `double`, else as they are (Python floats in float32)."""

    def convert(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return leaf
        array = np.asarray(leaf, dtype=np.float32 if isinstance(leaf, float) else None)
        if not jnp.issubdtype(array.dtype, jnp.floating):
            return array
        checks.all_finite(array, name)
        return array.astype(np.float64) if double else array

    return jax.tree.map(convert, tree)


def count_examples(x: Any, name: str) -> int:
    """How many examples a batch has; refuses leaves of unequal length."""
    sizes = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(x)}
    if len(sizes) != 1 or sizes in ({()}, {(0,)}):
        raise ShapeError(
            f"the leaves of `{name}` must have the same positive number of examples first; they have {sorted(sizes)}."
        )
    return int(sizes.pop()[0])


def _same_features(x1: Any, x2: Any) -> None:
    first, second = (jax.tree.map(lambda leaf: leaf.shape[1:], x) for x in (x1, x2))
    if first != second:
        raise ShapeError(f"examples of `x1` have shape {first} and those of `x2` {second}; give the same features.")


class ByIdentity:
    """A callable without a hash, as the key of compiled programs: equal only to itself."""

    def __init__(self, f: Any) -> None:
        self.f = f

    def __call__(self, *args: Any) -> Any:
        return self.f(*args)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ByIdentity) and other.f is self.f

    def __hash__(self) -> int:
        return id(self.f)


def hashable(f: Any) -> Any:
    """A callable that can key compiled programs: `f` itself where it hashes, else itself by identity."""
    try:
        hash(f)
    except TypeError:
        return ByIdentity(f)
    return f


def length(x: Any) -> int:
    """Examples of a checked batch."""
    return int(jax.tree.leaves(x)[0].shape[0])
