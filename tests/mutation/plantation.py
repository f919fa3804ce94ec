"""A copy of the package in which bugs are planted. The working tree is never touched."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tests.mutation.mutants import Mutant

ROOT = Path(__file__).resolve().parents[2]
# Compiled modules would hide the source that is changed.
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.so", "*.pyd", "*.c", "integration", "mutation")
CHECK_TIMEOUT_S = 600


def place_of(mutant: Mutant, root: Path) -> Path:
    """The one file that has the place for it."""
    texts = {path: path.read_text() for path in sorted((root / "proxy" / "session").glob("*.py"))}
    found = {path.name: text.count(mutant.old) for path, text in texts.items() if mutant.old in text}
    assert sum(found.values()) == 1, f"{mutant.old!r} must occur once, and does here: {found}"
    return next(path for path, text in texts.items() if mutant.old in text)


class Plantation:
    """The copy, and the checks that run in it, the cheapest first. `seeds`: how many lives; none without a number.

    Without `stories` the simulation has to find out by itself.
    """

    def __init__(self, folder: Path, seeds: int, *, stories: bool = True) -> None:
        self.folder = folder
        for name in ("proxy", "tests"):
            shutil.copytree(ROOT / name, folder / name, ignore=LEFT_OUT)
        shutil.copy(ROOT / "pyproject.toml", folder)
        pytest = ["pytest", "-x", "-q", "-p", "no:cacheprovider", "--tb=no"]
        self.checks: list[list[str]] = []
        if stories:
            self.checks.append([*pytest, "tests/session"])
        if seeds:
            self.checks.append(["tests.simulation", "--seeds", str(seeds), "--no-shrink"])
            self.checks.append([*pytest, "tests/simulation/test_every_byte.py"])

    def killer_of(self, mutant: Mutant) -> tuple[str, float]:
        """Which check fails with this bug, empty if none does, and how long that took in seconds."""
        path = place_of(mutant, self.folder)
        sound = path.read_text()
        began = time.monotonic()
        path.write_text(sound.replace(mutant.old, mutant.new))
        try:
            killer = next((killer for check in self.checks if (killer := self._failure(check))), "")
        finally:
            path.write_text(sound)
        return killer, time.monotonic() - began

    def _failure(self, check: list[str]) -> str:
        """What a check says of its failure, empty if it passes."""
        environment = os.environ | {"PYTHONPATH": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            done = subprocess.run(
                [sys.executable, "-m", *check],
                cwd=self.folder, env=environment, capture_output=True, text=True, timeout=CHECK_TIMEOUT_S,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return f"{check[-1]} does not end"
        if done.returncode == 0:
            return ""
        found = re.search(r"^(?:FAILED|ERROR) tests/(\S+)|repeat it: python -m tests\.(.*)", done.stdout, re.MULTILINE)
        return (found[1] or found[2]) if found else f"{check[0]} {check[-1]}: {done.stdout[-80:]!r}"
