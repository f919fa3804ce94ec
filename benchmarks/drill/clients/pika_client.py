"""pika: the publisher on SelectConnection, so that confirms don't cost a round trip each; the others blocking."""

from __future__ import annotations

import time
from collections.abc import Callable

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.channel import Channel
from pika.exceptions import AMQPError, ChannelClosedByBroker

from benchmarks.drill.clients.application import (
    CONNECT_TIMEOUT_S,
    DIRECT_REPLY_TO,
    HEARTBEAT_S,
    POLL_S,
    REPLY_TIMEOUT_S,
    TRANSACTION_MESSAGES,
    UNCONFIRMED_MAX,
    Application,
)

TICK_S = 0.01
PERSISTENT = pika.BasicProperties(delivery_mode=2)


def _parameters(application: Application, broker: tuple[str, int]) -> pika.ConnectionParameters:
    return pika.ConnectionParameters(
        host=broker[0],
        port=broker[1],
        heartbeat=HEARTBEAT_S,
        socket_timeout=CONNECT_TIMEOUT_S,
        stack_timeout=CONNECT_TIMEOUT_S * 2,
        client_properties={"connection_name": application.name},
    )


def publish(application: Application) -> None:
    for broker in application.attempts():
        _Publisher(application, broker, confirms=True).run()


def publish_plain(application: Application) -> None:
    for broker in application.attempts():
        _Publisher(application, broker, confirms=False).run()


class _Publisher:
    """One connection of the publisher, from the attempt to its end."""

    def __init__(self, application: Application, broker: tuple[str, int], *, confirms: bool) -> None:
        self._application = application
        self._confirms = confirms
        self._where = f"{broker[0]}:{broker[1]}"
        self._unconfirmed: dict[int, int] = {}
        self._tag = 0
        self._over = False
        self._channel: Channel | None = None
        self._connection = pika.SelectConnection(
            _parameters(application, broker),
            on_open_callback=self._opened,
            on_open_error_callback=self._refused,
            on_close_callback=lambda _, error: self._lost(error),
        )

    def run(self) -> None:
        self._connection.ioloop.start()

    def _refused(self, _: object, error: BaseException) -> None:
        self._application.tell("refused", 0, repr(error)[:200])
        self._connection.ioloop.stop()

    def _opened(self, _: object) -> None:
        self._connection.channel(on_open_callback=self._channel_opened)

    def _channel_opened(self, channel: Channel) -> None:
        self._channel = channel
        channel.add_on_close_callback(lambda _, error: self._lost(error))
        if self._confirms:
            channel.confirm_delivery(self._settled, callback=self._started)
        else:
            self._started(None)

    def _started(self, _: object) -> None:
        self._application.tell("connected", 0, self._where)
        self._tick()

    def _lost(self, error: BaseException) -> None:
        """A channel and its connection often end together: the client sees that once."""
        if not self._over:
            self._over = True
            self._application.tell_lost(error)
            if self._connection.is_open:
                self._connection.close()
        if not self._connection.is_open and not self._connection.is_closing:
            self._connection.ioloop.stop()

    def _tick(self) -> None:
        if self._over or self._channel is None or not self._channel.is_open:
            return
        if self._application.may_end(len(self._unconfirmed)):
            self._over = True
            self._connection.close()
            return
        self._connection.ioloop.call_later(TICK_S, self._tick)
        if self._application.stopping:
            return
        for _ in range(min(round(self._application.rate * TICK_S), UNCONFIRMED_MAX - len(self._unconfirmed))):
            number = next(self._application.numbers)
            if self._confirms:
                self._tag += 1
                self._unconfirmed[self._tag] = number
            self._application.tell("published", number)
            self._channel.basic_publish("", self._application.queue, self._application.body(number), PERSISTENT)

    def _settled(self, frame: pika.frame.Method) -> None:
        kind = "confirmed" if isinstance(frame.method, pika.spec.Basic.Ack) else "nacked"
        last = frame.method.delivery_tag
        tags = [tag for tag in self._unconfirmed if tag <= last] if frame.method.multiple else [last]
        for tag in tags:
            # A confirm for a number that is not open is a protocol error of whoever sent it: KeyError, and seen.
            self._application.tell(kind, self._unconfirmed.pop(tag))


Work = Callable[[Application, pika.BlockingConnection], None]


def _serve(application: Application, work: Work) -> None:
    """Work on one connection after the other until the application is asked to end."""
    for broker in application.attempts():
        try:
            connection = pika.BlockingConnection(_parameters(application, broker))
        except (AMQPError, OSError) as error:
            application.tell("refused", 0, repr(error)[:200])
            continue
        application.tell("connected", 0, f"{broker[0]}:{broker[1]}")
        try:
            work(application, connection)
            connection.close()
        except (AMQPError, OSError) as error:
            application.tell_lost(error)
            if connection.is_open:
                connection.close()


