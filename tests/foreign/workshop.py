"""Where a suite runs: its unpacked tests, its virtual environment, its report."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.foreign.archive import FetchError, unpack
from tests.foreign.outcomes import Outcomes, read
from tests.foreign.suites import PYTEST, WRITTEN_PORT, Suite
from tests.support.sidehop import ROOT

CACHE = ROOT / ".lab" / "foreign"
CONTAINER = Path(__file__).with_name("container.py")
# aiormq has a thousand tests that look for leaks; a suite that takes longer hangs.
PATIENCE_S = 5400.0
TEST_TIMEOUT_S = 60


class SuiteError(Exception):
    """A suite could not be run to its end: nothing can be said about it."""


@dataclass(frozen=True)
class Address:
    """Where a suite finds its broker, on 127.0.0.1; `tls_port` is 0 for suites that need none."""

    port: int
    tls_port: int = 0


class Workshop:
    """One suite with its files, in a folder of the cache. `prepare` needs the network once, `run` does not."""

    def __init__(self, suite: Suite, cache: Path = CACHE) -> None:
        self.suite = suite
        self._archives = cache / "archives"
        self._folder = cache / suite.name
        self._python = self._folder / "venv" / "bin" / "python"

    def prepare(self) -> None:
        """Fetch the archive and make the virtual environment. Raises FetchError."""
        self.suite.archive.fetch(self._archives)
        wanted = hashlib.sha256("\n".join((sys.version, *PYTEST, *self.suite.installed)).encode()).hexdigest()
        stamp = self._folder / "venv" / "installed"
        if stamp.exists() and stamp.read_text() == wanted:
            return
        shutil.rmtree(self._folder / "venv", ignore_errors=True)
        for command in (
            [sys.executable, "-m", "venv", str(self._folder / "venv")],
            [str(self._python), "-m", "pip", "install", "--quiet", *PYTEST, *self.suite.installed],
        ):
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
            if done.returncode:
                raise FetchError(f"{' '.join(command)}: {done.stderr.strip()[-800:]}")
        stamp.write_text(wanted)

    @property
    def version(self) -> str:
        """Of the library that is installed, which is that of the tests."""
        library = self.suite.installed[0]
        return library.partition("==")[2]

    def run(self, way: str, address: Address, only: list[str] | None = None) -> Outcomes:
        """Run the suite against a broker; `only` these tests, if given. Raises SuiteError when it broke off.

        pytest's own words are in the log beside the folder, which stays until the next run of the same way.
        """
        folder = self._unpack(way, address)
        report, log = self._folder / f"{way}.xml", self._folder / f"{way}.log"
        report.unlink(missing_ok=True)
        command = [str(self._python), "-m", "pytest", "-p", "no:cacheprovider", "-q", "--tb=short", "-o", "addopts="]
        command += ["-W", "ignore", "--timeout", str(TEST_TIMEOUT_S), "--junitxml", str(report)]
        command += ["-o", "junit_family=xunit1", *self.suite.selection, *(only or self.suite.tests)]
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "PYTHON"))},
            "RABBITMQ_HOST": "127.0.0.1",
            "RABBITMQ_5672_TCP": str(address.port),
            "FOREIGN_PORT": str(address.port),
            "FOREIGN_TLS_PORT": str(address.tls_port),
        }
        with log.open("ab" if only else "wb") as sink:
            try:
                code = subprocess.run(
                    command,
                    cwd=folder,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=sink,
                    stderr=subprocess.STDOUT,
                    timeout=PATIENCE_S,
                    check=False,
                ).returncode
            except subprocess.TimeoutExpired as error:
                raise SuiteError(f"{self.suite.name} takes more than {PATIENCE_S:.0f} s; see {log}") from error
        if code not in (0, 1) or not report.exists():
            raise SuiteError(f"pytest of {self.suite.name} ended with {code}; see {log}")
        return read(report)

    def _unpack(self, way: str, address: Address) -> Path:
        folder = self._folder / way
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        unpack(self._archives / self.suite.archive.name, self.suite.members, folder)
        if self.suite.container_as is not None:
            shutil.copyfile(CONTAINER, folder / self.suite.container_as)
        if self.suite.rewritten:
            for file in folder.rglob("*.py"):
                file.write_text(file.read_text().replace(WRITTEN_PORT, str(address.port)))
        return folder
