from __future__ import annotations

import subprocess
import sys

from benchmarks import stand
from benchmarks.instructions.__main__ import DEARER_MAX, STRANGER_DEARER_MAX, dearer, own_instructions

PROFILE = """\
events: Ir
ob=(1) /usr/lib/libpython.so
fn=(1) main
10 500
cob=(2) /x/proxy/session/relay.so
cfn=(2) scan
calls=1 20
11 90
ob=(2)
fn=(2) scan
20 40
+1 30
cob=(1)
cfn=(3) malloc
calls=2 5
* 700
ob=(1)
fn=(3)
5 20
"""


def test_only_what_our_objects_run_themselves_is_counted() -> None:
    assert own_instructions(PROFILE, "/proxy/") == 70
    assert own_instructions(PROFILE, "/usr/") == 520
    assert own_instructions(PROFILE, "/elsewhere/") == 0


def test_a_tenth_more_is_a_complaint() -> None:
    kept = {"here": {"deliver": 100.0}}
    assert dearer({"deliver": 100.0 * DEARER_MAX}, kept, "here") == []
    assert "deliver: 111.0" in dearer({"deliver": 111.0}, kept, "here")[0]


def test_another_compiler_is_allowed_more() -> None:
    kept = {"here": {"deliver": 100.0}, "there": {"deliver": 90.0}}
    assert dearer({"deliver": 100.0 * STRANGER_DEARER_MAX}, kept, "elsewhere") == []
    assert dearer({"deliver": 151.0}, kept, "elsewhere")


def test_what_was_never_kept_is_a_complaint() -> None:
    assert dearer({"new": 1.0}, {"here": {"deliver": 100.0}}, "here")


def test_the_compiled_walks_cost_what_they_did() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.instructions", "--check"],
        cwd=stand.ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )
    assert done.returncode == 0, done.stdout + done.stderr
