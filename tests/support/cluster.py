"""A real RabbitMQ cluster for tests: what `deploy/lab/cluster.sh` can do, as methods."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

CLUSTER_SH = Path(__file__).resolve().parents[2] / "deploy" / "lab" / "cluster.sh"
NODES = (1, 2, 3)


class Cluster:
    """Three nodes, numbered 1 to 3. Every method blocks until it is done; from a coroutine use `asyncio.to_thread`.

    They are of the RabbitMQ in `root`, a folder made by `deploy/lab/rabbitmq4.sh`; without one, of RABBITMQ_ROOT in the
    environment, or of the machine.

    Starting and stopping a node takes seconds, `stop_app` and `start_app` take about one, `kill9`, `pause` and
    `resume` milliseconds.
    """

    def __init__(self, folder: Path, port_base: int, root: Path | None = None) -> None:
        self.folder = folder
        self._port_base = port_base
        self._environment = {
            **os.environ,
            "CLUSTER_DIR": str(folder),
            "CLUSTER_PORT_BASE": str(port_base),
            "CLUSTER_NODES": str(len(NODES)),
            "CLUSTER_NODE_PREFIX": "mq",
            **({"RABBITMQ_ROOT": str(root)} if root else {}),
        }

    @property
    def names(self) -> list[str]:
        """Endpoint names, in the order of the numbers."""
        return [f"mq{n}" for n in NODES]

    @property
    def addresses(self) -> list[str]:
        """`host:port` of every node, as `sidehop run --node` takes it."""
        return [f"127.0.0.1:{self.amqp_port(n)}" for n in NODES]

    def amqp_port(self, n: int) -> int:
        return self._port_base + 10 + n

    def http_port(self, n: int) -> int:
        """Port of the management API."""
        return self._port_base + 20 + n

    def url(self, n: int) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.amqp_port(n)}/"

    def number_at(self, address: str) -> int:
        """Which node listens at `host:port`, or has this name."""
        return next(n for n in NODES if address in (self.addresses[n - 1], self.names[n - 1]))

    def log(self, n: int) -> str:
        """The log of the node so far."""
        return (self.folder / str(n) / "log" / f"mq{n}@localhost.log").read_text()

    def start(self, *numbers: int) -> None:
        """Boot the nodes (all, without a number) and wait until they speak AMQP."""
        self._call("start", *map(str, numbers))

    def stop(self, *numbers: int) -> None:
        """SIGTERM, and wait for the end of the process: clients are told 320."""
        self._call("stop", *map(str, numbers))

    def kill9(self, n: int) -> None:
        self._call("kill9", str(n))

    def pause(self, n: int) -> None:
        """Hang the node. Longer than 8 s partitions it from the others, until the next test asks for `cluster`."""
        os.kill(self._pid(n), signal.SIGSTOP)

    def resume(self, n: int) -> None:
        os.kill(self._pid(n), signal.SIGCONT)

    def stop_app(self, n: int) -> None:
        """Stop RabbitMQ but not its Erlang VM: clients are told 320."""
        self.ctl(n, "stop_app")

    def start_app(self, n: int) -> None:
        self.ctl(n, "start_app")
        self.wait_up(n)

    def ctl(self, n: int, *arguments: str) -> str:
        """What `rabbitmqctl` answers at node n."""
        return self._call("ctl", str(n), "--quiet", *arguments)

    def eval(self, n: int, expression: str) -> str:
        return self._call("eval", str(n), expression)

    def version(self, n: int) -> str:
        """The RabbitMQ that node n runs, like 3.10.8."""
        return self.eval(n, "rabbit_misc:version().").strip().strip('"')

    def connections(self, n: int) -> int:
        """How many clients are connected to a node."""
        return int(self.eval(n, "length(rabbit_networking:local_connections())."))

    def close_connections(self, n: int, reason: str = "closed by the operator") -> None:
        """Close every client connection of this node, as an operator would."""
        self.eval(
            n, f'[rabbit_networking:close_connection(P, "{reason}") || P <- rabbit_networking:local_connections()].'
        )

    def management(self, n: int, path: str) -> list[dict]:
        """GET from the management API of node n, `path` without `/api/`."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.http_port(n)}/api/{path}")
        request.add_header("Authorization", "Basic " + base64.b64encode(b"guest:guest").decode())
        with urllib.request.urlopen(request, timeout=5) as answer:
            return json.load(answer)

    def partition(self, a: int, b: int) -> None:
        """Cut the link between two nodes; clients still reach both."""
        self._call("partition", str(a), str(b))

    def heal(self, a: int, b: int) -> None:
        self._call("heal", str(a), str(b))

    def isolate(self, n: int) -> None:
        """Cut one node off both others, where it pauses as a minority does (`pause_minority`): clients are told 320."""
        self.eval(n, "application:set_env(rabbit, cluster_partition_handling, pause_minority).")
        # In one go, since a node that still sees one of two others pauses for another reason.
        self.eval(n, f"[begin erlang:set_cookie(N, cut), erlang:disconnect_node(N) end || N <- {self._others(n)}].")

    def rejoin(self, n: int) -> None:
        """End what `isolate` began: the node comes back by itself, with the setting that it was started with."""
        self.eval(n, f"[erlang:set_cookie(N, erlang:get_cookie()) || N <- {self._others(n)}].")
        self.wait_up(n)

    def is_up(self, n: int, patience_s: float = 2.0) -> bool:
        """Does it answer the protocol header? A booting, stopping or hung node accepts the connection only."""
        try:
            with socket.create_connection(("127.0.0.1", self.amqp_port(n)), timeout=patience_s) as link:
                link.sendall(b"AMQP\x00\x00\x09\x01")
                return link.recv(1) == b"\x01"
        except OSError:
            return False

    def wait_up(self, n: int, patience_s: float = 90.0) -> None:
        until = time.monotonic() + patience_s
        while not self.is_up(n):
            assert time.monotonic() < until, f"mq{n} is not up after {patience_s} s"
            time.sleep(0.05)

    def make_whole(self) -> None:
        """Bring back whatever a test has stopped, hung, killed or partitioned; at once when there is nothing to do."""
        for n in NODES:
            pid = self._pid_or_none(n)
            if pid is not None:
                os.kill(pid, signal.SIGCONT)
        if not all(self.is_up(n) for n in NODES):
            self._revive()
        if not self._whole():
            # A partition in mode `ignore` ends only when one side boots again, and a cut made here when both do.
            self._call("kill9")
            self.start()

    def wipe(self) -> None:
        """Kill everything, forget everything."""
        self._call("wipe")

    def _others(self, n: int) -> str:
        """All nodes but one, as a list in Erlang."""
        return str([f"{name}@localhost" for name in self.names if name != self.names[n - 1]])

    def _revive(self) -> None:
        for n in NODES:
            if self._pid_or_none(n) is not None and not self.is_up(n):
                try:
                    self.start_app(n)
                except subprocess.CalledProcessError:
                    self.kill9(n)
        self.start()

    def _whole(self) -> bool:
        """Does every node see every other? The management API knows within a moment of a node's return."""
        until = time.monotonic() + 5
        while time.monotonic() < until:
            if all(self._sees_all(n) for n in NODES):
                return True
            time.sleep(0.1)
        return False

    def _sees_all(self, n: int) -> bool:
        try:
            nodes = self.management(n, "nodes?columns=running,partitions")
        except OSError:
            return False
        return all(node.get("running") and not node.get("partitions") for node in nodes)

    def _pid(self, n: int) -> int:
        return int(self._call("pid", str(n)))

    def _pid_or_none(self, n: int) -> int | None:
        try:
            return self._pid(n)
        except subprocess.CalledProcessError:
            return None

    def _call(self, *command: str) -> str:
        done = subprocess.run(
            [CLUSTER_SH, *command],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            error = subprocess.CalledProcessError(done.returncode, ["cluster.sh", *command], done.stdout, done.stderr)
            error.add_note(done.stdout[-2000:] + done.stderr[-2000:])
            raise error
        return done.stdout
