"""The processes that the benchmarks run against: a cluster of brokers, HAProxy, nginx, Sidehop.

Whatever is started here is ended here, by its own process id; nothing else on the machine is touched.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.rivals import NGINX, haproxy_config, nginx_config
from benchmarks.rivals import haproxy_installed as haproxy_installed  # asked by the drill and the footprint

ROOT = Path(__file__).parent.parent
CLUSTER_SCRIPT = ROOT / "deploy" / "lab" / "cluster.sh"
NODE_PREFIX = "mq"
DEFAULT_PORT_BASE = 26600
MODES = ("direct", "haproxy", "sidehop")
# Sidehop with marks on what is published, and copies kept from who consumes: nothing may come twice.
ONCE = "sidehop-once"
WAYS = (*MODES, ONCE)
# Longer than a channel is given to leave (`session.move_timeout_s`); what stays then fails over when its broker stops.
DRAIN_MAX_S = 40.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


# From here on the kernel takes ports for outgoing connections, so that one of ours may be taken at any moment.
EPHEMERAL_PORTS_FROM = 32768


def port_base(text: str) -> int:
    """The value of `--port-base`. Raises `ArgumentTypeError` for one that is none or not safe."""
    if not text.isdecimal() or not 1024 <= int(text) < EPHEMERAL_PORTS_FROM - 110:
        raise argparse.ArgumentTypeError(f"must be 1024 to {EPHEMERAL_PORTS_FROM - 111}")
    return int(text)


class StandError(Exception):
    """Something that a benchmark needs did not start; the text says what and where its log is."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Every port that one benchmark uses, counted from `base`. The cluster script takes base to base + 99."""

    base: int = DEFAULT_PORT_BASE

    @property
    def sidehop(self) -> int:
        return self.base + 100

    @property
    def admin(self) -> int:
        return self.base + 101

    @property
    def haproxy(self) -> int:
        return self.base + 102

    @property
    def fake_broker(self) -> int:
        return self.base + 103

    @property
    def nginx(self) -> int:
        return self.base + 106

    @property
    def beside(self) -> Ports:
        """Those of another Sidehop that runs at the same time."""
        return Ports(self.base + 4)


def circumstances() -> str:
    """When, where, and how busy the machine was already: a figure without it can't be judged."""
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, Python {platform.python_version()}, {platform.machine()}, "
        f"{os.cpu_count()} cores, load average before the run {os.getloadavg()[0]:.1f}, "
        f"Sidehop {revision()}, {'compiled' if list((ROOT / 'proxy').rglob('*.so')) else 'not compiled'}"
    )


def revision() -> str:
    """The commit that is measured, and whether the files are still those of that commit."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True, check=True).stdout

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        commit = git("rev-parse", "--short", "HEAD").strip()
    except (OSError, subprocess.CalledProcessError):
        return "of an unknown commit"
    return f"at commit {commit}{', with changes that are not committed' if changed else ''}"


def end_on_sigterm() -> None:
    """Let SIGTERM unwind the stack as Ctrl-C does, so that everything that was started is ended."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


