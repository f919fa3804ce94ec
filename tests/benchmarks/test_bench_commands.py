"""The commands of `make bench` explain themselves, and refuse a mistake before they start anything."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.curves import CURVES

ROOT = Path(__file__).resolve().parents[2]


def run(module: str, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("benchmarks", ("--into", "--quick", "--port-base", "benchmarks.throughput")),
        ("benchmarks.curves", (*CURVES, "--modes", "--rounds", "--seconds", "--json")),
        ("benchmarks.flames", ("linux-perf", "--workloads", "--seconds", "--into")),
        ("benchmarks.charts", ("throughput.json", "curves.json")),
    ],
)
def test_help_teaches(module, words):
    done = run(module, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert [word for word in words if word not in done.stdout] == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--curves", "memory"], "invalid choice: 'memory'"),
        (["--modes", "direct"], "direct unknown; of haproxy, nginx, sidehop"),
    ],
)
def test_a_mistake_is_refused_with_what_would_be_right(arguments, told):
    done = run("benchmarks.curves", *arguments)
    assert done.returncode == 2
    assert told in done.stderr


def test_every_curve_has_points_that_a_scale_of_doublings_can_show():
    assert all(min(curve.values) > 0 and sorted(curve.values) == list(curve.values) for curve in CURVES.values())
