import importlib.util
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("support_of_layers", Path(__file__).with_name("support.py"))
support = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(support)
PRINTED = support.printed().splitlines()


def test_the_page_has_a_row_for_every_layer_and_no_other():
    listed = [line.split("|")[1].strip(" `") for line in PRINTED[2:]]
    assert listed == support.layer_names()


def test_the_page_has_the_columns_that_are_tried():
    assert PRINTED[0] == support.line(support.HEADS)


@pytest.mark.slow
@pytest.mark.parametrize("name", support.layer_names())
def test_the_page_says_of_a_layer_what_trying_it_says(name):
    (written,) = [line for line in PRINTED if line.startswith(f"| `{name}` |")]
    assert written == support.line(support.row(name))
