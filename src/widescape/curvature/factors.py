"""The Jacobian of a chunk of examples, held in factors, and tangent kernels as their contraction."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from widescape.curvature import program
from widescape.curvature.program import Site, Uses

Outputs = Literal["trace", "full", "diag"]
_HIGHEST = jax.lax.Precision.HIGHEST
_SPECS: dict[Outputs, tuple[str, str]] = {
    # for Jacobian rows (example, output, entry), and for derivatives (example, output, position, entry)
    "trace": ("bop,cop->bc", "bosn,cotn->bsct"),
    "diag": ("bop,cop->bco", "bosn,cotn->bsoct"),
    "full": ("bop,cqp->bcoq", "bosn,cqtn->bsocqt"),
}


@dataclass(frozen=True)
class Model:
    """A function of parameters and examples, and which leaves of the parameters are differentiated. Static to JAX.

    Attributes:
        f: maps (params, x) to outputs (n,) or (n, c).
        chosen: for each leaf, whether it is differentiated.
        mixes: whether the output of one example depends on the others.
    """

    f: Callable[[Any, Any], Any]
    chosen: tuple[bool, ...]
    mixes: bool = False

    def outputs(self, params: Any, x: Any) -> jax.Array:
        """F(x) as (n, c)."""
        return self.f(params, x).reshape(jax.tree.leaves(x)[0].shape[0], -1)

    def one(self, params: Any, example: Any) -> jax.Array:
        """The outputs of one unit: of one example (c,), or of the whole batch (n c,) if examples are mixed."""
        if self.mixes:
            return self.outputs(params, example).reshape(-1)
        return self.outputs(params, jax.tree.map(lambda leaf: leaf[None], example))[0]

    def over_units(self, function: Callable[[Any], Any], x: Any) -> Any:
        """`function` of each unit of `x`, stacked."""
        return function(x) if self.mixes else jax.vmap(function)(x)

    def split(self, params: Any) -> tuple[list[Any], Callable[[list[Any]], Any]]:
        """The differentiated leaves, and how the parameters are made from them."""
        leaves, structure = jax.tree.flatten(params)

        def merge(chosen: list[Any]) -> Any:
            own = iter(chosen)
            mixed = [next(own) if use else leaf for use, leaf in zip(self.chosen, leaves, strict=True)]
            return jax.tree.unflatten(structure, mixed)

        return [leaf for use, leaf in zip(self.chosen, leaves, strict=True) if use], merge

    def program(self, params: Any, x: Any) -> Any:
        """The program of one unit, with the differentiated leaves first and the unit's leaves after them."""
        chosen, merge = self.split(params)
        unit = x if self.mixes else jax.tree.map(lambda leaf: leaf[0], x)
        entries, structure = jax.tree.flatten(unit)

        def flat(weights: list[Any], inputs: list[Any]) -> jax.Array:
            return self.one(merge(weights), jax.tree.unflatten(structure, inputs))

        return program.trace(flat, chosen, entries)

    def uses(self, params: Any, x: Any) -> Uses:
        """How one unit's program uses the differentiated leaves."""
        return program.read(self.program(params, x), sum(self.chosen))


class Rows(NamedTuple):
    """Rows of the Jacobian of some leaves: (examples, outputs, entries)."""

    j: Any

    def contract(self, other: "Rows", outputs: Outputs) -> jax.Array:
        return jnp.einsum(_SPECS[outputs][0], self.j, other.j, precision=_HIGHEST)


class Meeting(NamedTuple):
    """Rows of the Jacobian of one weight as factors: what came in, and the derivative in what goes out.

    The row of an example and output is the sum over positions s of the outer products h[s] g[s]^T.

    Attributes:
        h: (examples, positions, k).
        g: (examples, outputs, positions, n).
    """

    h: Any
    g: Any

    def contract(self, other: "Meeting", outputs: Outputs) -> jax.Array:
        incoming = jnp.einsum("bsk,ctk->bsct", self.h, other.h, precision=_HIGHEST)
        outgoing = jnp.einsum(_SPECS[outputs][1], self.g, other.g, precision=_HIGHEST)
        if outputs == "trace":
            return jnp.sum(incoming * outgoing, axis=(1, 3))
        if outputs == "diag":
            return jnp.einsum("bsct,bsoct->bco", incoming, outgoing, precision=_HIGHEST)
        return jnp.einsum("bsct,bsocqt->bcoq", incoming, outgoing, precision=_HIGHEST)


Factors = list[Rows | Meeting]


def keeps_factors(site: Site, outputs: Outputs, num_outputs: int) -> bool:
    """Whether contracting the factors of a site costs less than contracting the rows they stand for."""
    pairs = num_outputs**2 if outputs == "full" else num_outputs
    factors = site.positions**2 * (site.inputs + pairs * site.outputs + pairs)
    return factors <= pairs * site.inputs * site.outputs


def jacobian_factors(
    model: Model,
    params: Any,
    x: Any,
    basis: jax.Array,
    *,
    structured: bool,
    outputs: Outputs,
    group: tuple[int, ...] | None = None,
) -> Factors:
    """The Jacobian of a chunk of examples along some output directions.

    Args:
        model: the function.
        params: its parameters.
        x: examples, (B, ...); all of them if the function mixes examples.
        basis: output directions, (o, c); (B o, B c) if the function mixes examples.
        structured: whether weights that meet the example in a product are kept as factors.
        outputs: what the factors will be contracted to; decides which are worth keeping.
        group: which of the differentiated leaves; None for all.
    """
    chosen, merge = model.split(params)
    group = tuple(range(len(chosen))) if group is None else group
    rows = basis.shape[0] // (jax.tree.leaves(x)[0].shape[0] if model.mixes else 1)
    if not structured or model.mixes:

        def pulled(unit: Any) -> list[Any]:
            def own(part: list[Any]) -> jax.Array:
                return model.one(merge(_replaced(chosen, group, part)), unit)

            _, pull = jax.vjp(own, [chosen[i] for i in group])
            pulled_back: list[Any] = jax.vmap(pull)(basis)[0]
            return pulled_back

        leaves = model.over_units(pulled, x)
        return [Rows(leaf.reshape(-1, rows, chosen[i].size)) for i, leaf in zip(group, leaves, strict=True)]
    return _structured(model, params, x, basis, outputs, group)


