"""One measurement with the rig: compile it once, run it, read its figures."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks import stand

SOURCES = Path(__file__).parent
TRIPS = 5000


@dataclass(frozen=True, slots=True)
class Case:
    """What is measured. `kind`: publish (no confirms), confirm, consume, trip. Sizes are bytes of body."""

    broker: str
    kind: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement. `cpu_us` is the proxy's processor time per message; None when there is no proxy."""

    case: Case
    mode: str
    rate: float
    cpu_us: float | None
    p50_us: float | None = None
    p99_us: float | None = None


class Rig:
    """The compiled rig. Raises StandError when there is no compiler, with the words to get one."""

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("gcc") or shutil.which("cc")
        if compiler is None:
            raise stand.StandError("the load generator is compiled at run time: apt-get install gcc libc6-dev")
        self.folder = folder
        for name in ("broker", "load"):
            command = [compiler, "-O2", "-o", str(folder / name), str(SOURCES / f"{name}.c"), "-lpthread"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise stand.StandError(f"{name}.c does not compile:\n{done.stderr}")

    @property
    def load(self) -> str:
        """The path of the load generator."""
        return str(self.folder / "load")

    @contextlib.contextmanager
    def broker(self, port: int) -> Iterator[str]:
        """The broker that costs nothing, listening on the port; yields its address."""
        program = stand.Program("fake broker", [str(self.folder / "broker"), str(port)], self.folder / "broker.log")
        try:
            stand.await_listening(program, port)
            yield f"127.0.0.1:{port}"
        finally:
            program.stop()

    def measure(self, case: Case, mode: str, address: str, seconds: float, proxy: stand.Program | None) -> Sample:
        """Run one case on one way."""
        arguments = {
            "publish": ["publish", address, str(case.size_bytes), str(seconds), "0"],
            "confirm": ["publish", address, str(case.size_bytes), str(seconds), "1"],
            "consume": ["consume", address, str(case.size_bytes), str(seconds)],
            "trip": ["trip", address, str(case.size_bytes), str(TRIPS)],
        }[case.kind]
        used_s = proxy.cpu_s() if proxy else 0.0
        printed = self._run(arguments, timeout_s=seconds * 10 + 60)
        used_s = proxy.cpu_s() - used_s if proxy else 0.0
        if case.kind == "trip":
            times_us = [float(line) for line in printed.split()]
            count, took_s = len(times_us), sum(times_us) / 1e6
            p50_us, p99_us = times_us[count // 2], times_us[count * 99 // 100]
        else:
            count, took_s = int(printed.split()[0]), float(printed.split()[1])
            p50_us = p99_us = None
        return Sample(case, mode, count / took_s, used_s / count * 1e6 if proxy and count else None, p50_us, p99_us)

    def _run(self, arguments: list[str], timeout_s: float) -> str:
        words = " ".join(arguments)
        try:
            done = subprocess.run(
                [self.load, *arguments], capture_output=True, text=True, timeout=timeout_s, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise stand.StandError(f"load {words}: nothing after {timeout_s:.0f} s") from error
        if done.returncode:
            raise stand.StandError(f"load {words}: {done.stderr.strip()}")
        return done.stdout
