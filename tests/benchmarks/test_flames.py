"""A flame graph whose boxes don't add up would send the next optimization to the wrong place."""

import xml.etree.ElementTree as ET
from collections import Counter

import pytest

from benchmarks.flames import draw, fold, plain

SCRIPT = """sidehop
\t    7f01 send+0x10
\t    7f02 _PyEval_EvalFrameDefault+0x1
\t    7f03 _PyEval_EvalFrameDefault+0x2
\t    7f04 main

sidehop
\t    7f05 __pyx_f_5proxy_7session_6intake_scan_client+0x3
\t    7f04 main
"""


def test_stacks_begin_outermost_and_plain_python_is_one_box():
    assert fold(SCRIPT.splitlines()) == Counter(
        {("main", "_PyEval_EvalFrameDefault", "send"): 1, ("main", "proxy.session.intake.scan_client"): 1}
    )


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("__pyx_f_5proxy_7session_6intake_scan_client", "proxy.session.intake.scan_client"),
        ("__pyx_pw_5proxy_7session_6ledger_6Ledger_3note", "proxy.session.ledger.Ledger.note"),
        ("_PyEval_EvalFrameDefault", "_PyEval_EvalFrameDefault"),
        ("__pyx_tp_new", "__pyx_tp_new"),
    ],
)
def test_names_of_the_compiled_engine_are_those_of_its_source(name, told):
    assert plain(name) == told


def test_boxes_are_as_wide_as_their_share_and_stand_below_their_caller():
    chart = ET.fromstring(draw("t <x>", Counter({("main", "a"): 3, ("main", "b"): 1})))
    svg = "{http://www.w3.org/2000/svg}"
    boxes = {
        group.find(f"{svg}title").text: (float(box.get("x")), float(box.get("width")), int(box.get("y")))
        for group in chart.iter(f"{svg}g")
        for box in group.iter(f"{svg}rect")
    }
    assert boxes["a: 75.0%"][1] == 3 * boxes["b: 25.0%"][1]
    assert boxes["b: 25.0%"][0] == boxes["a: 75.0%"][1]
    assert boxes["a: 75.0%"][2] > boxes["main: 100.0%"][2]
