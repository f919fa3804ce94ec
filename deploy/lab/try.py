"""An ordinary application: one pika connection that publishes with confirms, consumes and acknowledges.

    python deploy/lab/try.py [HOST:PORT]

It knows nothing of Sidehop and reconnects nowhere: as long as it counts on, its connection is the first one.
"""

from __future__ import annotations

import contextlib
import sys
import time

import pika


def main(address: str) -> None:
    host, _, port = address.rpartition(":")
    channel = pika.BlockingConnection(pika.ConnectionParameters(host, int(port))).channel()
    channel.confirm_delivery()
    channel.queue_declare("try", durable=True, arguments={"x-queue-type": "quorum"})
    channel.basic_qos(prefetch_count=10)
    received: list[str] = []

    def receive(channel, method, properties, body) -> None:  # noqa: ANN001 - pika calls it, pika knows the types
        received.append(body.decode() + (" (redelivered)" if method.redelivered else ""))
        channel.basic_ack(method.delivery_tag)

    channel.basic_consume("try", receive)
    slowest_s = 0.0
    number = 0
    while True:
        number += 1
        began = time.monotonic()
        channel.basic_publish("", "try", str(number).encode(), pika.BasicProperties(delivery_mode=2))
        took_s = time.monotonic() - began
        slowest_s = max(slowest_s, took_s)
        channel.connection.sleep(0.5)
        print(
            f"published {number}, confirmed in {took_s * 1000:.0f} ms (slowest {slowest_s * 1000:.0f} ms); "
            f"received {', '.join(received) or 'nothing yet'}",
            flush=True,
        )
        received.clear()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:5672")
