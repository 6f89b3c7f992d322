"""Surveys to write pages of."""

import numpy as np

from widescape.core.chart import Chart, HeatMap, Marker, Series, Spot, Surface, Trace
from widescape.core.evidence import EXACT, bound, certified, estimate, proved, published
from widescape.core.result import Result, quantity
from widescape.core.table import Table
from widescape.survey.chapter import Chapter, SurveyReport


class Gap(Result):
    """A result with several kinds of evidence."""

    source = "lee2019wide, section 2"
    gap: float = quantity(estimate("gap_stderr", "20 draws"), "relative distance", unit="1/step")
    gap_stderr: float = quantity(EXACT, "standard error of the distance")
    floor: float = quantity(bound("lower"), "a floor")
    smallest: float = quantity(certified("margin 1e-14"), "smallest eigenvalue")
    spectrum: np.ndarray = quantity(EXACT, "all eigenvalues")


class Everything(Result):
    """A result with every kind of evidence, and with long names, units, meanings and notes."""

    source = "a paper with a long key, theorem 4.2, equation (17), and its appendix on constants"
    relative_distance_of_the_linearized_predictions_to_the_limit: float = quantity(
        estimate("relative_distance_of_the_linearized_predictions_to_the_limit_stderr", "20 draws of 3 networks"),
        "distance of the predictions, relative to their size in the root mean square over test points and outputs",
        unit="root mean squares per step of gradient descent",
    )
    relative_distance_of_the_linearized_predictions_to_the_limit_stderr: float = quantity(EXACT, "its error")
    limitwithoutanyplacewherethenamecouldbebrokenintotwolines: float = quantity(proved("theorem 4.2"), "a limit")
    smallest_eigenvalue: float = quantity(certified("margin 1e-14, by a shifted Cholesky factor"), "an eigenvalue")
    ceiling: float = quantity(bound("upper", "Weyl's inequality"), "an upper end", unit="1/step")
    quoted: float = quantity(published("lee2019wide, table 1"), "what the paper reports")
    spectrum: np.ndarray = quantity(EXACT, "all eigenvalues, largest first")


def chart(**changes):
    parts = {
        "name": "decay",
        "title": "The distance falls with the width",
        "x_label": "width",
        "y_label": "distance",
        "series": (Series([1, 2, 3.25], [0.1, 0.2, 0.3], "mean", [0.01, 0.11, 0.21], [0.31, 0.41, 0.51]),),
        "markers": (Marker(0.125, "tolerance"),),
        "caption": "Bands: two standard errors.",
    }
    return Chart(**(parts | changes))


def surface(**changes):
    """Two valleys, the heights from 0.02 to 2.6, a line into one of them and two points."""
    x, y = np.linspace(-1, 1, 31), np.linspace(-1.5, 1.5, 41)
    along = np.linspace(0, 1, 40)
    parts = {
        "name": "valleys",
        "title": "The loss has two valleys",
        "x_label": "first direction",
        "y_label": "second direction",
        "z_label": "loss",
        "x": x,
        "y": y,
        "z": 0.02 + 4 * (x[:, None] ** 2 - 0.25) ** 2 + 0.15 * (y[None] - x[:, None]) ** 2,
        "z_scale": "log",
        "path": Trace(0.95 - 0.45 * along, -1.3 + 1.8 * along**2, "training"),
        "points": (Spot(0.5, 0.5, "trained"), Spot(0.0, 0.0, "saddle", 0.27)),
        "caption": "A plane through three minima.",
    }
    return Surface(**(parts | changes))


def heat_map(**changes):
    """Four rows by three columns from 0.02 to 0.97, one of them without a value."""
    parts = {
        "name": "layers",
        "title": "Layers are like their counterparts",
        "x_label": "layer of the second network",
        "y_label": "layer of the first network",
        "value_label": "similarity",
        "rows": ("1 Conv + Relu", "2 Conv + Relu", "3 GlobalAvgPool", "4 Dense"),
        "columns": ("1 Dense + Gelu", "2 Dense + Gelu", "3 Dense"),
        "values": [[0.97, 0.5, 0.125], [0.75, 0.9, 0.3], [0.4, np.nan, 0.6], [0.02, 0.2, 0.85]],
        "caption": "500 samples.",
    }
    return HeatMap(**(parts | changes))


def chapter(**changes):
    parts = {
        "name": "kernel",
        "title": "The kernel and its limit",
        "question": "How far is the kernel from its limit?",
        "verdict": "It is close.",
        "sentences": ("The first finding.", "The second finding."),
        "sizing": "Sized to 20 draws.",
        "results": {"gap": Gap(gap=0.5, gap_stderr=0.01, floor=0.1, smallest=1e-9, spectrum=np.array([0.25, np.inf]))},
        "charts": (chart(),),
        "tables": (
            Table("widths", "All widths", ("width", "gap", "said"), ((64, 0.123456, "far"), (512, None, "near"))),
        ),
        "seconds": 12.3,
        "budget": 60.0,
    }
    return Chapter(**(parts | changes))


def survey(*chapters, **changes):
    parts = {
        "title": "A survey",
        "subject": "A network on digits.",
        "chapters": chapters or (chapter(), chapter(name="training", title="Training", budget=None)),
        "provenance": {"seed": "7", "command": "widescape survey"},
        "seconds": 252.4,
    }
    return SurveyReport(**(parts | changes))


