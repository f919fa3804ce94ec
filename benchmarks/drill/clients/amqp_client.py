"""py-amqp, the library below kombu and Celery: every publish waits for its own confirm."""

from __future__ import annotations

import time

import amqp
from amqp.exceptions import AMQPError, MessageNacked

from benchmarks.drill.clients.application import CONNECT_TIMEOUT_S, HEARTBEAT_S, Application

# Longer than any failover, shorter than for ever: a publisher that hangs must say so.
CONFIRM_TIMEOUT_S = 60.0


def _connect(application: Application, broker: tuple[str, int], *, confirm: bool) -> amqp.Connection | None:
    connection = amqp.Connection(
        host=f"{broker[0]}:{broker[1]}",
        userid="guest",
        password="guest",
        heartbeat=HEARTBEAT_S,
        confirm_publish=confirm,
        connect_timeout=CONNECT_TIMEOUT_S,
        client_properties={"connection_name": application.name},
    )
    try:
        connection.connect()
    except (AMQPError, OSError) as error:
        application.tell("refused", 0, repr(error)[:200])
        return None
    application.tell("connected", 0, f"{broker[0]}:{broker[1]}")
    return connection


class _Heartbeat:
    """Calls the library's heartbeat_tick once a second, as its documentation asks."""

    def __init__(self, connection: amqp.Connection) -> None:
        self._connection = connection
        self._next_s = 0.0

    def tick(self) -> None:
        if (now := time.monotonic()) >= self._next_s:
            self._next_s = now + 1.0
            self._connection.heartbeat_tick()


def publish(application: Application) -> None:
    for broker in application.attempts():
        connection = _connect(application, broker, confirm=True)
        if connection is None:
            continue
        try:
            _publish_until_stopped(application, connection)
            connection.close()
        except (AMQPError, OSError) as error:
            application.tell_lost(error)
            connection.collect()


def _publish_until_stopped(application: Application, connection: amqp.Connection) -> None:
    channel = connection.channel()
    heartbeat = _Heartbeat(connection)
    due_s = time.monotonic()
    while not application.stopping:
        heartbeat.tick()
        # A publisher that fell behind goes on at its rate; it doesn't catch up in a burst.
        due_s = max(due_s + 1 / application.rate, time.monotonic() - 0.01)
        time.sleep(max(0.0, due_s - time.monotonic()))
        number = next(application.numbers)
        message = amqp.Message(application.body(number), delivery_mode=2)
        application.tell("published", number)
        try:
            channel.basic_publish(
                message, exchange="", routing_key=application.queue, confirm_timeout=CONFIRM_TIMEOUT_S
            )
            application.tell("confirmed", number)
        except MessageNacked:
            application.tell("nacked", number)


def consume(application: Application) -> None:
    for broker in application.attempts():
        connection = _connect(application, broker, confirm=False)
        if connection is None:
            continue
        try:
            _consume_until_stopped(application, connection)
            connection.close()
        except (AMQPError, OSError) as error:
            application.tell_lost(error)
            connection.collect()


def _consume_until_stopped(application: Application, connection: amqp.Connection) -> None:
    channel = connection.channel()
    cancelled: list[str] = []

    def on_message(message: amqp.Message) -> None:
        body = message.body if isinstance(message.body, bytes) else message.body.encode()
        application.tell("delivered", application.number_of(body), bool(message.delivery_info["redelivered"]))
        channel.basic_ack(message.delivery_tag)

    channel.basic_qos(0, application.prefetch, False)
    channel.basic_consume(application.queue, callback=on_message, on_cancel=cancelled.append)
    heartbeat = _Heartbeat(connection)
    while not application.stopping:
        heartbeat.tick()
        if cancelled:
            raise ConnectionAbortedError(f"the broker cancelled consumer {cancelled[0]}")
        try:
            connection.drain_events(timeout=0.5)
        except TimeoutError:
            continue
