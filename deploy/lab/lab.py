"""The lab: etcd and a RabbitMQ cluster on loopback, the brokers registered in etcd, for trying Sidehop out.

    lab.py up | down | status | wipe        the whole lab, in the background
    lab.py kill N | stop N | start N        one broker: SIGKILL, SIGTERM, back again
    lab.py run [...]                        Sidehop in the foreground, with the lab unless brokers are given

State is kept under LAB_DIR (`.lab` of this checkout). LAB_PORT_BASE (25600) moves all ports, LAB_NODES (3) is the
number of brokers. Needs only the standard library; `make` is the usual way to call it.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PREFIX = "/mq/nodes/"

HINTS = """
Sidehop is ready: {listen} stands in front of {behind}. In another terminal, from this folder:

  an ordinary client (pika), which publishes and consumes until you stop it:
    .venv/bin/python deploy/lab/try.py {listen}
{lab_hints}  what Sidehop sees and does (a browser or curl):
    http://{admin}/api/v1/sessions    http://{admin}/api/v1/endpoints    http://{admin}/metrics

Ctrl-C stops {stops}. Its log follows.
"""
LAB_HINTS = """  kill a broker (kill -9), then bring it back; `sessions` below says which one is in use:
    make lab-kill N=1
    make lab-start N=1
  drain a broker (its sessions move to the others; stop it when it has none):
    ETCDCTL_API=3 etcdctl --endpoints={etcd} put {prefix}mq1 '{{"url": "{url}", "state": "drain"}}'
