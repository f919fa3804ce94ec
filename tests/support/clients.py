"""Real client libraries behind one small blocking interface, so that a test is written once and runs with each.

Nothing is added to what a library does: no retry, no recovery. An error of the library is passed on as `Closed` with
the reply code and text that the library shows; `Closed.cause` is the library's own exception.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import aio_pika
import aiormq
import amqp
import pika

PATIENCE_S = 30.0


@dataclass(frozen=True)
class Message:
    body: bytes
    tag: int
    redelivered: bool
    headers: dict = field(default_factory=dict)
    key: str = ""
    consumer: str = ""


class Closed(Exception):
    """The library says that a channel or the connection was closed by the other side, or could not be opened."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(f"{type(cause).__name__}: {cause}")
        self.cause = cause
        text = getattr(cause, "reply_text", None) or str(cause)
        code = getattr(cause, "reply_code", 0) or next(iter(re.findall(r"\b[345]\d\d\b", str(cause))), 0)
        # One library prints the address of an object where others print the broker's text.
        self.text, self.code = re.sub(r"\b0x[0-9a-f]+", "0x", str(text)), int(code)


class NotAccepted(Exception):
    """The broker nacked a publish."""


@contextmanager
def _translated(*errors: type[BaseException]) -> Iterator[None]:
    try:
        yield
    except errors as error:
        raise Closed(error) from error


