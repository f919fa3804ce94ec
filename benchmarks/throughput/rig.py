"""One measurement with the rig: compile it once, run it, read its figures."""

from __future__ import annotations

import contextlib
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks import stand

SOURCES = Path(__file__).parent
FAILOVER_MAX_S = 60.0
# Of the load generator's own; a real broker answers the last of a flood late.
PATIENCE_S = 60.0
# A proxy that uses less of a core than this share is at rest; /proc counts in steps of 10 ms.
REST_SHARE, REST_STEP_S, REST_MAX_S = 0.1, 0.1, 5.0


@dataclass(frozen=True, slots=True)
class Kind:
    """What the load generator is asked for, in its own words, and how many sessions that opens."""

    words: str
    sessions: int = 1


# Publishes without confirms and with, deliveries, round trips, sessions that come and go, many slow publishers.
KINDS = {
    "confirm": Kind("publish {address} {size} {seconds} 2000"),
    "publish": Kind("publish {address} {size} {seconds} 0"),
    "consume": Kind("consume {address} {size} {seconds}"),
    "trip": Kind("trip {address} {size} {trips} 1"),
    "trip64": Kind("trip {address} {size} {trips} 64", 64),
    "sessions": Kind("sessions {address} {size} {seconds}", 0),
    "paced": Kind("paced {address} {size} {seconds} 1000 1 20000", 1000),
}
# The same once the session has lost its broker: from then on tags and confirms are translated. Only Sidehop has it to
# do; the other ways are measured as ever.
AFTER = "-after"
KINDS |= {name + AFTER: KINDS[name] for name in ("confirm", "publish", "consume", "trip", "trip64")}
# These have no sizes: the way is what they cost, not the bytes.
SMALL_ONLY = ("trip", "trip64", "paced", "sessions", "trip" + AFTER, "trip64" + AFTER)
TRIPS_PER_S = 2500


@dataclass(frozen=True, slots=True)
class Case:
    """What is measured. `kind` is one of KINDS. Sizes are bytes of body."""

    broker: str
    kind: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement. `cpu_us` is the proxy's processor time per message, or per session; None without a proxy."""

    case: Case
    mode: str
    rate: float
    cpu_us: float | None
    p50_us: float | None = None
    p99_us: float | None = None


def _rest(proxy: stand.Program) -> None:
    """Return when the proxy has done with the sessions that just ended: that is not the next one's cost."""
    deadline = time.monotonic() + REST_MAX_S
    before_s = -1.0
    while proxy.cpu_s() - before_s > REST_SHARE * REST_STEP_S and time.monotonic() < deadline:
        before_s = proxy.cpu_s()
        time.sleep(REST_STEP_S)


class Rig:
    """The compiled rig. Raises StandError when there is no compiler, with the words to get one."""

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("gcc") or shutil.which("cc")
        if compiler is None:
            raise stand.StandError("the load generator is compiled at run time: apt-get install gcc libc6-dev")
        self.folder = folder
        self._broker: stand.Program | None = None
        # A thousand sessions are a thousand files at either end, and twice that in the proxy.
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
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
    def broker(self, port: int, unsettled: int = 0) -> Iterator[str]:
        """The broker that costs nothing, listening on the port; yields its address.

        It leaves the newest `unsettled` publishes of every channel without a confirm.
        """
        command = [str(self.folder / "broker"), str(port), str(unsettled)]
        program = stand.Program("fake broker", command, self.folder / "broker.log")
        try:
            stand.await_listening(program, port)
            self._broker = program
            yield f"127.0.0.1:{port}"
        finally:
            program.stop()

    def measure(self, case: Case, mode: str, way: stand.Way, seconds: float) -> Sample:
        """Run one case on one way."""
        kind = KINDS[case.kind]
        lost = case.kind.endswith(AFTER) and way.registry is not None
        trips = max(10 * max(kind.sessions, 1), int(seconds * TRIPS_PER_S))
        words = kind.words.format(address=way.addresses[0], size=case.size_bytes, seconds=seconds, trips=trips)
        used_s, printed = self.run(words, way, seconds, kind.sessions, lost)
        if "trip" in kind.words:
            times_us = [float(line) for line in printed.split()]
            count, took_s = len(times_us), sum(times_us) / 1e6 / kind.sessions
            p50_us, p99_us = times_us[count // 2], times_us[count * 99 // 100]
        else:
            count, took_s = int(printed.split()[0]), float(printed.split()[1])
            p50_us = p99_us = None
        cpu_us = used_s / count * 1e6 if way.proxy and count else None
        return Sample(case, mode, count / took_s, cpu_us, p50_us, p99_us)

    def run(self, words: str, way: stand.Way, seconds: float, sessions: int, lost: bool = False) -> tuple[float, str]:
        """Run the load generator; return the processor seconds that the proxy used meanwhile, and what was printed.

        With `sessions`, the set-up of so many sessions doesn't count; if `lost`, they have lost their broker before it
        begins. Raises StandError with the load generator's own words.
        """
        timeout_s = seconds * 10 + PATIENCE_S
        with subprocess.Popen(
            [self.load, *words.split()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as client:
            try:
                assert client.stdout is not None
                if sessions and client.stdout.readline() == "ready\n" and lost:
                    self._cut(way, sessions)
                used_s = way.proxy.cpu_s() if way.proxy else 0.0
                printed, complaint = client.communicate("go\n", timeout=timeout_s)
            except subprocess.TimeoutExpired as error:
                raise stand.StandError(f"load {words}: nothing after {timeout_s:.0f} s") from error
            finally:
                client.kill()
        if client.returncode:
            raise stand.StandError(f"load {words}: {complaint.strip()}")
        used_s = way.proxy.cpu_s() - used_s if way.proxy else 0.0
        if way.proxy:
            _rest(way.proxy)
        return used_s, printed

    def _cut(self, way: stand.Way, sessions: int) -> None:
        """Cut every connection to the broker; return when Sidehop has attached the sessions again."""
        assert way.registry is not None
        assert self._broker is not None
        name = "sidehop_failover_duration_seconds_count"
        wanted = (stand.metric_sum(way.registry.admin, name) or 0) + sessions
        self._broker.process.send_signal(signal.SIGUSR1)
        deadline = time.monotonic() + FAILOVER_MAX_S
        while (stand.metric_sum(way.registry.admin, name) or 0) < wanted:
            if time.monotonic() > deadline:
                raise stand.StandError(f"{sessions} sessions are not attached again after {FAILOVER_MAX_S:.0f} s")
            time.sleep(0.02)
