"""Draws charts and writes the HTML page of a survey; knows no mathematics.

`figures` turns a chart into PNG, SVG or a matplotlib figure; `page` writes a survey to a folder.
"""
