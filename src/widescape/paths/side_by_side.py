"""Results about the same networks that are seen in one figure: annexes and dropout, a path and the straight line."""

from collections.abc import Mapping

from widescape.core.chart import Chart
from widescape.core.evidence import EXACT
from widescape.core.result import Result, quantity
from widescape.paths.barriers import Barrier
from widescape.paths.condition import ConditionReport, condition_chart
from widescape.paths.dropout import DropoutReport
from widescape.paths.figures import path_chart
from widescape.paths.profiles import PathProfile


class LayerLosses(Result):
    """The feature condition and dropout stability of one network, side by side."""

    source = "nguyen2021connectivity; kuditipudi2019explaining"
    condition: ConditionReport = quantity(EXACT, "annexes that are trained on half of the features of each layer")
    dropout: DropoutReport = quantity(EXACT, "the network itself with units dropped from each layer on")

    def charts(self) -> tuple[Chart, ...]:
        """Losses of both against the layer, and the network's own; of the annexes alone where masks keep too much."""
        reports = {"annexes": self.condition}
        if self.dropout.condition is not None:
            reports["dropout"] = self.dropout.condition
        return (condition_chart(reports, self.condition.net_loss),)


class PathLosses(Result):
    """The loss on a constructed path between two networks, and on the straight line between them."""

    source = "nguyen2021connectivity"
    profile: PathProfile = quantity(EXACT, "losses along the constructed path")
    line: Barrier = quantity(EXACT, "losses on the straight line between the same ends")
    levels: Mapping[str, float] = quantity(EXACT, "losses to compare with, by name")

    def charts(self) -> tuple[Chart, ...]:
        """The loss against the position on both, with the levels."""
        lines = {
            "constructed path": (self.profile.s, self.profile.loss),
            "straight line": (self.line.t, self.line.loss),
        }
        caption = (
            f"At most {self.profile.max:.3g} at the positions seen on the constructed path, and "
            f"{self.line.loss.max():.3g} on the straight line. Each segment takes an equal part of the axis."
        )
        return (path_chart(lines, self.levels, caption=caption),)
