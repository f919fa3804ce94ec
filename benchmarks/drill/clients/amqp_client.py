"""py-amqp, the library below kombu and Celery: every publish waits for its own confirm."""

from __future__ import annotations

import time
from collections.abc import Callable

import amqp
from amqp.exceptions import AMQPError, InternalError, MessageNacked, PreconditionFailed

from benchmarks.drill.clients.application import (
    CONNECT_TIMEOUT_S,
    HEARTBEAT_S,
    POLL_S,
    TRANSACTION_MESSAGES,
    Application,
)

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


Work = Callable[[Application, amqp.Connection], None]


def _serve(application: Application, work: Work, *, confirm: bool = False) -> None:
    """Work on one connection after the other until the application is asked to end."""
    for broker in application.attempts():
        connection = _connect(application, broker, confirm=confirm)
        if connection is None:
            continue
        try:
            work(application, connection)
            connection.close()
        except (AMQPError, OSError) as error:
            application.tell_lost(error)
            connection.collect()


def _message(application: Application, number: int) -> amqp.Message:
    return amqp.Message(application.body(number), delivery_mode=2)


def publish(application: Application) -> None:
    _serve(application, _publish_until_stopped, confirm=True)


def _publish_until_stopped(application: Application, connection: amqp.Connection) -> None:
    channel = connection.channel()
    heartbeat = _Heartbeat(connection)
    while not application.stopping:
        heartbeat.tick()
        application.wait_turn()
        number = next(application.numbers)
        application.tell("published", number)
        try:
            channel.basic_publish(
                _message(application, number),
                exchange="",
                routing_key=application.queue,
                confirm_timeout=CONFIRM_TIMEOUT_S,
            )
            application.tell("confirmed", number)
        except MessageNacked:
            application.tell("nacked", number)


def publish_plain(application: Application) -> None:
    _serve(application, _publish_plain_until_stopped)


def _publish_plain_until_stopped(application: Application, connection: amqp.Connection) -> None:
    channel = connection.channel()
    heartbeat = _Heartbeat(connection)
    while not application.stopping:
        heartbeat.tick()
        _read_what_came(connection, application.pause_s())
        number = next(application.numbers)
        application.tell("published", number)
        channel.basic_publish(_message(application, number), exchange="", routing_key=application.queue)


def _read_what_came(connection: amqp.Connection, wait_s: float) -> None:
    """Heartbeats and a broker's farewell are only seen by who reads, and nothing else makes this publisher read."""
    until_s = time.monotonic() + wait_s
    while (left_s := until_s - time.monotonic()) > 0:
        try:
            connection.drain_events(timeout=left_s)
        except TimeoutError:
            return


def commit(application: Application) -> None:
    _serve(application, _commit_until_stopped)


def _commit_until_stopped(application: Application, connection: amqp.Connection) -> None:
    channel = _transactional(connection)
    heartbeat = _Heartbeat(connection)
    while not application.stopping:
        heartbeat.tick()
        time.sleep(application.pause_s(TRANSACTION_MESSAGES))
        numbers = [next(application.numbers) for _ in range(TRANSACTION_MESSAGES)]
        try:
            for number in numbers:
                application.tell("published", number)
                channel.basic_publish(_message(application, number), exchange="", routing_key=application.queue)
            channel.tx_commit()
        except (InternalError, PreconditionFailed) as error:
            if not connection.connected:
                raise
            application.tell_undone(numbers, str(error))
            channel = _transactional(connection)
        else:
            for number in numbers:
                application.tell("confirmed", number)


def _transactional(connection: amqp.Connection) -> amqp.Channel:
    channel = connection.channel()
    channel.tx_select()
    return channel


def consume(application: Application) -> None:
    _serve(application, _consume_until_stopped)


def _consume_until_stopped(application: Application, connection: amqp.Connection) -> None:
    channel = connection.channel()
    cancelled: list[str] = []

    def on_message(message: amqp.Message) -> None:
        headers = message.properties.get("application_headers")
        application.tell_delivered(_body(message), message.delivery_info["redelivered"], headers)
        channel.basic_ack(message.delivery_tag)

    channel.basic_qos(0, application.prefetch, False)
    channel.basic_consume(
        application.queue,
        callback=on_message,
        on_cancel=cancelled.append,
        arguments=application.consumer_arguments(),
    )
    heartbeat = _Heartbeat(connection)
    while not application.stopping:
        heartbeat.tick()
        if cancelled:
            raise ConnectionAbortedError(f"the broker cancelled consumer {cancelled[0]}")
        try:
            connection.drain_events(timeout=0.5)
        except TimeoutError:
            continue


def _body(message: amqp.Message) -> bytes:
    return message.body if isinstance(message.body, bytes) else message.body.encode()


def get(application: Application) -> None:
    _serve(application, _get_until_stopped)


def _get_until_stopped(application: Application, connection: amqp.Connection) -> None:
    channel = connection.channel()
    heartbeat = _Heartbeat(connection)
    while not application.stopping:
        heartbeat.tick()
        message = channel.basic_get(application.queue)
        if message is None:
            time.sleep(POLL_S)
            continue
        application.tell_delivered(_body(message), message.delivery_info["redelivered"])
        channel.basic_ack(message.delivery_tag)