"""


def say(text: str) -> bool:
    """Tell the person at the keyboard, if there still is one; False if not. Never in the way of cleaning up."""
    try:
        print(text, file=sys.stderr, flush=True)
    except (OSError, ValueError):  # a pipe that `head` has left, a terminal that is gone
        return False
    return True


class Failure(Exception):
    """Something that the person at the keyboard can change; the text says what."""


class Etcd:
    """One etcd member of the lab."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.url = f"http://127.0.0.1:{port}"
        self._peer_url = f"http://127.0.0.1:{port + 1}"
        self._pid_file = folder / "pid"

    def pid(self) -> int | None:
        """The recorded process, if it still is our etcd: pids are used again."""
        try:
            pid = int(self._pid_file.read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            return None
        return pid if str(self.folder).encode() in command else None

    def start(self) -> None:
        if self.pid():
            return
        program = shutil.which("etcd")
        if not program:
            raise Failure("etcd is not installed; run: apt-get install etcd-server etcd-client")
        self.folder.mkdir(parents=True, exist_ok=True)
        say("etcd booting ...")
        began = time.monotonic()
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [
                    program,
                    f"--data-dir={self.folder / 'data'}",
                    f"--listen-client-urls={self.url}",
                    f"--advertise-client-urls={self.url}",
                    f"--listen-peer-urls={self._peer_url}",
                    f"--initial-advertise-peer-urls={self._peer_url}",
                    f"--initial-cluster=default={self._peer_url}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in the terminal is not meant for it
                env={**os.environ, "ETCD_UNSUPPORTED_ARCH": platform.machine().replace("aarch64", "arm64")},
            )
        self._pid_file.write_text(str(process.pid))
        while not self._healthy():
            if process.poll() is not None or time.monotonic() - began > 30:
                raise Failure(f"etcd did not come up on {self.url}; see {self.folder / 'log'}")
            time.sleep(0.1)
        say(f"etcd up on {self.url} ({time.monotonic() - began:.1f} s)")

    def stop(self) -> None:
        pid = self.pid()
        if pid:
            os.kill(pid, signal.SIGTERM)
            wait_gone(pid, 10)
        self._pid_file.unlink(missing_ok=True)

    def put(self, key: str, value: str) -> None:
        """Write a key unless it says so already: an unchanged key must not wake its watchers."""
        if self.list(key).get(key) != value:
            self._call("put", {"key": _b64(key), "value": _b64(value)})

    def list(self, prefix: str) -> dict[str, str]:
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        answer = self._call("range", {"key": _b64(prefix), "range_end": _b64(end)})
        return {_text(item["key"]): _text(item.get("value", "")) for item in answer.get("kvs", [])}

    def _healthy(self) -> bool:
        status, body = http_get(f"{self.url}/health")
        return status == 200 and b"true" in body

    def _call(self, method: str, body: dict[str, str]) -> dict:
        request = urllib.request.Request(f"{self.url}/v3/kv/{method}", json.dumps(body).encode())
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return json.load(answer)
        except urllib.error.URLError as error:
            raise Failure(f"etcd at {self.url} does not answer ({error}); 3.4 or newer is needed") from error


class Lab:
    """etcd and the brokers, and which of them this process has started."""

    def __init__(self, folder: Path, port_base: int, nodes: int) -> None:
        self.folder = folder
        self.etcd = Etcd(folder / "etcd", port_base + 1)
        self.numbers = list(range(1, nodes + 1))
        self._port_base = port_base
        self._environment = {
            **os.environ,
            "CLUSTER_DIR": str(folder / "cluster"),
            "CLUSTER_PORT_BASE": str(port_base),
            "CLUSTER_NODES": str(nodes),
            "CLUSTER_NODE_PREFIX": "mq",
        }
        self._to_stop: list[int] = []
        self._etcd_to_stop = False

    def url(self, number: int) -> str:
        return f"amqp://127.0.0.1:{self._port_base + 10 + number}"

    def up(self) -> None:
        self._etcd_to_stop = not self.etcd.pid()
        self._to_stop = [number for number in self.numbers if not self._running(number)]
        self.etcd.start()
        self.cluster("start")
        for number in self.numbers:
            self.etcd.put(f"{PREFIX}mq{number}", self.url(number))

    def down(self) -> None:
        self._end(self.numbers, etcd=True)

    def undo_up(self) -> None:
        """Stop what `up` has started, leave what was there before it."""
        self._end(self._to_stop, etcd=self._etcd_to_stop)

    def status(self) -> None:
        running = self.etcd.pid()
        print(f"etcd {f'up pid={running} {self.etcd.url}' if running else 'down'}", flush=True)
        self.cluster("status")
        for key, value in self.etcd.list(PREFIX).items() if running else ():
            print(f"{key} = {value}")

    def wipe(self) -> None:
        self.cluster("wipe")
        self.etcd.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def cluster(self, *command: str, heard: bool = True) -> None:
        """Have `cluster.sh` do it. `heard` is False when nobody reads what it prints, which would end it half-way."""
        output = None if heard else subprocess.DEVNULL
        script = [HERE / "cluster.sh", *command]
        if subprocess.run(script, env=self._environment, stdout=output, stderr=output, check=False).returncode:
            raise Failure(f"the cluster did not do this: {' '.join(command)}")

    def _running(self, number: int) -> bool:
        command = [HERE / "cluster.sh", "pid", str(number)]
        return subprocess.run(command, env=self._environment, stdout=subprocess.DEVNULL, check=False).returncode == 0

    def _end(self, numbers: list[int], *, etcd: bool) -> None:
        names = [str(number) for number in numbers]
        try:
            if names:
                self.cluster("stop", *names, heard=say("the brokers stopping ..."))
        except KeyboardInterrupt:
            self.cluster("kill9", *names, heard=say("again: killing the brokers"))
        if etcd:
            self.etcd.stop()


def run(lab: Lab, options: argparse.Namespace) -> int:
    """Sidehop in the foreground, until Ctrl-C or SIGTERM; then everything that was started here is stopped."""
    for name, address in (("LISTEN", options.listen), ("ADMIN", options.admin)):
        require_free(name, address)
    own = options.etcd or options.node
    command = [
        str(Path(sys.executable).with_name("sidehop")),
        "run",
        "--listen",
        options.listen,
        "--admin",
        options.admin,
    ]
    command += ["--log-format", "console"]
    # Whoever presses Ctrl-C here wants to be done, while in production clients get time to leave.
    environment = {"SIDEHOP_LISTEN__SHUTDOWN_GRACE_S": "1", **os.environ}
    with ExitStack() as stack:
        if own:
            for url in options.etcd:
                command += ["--etcd", url]
            for node in options.node:
                command += ["--node", node]
        else:
            stack.callback(lab.undo_up)
            lab.up()
            command += ["--etcd", lab.etcd.url]
            environment.setdefault("SIDEHOP_DISCOVERY__SNAPSHOT_PATH", str(lab.folder / "endpoints.json"))
        if options.policy:
            command += ["--policy", options.policy]
        sidehop = subprocess.Popen(command, start_new_session=True, env=environment)
        stack.callback(stop_process, sidehop)
        wait_ready(sidehop, options.admin)
        say(
            HINTS.format(
                listen=options.listen,
                admin=options.admin,
                behind=", ".join(own) if own else "the lab's brokers",
                stops="it" if own else "it and what of the lab it has started",
                lab_hints="" if own else LAB_HINTS.format(etcd=lab.etcd.url, prefix=PREFIX, url=lab.url(1)),
            )
        )
        return sidehop.wait()


def require_free(name: str, address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise Failure(f"{name}={address}: this must be HOST:PORT")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError as error:
            text = f"{address} can't be used ({error.strerror})."
            if name == "LISTEN":
                text += " RabbitMQ's own service, or another Sidehop, may be running there."
            raise Failure(f"{text} Choose another port: make run {name}={host}:{int(port) + 1}") from error


def wait_ready(sidehop: subprocess.Popen, admin: str) -> None:
    began = time.monotonic()
    reminded = False
    while http_get(f"http://{admin}/readyz")[0] != 200:
        if sidehop.poll() is not None:
            raise Failure(f"Sidehop ended with code {sidehop.returncode}; its message is above")
        if not reminded and time.monotonic() - began > 10:
            reminded = True
            say(f"Sidehop runs, but it has no usable broker yet; http://{admin}/api/v1/endpoints says why")
        time.sleep(0.1)


def stop_process(process: subprocess.Popen) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    say("Sidehop stopping ...")
    try:
        process.wait(5)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        process.kill()
        say("clients were still connected: it was ended at once")
        process.wait()


def wait_gone(pid: int, patience_s: float) -> None:
    until = time.monotonic() + patience_s
    while Path(f"/proc/{pid}").exists() and "State:\tZ" not in Path(f"/proc/{pid}/status").read_text():
        if time.monotonic() > until:
            os.kill(pid, signal.SIGKILL)
            return
        time.sleep(0.05)


def http_get(url: str) -> tuple[int, bytes]:
    """Status and body; status 0 when nothing answers."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, b""
    except OSError:
        return 0, b""


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _text(encoded: str) -> str:
    return base64.b64decode(encoded).decode(errors="replace")


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="lab.py", description="etcd and RabbitMQ on loopback, for trying Sidehop out")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("up", "down", "status", "wipe"):
        commands.add_parser(name)
    for name in ("kill", "stop", "start"):
        commands.add_parser(name).add_argument("number", type=int, metavar="N", help="which broker: 1, 2 or 3")
    running = commands.add_parser("run")
    running.add_argument("--listen", default="127.0.0.1:5672")
    running.add_argument("--admin", default="127.0.0.1:15680")
    running.add_argument("--etcd", action="append", default=[])
    running.add_argument("--node", action="append", default=[])
    running.add_argument("--policy", default="")
    return parser.parse_args(arguments)


def perform(lab: Lab, options: argparse.Namespace) -> int:
    match options.command:
        case "run":
            return run(lab, options)
        case "kill" | "stop" | "start":
            if options.number not in lab.numbers:
                raise Failure(f"N must be one of {', '.join(map(str, lab.numbers))}")
            lab.cluster({"kill": "kill9"}.get(options.command, options.command), str(options.number))
            lab.cluster("status")
        case command:
            getattr(lab, command)()
    return 0


def main(arguments: list[str]) -> int:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    # SIGINT too: a shell starts what runs in its background with SIGINT ignored, and Python leaves it so.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    options = parse(arguments)
    lab = Lab(
        Path(os.environ.get("LAB_DIR", ROOT / ".lab")).resolve(),
        int(os.environ.get("LAB_PORT_BASE", "25600")),
        int(os.environ.get("LAB_NODES", "3")),
    )
    try:
        return perform(lab, options)
    except KeyboardInterrupt:
        return 0 if options.command == "run" else 130
    except Failure as failure:
        say(f"error: {failure}")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
