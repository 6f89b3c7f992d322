"""Any function as a model: the `System`, and what is derived from it."""

from widescape.curvature.system import System

__all__ = ["System"]
