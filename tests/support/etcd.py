"""A real etcd for tests: start it, kill it, freeze it, ask it.

    etcd = Etcd(tmp_path)
    etcd.start()                                   # returns when it is healthy
    etcd.ctl("put", "/mq/nodes/mq1", "http://127.0.0.1:5672")
    etcd.kill(); etcd.start()                      # same data, same port
    etcd.close()                                   # at the end, whatever happened

    with cluster(tmp_path, 3) as members: ...

Every call blocks for as long as it takes (a start about 0.3 s).
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.ports import free_port

START_TIMEOUT_S = 30


@dataclass(frozen=True)
class Tls:
    """PEM files of an etcd server. With `client_auth` clients need a certificate of the same CA."""

    ca: Path
    cert: Path
    key: Path
    client_auth: bool = False


@dataclass(frozen=True)
class Account:
    """What etcdctl shows: user and password, and a client certificate if the server wants one."""

    user: str = ""  # name:password
    cert: Path | None = None
    key: Path | None = None


class Etcd:
    """One etcd process with a data folder and ports of its own, which it keeps over restarts."""

    def __init__(self, folder: Path, *, name: str = "etcd1", tls: Tls | None = None, flags: Sequence[str] = ()) -> None:
        self.name = name
        self.port = free_port()
        self.peer_url = f"http://127.0.0.1:{free_port()}"
        self.tls = tls
        self.account = Account()
        self.initial_cluster = f"{name}={self.peer_url}"
        self._health_port = free_port()
        self._folder = folder
        self._flags = list(flags)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """What clients connect to."""
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self, *, wait: bool = True) -> None:
        """Start it on the data it has, and wait until it is healthy."""
        assert not self.running
        self._folder.mkdir(parents=True, exist_ok=True)
        command = ["etcd", "--name", self.name, "--data-dir", self._folder / self.name]
        command += ["--listen-client-urls", self.url, "--advertise-client-urls", self.url]
        command += ["--listen-peer-urls", self.peer_url, "--initial-advertise-peer-urls", self.peer_url]
        command += ["--initial-cluster", self.initial_cluster, "--initial-cluster-token", "sidehop-tests"]
        # Health is asked on a plain port of its own, whatever TLS or authentication clients need.
        command += ["--listen-metrics-urls", f"http://127.0.0.1:{self._health_port}"]
        if self.tls is not None:
            command += ["--cert-file", self.tls.cert, "--key-file", self.tls.key]
            if self.tls.client_auth:
                command += ["--client-cert-auth", "--trusted-ca-file", self.tls.ca]
        with (self._folder / f"{self.name}.log").open("ab") as log:
            self._process = subprocess.Popen([*command, *self._flags], stdout=log, stderr=log, start_new_session=True)
        if wait:
            self.wait_healthy()

    def wait_healthy(self) -> None:
        """Wait until it has a leader and answers."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._healthy():
            assert self.running, f"etcd ended, see {self._folder}/{self.name}.log"
            assert time.monotonic() < deadline, f"etcd is not healthy, see {self._folder}/{self.name}.log"
            time.sleep(0.02)

    def kill(self) -> None:
        """As a crash: SIGKILL."""
        self._signal(signal.SIGKILL)
        self._reap()

    def stop(self) -> None:
        """As an operator: SIGTERM, and wait for its end. Ends a frozen one as well."""
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)
        self._reap()

    def pause(self) -> None:
        """Freeze it: its ports accept, nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen one go on."""
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """End it in whatever state it is."""
        if self.running:
            self.kill()

    def ctl(self, *args: str, user: str = "") -> str:
        """Run etcdctl against it and return what it printed. `user` is name:password, instead of the account's."""
        command: list[str | Path] = ["etcdctl", "--endpoints", self.url, "--command-timeout", "10s"]
        if self.tls is not None:
            command += ["--cacert", self.tls.ca]
        if self.account.cert is not None and self.account.key is not None:
            command += ["--cert", self.account.cert, "--key", self.account.key]
        if user or self.account.user:
            command += ["--user", user or self.account.user]
        done = subprocess.run(
            [*command, *args], capture_output=True, text=True, timeout=30, env={**os.environ, "ETCDCTL_API": "3"}
        )
        assert done.returncode == 0, f"etcdctl {' '.join(args)}: {done.stderr}"
        return done.stdout

    def metric(self, name: str) -> float:
        """One figure that etcd counts about itself, such as `etcd_debugging_mvcc_watcher_total`."""
        connection = http.client.HTTPConnection("127.0.0.1", self._health_port, timeout=5)
        try:
            connection.request("GET", "/metrics")
            lines = connection.getresponse().read().decode().splitlines()
        finally:
            connection.close()
        return next(float(line.split()[-1]) for line in lines if line.startswith(name + " "))

    def _healthy(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self._health_port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _reap(self) -> None:
        assert self._process is not None
        self._process.wait(timeout=30)


@contextlib.contextmanager
def cluster(folder: Path, size: int) -> Iterator[list[Etcd]]:
    """A running cluster of so many members on loopback."""
    # Elections that take half a second, where the default takes one to two.
    quick = ("--heartbeat-interval", "100", "--election-timeout", "500")
    members = [Etcd(folder, name=f"etcd{number + 1}", flags=quick) for number in range(size)]
    for etcd in members:
        etcd.initial_cluster = ",".join(f"{each.name}={each.peer_url}" for each in members)
    try:
        for etcd in members:
            etcd.start(wait=False)
        for etcd in members:
            etcd.wait_healthy()
        yield members
    finally:
        for etcd in members:
            etcd.close()
