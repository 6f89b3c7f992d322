"""Data sets as arrays: the bundled one, and what lies in the folder that ``WIDESCAPE_DATA`` names."""

from widescape.data.dataset import Dataset, standardize
from widescape.data.load import load, names

__all__ = ["Dataset", "load", "names", "standardize"]
