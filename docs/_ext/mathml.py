"""Renders formulas as MathML, which browsers draw themselves: no scripts and no network."""

import re
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)
PRIMED = r"<mrow>\1<mo lspace='0.05em' rspace='0'>&#x02032;</mo></mrow>"


def _mathml(node: nodes.Element, display: str) -> str:
    """The formula as MathML; a warning where a command is not understood."""
    latex = node.astext()
    try:
        text = convert(latex, display=display)
    except Exception as error:  # the parser raises many kinds
        logger.warning("formula %r cannot be rendered: %r", latex, error, location=node)
        return nodes.literal("", latex).astext()
    unknown = re.findall(r"\\[A-Za-z]+", text.replace("&#x0005C;", "\\"))
    if unknown:
        logger.warning("formula %r has unknown commands: %s", latex, ", ".join(unknown), location=node)
    return _lowered_primes(text)


def _lowered_primes(text: str) -> str:
    """Primes beside their letter: the glyph is raised already, and as a superscript it floats."""
    return re.sub(r"<msup>(<m[io]>[^<]*</m[io]>)<m[io][^>]*>&#x02032;</m[io]></msup>", PRIMED, text)


def _inline(self: Any, node: nodes.Element) -> None:
    self.body.append(f'<span class="math">{_mathml(node, "inline")}</span>')
    raise nodes.SkipNode


def _block(self: Any, node: nodes.Element) -> None:
    self.body.append(f'<div class="math-block">{_mathml(node, "block")}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the renderer."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
