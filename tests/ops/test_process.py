"""The life of the real process: start, addresses in use, signals, and what it writes meanwhile."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


class Process:
    """`sidehop run` on free ports; `events` are read as they come, so nothing here sleeps."""

    def __init__(self, *arguments, nodes=("127.0.0.1:1",), environment=None):
        command = [sys.executable, "-m", "proxy", "run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
        for node in nodes:
            command += ["--node", node]
        self.running = subprocess.Popen(
            [*command, *arguments],
            cwd=ROOT,
            env={"PATH": "/usr/bin:/bin", **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines = []
        self.started = self.wait_for("started")

    def wait_for(self, event):
        for line in self.running.stdout:
            self.lines.append(json.loads(line))
            if self.lines[-1]["event"] == event:
                return self.lines[-1]
        raise AssertionError(f"{event} never came: {self.lines} {self.running.stderr.read()}")

    def connect(self):
        """A client that has begun to speak, as far as connection.start."""
        host, _, port = self.started["listen"].rpartition(":")
        client = socket.create_connection((host, int(port)), timeout=60)
        client.sendall(b"AMQP\x00\x00\x09\x01")
        assert client.recv(7)[0] == 1, "a method frame"
        return client

    def post(self, path):
        request = urllib.request.Request(f"http://{self.started['admin']}{path}", method="POST")
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status

    def get(self, path):
        try:
            with urllib.request.urlopen(f"http://{self.started['admin']}{path}", timeout=60) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def end(self):
        """Wait for its end; return the exit code and the last event."""
        for line in self.running.stdout:
            self.lines.append(json.loads(line))
        return self.running.wait(60), self.lines[-1]["event"]


@pytest.fixture
def start():
    started = []

    def begin(*arguments, **options):
        started.append(Process(*arguments, **options))
        return started[-1]

    yield begin
    for process in started:
        if process.running.poll() is None:
            process.running.kill()
        process.running.communicate()


@pytest.fixture(params=[1, 2], ids=["alone", "two workers"])
def workers(request):
    """The environment of a process that serves clients itself, and of one that has them served."""
    return {"SIDEHOP_LISTEN__WORKERS": str(request.param)}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_without_clients_a_signal_ends_it_in_order(start, number, workers):
    process = start(environment=workers)
    process.running.send_signal(number)
    assert process.wait_for("stopping")["reason"] == number.name
    assert process.end() == (0, "stopped")
    assert process.running.stderr.read() == ""


def test_a_client_is_served_and_new_ones_are_accepted_until_the_last_has_gone(start, workers):
    process = start(environment=workers)
    with process.connect():
        process.running.send_signal(signal.SIGTERM)
        assert process.wait_for("stopping")["sessions"] == 1
        with process.connect():
            pass
        assert process.get("/livez")[0] == 200
        assert process.running.poll() is None
    assert process.end() == (0, "stopped")


def test_the_grace_period_bounds_that(start, workers):
    process = start(environment={"SIDEHOP_LISTEN__SHUTDOWN_GRACE_S": "0.2", **workers})
    with process.connect():
        process.running.send_signal(signal.SIGTERM)
        assert process.end() == (0, "stopped")
        assert process.lines[-1]["sessions_cut"] == 1


def test_a_second_signal_ends_it_at_once(start, workers):
    process = start(environment={"SIDEHOP_LISTEN__SHUTDOWN_GRACE_S": "3600", **workers})
    with process.connect():
        process.running.send_signal(signal.SIGTERM)
        process.wait_for("stopping")
        process.running.send_signal(signal.SIGINT)
        assert process.end() == (0, "stopped")


def test_quitquitquit_is_a_polite_signal_and_repeating_it_is_not_impolite(start):
    process = start()
    with process.connect():
        assert [process.post("/quitquitquit") for _ in range(3)] == [202, 202, 202]
        assert process.wait_for("stopping")["reason"] == "quitquitquit"
        assert process.get("/livez")[0] == 200
    assert process.end() == (0, "stopped")


def test_workers_leave_signals_to_the_process_that_started_them(start):
    process = start(environment={"SIDEHOP_LISTEN__WORKERS": "2"})
    pids = [line["pid"] for line in process.lines if line["event"] == "worker_started"]
    assert len(pids) == 2
    for pid in pids:
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGINT)
    with process.connect():
        process.running.send_signal(signal.SIGTERM)
        assert process.wait_for("stopping")["sessions"] == 1
    assert process.end() == (0, "stopped")
    assert [line for line in process.lines if line["event"] == "worker_died"] == []


def test_workers_end_with_the_process_that_started_them(start):
    process = start(environment={"SIDEHOP_LISTEN__WORKERS": "2"})
    with process.connect() as client:
        process.running.kill()
        while client.recv(4096):
            pass
    # Standard output ends when the last process that has it does.
    assert process.end() == (-signal.SIGKILL, "session_closed")


@pytest.mark.parametrize("flag", ["--listen", "--admin"])
def test_an_address_in_use_is_told_with_exit_code_1(flag, workers):
    other = "--admin" if flag == "--listen" else "--listen"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        result = subprocess.run(
            [sys.executable, "-m", "proxy", "run", "--node", "mq1", flag, address, other, "127.0.0.1:0"],
            cwd=ROOT,
            env={"PATH": "/usr/bin:/bin", **workers},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert result.returncode == 1
    assert (
        result.stderr
        == f"sidehop: cannot listen on {address}: Address already in use; choose another address with {flag}\n"
    )


def test_an_unreadable_certificate_is_refused_with_exit_code_2(workers):
    environment = {"SIDEHOP_DIAL__TLS_CA": "/nonexistent.pem", "PATH": "/usr/bin:/bin", **workers}
    result = subprocess.run(
        [sys.executable, "-m", "proxy", "run", "--node", "mq1", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 2
    assert "dial.tls_ca" in result.stderr


def test_a_broker_that_is_not_there_makes_it_not_ready_and_says_why(start, workers):
    with socket.create_server(("127.0.0.1", 0)) as once_there:
        node = f"127.0.0.1:{once_there.getsockname()[1]}"
    process = start(nodes=(node,), environment=workers)
    while process.wait_for("endpoint_state")["state"] != "down":
        pass
    status, body = process.get("/readyz")
    assert status == 503
    assert f"{node} is down" in body
    process.running.send_signal(signal.SIGTERM)
    assert process.end() == (0, "stopped")


def test_it_is_never_ready_while_all_brokers_are_dead(start):
    with socket.create_server(("127.0.0.1", 0)) as once_there:
        node = f"127.0.0.1:{once_there.getsockname()[1]}"
    process = start(nodes=(node,))
    asked = []
    while "is down" not in (asked or [(503, "")])[-1][1]:
        asked.append(process.get("/readyz"))
    assert {status for status, _ in asked} == {503}


PLUG_IN = """
import asyncio
from proxy.errors import ConfigError
from proxy.upstream.endpoint import Endpoint, Rejected, Snapshot