def _structured(
    model: Model, params: Any, x: Any, basis: jax.Array, outputs: Outputs, group: tuple[int, ...]
) -> Factors:
    code, (chosen, _) = model.program(params, x), model.split(params)
    uses = program.read(code, len(chosen))
    sites = {number: site for number, site in uses.sites.items() if site.leaf in group}
    direct = tuple(i for i in uses.direct if i in group)

    def pulled(unit: Any) -> tuple[list[Any], dict[int, Any], dict[int, Any]]:
        def tapped(part: list[Any], taps: dict[int, Any]) -> tuple[jax.Array, dict[int, Any]]:
            args = [*_replaced(chosen, direct, part), *jax.tree.leaves(unit)]
            (out,), captured = program.run(code, len(chosen), args, taps)
            return out, captured

        taps = {number: jnp.zeros(site.shape, site.dtype) for number, site in sites.items()}
        _, pull, captured = jax.vjp(tapped, [chosen[i] for i in direct], taps, has_aux=True)
        rows, outgoing = jax.vmap(pull)(basis)
        return rows, captured, outgoing

    rows, captured, outgoing = model.over_units(pulled, x)
    factors: Factors = [Rows(r.reshape(*r.shape[:2], -1)) for r in rows]
    for number, site in sites.items():
        # In the precision of the parameter, as rows would be, whatever the product was computed in.
        g = jax.vmap(jax.vmap(site.vectors))(outgoing[number]).astype(chosen[site.leaf].dtype)
        h = captured[number].astype(g.dtype)
        if keeps_factors(site, outputs, basis.shape[1]):
            factors.append(Meeting(h, g))
        else:
            j = jnp.einsum("bsk,bosn->bokn", h, g, precision=_HIGHEST)
            factors.append(Rows(j.reshape(*j.shape[:2], -1)))
    return factors


def contract(first: Factors, second: Factors, outputs: Outputs, num_outputs: int) -> jax.Array:
    """The tangent kernel of two chunks from their factors: the sum of what each leaf contributes."""
    parts: list[Any] = [a.contract(b, outputs) for a, b in zip(first, second, strict=True)]  # type: ignore[arg-type]
    return jnp.asarray(sum(parts)) / (num_outputs if outputs == "trace" else 1)


def products(model: Model, params: Any, x1: Any, x2: Any, basis2: jax.Array, *, outputs: Outputs) -> jax.Array:
    """The tangent kernel of two chunks by products: each output direction of `x2` is pulled back and pushed forward.

    Args:
        model: the function.
        params: its parameters.
        x1: examples (B1, ...), all of them if the function mixes examples.
        x2: examples (B2, ...).
        basis2: all output directions (c, c), or (B2 c, B2 c) if the function mixes examples.
        outputs: what to keep.
    """
    chosen, merge = model.split(params)

    def pulled(unit: Any) -> Any:
        _, pull = jax.vjp(lambda part: model.one(merge(part), unit), chosen)
        return jax.vmap(pull)(basis2)[0]

    tangents = model.over_units(pulled, x2)
    n1, n2 = (jax.tree.leaves(x)[0].shape[0] for x in (x1, x2))
    tangents = jax.tree.map(lambda t, leaf: t.reshape(-1, *leaf.shape), tangents, chosen)
    _, push = jax.linearize(lambda part: model.outputs(merge(part), x1), chosen)
    full = jax.vmap(push)(tangents).reshape(n2, -1, n1, basis2.shape[1] // (n2 if model.mixes else 1))
    full = full.transpose(2, 0, 3, 1)
    if outputs == "full":
        return full
    diagonal = jnp.diagonal(full, axis1=2, axis2=3)
    return diagonal if outputs == "diag" else diagonal.mean(axis=-1)


def _replaced(leaves: list[Any], places: tuple[int, ...], values: list[Any]) -> list[Any]:
    changed = dict(zip(places, values, strict=True))
    return [changed.get(i, leaf) for i, leaf in enumerate(leaves)]


def numbers_per_example(
    uses: Uses, sizes: list[int], *, structured: bool, outputs: Outputs, num_outputs: int
) -> tuple[float, float]:
    """Numbers that the factors of one example hold, and numbers per pair that a tile holds beside its result."""
    pairs = num_outputs**2 if outputs == "full" else (num_outputs if outputs == "diag" else 1)
    if not structured:
        return float(num_outputs * sum(sizes)), float(pairs)
    held, tile = float(num_outputs * sum(sizes[i] for i in uses.direct)), float(pairs)
    for site in uses.sites.values():
        held += site.positions * (site.inputs + num_outputs * site.outputs)
        if keeps_factors(site, outputs, num_outputs):
            tile = max(tile, site.positions**2 * (1.0 + pairs))
        else:
            held += num_outputs * site.inputs * site.outputs
    return held, tile


def structured_size(uses: Uses) -> int:
    """Entries of all weights with a site."""
    return sum(site.inputs * site.outputs for site in uses.sites.values())
