"""One client library on one way to the brokers, through every fault: the drill's unit of work."""

from __future__ import annotations

import contextlib
import json
import random
import re
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pika

from benchmarks import stand
from benchmarks.drill.account import Cell, Entry, Verdict, judge
from benchmarks.drill.clients.library import LIBRARIES
from benchmarks.drill.faults import FAULTS, Fault, Scene, Ward, connection_of, home_of
from benchmarks.drill.witness import witnesses
from benchmarks.drill.workload import WORKLOADS, Workload

REPLAYED_METRIC = "sidehop_replayed_publishes_total"
# Steady work between a healed cluster and the next fault, so that one fault's gap never reaches into the next.
STEADY_S = 2.0
STEADY_MAX_S = 60.0
# The consumer has nothing more to come when it was silent for so long after the publisher ended.
SILENCE_S = 3.0
FINISH_MAX_S = 60.0
# A slow consumer gets what it has left, in the end: a copy that only the final count sees says nothing of its sidecar.
BACKLOG_MAX_S = 1200.0

# A proxy that looks for a broker, or a client that comes back, is on none for a moment.
ATTACH_MAX_S = 120.0
# A second kill falls into the recovery from the first, which takes from 0.1 s to a few seconds.
AGAIN_S = (0.05, 1.0)

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Planned:
    """A fault to come: what, to the node of whom (`sender`, `receiver`, `queue`), and what is left to chance.

    `step` to the other node, and the delay in seconds, for those faults that hurt twice.
    """

    kind: str
    role: str
    step: int
    delay_s: float


@dataclass(frozen=True, slots=True)
class Orders:
    """What every cell of a drill has in common. Rate in messages per second.

    `witnesses`: tell how long the queue by itself confirms nothing, if it is a quorum queue.
    """

    faults: tuple[tuple[str, int], ...]
    rate: int
    prefetch: int
    seed: int
    witnesses: bool = False

    def sequence(self) -> list[Planned]:
        """The faults, mixed by the seed: the same for every cell. Those of one kind hit the applications in turn."""
        dice = random.Random(self.seed)
        kinds = [kind for kind, count in self.faults for _ in range(count)]
        dice.shuffle(kinds)
        turn = dict.fromkeys(kinds, 0)
        drawn = []
        for kind in kinds:
            role = "queue" if kind == "home" else ("sender", "receiver")[turn[kind] % 2]
            drawn.append(Planned(kind, role, dice.choice((1, 2)), dice.uniform(*AGAIN_S)))
            turn[kind] += 1
        return drawn


