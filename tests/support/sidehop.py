"""The real `sidehop run`, as a process, for tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from proxy.ops.log import GATHER_S

ROOT = Path(__file__).resolve().parents[2]


class Sidehop:
    """One proxy process on free ports. `port` is where clients connect, `admin_url` where the admin API answers.

    `stop` (and the fixture's teardown) fails the test when the log holds an internal error or a traceback.
    """

    def __init__(
        self, folder: Path, port: int, admin_port: int, *arguments: str, env: dict[str, str] | None = None
    ) -> None:
        self.port = port
        self.admin_url = f"http://127.0.0.1:{admin_port}"
        self._log_file = folder / f"sidehop-{port}.log"
        self._command = [sys.executable, "-m", "proxy", "run", "--listen", f"127.0.0.1:{port}"]
        self._command += ["--admin", f"127.0.0.1:{admin_port}", "--log-format", "json", *arguments]
        # Coverage follows subprocesses by itself when the test run asks for it.
        self._environment = {**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})}
        self._process: subprocess.Popen | None = None

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, *, wait_ready: bool = True) -> Sidehop:
        with self._log_file.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, cwd=ROOT, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.wait_for(lambda: self.status("/readyz" if wait_ready else "/livez") == 200, "it to be ready", 30)
        return self

    def stop(self) -> int:
        """SIGTERM; SIGKILL after 40 s, which fails the test. Returns the exit code."""
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"sidehop did not stop within 40 s of SIGTERM\n{self.tail()}") from None
        self.require_clean_log()
        return code

    def kill(self) -> None:
        """End it without a word; for teardown after a test that stopped caring."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @property
    def log_text(self) -> str:
        return self._log_file.read_text()

    @property
    def log(self) -> list[dict[str, Any]]:
        """Every line so far; a line that is no JSON comes as `{"text": line}`."""
        return [_parsed(line) for line in self.log_text.splitlines()]

    def events(self, name: str) -> list[dict[str, Any]]:
        """The log lines of one event of the catalogue, as of now: lines wait a moment to be written together."""
        time.sleep(5 * GATHER_S)
        return [line for line in self.log if line.get("event") == name]

    def tail(self) -> str:
        return "\n".join(self.log_text.splitlines()[-40:])

    def require_clean_log(self) -> None:
        text = self.log_text
        assert "internal_error" not in text, self.tail()
        assert "Traceback" not in text, self.tail()
        # asyncio and aiohttp say this much about our mistakes and go on.
        for complaint in ("was never awaited", "was never retrieved", "Unclosed ", "Exception ignored"):
            assert complaint not in text, self.tail()

    def status(self, path: str) -> int:
        """HTTP status of a GET; 0 when nothing answers."""
        try:
            with urllib.request.urlopen(self.admin_url + path, timeout=5) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def get(self, path: str) -> Any:
        """A JSON answer of the admin API."""
        return json.loads(self.text(path))

    def text(self, path: str) -> str:
        with urllib.request.urlopen(self.admin_url + path, timeout=5) as answer:
            return answer.read().decode()

    def sessions(self) -> list[dict[str, Any]]:
        return self.get("/api/v1/sessions")["sessions"]

    def endpoints(self) -> list[dict[str, Any]]:
        return self.get("/api/v1/endpoints")["endpoints"]

    def metrics(self) -> dict[str, float]:
        """Every sample, by its name with labels as Prometheus prints it."""
        lines = (line for line in self.text("/metrics").splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    def wait_for(self, fact: Callable[[], Any], what: str, patience_s: float = 15.0) -> Any:
        """Ask again until the answer is true, and return it."""
        until = time.monotonic() + patience_s
        while True:
            answer = fact()
            if answer:
                return answer
            assert self._process is not None, "sidehop was stopped"
            assert self._process.poll() is None, f"sidehop ended with {self._process.returncode}\n{self.tail()}"
            assert time.monotonic() < until, f"waited {patience_s} s for {what}\n{self.tail()}"
            time.sleep(0.02)

    def wait_sessions(self, count: int) -> list[dict[str, Any]]:
        return self.wait_for(lambda: len(self.sessions()) == count and (self.sessions() or [{}]), f"{count} sessions")

    def wait_endpoint(self, name: str, state: str, patience_s: float = 30.0) -> None:
        """Until the pool says so about the endpoint of this name (of a static list: its address)."""
        self.wait_for(
            lambda: any(e["name"] == name and e["state"] == state for e in self.endpoints()),
            f"{name} {state}",
            patience_s,
        )


def _parsed(line: str) -> dict[str, Any]:
    try:
        parsed = json.loads(line)
    except ValueError:
        return {"text": line}
    return parsed if isinstance(parsed, dict) else {"text": line}
