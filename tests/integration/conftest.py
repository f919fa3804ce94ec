"""The real things: a broker cluster, etcd, the proxy as a process.

Environment: SIDEHOP_TEST_PORT_BASE (25800) lets two test runs share a machine. SIDEHOP_TEST_KEEP=1 leaves the cluster
running for the next run, which then starts at once. RABBITMQ_ROOT, a folder made by deploy/lab/rabbitmq4.sh, has all
tests run against the RabbitMQ in it instead of the machine's.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.cluster import Cluster
from tests.support.etcd import Etcd
from tests.support.ports import BASE, free_port
from tests.support.sidehop import ROOT, Sidehop

STATE = Path(os.environ.get("LAB_DIR", ROOT / ".lab")).resolve()
KEEP = os.environ.get("SIDEHOP_TEST_KEEP") == "1"


@contextlib.contextmanager
def booted(folder: Path, port_base: int, root: Path | None = None) -> Iterator[Cluster]:
    """Three brokers, gone afterwards; `root` as in Cluster."""
    STATE.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pytest.exit(f"another test run uses the ports from {BASE}; set SIDEHOP_TEST_PORT_BASE", returncode=3)
        cluster = Cluster(folder, port_base, root)
        if not KEEP:
            cluster.wipe()  # a run that was killed may have left something behind
        try:
            cluster.start()
            yield cluster
        finally:
            if not KEEP:
                cluster.wipe()


@pytest.fixture(scope="session")
def booted_cluster() -> Iterator[Cluster]:
    """Three brokers for the whole run; tests ask for `cluster`."""
    with booted(STATE / f"test-{BASE}", BASE) as cluster:
        yield cluster


@pytest.fixture
def cluster(booted_cluster: Cluster) -> Cluster:
    """The brokers, all up and seeing each other, whatever the test before has done to them."""
    booted_cluster.make_whole()
    return booted_cluster


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[Etcd]:
    """One etcd member of its own for this test, up and empty."""
    member = Etcd(tmp_path / "etcd")
    try:
        member.start()
        yield member
    finally:
        member.close()


@pytest.fixture
def queue_name() -> str:
    """A name nobody has used, so that no test sees the messages of another."""
    return f"test.{uuid.uuid4().hex[:12]}"


@pytest.fixture
def start_sidehop(tmp_path: Path) -> Iterator[Callable[..., Sidehop]]:
    """Start a proxy with these command line arguments: `start_sidehop("--node", "127.0.0.1:25811", env={...})`.

    `wait_ready=False` returns as soon as it lives. All are stopped at the end, and their logs must be clean.
    """
    started: list[Sidehop] = []

    def start(*arguments: str, wait_ready: bool = True, env: dict[str, str] | None = None) -> Sidehop:
        proxy = Sidehop(tmp_path, free_port(), free_port(), *arguments, env=env)
        started.append(proxy)
        return proxy.start(wait_ready=wait_ready)

    try:
        yield start
        for proxy in started:
            proxy.stop()
    finally:
        for proxy in started:
            proxy.kill()


@pytest.fixture(scope="module")
def shared_sidehop(booted_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidehop]:
    """One proxy for all tests of a module that ask for it, as `sidehop`. Each leaves it without clients."""
    booted_cluster.make_whole()
    nodes = (part for address in booted_cluster.addresses for part in ("--node", address))
    proxy = Sidehop(tmp_path_factory.mktemp("sidehop"), free_port(), free_port(), *nodes)
    try:
        yield proxy.start()
        proxy.stop()
    finally:
        proxy.kill()


@pytest.fixture
def sidehop(cluster: Cluster, start_sidehop: Callable[..., Sidehop]) -> Sidehop:
    """A ready proxy in front of the three brokers, from a static list: no etcd involved."""
    return start_sidehop(*(part for address in cluster.addresses for part in ("--node", address)))
