"""`python -m benchmarks.instructions.workload NAME`: what is counted. Run under callgrind, and of no use otherwise.

Each workload sends whole chunks of small messages through an engine, with everything that answers them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from proxy.amqp import methods as m
from proxy.session.session import Session
from tests.support.engine import FailOver, FromBroker, FromClient, Story, confirming, consuming, with_channel
from tests.support.engine_frames import ack, consume_ok, deliver, on, publish

CHUNKS = 8
CHUNK_MESSAGES = 400
BODY = bytes(100)


def publishing(story: Story) -> None:
    """Publishes in one chunk, then a confirm for each by itself."""
    session = story.session
    broker = session.journal.uplink
    assert broker is not None
    sent = publish(1, BODY) * CHUNK_MESSAGES
    for chunk in range(CHUNKS):
        first = chunk * CHUNK_MESSAGES + 1
        session.from_client(sent, 1.0)
        session.from_broker(broker.generation, _acks(first), 1.0)
        _write(session)


def receiving(story: Story, offset: int = 0) -> None:
    """Deliveries in one chunk, then an ack for each by itself. The client counts `offset` more than the broker."""
    session = story.session
    broker = session.journal.uplink
    assert broker is not None
    for chunk in range(CHUNKS):
        first = chunk * CHUNK_MESSAGES + 1
        given = b"".join(deliver(1, first + each, BODY) for each in range(CHUNK_MESSAGES))
        session.from_broker(broker.generation, given, 1.0)
        session.from_client(_acks(first + offset), 1.0)
        _write(session)


def moved() -> Story:
    """A consumer that has settled one delivery of a broker that is gone, and reads from the next one."""
    story = (consuming() >> FromBroker(deliver(1, 1))).forget() >> FromClient(ack(1, 1))
    story = (story.forget() >> FailOver()).forget()
    return (story >> FromBroker(on(1, m.ChannelOpenOk()), consume_ok(1))).forget()


WORKLOADS: dict[str, Callable[[], None]] = {
    "publish, confirm": lambda: publishing(confirming()),
    "publish, hidden confirm": lambda: publishing(with_channel()),
    "deliver, ack": lambda: receiving(consuming()),
    "deliver, ack after a failover": lambda: receiving(moved(), offset=1),
}


def _acks(first: int) -> bytes:
    return b"".join(ack(1, first + each) for each in range(CHUNK_MESSAGES))


def _write(session: Session) -> None:
    journal = session.journal
    journal.client_out.clear()
    for uplink in journal.uplinks:
        uplink.out.clear()


if __name__ == "__main__":
    WORKLOADS[sys.argv[1]]()