class Source:
    def __init__(self, options, rng):
        self.options = options

    async def run(self, answer, fail):
        if "wrong" in self.options:
            raise ConfigError("discovery.options.wrong: remove it")
        if "bug" in self.options:
            raise RuntimeError("a bug of the plug-in")
        answer(Snapshot((Endpoint("mq1", self.options["host"], 1),), (Rejected("mq2", "no address"),)))
        await asyncio.Event().wait()
"""


@pytest.fixture
def plug_in(tmp_path):
    """The environment of a process that has a discovery plug-in called `mine` installed."""
    (tmp_path / "mine.py").write_text(PLUG_IN)
    installed = tmp_path / "mine-1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1\n")
    (installed / "entry_points.txt").write_text("[sidehop.discoveries]\nmine = mine:Source\n")
    return {"PYTHONPATH": str(tmp_path), "SIDEHOP_DISCOVERY__SOURCE": "mine"}


def test_a_discovery_of_a_third_party_is_used_and_gets_its_options(start, plug_in, workers):
    environment = {**plug_in, **workers, "SIDEHOP_DISCOVERY__OPTIONS__HOST": "127.0.0.1"}
    process = start(nodes=(), environment=environment)
    process.wait_for("discovery_rejected")
    body = json.loads(process.get("/api/v1/endpoints")[1])
    assert [endpoint["address"] for endpoint in body["endpoints"]] == ["127.0.0.1:1"]
    assert body["rejected"] == [{"key": "mq2", "reason": "no address"}]
    process.running.send_signal(signal.SIGTERM)
    assert process.end() == (0, "stopped")


def test_what_a_source_finds_wrong_after_the_start_has_exit_code_2(start, plug_in):
    process = start(nodes=(), environment={**plug_in, "SIDEHOP_DISCOVERY__OPTIONS__WRONG": "1"})
    assert process.end() == (2, "started")
    assert process.running.stderr.read() == (
        "sidehop: the configuration is refused:\n  discovery.options.wrong: remove it\n"
    )


def test_a_bug_in_a_part_of_the_process_ends_it_with_the_stack_in_the_log(start, plug_in):
    process = start(nodes=(), environment={**plug_in, "SIDEHOP_DISCOVERY__OPTIONS__BUG": "1"})
    assert process.end() == (1, "internal_error")
    assert "a bug of the plug-in" in process.lines[-1]["stack"]
    assert process.running.stderr.read() == "sidehop: a part of it failed; the log has the stack\n"


def test_planted_secrets_appear_nowhere(start, tmp_path, workers):
    secret = "hunter2-of-the-test"
    (tmp_path / "etcd-password").write_text(secret)
    environment = {
        "SIDEHOP_HEALTH__USER": "probe",
        "SIDEHOP_HEALTH__PASSWORD": secret,
        "SIDEHOP_DISCOVERY__ETCD__USER": "root",
        "SIDEHOP_DISCOVERY__ETCD__PASSWORD_FILE": str(tmp_path / "etcd-password"),
        "SIDEHOP_DISCOVERY__OPTIONS__TOKEN": secret,
        "SIDEHOP_LOG__LEVEL": "debug",
        **workers,
    }
    # An etcd that refuses, so that errors about a login with a password are written too.
    process = start("--etcd", "http://127.0.0.1:1", nodes=(), environment=environment)
    process.wait_for("discovery_failed")
    with process.connect() as client:
        # PLAIN, with the password in the response of connection.start-ok.
        response = b"\0app\0" + secret.encode()
        arguments = b"\0\0\0\0" + b"\x05PLAIN" + len(response).to_bytes(4) + response + b"\x05en_US"
        payload = b"\0\x0a\0\x0b" + arguments
        client.sendall(b"\x01\0\0" + len(payload).to_bytes(4) + payload + b"\xce")
        for path in ("/", "/metrics", "/readyz", "/api/v1/endpoints", "/api/v1/sessions"):
            assert secret not in process.get(path)[1]
    process.running.send_signal(signal.SIGTERM)
    assert process.end()[0] == 0
    assert secret not in json.dumps(process.lines) + process.running.stderr.read()
