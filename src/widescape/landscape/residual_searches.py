"""Searches from many starts for minima of a residual model, held against the optima with the features found there."""

import numpy as np

from widescape.core.chart import Chart, Marker, Series
from widescape.core.evidence import EXACT
from widescape.core.result import Result, quantity
from widescape.landscape.resnet import ResNetReport

CONVERGED = 1e-6
"""Norm of the gradient in all parameters below which a search has converged."""


class ResidualSearches(Result):
    """Where searches from random starts ended, held against the optima with the features found there."""

    source = "kawaguchi2018resnets"
    reports: tuple[ResNetReport, ...] = quantity(EXACT, "comparison where each search ended")
    grad_norms: np.ndarray = quantity(EXACT, "norm of the gradient in all parameters there (N,)")
    sizes: np.ndarray = quantity(EXACT, "norm of all parameters there (N,)")
    lambda_min: np.ndarray | None = quantity(EXACT, "smallest eigenvalue of the Hessian (N,); None if not asked for")

    @property
    def converged(self) -> np.ndarray:
        """Which searches ended at a gradient norm below `CONVERGED` (N,)."""
        return np.asarray(self.grad_norms < CONVERGED)

    @property
    def critical(self) -> tuple[ResNetReport, ...]:
        """The reports of those."""
        return tuple(own for own, ended in zip(self.reports, self.converged, strict=True) if ended)

    def charts(self) -> tuple[Chart, ...]:
        """The loss where each search ended against the joint optimum there."""
        joint, losses = (np.array([getattr(own, name) for own in self.reports]) for name in ("L_joint", "L"))
        shown = {"converged": self.converged, "not converged": ~self.converged}
        points = [Series(joint[at], losses[at], label, style="points") for label, at in shown.items() if at.any()]
        return (
            Chart(
                name="joint",
                title="Loss where searches ended, and the joint optimum with the features there",
                x_label="joint optimum",
                y_label="loss",
                series=tuple(points),
                markers=tuple(Marker(own.L_linear, "linear optimum") for own in self.reports[:1]),
                caption=f"{self.converged.sum()} of {len(self.reports)} searches converged.",
            ),
        )
