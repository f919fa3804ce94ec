"""`lab.py run` in front of brokers of one's own: nothing of it is left behind, whoever still reads what it says."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.support.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
LAB_PY = ROOT / "deploy" / "lab" / "lab.py"
PATIENCE_S = 60.0


def alive(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/livez", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """A Python with `sidehop` beside it, as in `.venv`, of this checkout."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "python").symlink_to(Path(sys.executable).resolve())
    (folder / "sidehop").write_text(f'#!/bin/sh\ncd {ROOT} && exec {sys.executable} -m proxy "$@"\n')
    (folder / "sidehop").chmod(0o755)
    return folder / "python"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_sidehop_ends_with_it_also_when_nobody_reads_any_more(
    number: signal.Signals, python: Path, tmp_path: Path
) -> None:
    listen, admin, dead = free_port(), free_port(), free_port()
    addresses = ("--listen", f"127.0.0.1:{listen}", "--admin", f"127.0.0.1:{admin}", "--node", f"127.0.0.1:{dead}")
    read, write = os.pipe()
    try:
        running = subprocess.Popen(
            [python, LAB_PY, "run", *addresses],
            env={**os.environ, "LAB_DIR": str(tmp_path)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=write,
        )
    finally:
        os.close(write)
    try:
        until = time.monotonic() + PATIENCE_S
        while not alive(admin):
            assert running.poll() is None
            assert time.monotonic() < until
        os.close(read)  # as in: make run 2>&1 | head
        running.send_signal(number)
        assert running.wait(PATIENCE_S) == 0
        assert not listens(listen)
        assert not listens(admin)
    finally:
        running.kill()
        running.wait()
