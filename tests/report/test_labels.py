"""Labels of markers stand where they hide nothing, as long as there is such a place."""

import numpy as np
import pytest

from widescape.core.chart import Chart, Marker, Series
from widescape.report import figures

X = np.linspace(0, 1, 200)


def drawn(chart):
    """The axes, and the labels of the markers by their text."""
    axes = figures.draw(chart).axes[0]
    return axes, {text.get_text(): text for text in axes.texts}


@pytest.mark.parametrize(
    "y",
    [
        np.where(X > 0.6, 0.5 + 0.1 * np.sin(90 * X), 1.0),
        np.where(X < 0.6, 0.5 + 0.1 * np.sin(90 * X), 0.0),
        0.5 + 0.02 * X,
    ],
    ids=["busy on the right", "busy on the left", "busy above"],
)
def test_a_label_covers_no_data(y):
    axes, labels = drawn(Chart("c", "t", "x", "y", (Series(X, y, "s"),), markers=(Marker(0.5, "threshold"),)))
    box = labels["threshold"].get_window_extent()
    places = axes.transData.transform(np.column_stack([X, y]))
    inside = (places > [box.x0, box.y0]).all(axis=1) & (places < [box.x1, box.y1]).all(axis=1)
    assert not inside.any()


def test_labels_do_not_cover_each_other_and_stay_inside():
    series = Series(X, X, "s")
    markers = (
        Marker(0.9, "first"),
        Marker(0.91, "second"),
        Marker(0.97, "third", "x"),
        Marker(0.95, "fourth", "x"),
    )
    axes, labels = drawn(Chart("c", "t", "x", "y", (series,), markers=markers))
    boxes = [text.get_window_extent() for text in labels.values()]
    assert len(boxes) == 4
    frame = axes.get_window_extent()
    for i, box in enumerate(boxes):
        assert frame.x0 <= box.x0 < box.x1 <= frame.x1
        assert frame.y0 <= box.y0 < box.y1 <= frame.y1
        assert not any(box.overlaps(other) for other in boxes[:i])


def test_a_label_stands_beside_its_line():
    axes, labels = drawn(Chart("c", "t", "x", "y", (Series(X, X, "s"),), markers=(Marker(0.3, "m", "x"),)))
    box = labels["m"].get_window_extent()
    line = axes.transData.transform((0.3, 0))[0]
    assert 0 < min(abs(box.x0 - line), abs(box.x1 - line)) < 10
