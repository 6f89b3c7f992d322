"""Saves the figure of a gallery example: any matplotlib figure among its variables, exactly one in each example."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from sphinx_gallery.scrapers import figure_rst

DPI = 150


def save_figures(block: tuple[Any, ...], block_vars: dict[str, Any], gallery_conf: dict[str, Any]) -> str:
    """Save what a code block has drawn and return the lines that show it.

    Raises:
        RuntimeError: an example draws a second figure.
    """
    del block
    scope = block_vars["example_globals"]
    saved = scope.setdefault("__saved_figures__", [])
    paths = []
    for figure in [value for value in scope.values() if isinstance(value, Figure)]:
        if any(figure is other for other in saved):
            continue
        saved.append(figure)
        path = Path(next(block_vars["image_path_iterator"]))
        figure.savefig(path, dpi=DPI, facecolor="white")
        paths.append(str(path))
    if len(saved) > 1:
        raise RuntimeError(f"{block_vars['src_file']} draws {len(saved)} figures; an example has one.")
    return figure_rst(paths, gallery_conf["src_dir"])


def _get_sg_image_scraper() -> Any:
    """What sphinx-gallery asks a module of image scrapers for."""
    return save_figures