def consume(application: Application) -> None:
    _serve(application, _consume_until_stopped)


def _consume_until_stopped(application: Application, connection: pika.BlockingConnection) -> None:
    channel = connection.channel()

    def on_message(_: object, method: pika.spec.Basic.Deliver, properties: pika.BasicProperties, body: bytes) -> None:
        application.tell_delivered(body, method.redelivered, properties.headers)
        channel.basic_ack(method.delivery_tag)

    channel.basic_qos(prefetch_count=application.prefetch)
    channel.basic_consume(application.queue, on_message, arguments=application.consumer_arguments())
    _process_until_stopped(application, connection, channel)


def _process_until_stopped(
    application: Application, connection: pika.BlockingConnection, channel: BlockingChannel
) -> None:
    cancelled: list[object] = []
    channel.add_on_cancel_callback(cancelled.append)
    while not application.stopping:
        connection.process_data_events(time_limit=0.5)
        if cancelled:
            raise ConnectionAbortedError("the broker cancelled the consumer")


def get(application: Application) -> None:
    _serve(application, _get_until_stopped)


def _get_until_stopped(application: Application, connection: pika.BlockingConnection) -> None:
    channel = connection.channel()
    while not application.stopping:
        method, _, body = channel.basic_get(application.queue)
        if method is None:
            connection.sleep(POLL_S)
            continue
        application.tell_delivered(body, method.redelivered)
        channel.basic_ack(method.delivery_tag)


def commit(application: Application) -> None:
    _serve(application, _commit_until_stopped)


def _commit_until_stopped(application: Application, connection: pika.BlockingConnection) -> None:
    channel = _transactional(connection)
    while not application.stopping:
        connection.sleep(application.pause_s(TRANSACTION_MESSAGES))
        numbers = [next(application.numbers) for _ in range(TRANSACTION_MESSAGES)]
        try:
            for number in numbers:
                application.tell("published", number)
                channel.basic_publish("", application.queue, application.body(number), PERSISTENT)
            channel.tx_commit()
        except ChannelClosedByBroker as error:
            application.tell_undone(numbers, error.reply_text)
            channel = _transactional(connection)
        else:
            for number in numbers:
                application.tell("confirmed", number)


def _transactional(connection: pika.BlockingConnection) -> BlockingChannel:
    channel = connection.channel()
    channel.tx_select()
    return channel


def ask(application: Application) -> None:
    _serve(application, _ask_until_stopped)


def ask_direct(application: Application) -> None:
    _serve(application, lambda application, connection: _ask_until_stopped(application, connection, DIRECT_REPLY_TO))


def _ask_until_stopped(application: Application, connection: pika.BlockingConnection, address: str = "") -> None:
    channel = connection.channel()
    if not address:
        address = channel.queue_declare("", exclusive=True).method.queue
    answered: set[str] = set()
    channel.basic_consume(address, lambda *reply: answered.add(reply[2].correlation_id), auto_ack=True)
    while not application.stopping:
        connection.sleep(application.pause_s())
        number = next(application.numbers)
        application.tell("published", number)
        properties = pika.BasicProperties(delivery_mode=2, reply_to=address, correlation_id=str(number))
        while str(number) not in answered:
            channel.basic_publish("", application.queue, application.body(number), properties)
            until_s = time.monotonic() + REPLY_TIMEOUT_S
            while str(number) not in answered and (left_s := until_s - time.monotonic()) > 0:
                connection.process_data_events(time_limit=left_s)
            if str(number) not in answered:
                if application.may_end(1):
                    return
                application.tell("unanswered", number)
        application.tell("confirmed", number)
        answered.clear()


def answer(application: Application) -> None:
    _serve(application, _answer_until_stopped)


def _answer_until_stopped(application: Application, connection: pika.BlockingConnection) -> None:
    channel = connection.channel()

    def on_request(_: object, method: pika.spec.Basic.Deliver, properties: pika.BasicProperties, body: bytes) -> None:
        application.tell_delivered(body, method.redelivered)
        reply = pika.BasicProperties(correlation_id=properties.correlation_id)
        channel.basic_publish("", properties.reply_to, body, reply)
        channel.basic_ack(method.delivery_tag)

    channel.basic_qos(prefetch_count=application.prefetch)
    channel.basic_consume(application.queue, on_request)
    _process_until_stopped(application, connection, channel)
