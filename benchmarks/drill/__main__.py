"""`python -m benchmarks.drill`: kill brokers under stock client libraries and tell what the libraries saw.

Starts everything it needs (a cluster of its own, HAProxy if it is installed, Sidehop with this interpreter) and ends
it. Exit code 1 when a client behind Sidehop saw a disconnect or a nack, or a message was lost, or came twice without
an explanation (by way of sidehop-once: at all); 2 when the drill itself, or one cell, could not be run to its end.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import stand
from benchmarks.drill import table
from benchmarks.drill.account import Cell, Verdict
from benchmarks.drill.cell import Orders, play
from benchmarks.drill.clients.application import HEARTBEAT_S
from benchmarks.drill.clients.library import LIBRARIES
from benchmarks.drill.faults import FAULTS
from benchmarks.drill.workload import QUEUE_TYPES, WORKLOADS

# A fault with its recovery takes about this long on two cores; only to say beforehand how long a drill will take.
FAULT_S = 25


def main() -> int:
    asked = _arguments()
    stand.end_on_sigterm()
    notes = [
        f"{asked.rate}/s at most, prefetch {asked.prefetch}, heartbeat {HEARTBEAT_S} s",
        f"faults {asked.faults}, seed {asked.seed}",
        stand.circumstances(),
    ]
    modes = asked.modes.split(",")
    if "haproxy" in modes and not stand.haproxy_installed():
        modes.remove("haproxy")
        notes.append("haproxy is not installed (apt-get install haproxy), so its rows are missing")
    orders = Orders(_faults(asked.faults), asked.rate, asked.prefetch, asked.seed, asked.witnesses)
    cells = _cells(asked, modes)
    minutes = len(orders.sequence()) * len(cells) * FAULT_S / 60
    _say(f"{len(cells)} cells x {len(orders.sequence())} faults: about {minutes:.0f} minutes")
    folder = Path(asked.folder or tempfile.mkdtemp(prefix="sidehop-drill-"))
    folder.mkdir(parents=True, exist_ok=True)
    ports = stand.Ports(asked.port_base)
    verdicts: list[Verdict] = []
    try:
        with stand.cluster(folder / "brokers", ports) as brokers:
            notes.insert(0, f"RabbitMQ {brokers.version()}")
            _say(f"three brokers are up: {', '.join(brokers.endpoints)}; {notes[0]}")
            for cell in cells:
                verdicts.append(_cell(cell, orders, brokers, folder, ports))
                _write(asked, verdicts, notes)
    except (stand.StandError, OSError) as error:
        _say(f"the drill could not go on: {error}\nlogs are kept in {folder}")
        return 2
    except KeyboardInterrupt:
        _say("stopped")
        return 130
    print(table.markdown(verdicts, notes))
    broken = [verdict for verdict in verdicts if verdict.cell.mode in stand.WAYS[2:] and not verdict.promises_kept]
    unfinished = [verdict for verdict in verdicts if verdict.failure]
    for verdict in broken:
        _say(f"a promise was broken: {verdict.cell}")
    if broken or unfinished:
        _say(f"logs are kept in {folder}")
    elif not asked.folder:
        shutil.rmtree(folder)
    return 1 if broken else 2 if unfinished else 0


def _cells(asked: argparse.Namespace, modes: Sequence[str]) -> list[Cell]:
    """Every combination that was asked for and makes sense: not every library has every role, nor every queue."""
    return [
        Cell(client, workload, queue_type, mode)
        for client in asked.clients.split(",")
        for workload in asked.workloads.split(",")
        for queue_type in asked.queues.split(",")
        for mode in modes
        if LIBRARIES[client].plays(WORKLOADS[workload], queue_type)
    ]


def _cell(cell: Cell, orders: Orders, brokers: stand.Cluster, folder: Path, ports: stand.Ports) -> Verdict:
    _say(f"{cell} ...")
    started_s = time.monotonic()
    try:
        LIBRARIES[cell.client].prepare()
        brokers.run("start")
        verdict = play(cell, orders, brokers, folder / "-".join(cell), ports, lambda text: _say(f"  {text}"))
    except stand.StandError as error:
        # One cell that could not be finished says so in its row; the others are still worth their time.
        _say(f"  not finished: {error}")
        return Verdict(cell, failure=str(error))
    _say(
        f"  {verdict.disconnects} disconnects, {verdict.confirmed_but_lost} confirmed but lost, "
        f"{verdict.accepted_but_lost} accepted but lost, {verdict.duplicates_unexplained} unexplained; "
        f"{time.monotonic() - started_s:.0f} s"
    )
    return verdict


def _write(asked: argparse.Namespace, verdicts: list[Verdict], notes: list[str]) -> None:
    """After every cell, so that an interrupted drill leaves what it measured."""
    if asked.json:
        Path(asked.json).write_text(json.dumps(table.as_json(verdicts, notes), indent=1) + "\n")
    if asked.markdown:
        Path(asked.markdown).write_text(table.markdown(verdicts, notes))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.drill", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--clients", default=",".join(LIBRARIES), help="of %(default)s")
    add("--modes", default=",".join(stand.MODES), help=f"of {','.join(stand.WAYS)}; default %(default)s")
    add("--faults", default="kill9=10,sigterm=10", help=f"KIND=COUNT,... of {', '.join(FAULTS)}; default %(default)s")
    add("--rate", type=int, default=500, help="messages per second; default %(default)s")
    add("--prefetch", type=int, default=50, help="default %(default)s")
    add("--workloads", default="confirm", help=f"of {','.join(WORKLOADS)}; default %(default)s")
    add("--queues", default="quorum", help=f"of {','.join(QUEUE_TYPES)}; default %(default)s")
    add("--seed", type=int, default=random.randrange(10**6), help="orders the faults; default: drawn and printed")
    add("--witnesses", action="store_true", help="tell how long a quorum queue by itself confirms nothing")
    add("--all", action="store_true", help="all workloads, queues and faults (one of each), only through Sidehop")
    add("--quick", action="store_true", help="one client (pika), kill9=1,sigterm=1, only through Sidehop")
    add("--json", metavar="FILE", help="write the figures there")
    add("--markdown", metavar="FILE", help="write the tables there")
    add(
        "--port-base",
        type=stand.port_base,
        default=stand.DEFAULT_PORT_BASE,
        help="the first of 106 ports; default %(default)s",
    )
    add("--folder", help="keep brokers' state and all logs here; default: a temporary one, kept only after a failure")
    asked = parser.parse_args()
    if asked.all:
        parser.set_defaults(
            workloads=",".join(WORKLOADS),
            queues=",".join(QUEUE_TYPES),
            faults=",".join(f"{kind}=1" for kind in FAULTS),
            modes="sidehop",
        )
        asked = parser.parse_args()
    if asked.quick:
        asked.clients, asked.modes, asked.faults = "pika", "sidehop", "kill9=1,sigterm=1"
    known_by_name = {"clients": LIBRARIES, "workloads": WORKLOADS, "queues": QUEUE_TYPES, "modes": stand.WAYS}
    for name, known in known_by_name.items():
        if unknown := set(getattr(asked, name).split(",")) - set(known):
            parser.error(f"--{name}: {', '.join(sorted(unknown))} unknown; of {', '.join(known)}")
    if not _cells(asked, asked.modes.split(",")):
        parser.error("nothing to do: these clients have no such workload, or it no such queue")
    for name in ("rate", "prefetch"):
        if getattr(asked, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    try:
        _faults(asked.faults)
    except ValueError as error:
        parser.error(f"--faults: {error}")
    return asked


def _faults(text: str) -> tuple[tuple[str, int], ...]:
    pairs = []
    for part in text.split(","):
        kind, _, count = part.partition("=")
        if kind not in FAULTS or not count.isdecimal():
            raise ValueError(f"{part!r} is not KIND=COUNT with a kind of {', '.join(FAULTS)}")
        pairs.append((kind, int(count)))
    return tuple(pairs)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
