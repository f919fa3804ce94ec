"""`python -m benchmarks.instructions`: instructions of the compiled code per message, counted by valgrind's callgrind.

Only what the compiled modules execute themselves is counted, not what they call in Python or the C library: that is
what a change of theirs changes. The figures are those of a compiler and a processor's architecture, and are kept for
each (benchmarks/results/instructions.json); --check fails where one is more than a tenth dearer than what is kept.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from benchmarks import stand
from benchmarks.instructions.workload import CHUNK_MESSAGES, CHUNKS, WORKLOADS

KEPT = stand.ROOT / "benchmarks" / "results" / "instructions.json"
DEARER_MAX = 1.10
# Another compiler than any that figures are kept for may well need more, but not for a walk that is as good as before.
STRANGER_DEARER_MAX = 1.5
RUN_S_MAX = 600


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.instructions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true", help="compare with what is kept; exit code 1 if dearer")
    parser.add_argument("--record", action="store_true", help="keep these figures, as a change that is meant to cost")
    asked = parser.parse_args()
    try:
        figures = {name: count(name) for name in WORKLOADS}
    except stand.StandError as error:
        print(f"nothing was counted: {error}", file=sys.stderr)
        return 2
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    here = circumstances()
    for name, figure in figures.items():
        print(f"{figure:8.1f}  {name}")
    if asked.record:
        KEPT.write_text(json.dumps({**kept, here: figures}, indent=1, sort_keys=True) + "\n")
    complaints = dearer(figures, kept, here) if asked.check else []
    print("\n".join(complaints), file=sys.stderr)
    return 1 if complaints else 0


def count(name: str) -> float:
    """Instructions per message of a workload. Raises StandError where nothing can be counted."""
    if shutil.which("valgrind") is None:
        raise stand.StandError("valgrind is missing: apt-get install valgrind")
    if not (stand.ROOT / "proxy" / "session" / f"relay{EXTENSION_SUFFIXES[0]}").exists():
        raise stand.StandError("the walks are not compiled here: deploy/lab/venv.sh dev")
    with tempfile.TemporaryDirectory(prefix="sidehop-count-") as folder:
        written = Path(folder) / "callgrind"
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={written}"]
        command += [sys.executable, "-m", "benchmarks.instructions.workload", name]
        done = subprocess.run(command, cwd=stand.ROOT, capture_output=True, text=True, timeout=RUN_S_MAX, check=False)
        if done.returncode:
            raise stand.StandError(f"{name}: {done.stderr.strip()[-2000:]}")
        total = own_instructions(written.read_text(), "/proxy/")
    if not total:
        raise stand.StandError(f"{name}: callgrind saw nothing of the compiled walks")
    return round(total / (CHUNKS * CHUNK_MESSAGES), 1)


def own_instructions(profile: str, folder: str) -> int:
    """What the objects below a folder executed themselves, by a callgrind file (valgrind's manual, chapter 6.6)."""
    names: dict[str, str] = {}
    counts, called, total = False, False, 0
    for line in profile.splitlines():
        key, _, value = line.partition("=")
        if key in {"ob", "cob"}:  # of what runs, and of what it calls; the first mention of either has the name
            number, _, name = value.partition(" ")
            names.setdefault(number, name)
            counts = folder in names[number] if key == "ob" else counts
        elif key == "calls":
            called = True  # the next line has the cost of what was called
        elif re.match(r"[+*-]?\d*\s+\d+$", line):
            if counts and not called:
                total += int(line.split()[-1])
            called = False
    return total


def dearer(figures: dict[str, float], kept: dict[str, dict[str, float]], here: str) -> list[str]:
    """What costs more than it may, in words."""
    known = kept.get(here)
    limit = DEARER_MAX if known else STRANGER_DEARER_MAX
    standard = known or {name: max(each.get(name, 0.0) for each in kept.values()) for name in figures}
    return [
        f"{name}: {figure} instructions per message, {standard.get(name, 0.0)} kept for {here if known else 'others'};"
        " if that is meant, run `python -m benchmarks.instructions --record` and say why"
        for name, figure in figures.items()
        if figure > standard.get(name, 0.0) * limit
    ]


def circumstances() -> str:
    """What the figures depend on beside the code."""
    compiler = subprocess.run(["gcc", "-dumpversion"], capture_output=True, text=True, check=False).stdout.strip()
    python = ".".join(platform.python_version_tuple()[:2])
    return f"{platform.machine()}, gcc {compiler}, Python {python}"


if __name__ == "__main__":
    sys.exit(main())
