"""Many searches for critical points of one loss, beside those that it is known to have."""

import dataclasses

import numpy as np

from widescape.core.chart import Chart, Series
from widescape.core.evidence import EXACT
from widescape.core.result import Result, quantity
from widescape.landscape.minima.finders import CPReport, index_chart

CLOSE = 1e-6
"""Distance of a loss from an analytic one within which a search is taken to have ended there."""


class CriticalPointSearches(Result):
    """Searches for critical points of one loss, and the critical points that it is known to have."""

    source = "frye2019critical"
    points: tuple[CPReport, ...] = quantity(EXACT, "where each search ended")
    losses: np.ndarray = quantity(EXACT, "losses of the known critical points (K,); empty where none is known")
    indices: np.ndarray = quantity(EXACT, "their indices (K,)")

    @property
    def found(self) -> tuple[CPReport, ...]:
        """The searches that succeeded."""
        return tuple(own for own in self.points if own.status.ok)

    def is_known(self, own: CPReport) -> bool:
        """Whether a known critical point has the loss of a report, within `CLOSE`, and its index."""
        return bool(((np.abs(self.losses - own.loss) <= CLOSE) & (self.indices == own.index)).any())

    def charts(self) -> tuple[Chart, ...]:
        """Loss against index, with the known critical points."""
        chart = index_chart(self.points)
        shares = self.indices / self.points[0].w.size
        known = (Series(shares, self.losses, "analytic", style="points"),) if self.losses.size else ()
        return (dataclasses.replace(chart, series=(*known, *chart.series)),)
