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


class Plantation:
    """The copy, and the checks that run in it, the cheapest first."""

    def __init__(self, folder: Path, seeds: int) -> None:
        self.folder = folder
        for name in ("proxy", "tests"):
            shutil.copytree(ROOT / name, folder / name, ignore=LEFT_OUT)
        shutil.copy(ROOT / "pyproject.toml", folder)
        stories = ["pytest", "-x", "-q", "-p", "no:cacheprovider", "--tb=no", "tests/session"]
        every_byte = ["pytest", "-x", "-q", "-p", "no:cacheprovider", "--tb=no", "tests/simulation/test_every_byte.py"]
        simulation = ["tests.simulation", "--seeds", str(seeds), "--no-shrink"]
        self.checks = (stories, simulation, every_byte) if seeds else (stories,)

    def killer_of(self, mutant: Mutant) -> tuple[str, float]:
        """Which check fails with this bug, empty if none does, and how long that took in seconds."""
        path = self.folder / "proxy" / "session" / mutant.file
        sound = path.read_text()
        assert sound.count(mutant.old) == 1, f"{mutant.file}: {mutant.old!r} is not there once"
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
