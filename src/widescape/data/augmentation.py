"""Random flips and crops, determined by a key."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import numpy as np

from widescape.core import checks
from widescape.core.errors import ShapeError
from widescape.core.random import named_key

Padding = Literal["reflect", "zero"]
Augmentation = Callable[[jax.Array, Any], np.ndarray]


def augment(*, flip: bool = True, crop: int = 0, padding: Padding = "reflect") -> Augmentation:
    """A function of a key and images that flips and shifts each image at random.

    Each image is mirrored left to right with probability one half, and shifted by an independent, uniform number of
    pixels of at most `crop` in each direction, which is a random crop of the padded image. The same key gives the
    same images on every platform.

    Args:
        flip: whether to mirror.
        crop: largest shift in pixels, 0 for none.
        padding: what comes in at the edge: the mirrored image without its border, or zeros.

    Returns:
        ``function(key, x)``, from a key of `jax.random.key` and images (N, H, W, C) to images shaped like them.

    Raises:
        ValueError: `crop` is negative or, when called, not smaller than the images are.
        ShapeError: when called, `x` is no batch of images.

    Example:
        >>> x = np.arange(6.0).reshape(1, 2, 3, 1)
        >>> flipped = [augment()(jax.random.key(i), x)[0, 0, :, 0].tolist() for i in range(8)]
        >>> sorted({tuple(row) for row in flipped})
        [(0.0, 1.0, 2.0), (2.0, 1.0, 0.0)]
    """
    checks.count(crop, "crop", "augment", minimum=0)
    checks.choice(padding, "padding", Padding)

    def augmented(key: jax.Array, x: Any) -> np.ndarray:
        images = checks.real_array(x, "x")
        if images.ndim != 4:
            raise ShapeError(f"`x` has shape {images.shape}; augmentation needs images (N, H, W, C).")
        if crop >= min(images.shape[1:3]):
            raise ValueError(f"`crop` is {crop}, but images have {images.shape[1]} by {images.shape[2]} pixels.")
        if flip:
            mirrored = np.asarray(jax.random.bernoulli(named_key(key, "flip"), np.float32(0.5), (len(images),)))
            images = np.where(mirrored[:, None, None, None], images[:, :, ::-1], images)
        return _shifted(named_key(key, "crop"), images, crop, padding) if crop else images

    return augmented


def _shifted(key: jax.Array, images: np.ndarray, crop: int, padding: Padding) -> np.ndarray:
    """Each image cut from its padded self at a place of its own."""
    n, height, width, _ = images.shape
    ends = ((0, 0), (crop, crop), (crop, crop), (0, 0))
    padded = np.pad(images, ends, mode="reflect" if padding == "reflect" else "constant")
    places = np.asarray(jax.random.randint(key, (n, 2), 0, 2 * crop + 1, dtype="int32"))
    rows = places[:, :1] + np.arange(height)
    columns = places[:, 1:] + np.arange(width)
    return padded[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]
