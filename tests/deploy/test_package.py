"""What `pip install` would put on a machine."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HAS_COMPILER = shutil.which("gcc") is not None and (Path(sysconfig.get_path("include")) / "Python.h").exists()
COMPILED = set(re.findall(r'"(proxy/[\w/]+)\.py"', (ROOT / "setup.py").read_text()))


def build_wheel(folder: Path, **environment: str) -> tuple[set[str], str]:
    """The files in a wheel built from a copy of the sources, and what the build said."""
    checkout = folder / "checkout"
    ignore = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "proxy", checkout / "proxy", ignore=ignore)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    command = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index", "--verbose"]
    done = subprocess.run(
        [*command, "--wheel-dir", folder, checkout],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    (wheel,) = folder.glob("sidehop-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist()), done.stdout + done.stderr


def test_the_wheel_holds_the_package_and_nothing_else(tmp_path: Path) -> None:
    names, _ = build_wheel(tmp_path, SIDEHOP_PURE="1")

    assert {name.split("/")[0].split("-")[0] for name in names} == {"proxy", "sidehop"}
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "proxy").rglob("*.py")}
    assert sources <= names
    assert "proxy/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert [name for name in names if name.endswith((".so", ".c"))] == []


def test_the_hot_path_is_compiled_exactly_where_a_compiler_is(tmp_path: Path) -> None:
    # Without optimization it is built in a third of the time.
    names, said = build_wheel(tmp_path, SIDEHOP_REQUIRE_EXT="1" if HAS_COMPILER else "0", CFLAGS="-O0")

    compiled = {name.split(".")[0] for name in names if name.endswith(".so")}
    assert compiled == (COMPILED if HAS_COMPILER else set())
    assert ("NOT COMPILED" in said) != HAS_COMPILER


def test_without_a_compiler_the_build_falls_back_and_says_so(tmp_path: Path) -> None:
    names, said = build_wheel(tmp_path, CC="/no/such/compiler")

    assert "NOT COMPILED" in said
    assert "proxy/session/relay.py" in names
    assert [name for name in names if name.endswith(".so")] == []


def test_a_required_compilation_that_fails_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="no/such/compiler"):
        build_wheel(tmp_path, CC="/no/such/compiler", SIDEHOP_REQUIRE_EXT="1")


def test_a_wheel_that_is_not_compiled_fails_the_test_of_the_wheel(tmp_path: Path) -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["cibuildwheel"]
    shutil.copytree(ROOT / "proxy", tmp_path / "proxy", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    command = shlex.split(wanted["test-command"])
    assert command[0] == "python"
    done = subprocess.run([sys.executable, *command[1:]], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert wanted["environment"] == {"SIDEHOP_REQUIRE_EXT": "1"}
    assert done.returncode == 1
    assert "AssertionError: not compiled" in done.stderr
