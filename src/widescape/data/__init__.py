"""Data sets as arrays: bundled, downloaded, synthetic, or your own; whitening and augmentation."""

from widescape.data.augmentation import augment
from widescape.data.catalog import entry, fetched, load, names, read
from widescape.data.dataset import Dataset, split
from widescape.data.harmonics import harmonic_dim, zonal_harmonic
from widescape.data.inputs import read_inputs
from widescape.data.standardization import scaling, standardize
from widescape.data.teachers import (
    low_rank_polynomial,
    single_index,
    sparse_parity,
    spherical_harmonic,
    spirals,
)
from widescape.data.whitening import ZCA

__all__ = [
    "ZCA",
    "Dataset",
    "augment",
    "entry",
    "fetched",
    "harmonic_dim",
    "load",
    "low_rank_polynomial",
    "names",
    "read",
    "read_inputs",
    "scaling",
    "single_index",
    "sparse_parity",
    "spherical_harmonic",
    "spirals",
    "split",
    "standardize",
    "zonal_harmonic",
]
