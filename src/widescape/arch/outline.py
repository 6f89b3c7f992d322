"""What is known of a limit without numbers: whether it exists, and what state is behind some layers."""

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from widescape.arch.covariance import Covariance, InputBlock, Layout
from widescape.arch.images import image_block
from widescape.arch.layouts import walk
from widescape.arch.spec import Signal, merge, split, split_slots
from widescape.core.precision import is_traced

if TYPE_CHECKING:
    from widescape.arch.base import Layer


def means_matter(layer: "Layer") -> bool:
    """Whether the limit depends on whether means vanish, and scales are there to tell."""
    return any(part.needs_mean for part in walk(layer)) and not is_traced(split(layer)[1])


def state_behind(
    layers: tuple["Layer", ...], signal: Signal, layout: Layout, *, ntk: bool, concrete: bool
) -> Covariance:
    """The state behind some layers, with shapes in the place of arrays; nothing is computed.

    Args:
        layers: one after the other.
        signal: what reaches the first one.
        layout: which pairs of positions are carried.
        ntk: whether a tangent kernel is.
        concrete: whether scales are read, as the mean of some nonlinearities needs it; all else depends on the
            structure alone, and is found once for all scales.

    Raises:
        NotTractableError, NonGaussianInputError: the limit does not exist; says in which layer.
    """
    return _state_behind(layers if concrete else split(layers)[0], signal, layout, ntk, concrete)


@lru_cache(maxsize=256)
def _state_behind(structure: Any, signal: Signal, layout: Layout, ntk: bool, concrete: bool) -> Covariance:
    layout = layout if layout.kind == "flat" else layout._replace(each=True)

    def state(scales: list[Any], block: Any) -> Any:
        if layout.kind != "flat":
            first, second, shifts = block
            block = image_block(first, second, shifts, layout, signal)
        cov: Any = Covariance.of_input(block, signal, ntk=ntk, layout=layout).replace(abstract=True)
        for layer in structure if concrete else merge(structure, scales):
            cov = layer.limit(cov)
        return cov

    with jax.enable_x64(True):
        number, vector, matrix = (jax.ShapeDtypeStruct((1,) * ndim, np.float64) for ndim in range(3))
        inputs: Any = InputBlock(matrix, matrix, vector, vector)
        if layout.kind != "flat":
            image = jax.ShapeDtypeStruct((1, *signal.shape), np.float64)
            shifts = (jax.ShapeDtypeStruct((1,), np.int32),) * (layout.axes if layout.kind == "planes" else 0)
            inputs = (image, image, shifts)
        found: Covariance = jax.eval_shape(state, [] if concrete else [number] * len(split_slots(structure)), inputs)
    return found
