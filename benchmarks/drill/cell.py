"""One client library on one way to the brokers, through every fault: the drill's unit of work."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pika

from benchmarks import stand
from benchmarks.drill.account import Entry, Verdict, judge
from benchmarks.drill.faults import Fault, Injuries, connection_of

REPLAYED_METRIC = "sidehop_replayed_publishes_total"
# Steady work between a healed cluster and the next fault, so that one fault's gap never reaches into the next.
STEADY_S = 2.0
STEADY_MAX_S = 60.0
# The consumer has nothing more to come when it was silent for so long after the publisher ended.
SILENCE_S = 3.0
FINISH_MAX_S = 60.0

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Orders:
    """What every cell of a drill has in common. Rate in messages per second."""

    faults: tuple[tuple[str, int], ...]
    rate: int
    prefetch: int
    queue_type: str
    seed: int

    def sequence(self) -> list[tuple[str, str]]:
        """The faults as (kind, role whose node is hit): mixed by the seed, the same for every client and way."""
        dice = random.Random(self.seed)
        kinds = [kind for kind, count in self.faults for _ in range(count)]
        dice.shuffle(kinds)
        turn = dict.fromkeys(kinds, 0)
        drawn = []
        for kind in kinds:
            drawn.append((kind, ("publisher", "consumer")[turn[kind] % 2]))
            turn[kind] += 1
        return drawn


class Player:
    """One application process, and everything it told."""

    def __init__(self, library: str, role: str, orders: Orders, addresses: Sequence[str], run: str, log: Path) -> None:
        self.name = f"drill-{run}-{role}"
        command = [sys.executable, "-m", "benchmarks.drill.clients", library, role]
        command += ["--name", self.name, "--queue", queue_name(run), "--run", run]
        command += ["--rate", str(orders.rate), "--prefetch", str(orders.prefetch)]
        for address in addresses:
            command += ["--broker", address]
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
    client: str, mode: str, orders: Orders, brokers: stand.Cluster, folder: Path, ports: stand.Ports, progress: Progress
) -> Verdict:
    """Run one client on one way through all faults, and account for every message. Raises StandError."""
    run = uuid.uuid4().hex[:8]
    folder.mkdir(parents=True, exist_ok=True)
    injuries = Injuries(brokers, queue_name(run), quorum=orders.queue_type == "quorum")
    _declare(brokers, run, orders.queue_type)
    with stand.way(mode, folder, ports, brokers.endpoints) as (addresses, proxy), contextlib.ExitStack() as players:

        def start(role: str) -> Player:
            player = Player(client, role, orders, addresses, run, folder / f"{role}.log")
            players.callback(player.end)
            return player

        consumer, publisher = start("consume"), start("publish")
        faults = _hurt(orders, injuries, brokers, publisher, consumer, progress)
        publisher.finish()
        _await_silence(consumer)
        consumer.finish()
        injuries.await_health()
        if proxy is not None:
            proxy.require_alive()
        replayed = stand.metric_sum(ports.admin, REPLAYED_METRIC) if mode == "sidehop" else None
    drained = _drain(brokers, run)
    _keep(folder, {"publisher": publisher.entries, "consumer": consumer.entries})
    return judge(
        client, mode, publisher.entries, consumer.entries, drained, faults, None if replayed is None else int(replayed)
    )


def _hurt(
    orders: Orders,
    injuries: Injuries,
    brokers: stand.Cluster,
    publisher: Player,
    consumer: Player,
    progress: Progress,
) -> list[Fault]:
    faults: list[Fault] = []
    sequence = orders.sequence()
    for turn, (kind, role) in enumerate(sequence, 1):
        injuries.await_health()
        _await_steady(publisher, consumer)
        player = publisher if role == "publisher" else consumer
        found = connection_of(brokers, player.name)
        if found is None:
            raise stand.StandError(f"no broker knows the connection of {player.name}")
        node, connection = found
        at_s = injuries.inflict(kind, node, connection)
        faults.append(Fault(kind, node, role, at_s))
        seen = publisher.count("disconnected") + consumer.count("disconnected")
        progress(
            f"{turn}/{len(sequence)} {kind} of node {node} ({role}): {publisher.count('confirmed')} confirmed, "
            f"{consumer.count('delivered')} delivered, {seen} disconnects so far"
        )
    injuries.await_health()
    _await_steady(publisher, consumer)
    return faults


def _await_steady(publisher: Player, consumer: Player) -> None:
    """Return when confirms and deliveries have come for STEADY_S without a hole of a second.

    A client that stays without them for STEADY_MAX_S is hurt enough; the drill goes on, and the gap is in its figures.
    """
    start_s = steady_since_s = time.monotonic()
    while (now := time.monotonic()) - steady_since_s < STEADY_S and now - start_s < STEADY_MAX_S:
        publisher.require_alive()
        consumer.require_alive()
        if now - publisher.last_s("confirmed") > 1.0 or now - consumer.last_s("delivered") > 1.0:
            steady_since_s = now
        time.sleep(0.1)


def _await_silence(consumer: Player) -> None:
    deadline = time.monotonic() + FINISH_MAX_S
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


def _drain(brokers: stand.Cluster, run: str) -> list[tuple[int, bool]]:
    """Everything that is still in the queue, past every proxy; then the queue is deleted."""
    drained = []
    with _direct(brokers) as connection:
        channel = connection.channel()
        while (found := channel.basic_get(queue_name(run), auto_ack=True))[0] is not None:
            drained.append((int(found[2].split()[1]), bool(found[0].redelivered)))
        channel.queue_delete(queue_name(run))
    return drained


def _keep(folder: Path, logs: dict[str, list[Entry]]) -> None:
    """The raw evidence, for whoever doubts a figure."""
    for role, entries in logs.items():
        with (folder / f"{role}.jsonl").open("w") as sink:
            sink.writelines(json.dumps(entry) + "\n" for entry in entries)
