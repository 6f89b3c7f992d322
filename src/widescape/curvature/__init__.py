"""Any function as a model: the `System`, and what is derived from it."""

from widescape.curvature.plan import TangentPlan
from widescape.curvature.system import System
from widescape.curvature.tangent import tangent_kernel, tangent_vector_product

__all__ = ["System", "TangentPlan", "tangent_kernel", "tangent_vector_product"]