class Cluster:
    """Three real RabbitMQ nodes on loopback, numbered from 1, run by the lab's own script."""

    def __init__(self, folder: Path, ports: Ports) -> None:
        # A copy, because bash reads a script as it goes, and a drill takes longer than the next edit of the script.
        self._script = folder.parent / CLUSTER_SCRIPT.name
        shutil.copy2(CLUSTER_SCRIPT, self._script)
        self._environment = {
            **os.environ,
            "CLUSTER_DIR": str(folder),
            "CLUSTER_PORT_BASE": str(ports.base),
            "CLUSTER_NODE_PREFIX": NODE_PREFIX,
            "CLUSTER_PLUGINS": "",
            # What RabbitMQ advises for three nodes. With `ignore`, a partition may leave a queue that one side knows
            # and the other does not, and what is published on that other side is confirmed and goes nowhere.
            "CLUSTER_PARTITION": "pause_minority",
        }
        self.folder = folder
        self.nodes = (1, 2, 3)
        # The layout of ports is the script's: AMQP is at base + 10 + the node's number.
        self.endpoints = tuple(f"127.0.0.1:{ports.base + 10 + node}" for node in self.nodes)

    def run(self, *arguments: object, timeout_s: float = 120.0) -> str:
        """Run the script and return what it printed. Raises StandError with its own words."""
        command = [str(self._script), *map(str, arguments)]
        try:
            done = subprocess.run(
                command, env=self._environment, capture_output=True, text=True, timeout=timeout_s, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise StandError(f"cluster.sh {' '.join(command[1:])} took more than {timeout_s:.0f} s") from error
        if done.returncode:
            raise StandError(f"cluster.sh {' '.join(command[1:])}: {done.stderr.strip()[-800:]}")
        return done.stdout

    def ctl(self, node: int, *arguments: object, timeout_s: float = 60.0) -> str:
        """Run rabbitmqctl, quietly, against one node."""
        return self.run("ctl", node, "-q", *arguments, timeout_s=timeout_s)

    def version(self) -> str:
        """The RabbitMQ that they are; RABBITMQ_ROOT in the environment chooses another than the machine's."""
        return self.run("eval", 1, "rabbit_misc:version().").strip().strip('"')


@contextlib.contextmanager
def cluster(folder: Path, ports: Ports) -> Iterator[Cluster]:
    """A cluster of its own, wiped at the end; the brokers' logs stay beside its folder."""
    if not CLUSTER_SCRIPT.exists():
        raise StandError(f"{CLUSTER_SCRIPT} is missing")
    brokers = Cluster(folder, ports)
    brokers.run("wipe")
    try:
        brokers.run("start", timeout_s=240)
        yield brokers
    finally:
        for node in brokers.nodes:
            with contextlib.suppress(OSError):
                shutil.copytree(folder / str(node) / "log", folder.parent / f"broker-{node}-log", dirs_exist_ok=True)
        brokers.run("wipe")


class Program:
    """A process that a benchmark started, with its log."""

    def __init__(
        self, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.log = log
        env = {**os.environ, **(environment or {})}
        with log.open("wb") as sink:
            self.process = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT, cwd=ROOT, env=env)
        self.pid = self.process.pid

    def require_alive(self) -> None:
        if self.process.poll() is not None:
            tail = self.log.read_text(errors="replace")[-800:]
            raise StandError(f"{self.name} ended with code {self.process.returncode}; {self.log}:\n{tail}")

    def rss_kib(self) -> int:
        """Resident memory now, in KiB."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))

    def cpu_s(self) -> float:
        """Processor time used so far, user and system, in seconds (steps of 10 ms)."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S

    def wakeups(self) -> int:
        """How often its threads have gone to sleep so far."""
        statuses = Path(f"/proc/{self.pid}/task").glob("*/status")
        lines = [line for status in statuses for line in status.read_text().splitlines()]
        return sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))

    def stop(self, grace_s: float = 5.0) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(grace_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


@contextlib.contextmanager
def haproxy(folder: Path, ports: Ports, endpoints: Sequence[str]) -> Iterator[Program]:
    """HAProxy in front of the endpoints, listening on `ports.haproxy`."""
    config = folder / "haproxy.cfg"
    config.write_text(haproxy_config(ports.haproxy, endpoints))
    program = Program("haproxy", ["haproxy", "-db", "-f", str(config)], folder / "haproxy.log")
    try:
        await_listening(program, ports.haproxy)
        yield program
    finally:
        program.stop()


@contextlib.contextmanager
def nginx(folder: Path, ports: Ports, endpoints: Sequence[str]) -> Iterator[Program]:
    """Nginx in front of the endpoints, listening on `ports.nginx`."""
    config = folder / "nginx.conf"
    config.write_text(nginx_config(folder, ports.nginx, endpoints))
    program = Program("nginx", ["nginx", "-c", str(config), "-e", "stderr"], folder / "nginx.log")
    try:
        await_listening(program, ports.nginx)
        yield program
    finally:
        program.stop()


class Registry:
    """A file that lists the brokers for Sidehop, as an operator edits it. Raises StandError when nobody obeys."""

    def __init__(self, path: Path, endpoints: Sequence[str], admin: int) -> None:
        self.path = path
        self._endpoints = endpoints
        self.admin = admin
        self._say("")

    @contextlib.contextmanager
    def drained(self, endpoint: str) -> Iterator[None]:
        """Within the block the endpoint is marked `drain`, and its sessions are gone, but for those that can't go."""
        self._say(endpoint)
        try:
            deadline = time.monotonic() + DRAIN_MAX_S
            while self._sessions_at(endpoint) and time.monotonic() < deadline:
                time.sleep(0.2)
            yield
        finally:
            self._say("")

    def _say(self, draining: str) -> None:
        nodes = [{"url": each, "state": "drain" if each == draining else "up"} for each in self._endpoints]
        whole = self.path.with_suffix(".new")
        whole.write_text(json.dumps(nodes))
        whole.replace(self.path)

    def _sessions_at(self, endpoint: str) -> int:
        """Sessions at the endpoint; one as long as Sidehop has not read yet that it is to be drained."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/api/v1/endpoints", timeout=5) as answer:
            listed = json.load(answer)["endpoints"]
        found = next(each for each in listed if each["address"] == endpoint)
        return int(found["sessions"]) if found["state"] in ("draining", "down") else 1


@contextlib.contextmanager
def sidehop(folder: Path, ports: Ports, registry: Registry, settings: Mapping[str, str]) -> Iterator[Program]:
    """Sidehop of this checkout in front of the registry's brokers, on `ports.sidehop`, ready when it is yielded."""
    command = [sys.executable, "-m", "proxy", "run", "--listen", f"127.0.0.1:{ports.sidehop}"]
    command += ["--admin", f"127.0.0.1:{ports.admin}", "--log-format", "json"]
    environment = {
        "SIDEHOP_DISCOVERY__SOURCE": "file",
        "SIDEHOP_DISCOVERY__FILE__PATH": str(registry.path),
        "SIDEHOP_DISCOVERY__FILE__POLL_S": "0.5",
        **settings,
    }
    program = Program("sidehop", command, folder / "sidehop.log", environment)
    try:
        await_ready(program, ports.admin)
        yield program
    finally:
        program.stop()


@dataclass(frozen=True, slots=True)
class Way:
    """Where clients connect; the proxy between, if there is one; and its registry, if it has one."""

    addresses: Sequence[str]
    proxy: Program | None = None
    registry: Registry | None = None

    def drained(self, endpoint: str) -> contextlib.AbstractContextManager[None]:
        """Take new and old work from a broker by what this way has for it; nothing, without a registry."""
        return self.registry.drained(endpoint) if self.registry else contextlib.nullcontext()


@contextlib.contextmanager
def way(mode: str, folder: Path, ports: Ports, endpoints: Sequence[str]) -> Iterator[Way]:
    """Start what `mode` needs, and end it."""
    if mode == "direct":
        yield Way(endpoints)
    elif mode == "haproxy":
        with haproxy(folder, ports, endpoints) as program:
            yield Way([f"127.0.0.1:{ports.haproxy}"], program)
    elif mode == NGINX:
        with nginx(folder, ports, endpoints) as program:
            yield Way([f"127.0.0.1:{ports.nginx}"], program)
    else:
        settings: dict[str, str] = {}
        if mode == ONCE:
            folder = folder / mode
            folder.mkdir(exist_ok=True)
            ports = ports.beside
            settings = {"SIDEHOP_SESSION__PUBLISH_IDS": "true", "SIDEHOP_SESSION__SUPPRESS_DUPLICATES": "true"}
        registry = Registry(folder / "brokers.json", endpoints, ports.admin)
        with sidehop(folder, ports, registry, settings) as program:
            yield Way([f"127.0.0.1:{ports.sidehop}"], program, registry)


def await_listening(program: Program, port: int, timeout_s: float = 30.0) -> None:
    """Return when something accepts on the port; raise StandError when the program ends or time is up."""
    deadline = time.monotonic() + timeout_s
    while True:
        program.require_alive()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.5):
            return
        if time.monotonic() > deadline:
            raise StandError(f"{program.name} does not listen on {port} after {timeout_s:.0f} s; see {program.log}")
        time.sleep(0.005)


def await_ready(program: Program, admin: int, timeout_s: float = 60.0) -> None:
    """Return when Sidehop's /readyz answers 200."""
    deadline = time.monotonic() + timeout_s
    while True:
        program.require_alive()
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{admin}/readyz", timeout=1):
            return
        if time.monotonic() > deadline:
            raise StandError(f"sidehop is not ready after {timeout_s:.0f} s; see {program.log}")
        time.sleep(0.005)


def metric_sum(admin: int, name: str) -> float | None:
    """The sum of all series of one of Sidehop's metrics; None when it has no such metric."""
    with urllib.request.urlopen(f"http://127.0.0.1:{admin}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    values = [
        float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{"))
    ]
    return sum(values) if values else None
