"""SVG as matplotlib writes it, made fit to stand inside an HTML page beside others."""

import re
from collections.abc import Iterator
from xml.dom import minidom

INK = "#1b1f23"
"""The color of letters, axes and grid in PNGs; in SVGs it becomes the color of the surrounding text."""

FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

UNWANTED = ("metadata", "style")


def inline(text: str, *, prefix: str, label: str) -> str:
    """One `<svg>` element without a prologue, whose ids begin with `prefix`.

    Args:
        text: an SVG document that matplotlib wrote.
        prefix: begins every id and every reference to one.
        label: what the figure shows, for readers who do not see it.
    """
    root = minidom.parseString(text).documentElement
    if root is None:
        raise ValueError("`text` holds no element; give the SVG document that matplotlib wrote.")
    for element in list(_elements(root)):
        if element.tagName in UNWANTED and element.parentNode is not None:
            element.parentNode.removeChild(element)
        else:
            _adapt(element, prefix)
    # matplotlib says these two for all elements in a style sheet, which would reach the whole page.
    root.setAttribute("stroke-linejoin", "round")
    root.setAttribute("stroke-linecap", "butt")
    root.setAttribute("role", "img")
    root.setAttribute("aria-label", label)
    return root.toxml()


def _elements(node: minidom.Element) -> Iterator[minidom.Element]:
    yield node
    for child in node.childNodes:
        if isinstance(child, minidom.Element):
            yield from _elements(child)


def _adapt(element: minidom.Element, prefix: str) -> None:
    for name, value in element.attributes.items():
        if name == "id":
            element.setAttribute(name, f"{prefix}-{value}")
        elif name == "xlink:href":
            element.setAttribute(name, re.sub(r"^#", f"#{prefix}-", value))
        elif name == "clip-path":
            element.setAttribute(name, value.replace("url(#", f"url(#{prefix}-"))
        elif name == "style":
            styled = re.sub(r"(font-family:|font:.*?px) [^;]*", rf"\1 {FONTS}", value)
            element.setAttribute(name, styled.replace(INK, "currentColor"))