def _until(fact: Callable[[], Any], serve: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> None:
    until = time.monotonic() + patience_s
    while not fact():
        assert time.monotonic() < until, f"waited {patience_s} s for {what}"
        serve()


class PikaClient:
    """pika, blocking."""

    name = "pika"

    def __init__(
        self,
        port: int,
        *,
        user: str = "guest",
        password: str = "guest",
        vhost: str = "/",
        heartbeat_s: int = 60,
        frame_max: int = 131072,
        connection_name: str = "",
    ) -> None:
        parameters = pika.ConnectionParameters(
            "127.0.0.1",
            port,
            vhost,
            pika.PlainCredentials(user, password),
            heartbeat=heartbeat_s,
            frame_max=frame_max,
            client_properties={"connection_name": connection_name},
        )
        with _translated(pika.exceptions.AMQPError):
            self.connection = pika.BlockingConnection(parameters)

    @property
    def is_open(self) -> bool:
        return self.connection.is_open

    def channel(self, *, confirms: bool = False) -> PikaChannel:
        with _translated(pika.exceptions.AMQPError):
            return PikaChannel(self, self.connection.channel(), confirms)

    def serve(self, time_s: float = 0.05) -> None:
        """Give the library time to read what has come."""
        with _translated(pika.exceptions.AMQPError):
            self.connection.process_data_events(time_limit=time_s)

    def close(self) -> None:
        if self.connection.is_open:
            self.connection.close()


class PikaChannel:
    def __init__(self, client: PikaClient, channel: pika.adapters.blocking_connection.BlockingChannel, confirms: bool):
        self.client = client
        self._channel = channel
        self.number = channel.channel_number
        self.received: list[Message] = []
        self.returned: list[bytes] = []
        self.cancelled: list[str] = []
        channel.add_on_cancel_callback(lambda frame: self.cancelled.append(frame.method.consumer_tag))
        channel.add_on_return_callback(lambda _, __, ___, body: self.returned.append(body))
        if confirms:
            channel.confirm_delivery()

    @property
    def is_open(self) -> bool:
        return self._channel.is_open

    def _call(self, name: str, *arguments: Any, **named: Any) -> Any:
        with _translated(pika.exceptions.AMQPError):
            return getattr(self._channel, name)(*arguments, **named)

    def declare(self, queue: str = "", **named: Any) -> str:
        return self._call("queue_declare", queue, **named).method.queue

    def count(self, queue: str) -> int:
        return self._call("queue_declare", queue, passive=True).method.message_count

    def declare_exchange(self, name: str, kind: str) -> None:
        self._call("exchange_declare", name, kind, auto_delete=True)

    def bind(self, queue: str, exchange: str, key: str = "", arguments: dict | None = None) -> None:
        self._call("queue_bind", queue, exchange, key, arguments)

    def delete(self, queue: str) -> None:
        self._call("queue_delete", queue)

    def publish(
        self, body: bytes, key: str, *, exchange: str = "", headers: dict | None = None, mandatory: bool = False
    ) -> None:
        properties = pika.BasicProperties(delivery_mode=2, headers=headers)
        try:
            self._call("basic_publish", exchange, key, body, properties, mandatory)
        except Closed as error:
            if isinstance(error.cause, pika.exceptions.UnroutableError):
                self.returned += [message.body for message in error.cause.messages]
            elif isinstance(error.cause, pika.exceptions.NackError):
                raise NotAccepted from error
            else:
                raise

    def get(self, queue: str, *, no_ack: bool = False) -> Message | None:
        method, properties, body = self._call("basic_get", queue, no_ack)
        return None if method is None else _from_pika(method, properties, body)

    def qos(self, prefetch: int) -> None:
        self._call("basic_qos", prefetch_count=prefetch)

    def consume(
        self,
        queue: str,
        *,
        tag: str = "",
        no_ack: bool = False,
        exclusive: bool = False,
        arguments: dict | None = None,
    ) -> str:
        def take(_: object, method: Any, properties: Any, body: bytes) -> None:
            self.received.append(_from_pika(method, properties, body))

        return self._call("basic_consume", queue, take, no_ack, exclusive, tag or None, arguments)

    def cancel(self, tag: str) -> None:
        self._call("basic_cancel", tag)

    def ack(self, tag: int, *, multiple: bool = False) -> None:
        self._call("basic_ack", tag, multiple)

    def nack(self, tag: int, *, multiple: bool = False, requeue: bool = True) -> None:
        self._call("basic_nack", tag, multiple, requeue)

    def reject(self, tag: int, *, requeue: bool) -> None:
        self._call("basic_reject", tag, requeue)

    def tx(self, step: str) -> None:
        self._call(f"tx_{step}")

    def close(self) -> None:
        self._call("close")

    def wait_received(self, count: int, patience_s: float = PATIENCE_S) -> list[Message]:
        _until(lambda: len(self.received) >= count, self.client.serve, f"{count} messages", patience_s)
        return self.received


def _from_pika(method: Any, properties: pika.BasicProperties, body: bytes) -> Message:
    consumer = getattr(method, "consumer_tag", "")
    headers = properties.headers or {}
    return Message(body, method.delivery_tag, method.redelivered, headers, method.routing_key, consumer)


class AmqpClient:
    """py-amqp, the library below Celery."""

    name = "amqp"

    def __init__(
        self,
        port: int,
        *,
        user: str = "guest",
        password: str = "guest",
        vhost: str = "/",
        heartbeat_s: int = 60,
        frame_max: int = 131072,
        connection_name: str = "",
        mechanism: str = "PLAIN",
    ) -> None:
        self.connection = amqp.Connection(
            host=f"127.0.0.1:{port}",
            userid=user,
            password=password,
            login_method=mechanism,
            virtual_host=vhost,
            heartbeat=heartbeat_s,
            frame_max=frame_max,
            connect_timeout=PATIENCE_S,
            client_properties={"connection_name": connection_name},
        )
        with _translated(amqp.AMQPError, OSError):
            self.connection.connect()

    @property
    def is_open(self) -> bool:
        return self.connection.connected

    def channel(self, *, confirms: bool = False) -> AmqpChannel:
        with _translated(amqp.AMQPError, OSError):
            return AmqpChannel(self, self.connection.channel(), confirms)

    def serve(self, time_s: float = 0.05) -> None:
        """Give the library time to read what has come, and to send its heartbeat."""
        with _translated(amqp.AMQPError, OSError):
            if self.connection.heartbeat:
                self.connection.heartbeat_tick()
            try:
                self.connection.drain_events(timeout=time_s)
            except TimeoutError:
                return

    def close(self) -> None:
        if self.connection.connected:
            self.connection.close()


class AmqpChannel:
    def __init__(self, client: AmqpClient, channel: amqp.Channel, confirms: bool) -> None:
        self.client = client
        self._channel = channel
        self.number = channel.channel_id
        self._confirms = confirms
        self.received: list[Message] = []
        self.returned: list[bytes] = []
        self.cancelled: list[str] = []
        channel.events["basic_return"].add(lambda _, __, ___, message: self.returned.append(_bytes(message.body)))

    @property
    def is_open(self) -> bool:
        return self._channel.is_open

    def _call(self, name: str, *arguments: Any, **named: Any) -> Any:
        with _translated(amqp.AMQPError, OSError):
            return getattr(self._channel, name)(*arguments, **named)

    def declare(self, queue: str = "", **named: Any) -> str:
        # This library's own default is auto_delete.
        return self._call("queue_declare", queue, **{"auto_delete": False, **named}).queue

    def count(self, queue: str) -> int:
        return self._call("queue_declare", queue, passive=True).message_count

    def declare_exchange(self, name: str, kind: str) -> None:
        self._call("exchange_declare", name, kind, auto_delete=True)

    def bind(self, queue: str, exchange: str, key: str = "", arguments: dict | None = None) -> None:
        self._call("queue_bind", queue, exchange, key, arguments=arguments)

    def delete(self, queue: str) -> None:
        self._call("queue_delete", queue)

    def publish(
        self, body: bytes, key: str, *, exchange: str = "", headers: dict | None = None, mandatory: bool = False
    ) -> None:
        message = amqp.Message(body, delivery_mode=2, application_headers=headers or {})
        method = "basic_publish_confirm" if self._confirms else "basic_publish"
        try:
            self._call(method, message, exchange=exchange, routing_key=key, mandatory=mandatory)
        except amqp.exceptions.MessageNacked as error:
            raise NotAccepted from error

    def get(self, queue: str, *, no_ack: bool = False) -> Message | None:
        message = self._call("basic_get", queue, no_ack)
        return None if message is None else _from_amqp(message)

    def qos(self, prefetch: int) -> None:
        self._call("basic_qos", 0, prefetch, False)

    def consume(
        self,
        queue: str,
        *,
        tag: str = "",
        no_ack: bool = False,
        exclusive: bool = False,
        arguments: dict | None = None,
    ) -> str:
        def take(message: amqp.Message) -> None:
            self.received.append(_from_amqp(message))

        return self._call(
            "basic_consume",
            queue,
            tag,
            no_ack=no_ack,
            exclusive=exclusive,
            callback=take,
            on_cancel=self.cancelled.append,
            arguments=arguments,
        )

    def cancel(self, tag: str) -> None:
        self._call("basic_cancel", tag)

    def ack(self, tag: int, *, multiple: bool = False) -> None:
        self._call("basic_ack", tag, multiple)

    def nack(self, tag: int, *, multiple: bool = False, requeue: bool = True) -> None:
        # The library has no basic.nack.
        assert not multiple
        self._call("basic_reject", tag, requeue)

    def reject(self, tag: int, *, requeue: bool) -> None:
        self._call("basic_reject", tag, requeue)

    def tx(self, step: str) -> None:
        self._call(f"tx_{step}")

    def close(self) -> None:
        self._call("close")

    def wait_received(self, count: int, patience_s: float = PATIENCE_S) -> list[Message]:
        _until(lambda: len(self.received) >= count, self.client.serve, f"{count} messages", patience_s)
        return self.received


def _from_amqp(message: amqp.Message) -> Message:
    about = message.delivery_info
    headers = message.properties.get("application_headers", {})
    consumer = about.get("consumer_tag", "")
    tag = about["delivery_tag"]
    return Message(_bytes(message.body), tag, bool(about["redelivered"]), headers, about["routing_key"], consumer)


def _bytes(body: str | bytes) -> bytes:
    return body.encode() if isinstance(body, str) else bytes(body)


class AioPikaClient:
    """aio-pika on an event loop of its own, with the channels of aiormq below it."""

    name = "aio-pika"

    def __init__(
        self,
        port: int,
        *,
        user: str = "guest",
        password: str = "guest",
        vhost: str = "/",
        heartbeat_s: int = 60,
        frame_max: int = 131072,
        connection_name: str = "",
    ) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        settings = {"heartbeat": heartbeat_s, "frame_max": frame_max, "name": connection_name}
        try:
            self.connection = self.run(
                aio_pika.connect(
                    host="127.0.0.1", port=port, login=user, password=password, virtualhost=vhost, **settings
                )
            )
        except BaseException:
            self._end_loop()
            raise

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        with _translated(aiormq.exceptions.AMQPError, aio_pika.exceptions.AMQPError, OSError, RuntimeError):
            return asyncio.run_coroutine_threadsafe(asyncio.wait_for(work, PATIENCE_S), self._loop).result()

    @property
    def is_open(self) -> bool:
        return not self.connection.is_closed

    def channel(self, *, confirms: bool = False) -> AioPikaChannel:
        return AioPikaChannel(self, self.run(self._open(confirms)))

    async def _open(self, confirms: bool) -> aiormq.abc.AbstractChannel:
        channel = self.connection.channel(publisher_confirms=confirms, on_return_raises=False)
        await channel.initialize()
        return await channel.get_underlay_channel()

    def serve(self, time_s: float = 0.05) -> None:
        """The library reads by itself."""
        time.sleep(time_s)

    def close(self) -> None:
        if not self._loop.is_closed():
            self.run(self.connection.close())
            self._end_loop()

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_S)
        self._loop.close()


