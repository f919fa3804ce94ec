"""pika: the publisher on SelectConnection, so that confirms don't cost a round trip each; the consumer blocking."""

from __future__ import annotations

import pika
from pika.channel import Channel
from pika.exceptions import AMQPError

from benchmarks.drill.clients.application import CONNECT_TIMEOUT_S, HEARTBEAT_S, UNCONFIRMED_MAX, Application

TICK_S = 0.01


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
        _Publisher(application, broker).run()


class _Publisher:
    """One connection of the publisher, from the attempt to its end."""

    def __init__(self, application: Application, broker: tuple[str, int]) -> None:
        self._application = application
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
        channel.confirm_delivery(self._settled, callback=self._started)

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
            self._tag += 1
            self._unconfirmed[self._tag] = number
            self._application.tell("published", number)
            self._channel.basic_publish(
                "", self._application.queue, self._application.body(number), pika.BasicProperties(delivery_mode=2)
            )

    def _settled(self, frame: pika.frame.Method) -> None:
        kind = "confirmed" if isinstance(frame.method, pika.spec.Basic.Ack) else "nacked"
        last = frame.method.delivery_tag
        tags = [tag for tag in self._unconfirmed if tag <= last] if frame.method.multiple else [last]
        for tag in tags:
            # A confirm for a number that is not open is a protocol error of whoever sent it: KeyError, and seen.
            self._application.tell(kind, self._unconfirmed.pop(tag))


def consume(application: Application) -> None:
    for broker in application.attempts():
        try:
            connection = pika.BlockingConnection(_parameters(application, broker))
        except (AMQPError, OSError) as error:
            application.tell("refused", 0, repr(error)[:200])
            continue
        application.tell("connected", 0, f"{broker[0]}:{broker[1]}")
        try:
            _consume_until_stopped(application, connection)
            connection.close()
        except (AMQPError, OSError) as error:
            application.tell_lost(error)


def _consume_until_stopped(application: Application, connection: pika.BlockingConnection) -> None:
    channel = connection.channel()
    cancelled: list[object] = []

    def on_message(_: object, method: pika.spec.Basic.Deliver, __: object, body: bytes) -> None:
        application.tell("delivered", application.number_of(body), bool(method.redelivered))
        channel.basic_ack(method.delivery_tag)

    channel.basic_qos(prefetch_count=application.prefetch)
    channel.add_on_cancel_callback(cancelled.append)
    channel.basic_consume(application.queue, on_message)
    while not application.stopping:
        connection.process_data_events(time_limit=0.5)
        if cancelled:
            raise ConnectionAbortedError("the broker cancelled the consumer")
