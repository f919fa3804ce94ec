"""`python -m benchmarks.drill.clients LIBRARY ROLE ...`: one application in Python, started by the drill."""

from __future__ import annotations

import argparse

from benchmarks.drill.clients.application import Application
from benchmarks.drill.clients.library import LIBRARIES


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drill.clients", description=__doc__)
    parser.add_argument("library", choices=LIBRARIES)
    parser.add_argument("role")
    parser.add_argument("--name", required=True, help="the connection's name at the broker")
    parser.add_argument("--broker", action="append", required=True, metavar="HOST:PORT")
    parser.add_argument("--queue", required=True)
    parser.add_argument("--queue-type", required=True)
    parser.add_argument("--run", required=True, help="what every body of this run begins with")
    parser.add_argument("--rate", type=int, required=True)
    parser.add_argument("--prefetch", type=int, required=True)
    asked = parser.parse_args()
    brokers = [(host, int(port)) for host, _, port in (broker.rpartition(":") for broker in asked.broker)]
    application = Application(asked.name, brokers, asked.queue, asked.queue_type, asked.run, asked.rate, asked.prefetch)
    application.obey_signals()
    LIBRARIES[asked.library].play(asked.role, application)
    application.tell("finished")


if __name__ == "__main__":
    main()