class AioPikaChannel:
    def __init__(self, client: AioPikaClient, channel: aiormq.abc.AbstractChannel) -> None:
        self.client = client
        self._channel = channel
        self.number = channel.number
        self.received: list[Message] = []
        self.returned: list[bytes] = []
        self.cancelled: list[str] = []
        channel.on_consumer_cancel_callbacks.add(lambda frame: self.cancelled.append(frame.consumer_tag))
        channel.on_return_callbacks.add(lambda message: self.returned.append(message.body))

    @property
    def is_open(self) -> bool:
        return not self._channel.is_closed

    def _call(self, name: str, *arguments: Any, **named: Any) -> Any:
        async def work() -> Any:
            return await getattr(self._channel, name)(*arguments, **named)

        return self.client.run(work())

    def declare(self, queue: str = "", **named: Any) -> str:
        return self._call("queue_declare", queue, **named).queue

    def count(self, queue: str) -> int:
        return self._call("queue_declare", queue, passive=True).message_count

    def declare_exchange(self, name: str, kind: str) -> None:
        self._call("exchange_declare", name, exchange_type=kind, auto_delete=True)

    def bind(self, queue: str, exchange: str, key: str = "", arguments: dict | None = None) -> None:
        self._call("queue_bind", queue, exchange, key, arguments=arguments)

    def delete(self, queue: str) -> None:
        self._call("queue_delete", queue)

    def publish(
        self, body: bytes, key: str, *, exchange: str = "", headers: dict | None = None, mandatory: bool = False
    ) -> None:
        properties = aiormq.spec.Basic.Properties(delivery_mode=2, headers=headers)
        try:
            named = {"exchange": exchange, "properties": properties, "mandatory": mandatory}
            self._call("basic_publish", body, routing_key=key, **named)
        except Closed as error:
            if isinstance(error.cause, aiormq.exceptions.PublishError):
                self.returned.append(error.cause.message.body)
            elif isinstance(error.cause, aiormq.exceptions.DeliveryError):
                raise NotAccepted from error
            else:
                raise

    def get(self, queue: str, *, no_ack: bool = False) -> Message | None:
        message = self._call("basic_get", queue, no_ack=no_ack)
        return None if isinstance(message.delivery, aiormq.spec.Basic.GetEmpty) else _from_aiormq(message)

    def qos(self, prefetch: int) -> None:
        self._call("basic_qos", prefetch_count=prefetch)

    def consume(
        self,
        queue: str,
        *,
        tag: str = "",
        no_ack: bool = False,
        exclusive: bool = False,
        arguments: dict | None = None,
    ) -> str:
        async def take(message: aiormq.abc.DeliveredMessage) -> None:
            self.received.append(_from_aiormq(message))

        named = {"no_ack": no_ack, "exclusive": exclusive, "consumer_tag": tag or None, "arguments": arguments}
        return self._call("basic_consume", queue, take, **named).consumer_tag

    def cancel(self, tag: str) -> None:
        self._call("basic_cancel", tag)

    def ack(self, tag: int, *, multiple: bool = False) -> None:
        self._call("basic_ack", tag, multiple)

    def nack(self, tag: int, *, multiple: bool = False, requeue: bool = True) -> None:
        self._call("basic_nack", tag, multiple, requeue)

    def reject(self, tag: int, *, requeue: bool) -> None:
        self._call("basic_reject", tag, requeue=requeue)

    def tx(self, step: str) -> None:
        self._call(f"tx_{step}")

    def close(self) -> None:
        self._call("close")

    def wait_received(self, count: int, patience_s: float = PATIENCE_S) -> list[Message]:
        _until(lambda: len(self.received) >= count, self.client.serve, f"{count} messages", patience_s)
        return self.received


def _from_aiormq(message: aiormq.abc.DeliveredMessage) -> Message:
    delivery = message.delivery
    headers = message.header.properties.headers or {}
    consumer = getattr(delivery, "consumer_tag", "")
    return Message(
        message.body, delivery.delivery_tag, bool(delivery.redelivered), headers, delivery.routing_key, consumer
    )


Client = PikaClient | AmqpClient | AioPikaClient
CLIENTS: dict[str, type[Client]] = {client.name: client for client in (PikaClient, AmqpClient, AioPikaClient)}
