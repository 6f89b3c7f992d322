"""The figure that several paths share: losses against the position, with levels to compare them with."""

from collections.abc import Mapping

import numpy as np

from widescape.core.chart import Chart, Marker, Series


def path_chart(
    lines: Mapping[str, tuple[np.ndarray, np.ndarray]],
    levels: Mapping[str, float],
    *,
    title: str = "Loss on the way from one solution to the other",
    caption: str = "",
) -> Chart:
    """Losses along several paths between the same ends.

    Args:
        lines: by name, positions from 0 to 1 and the losses there.
        levels: by name, losses to compare with, drawn as horizontal lines.
        title: of the chart.
        caption: of the chart.

    Returns:
        a chart with linear axes: on a constructive path the loss touches zero.
    """
    return Chart(
        name="paths",
        title=title,
        x_label="position on the path, from 0 to 1",
        y_label="loss",
        series=tuple(Series(positions, losses, name) for name, (positions, losses) in lines.items()),
        markers=tuple(Marker(level, name) for name, level in levels.items()),
        caption=caption,
    )