LONG = "the distance between the predictions of the trained network and those of its infinitely wide limit"
UNBROKEN = "a_name_without_any_place_to_break_it_" * 4


def large():
    """A survey with much of everything: what is long, wide, many or extreme on a page."""
    return survey(
        chapter(charts=_charts(), tables=_tables(), results={"everything": _everything(), LONG: _everything()}),
        chapter(name="words", title=f"Words only, on {UNBROKEN}", charts=(), tables=(), results={}, budget=None),
        chapter(
            name="training",
            title="Training",
            verdict=f"At width 256 {LONG} is 0.111 ± 0.002, and {LONG} falls. " * 3,
            sentences=(f"It is {LONG}.", UNBROKEN, "Small: 0.0089 ± 0.0007."),
        ),
        title=f"A survey of {UNBROKEN}",
        left_out={f"Curvature of {LONG}": f"it needs the layers of {UNBROKEN}."},
        provenance={"seed": "7", "command": "widescape survey --model " + UNBROKEN, UNBROKEN: "yes"},
    )


def _everything():
    return Everything(
        relative_distance_of_the_linearized_predictions_to_the_limit=0.5123,
        relative_distance_of_the_linearized_predictions_to_the_limit_stderr=0.0123,
        limitwithoutanyplacewherethenamecouldbebrokenintotwolines=1234567.8,
        smallest_eigenvalue=1.25e-9,
        ceiling=float("inf"),
        quoted=0.5,
        spectrum=np.geomspace(1e3, 1e-6, 500),
    )


def _charts():
    widths = np.geomspace(32, 4096, 8)
    ranks = np.arange(1.0, 1301.0)
    lines = [
        Series(widths, (i + 1) / widths, f"{LONG}, network {i}", (i + 0.5) / widths, (i + 2) / widths, style)
        for i, style in enumerate(("line", "points", "both", "line", "points"))
    ]
    flat = [Series(widths, 0.97 - i / widths, f"kernel {i}", style="both") for i in range(7)]
    spectrum = Series(ranks, 1e4 * ranks**-2.5, "spectrum", -(ranks**-1.0), 1e5 * ranks**-2.5)
    gaps = Series([1, 2, 3, 4], [0.1, np.nan, np.inf, 0.4], "loss with gaps", [0, 0, 0, 0], [1, 1, 1, 1], "points")
    return (
        chart(
            title=f"The chart of {LONG}",
            caption=f"Bands: two standard errors of {LONG}, 0.111 ± 0.002 at most.",
            x_label=f"hidden width, against {LONG}",
            y_label=LONG,
            x_scale="log",
            y_scale="log",
            series=tuple(lines),
            markers=(
                Marker(0.01, "a tenth of the size of the predictions"),
                Marker(0.011, "as near to it as can be"),
                Marker(300.0, "number of inputs", "x"),
            ),
        ),
        chart(name="flat", title="Seven kernels", x_scale="log", series=tuple(flat), markers=()),
        chart(name="spectrum", title="Spectrum", x_scale="log", y_scale="log", series=(spectrum,)),
        chart(name="gaps", title="Gaps", series=(gaps,), markers=(Marker(2.5, "half", "x"),)),
        chart(
            name="far",
            title="Far from the origin",
            x_label="step",
            series=(Series([0, 1e5, 2e6], [-1e-7, 2e-5, 3e-4], "small and wide"),),
            markers=(),
        ),
        surface(
            title=f"The surface of {LONG}",
            x_label=f"first direction, against {LONG}",
            y_label=LONG,
            z_label=LONG,
            path=Trace([-3, 0.9, 0.2, -0.5], [0, 1.2, -1.2, -0.5], LONG, [3, 2, 0.5, 0.02]),
            points=(Spot(0.5, 0.5, f"trained on {LONG}"), Spot(9, 9, "far away")),
        ),
        surface(name="holes", z_scale="linear", z=_holes(), path=None, points=()),
        surface(name="level", z=np.ones((31, 41)), path=None, points=()),
        heat_map(),
        heat_map(
            name="long",
            title=f"The similarity of {LONG}",
            x_label=LONG,
            y_label=LONG,
            value_label=LONG,
            rows=(LONG, UNBROKEN, LONG, UNBROKEN),
            columns=(UNBROKEN, LONG, UNBROKEN),
            undefined=LONG,
        ),
        heat_map(name="many", rows=_numbered(30), columns=_numbered(25), values=_waves(30, 25)),
        heat_map(name="full", rows=_numbered(8), columns=_numbered(8), values=-_waves(8, 8), limits=(-1, 1)),
    )


def _numbered(n):
    return tuple(f"{i + 1} Dense + Gelu" for i in range(n))


def _waves(rows, columns):
    values = np.cos(np.arange(rows)[:, None] - np.arange(columns))
    values[1, 2] = np.nan
    return values


def _holes():
    z = surface().z - 1e5
    z[10:13, 20:25] = np.inf
    return z


def _tables():
    columns = ("network", *(f"measured quantity {i}" for i in range(12)))
    rows = tuple((f"{UNBROKEN}{i}", *(float(f"{i}.{j}e-{j}") for j in range(11)), "97.0 ± 0.8%") for i in range(3))
    return (
        Table("wide", f"A table of {LONG}", columns, rows, f"Each of {LONG}."),
        Table("long", "A long table", ("rank", "value"), tuple((i, 1 / (i + 1)) for i in range(60))),
        Table("empty", "A table without rows", ("rank", "value"), ()),
    )
