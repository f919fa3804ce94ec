"""A chart that shows other figures than the results have would be worse than none."""

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

from benchmarks.charts import Axes, bars, draw_folder, lines

ROOT = Path(__file__).resolve().parents[2]
SVG = "{http://www.w3.org/2000/svg}"


def heights(chart: str) -> list[float]:
    return [float(bar.get("height")) for bar in ET.fromstring(chart).iter(f"{SVG}rect") if bar.get("class") is None]


def test_bars_are_as_high_as_their_values_and_a_gap_has_none():
    chart = bars(Axes("t", "x", "y", one=True), ["a", "b"], {"nginx": [0.5, None], "sidehop": [1.0, 0.25]})
    low, high, quarter = heights(chart)
    assert (high, quarter) == (2 * low, low / 2)


def test_a_line_goes_through_its_points_on_a_scale_of_doublings():
    chart = lines(Axes("t", "x", "y", log_x=True), {"sidehop": [(1, 1.0), (2, 2.0), (4, 4.0)]})
    (path,) = [line.get("points") for line in ET.fromstring(chart).iter(f"{SVG}polyline")]
    (x1, y1), (x2, y2), (x3, y3) = [tuple(map(float, point.split(","))) for point in path.split()]
    assert abs((x2 - x1) - (x3 - x2)) < 0.2
    assert abs((y2 - y3) - 2 * (y1 - y2)) < 0.2
    assert re.search("prefers-color-scheme: dark", chart)


def test_words_are_data_not_markup():
    chart = bars(Axes("<a> & b", "x", "y"), ["<g>"], {"<s>": [1.0]})
    assert "<a> & b" in [text.text for text in ET.fromstring(chart).iter(f"{SVG}text")]


def test_what_was_recorded_can_be_drawn(tmp_path):
    recorded = ROOT / "benchmarks" / "results" / "throughput.json"
    (tmp_path / "throughput.json").write_text(recorded.read_text())
    curve = {"name": "nodes", "title": "t", "x": "nodes", "y": "us", "points": [{"mode": "sidehop", "x": 1, "y": 2.0}]}
    (tmp_path / "curves.json").write_text(json.dumps({"notes": [], "curves": [curve]}))
    written = {path.name for path in draw_folder(tmp_path)}
    assert {"throughput-ratio.svg", "round-trip.svg", "curve-nodes.svg"} <= written
    for name in written:
        ET.parse(tmp_path / name)


def test_a_folder_without_results_is_told(tmp_path):
    command = [sys.executable, "-m", "benchmarks.charts", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "neither throughput.json nor curves.json" in done.stderr
