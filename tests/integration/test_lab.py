"""`make run` starts what it says, and Ctrl-C stops what it started and nothing else."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pika
import pytest

from tests.support.ports import BASE, free_port
from tests.support.sidehop import ROOT

LAB_PY = ROOT / "deploy" / "lab" / "lab.py"
EPMD_PORT = BASE + 100
AMQP_PORT = BASE + 100 + 11
ETCD_PORT = BASE + 100 + 1


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class LabCommand:
    """`lab.py`, for a lab with one broker, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.saved_endpoints = folder / "lab" / "endpoints.json"
        ours = {"LAB_DIR": str(folder / "lab"), "LAB_PORT_BASE": str(BASE + 100), "LAB_NODES": "1"}
        self._environment = {**os.environ, **ours}

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, LAB_PY, *arguments], env=self._environment, capture_output=True, text=True, check=False
        )

    def run_until_ready(self, *arguments: str) -> tuple[subprocess.Popen, int]:
        """`lab.py run` in the background, and the port that Sidehop listens on."""
        port, output = free_port(), self._folder / f"run-{time.monotonic_ns()}.log"
        command = [
            sys.executable,
            LAB_PY,
            "run",
            "--listen",
            f"127.0.0.1:{port}",
            "--admin",
            f"127.0.0.1:{free_port()}",
        ]
        with output.open("wb") as log:
            process = subprocess.Popen(
                [*command, *arguments], env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        while "Ctrl-C stops" not in output.read_text():
            assert process.poll() is None, output.read_text()
            time.sleep(0.05)
        return process, port


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[LabCommand]:
    command = LabCommand(tmp_path)
    yield command
    command("wipe")


def press_ctrl_c(process: subprocess.Popen) -> int:
    process.send_signal(signal.SIGINT)
    return process.wait(60)


def test_run_starts_a_lab_that_works_and_stops_it(lab: LabCommand) -> None:
    process, port = lab.run_until_ready()
    channel = pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", port)).channel()
    channel.queue_declare("q")
    channel.basic_publish("", "q", b"hello")
    assert channel.connection.is_open
    assert next(channel.consume("q", auto_ack=True, inactivity_timeout=20))[2] == b"hello"
    channel.connection.close()
    while not lab.saved_endpoints.exists():
        assert process.poll() is None
        time.sleep(0.05)

    assert press_ctrl_c(process) == 0

    assert [port for port in (port, EPMD_PORT, AMQP_PORT, ETCD_PORT) if listens(port)] == []


def test_run_leaves_a_lab_alone_that_was_there_before(lab: LabCommand) -> None:
    assert lab("up").returncode == 0
    assert "booting" not in lab("up").stderr
    process, port = lab.run_until_ready()

    assert press_ctrl_c(process) == 0

    assert [port for port in (port, AMQP_PORT, ETCD_PORT) if listens(port)] == [AMQP_PORT, ETCD_PORT]
    assert "mq1 down" in lab("kill", "1").stdout
    assert "mq1 up" in lab("start", "1").stdout
    assert f"/mq/nodes/mq1 = amqp://127.0.0.1:{AMQP_PORT}" in lab("status").stdout
    assert lab("down").returncode == 0
    assert not listens(ETCD_PORT)


def test_run_with_brokers_of_ones_own_starts_no_lab(lab: LabCommand, cluster) -> None:
    process, port = lab.run_until_ready("--node", cluster.addresses[0], "--node", cluster.addresses[1])
    pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", port)).close()

    assert press_ctrl_c(process) == 0

    assert not listens(AMQP_PORT)
    assert cluster.is_up(1)


def test_run_with_an_etcd_of_ones_own_finds_the_brokers_there(lab: LabCommand, cluster, etcd) -> None:
    etcd.ctl("put", "/mq/nodes/mq1", f"http://{cluster.addresses[0]}")
    process, port = lab.run_until_ready("--etcd", etcd.url)
    pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", port)).close()

    assert press_ctrl_c(process) == 0

    assert [port for port in (AMQP_PORT, ETCD_PORT) if listens(port)] == []
    assert etcd.running
    assert cluster.is_up(1)
    # What is kept of one etcd must not be used with another.
    assert not lab.saved_endpoints.exists()


@pytest.mark.parametrize("name", ["listen", "admin"])
def test_a_port_that_is_taken_is_named_with_the_way_out(lab: LabCommand, name: str) -> None:
    with socket.create_server(("127.0.0.1", free_port())) as taken:
        port = taken.getsockname()[1]
        done = lab("run", f"--{name}", f"127.0.0.1:{port}", *(() if name == "listen" else ("--listen", "127.0.0.1:0")))

    assert done.returncode == 1
    assert f"make run {name.upper()}=127.0.0.1:{port + 1}" in done.stderr
    assert not listens(ETCD_PORT)


@pytest.mark.parametrize("number", ["0", "2", "x"])
def test_a_broker_that_does_not_exist_is_not_killed(lab: LabCommand, number: str) -> None:
    assert lab("kill", number).returncode != 0
