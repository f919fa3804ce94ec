"""The tools that read the code, as tests, so that one closing line tells everything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = [*sorted(str(path.relative_to(ROOT)) for path in (ROOT / "deploy").rglob("*.sh")), ".ci/run"]


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["mypy"],
        ["lint-imports"],
        ["shellcheck", *SCRIPTS],
        ["yamllint", "--strict", "deploy", "config"],
        ["hadolint", "Dockerfile"],
    ],
    ids=" ".join,
)
def test_it_has_nothing_to_say(command: list[str]) -> None:
    program, *arguments = command
    # Installed beside the Python that runs the tests, which need not be on the PATH.
    done = subprocess.run(
        [Path(sys.executable).parent / program, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
