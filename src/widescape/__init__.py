"""widescape: how far is a network from its infinite-width limit, and what stands behind the answer?

One description of a network gives a finite network and its infinite-width kernels; every result says
whether its numbers are proved, certified, bounds, estimates, exact or published. The rooms are imported
when first used.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_ROOMS = (
    "arch",
    "core",
    "curvature",
    "data",
    "duals",
    "estimators",
    "features",
    "kernels",
    "landscape",
    "paths",
    "predict",
    "report",
    "studies",
    "survey",
    "train",
)

__all__ = [  # noqa: PLE0604  the rooms are names
    "__version__",
    *_ROOMS,
]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"widescape.{name}")
    raise AttributeError(f"module 'widescape' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
