"""`python -m benchmarks.drill`: kill brokers under stock client libraries and tell what the libraries saw.

Starts everything it needs (a cluster of its own, HAProxy if it is installed, Sidehop with this interpreter) and ends
it. Exit code 1 when a client behind Sidehop saw a disconnect or a nack, or a message was lost, or came twice without
an explanation; 2 when the drill itself, or one cell of it, could not be run to its end.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import stand
from benchmarks.drill import table
from benchmarks.drill.account import Verdict
from benchmarks.drill.cell import Orders, play
from benchmarks.drill.clients.__main__ import LIBRARIES
from benchmarks.drill.clients.application import HEARTBEAT_S
from benchmarks.drill.faults import FAULTS

# A fault with its recovery takes about this long on two cores; only to say beforehand how long a drill will take.
FAULT_S = 25


def main() -> int:
    asked = _arguments()
    stand.end_on_sigterm()
    clients, modes = asked.clients.split(","), asked.modes.split(",")
    notes = [
        f"{asked.rate}/s, prefetch {asked.prefetch}, {asked.queue_type} queue, heartbeat {HEARTBEAT_S} s",
        f"faults {asked.faults}, seed {asked.seed}",
        stand.circumstances(),
    ]
    if "haproxy" in modes and not stand.haproxy_installed():
        modes.remove("haproxy")
        notes.append("haproxy is not installed (apt-get install haproxy), so its rows are missing")
    orders = Orders(_faults(asked.faults), asked.rate, asked.prefetch, asked.queue_type, asked.seed)
    minutes = len(orders.sequence()) * len(clients) * len(modes) * FAULT_S / 60
    _say(f"{len(clients)} clients x {len(modes)} ways x {len(orders.sequence())} faults: about {minutes:.0f} minutes")
    folder = Path(asked.folder or tempfile.mkdtemp(prefix="sidehop-drill-"))
    folder.mkdir(parents=True, exist_ok=True)
    ports = stand.Ports(asked.port_base)
    verdicts: list[Verdict] = []
    try:
        with stand.cluster(folder / "brokers", ports) as brokers:
            notes.insert(0, f"RabbitMQ {brokers.version()}")
            _say(f"three brokers are up: {', '.join(brokers.endpoints)}; {notes[0]}")
            for client in clients:
                for mode in modes:
                    verdicts.append(_cell(client, mode, orders, brokers, folder, ports))
                    _write(asked, verdicts, notes)
    except (stand.StandError, OSError) as error:
        _say(f"the drill could not go on: {error}\nlogs are kept in {folder}")
        return 2
    except KeyboardInterrupt:
        _say("stopped")
        return 130
    print(table.markdown(verdicts, notes))
    broken = [verdict for verdict in verdicts if verdict.mode == "sidehop" and not verdict.promises_kept]
    unfinished = [verdict for verdict in verdicts if verdict.failure]
    if broken:
        _say(f"sidehop broke a promise for {', '.join(verdict.client for verdict in broken)}")
    if broken or unfinished:
        _say(f"logs are kept in {folder}")
    elif not asked.folder:
        shutil.rmtree(folder)
    return 1 if broken else 2 if unfinished else 0


def _cell(client: str, mode: str, orders: Orders, brokers: stand.Cluster, folder: Path, ports: stand.Ports) -> Verdict:
    _say(f"{client} by way of {mode} ...")
    started_s = time.monotonic()
    try:
        brokers.run("start")
        verdict = play(
            client, mode, orders, brokers, folder / f"{client}-{mode}", ports, lambda text: _say(f"  {text}")
        )
    except stand.StandError as error:
        # One cell that could not be finished says so in its row; the others are still worth their time.
        _say(f"  not finished: {error}")
        return Verdict(client, mode, failure=str(error))
    _say(
        f"  {verdict.disconnects} disconnects, {verdict.confirmed_but_lost} confirmed but lost, "
        f"{verdict.accepted_but_lost} accepted but lost; {time.monotonic() - started_s:.0f} s"
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
    add("--modes", default=",".join(stand.MODES), help="of %(default)s")
    add("--faults", default="kill9=10,sigterm=10", help=f"KIND=COUNT,... of {', '.join(FAULTS)}; default %(default)s")
    add("--rate", type=int, default=500, help="messages per second; default %(default)s")
    add("--prefetch", type=int, default=50, help="default %(default)s")
    add("--queue-type", choices=["quorum", "classic"], default="quorum")
    add("--seed", type=int, default=random.randrange(10**6), help="orders the faults; default: drawn and printed")
    add("--quick", action="store_true", help="one client (pika), kill9=1,sigterm=1, only through Sidehop")
    add("--json", metavar="FILE", help="write the figures there")
    add("--markdown", metavar="FILE", help="write the tables there")
    add("--port-base", type=int, default=stand.DEFAULT_PORT_BASE, help="the first of 104 ports; default %(default)s")
    add("--folder", help="keep brokers' state and all logs here; default: a temporary one, kept only after a failure")
    asked = parser.parse_args()
    if asked.quick:
        asked.clients, asked.modes, asked.faults = "pika", "sidehop", "kill9=1,sigterm=1"
    for name, chosen, known in (("clients", asked.clients, LIBRARIES), ("modes", asked.modes, stand.MODES)):
        if unknown := set(chosen.split(",")) - set(known):
            parser.error(f"--{name}: {', '.join(sorted(unknown))} unknown; of {', '.join(known)}")
    for name in ("rate", "prefetch", "port_base"):
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
