"""`python -m benchmarks.drill.clients LIBRARY ROLE ...`: one application, started by the drill."""

from __future__ import annotations

import argparse

from benchmarks.drill.clients import aio_pika_client, amqp_client, pika_client
from benchmarks.drill.clients.application import Application

LIBRARIES = {"pika": pika_client, "aio-pika": aio_pika_client, "amqp": amqp_client}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drill.clients", description=__doc__)
    parser.add_argument("library", choices=LIBRARIES)
    parser.add_argument("role", choices=["publish", "consume"])
    parser.add_argument("--name", required=True, help="the connection's name at the broker")
    parser.add_argument("--broker", action="append", required=True, metavar="HOST:PORT")
    parser.add_argument("--queue", required=True)
    parser.add_argument("--run", required=True, help="what every body of this run begins with")
    parser.add_argument("--rate", type=int, default=500)
    parser.add_argument("--prefetch", type=int, default=50)
    asked = parser.parse_args()
    brokers = [(host, int(port)) for host, _, port in (broker.rpartition(":") for broker in asked.broker)]
    application = Application(asked.name, brokers, asked.queue, asked.run, asked.rate, asked.prefetch)
    application.obey_signals()
    getattr(LIBRARIES[asked.library], asked.role)(application)
    application.tell("finished")


if __name__ == "__main__":
    main()