class Player:
    """One application process, and everything it told."""

    def __init__(self, cell: Cell, role: str, orders: Orders, addresses: Sequence[str], run: str, log: Path) -> None:
        self.name = f"drill-{run}-{role}"
        rate = min(orders.rate, WORKLOADS[cell.workload].rate_max)
        arguments = ["--name", self.name, "--queue", queue_name(run), "--queue-type", cell.queue_type, "--run", run]
        arguments += ["--rate", str(rate), "--prefetch", str(orders.prefetch)]
        for address in addresses:
            arguments += ["--broker", address]
        command = LIBRARIES[cell.client].command(role, arguments)
        self.entries: list[Entry] = []
        self._log = log
        with log.open("wb") as errors:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, cwd=stand.ROOT)
        self._reader = threading.Thread(target=self._read, name=self.name, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.entries.append(Entry(*json.loads(line)))

    def last_s(self, kind: str) -> float:
        """When it last told this kind of thing; 0 when never. Looks back 2 000 entries, which is seconds."""
        return next((entry.at_s for entry in reversed(self.entries[-2000:]) if entry.kind == kind), 0.0)

    def count(self, kind: str) -> int:
        return sum(entry.kind == kind for entry in self.entries)

    def require_alive(self) -> None:
        if self._process.poll() is not None:
            raise stand.StandError(f"{self.name} ended by itself; {self._log}:\n{self._log.read_text()[-800:]}")

    def finish(self, timeout_s: float = FINISH_MAX_S) -> None:
        """Ask for a polite end, wait for it, and for its last words."""
        self._process.terminate()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.end()
        self._reader.join(timeout_s)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


def queue_name(run: str) -> str:
    return f"drill.{run}"


def play(
    cell: Cell, orders: Orders, brokers: stand.Cluster, folder: Path, ports: stand.Ports, progress: Progress
) -> Verdict:
    """Run one cell through all faults, and account for every message. Raises StandError."""
    run = uuid.uuid4().hex[:8]
    workload = WORKLOADS[cell.workload]
    folder.mkdir(parents=True, exist_ok=True)
    ward = Ward(brokers, queue_name(run), replicated=cell.queue_type != "classic")
    _declare(brokers, run, cell.queue_type)
    with stand.way(cell.mode, folder, ports, brokers.endpoints) as way, contextlib.ExitStack() as players:

        def start(role: str) -> Player:
            player = Player(cell, role, orders, way.addresses, run, folder / f"{role}.log")
            players.callback(player.end)
            return player

        stage = Stage(workload, start(workload.receiver), start(workload.sender), queue_name(run))
        watched = orders.witnesses and cell.queue_type == "quorum" and workload.settles
        faults = _hurt(orders.sequence(), stage, ward, brokers, way, progress, watched=watched)
        stage.sender.finish()
        _await_silence(stage.receiver)
        stage.receiver.finish()
        ward.await_health()
        if way.proxy is not None:
            way.proxy.require_alive()
        admin = way.registry.admin if way.registry is not None else None
        replayed = None if admin is None else stand.metric_sum(admin, REPLAYED_METRIC)
    drained = _drain(brokers, run, cell.queue_type)
    _keep(folder, {"sender": stage.sender.entries, "receiver": stage.receiver.entries})
    return judge(
        cell,
        stage.sender.entries,
        stage.receiver.entries,
        drained,
        faults,
        None if replayed is None else int(replayed),
    )


@dataclass(frozen=True, slots=True)
class Stage:
    """The two applications of a cell at work on one queue."""

    workload: Workload
    receiver: Player
    sender: Player
    queue: str

    def await_steady(self) -> None:
        """Return when both have got on for STEADY_S without a hole of a second.

        One that stays in silence for STEADY_MAX_S is hurt enough; the drill goes on, and the gap is in its figures.
        """
        start_s = steady_since_s = time.monotonic()
        while (now := time.monotonic()) - steady_since_s < STEADY_S and now - start_s < STEADY_MAX_S:
            self.sender.require_alive()
            self.receiver.require_alive()
            last_s = min(self.sender.last_s(self.workload.progress), self.receiver.last_s("delivered"))
            if now - last_s > 1.0:
                steady_since_s = now
            time.sleep(0.1)

    def scene(self, planned: Planned, brokers: stand.Cluster, way: stand.Way) -> Scene:
        """Where the fault is to happen. Raises StandError when nobody knows."""
        if planned.role == "queue":
            node, connection = home_of(brokers, self.queue), ""
        else:
            node, connection = self._place_of(self.sender if planned.role == "sender" else self.receiver, brokers)
        other = (node - 1 + planned.step) % len(brokers.nodes) + 1
        return Scene(brokers, way, node, other, connection, planned.delay_s)

    @staticmethod
    def _place_of(player: Player, brokers: stand.Cluster) -> tuple[int, str]:
        deadline = time.monotonic() + ATTACH_MAX_S
        while (found := connection_of(brokers, player.name)) is None:
            if time.monotonic() > deadline:
                raise stand.StandError(f"no broker knows the connection of {player.name}")
        return found


def _hurt(
    sequence: Sequence[Planned],
    stage: Stage,
    ward: Ward,
    brokers: stand.Cluster,
    way: stand.Way,
    progress: Progress,
    *,
    watched: bool,
) -> list[Fault]:
    faults: list[Fault] = []
    ward.await_health()
    stage.await_steady()
    for turn, planned in enumerate(sequence, 1):
        scene = stage.scene(planned, brokers, way)
        with witnesses(brokers, stage.queue) if watched else contextlib.nullcontext([]) as witnessed:
            faults.append(Fault(planned.kind, scene.node, planned.role, time.monotonic(), witnessed))
            FAULTS[planned.kind](scene)
            ward.await_health()
            stage.await_steady()
        seen = stage.sender.count("disconnected") + stage.receiver.count("disconnected")
        progress(
            f"{turn}/{len(sequence)} {planned.kind} of node {scene.node} ({planned.role}): "
            f"{stage.sender.count(stage.workload.progress)} {stage.workload.progress}, "
            f"{stage.receiver.count('delivered')} delivered, {seen} disconnects so far"
        )
    return faults


def _await_silence(consumer: Player) -> None:
    deadline = time.monotonic() + BACKLOG_MAX_S
    quiet_since_s = time.monotonic()
    while time.monotonic() - max(quiet_since_s, consumer.last_s("delivered")) < SILENCE_S:
        if time.monotonic() > deadline:
            return
        time.sleep(0.1)


def _direct(brokers: stand.Cluster) -> pika.BlockingConnection:
    host, _, port = brokers.endpoints[0].rpartition(":")
    return pika.BlockingConnection(pika.ConnectionParameters(host, int(port), heartbeat=0))


def _declare(brokers: stand.Cluster, run: str, queue_type: str) -> None:
    with _direct(brokers) as connection:
        connection.channel().queue_declare(queue_name(run), durable=True, arguments={"x-queue-type": queue_type})


def _drain(brokers: stand.Cluster, run: str, queue_type: str) -> list[tuple[int, bool]]:
    """Everything that is still in the queue, past every proxy; then it is deleted. A stream keeps what was read."""
    drained: list[tuple[int, bool]] = []
    with _direct(brokers) as connection:
        channel = connection.channel()
        if queue_type != "stream":
            # One by one with basic.get would take minutes for what a slow consumer has left.
            for method, _, body in channel.consume(queue_name(run), auto_ack=True, inactivity_timeout=SILENCE_S):
                if method is None:
                    break
                drained.append((_number_in(body, run), bool(method.redelivered)))
            channel.cancel()
        channel.queue_delete(queue_name(run))
    return drained


def _number_in(body: bytes, run: str) -> int:
    """`run 17`, or that within a task of Celery's."""
    found = re.search(rf"{run}\W+(\d+)".encode(), body)
    if found is None:
        raise stand.StandError(f"the queue of run {run} held {body[:100]!r}")
    return int(found[1])


def _keep(folder: Path, logs: dict[str, list[Entry]]) -> None:
    """The raw evidence, for whoever doubts a figure."""
    for role, entries in logs.items():
        with (folder / f"{role}.jsonl").open("w") as sink:
            sink.writelines(json.dumps(entry) + "\n" for entry in entries)
