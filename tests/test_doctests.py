import doctest
import importlib
import pkgutil

import jax
import numpy as np
import pytest

import widescape

MODULES = [m.name for m in pkgutil.walk_packages(widescape.__path__, "widescape.") if m.name != "widescape.__main__"]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_hold(name):
    outcome = doctest.testmod(importlib.import_module(name), extraglobs={"np": np, "jax": jax})
    assert outcome.failed == 0


def test_there_are_examples_in_docstrings():
    finder = doctest.DocTestFinder()
    found = (t for name in MODULES for t in finder.find(importlib.import_module(name)))
    assert sum(len(t.examples) for t in found) > 10
