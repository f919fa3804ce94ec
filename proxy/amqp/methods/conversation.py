"""Methods of the connection and channel classes (1.3, 1.4), with RabbitMQ's extensions. Fields in wire order."""

from __future__ import annotations

from typing import NamedTuple


class ConnectionStart(NamedTuple):
    """Broker to client, section 1.4.2.1."""

    version_major: int
    version_minor: int
    server_properties: bytes
    mechanisms: bytes
    locales: bytes


class ConnectionStartOk(NamedTuple):
    """Client to broker. `response` is a secret: it must not reach a log."""

    client_properties: bytes
    mechanism: bytes
    response: bytes
    locale: bytes

    def __repr__(self) -> str:
        return f"ConnectionStartOk(mechanism={self.mechanism!r}, response=<redacted>)"


class ConnectionTune(NamedTuple):
    """Broker to client; 0 stands for no limit, or no heartbeat."""

    channel_max: int
    frame_max: int
    heartbeat: int


class ConnectionTuneOk(NamedTuple):
    """Client to broker."""

    channel_max: int
    frame_max: int
    heartbeat: int


class ConnectionOpen(NamedTuple):
    """Client to broker."""

    virtual_host: bytes
    capabilities: bytes = b""
    insist: bool = False


class ConnectionOpenOk(NamedTuple):
    """Broker to client."""

    known_hosts: bytes = b""


class ConnectionClose(NamedTuple):
    """Either way: nothing but close-ok may follow."""

    reply_code: int
    reply_text: bytes
    class_id: int = 0
    method_id: int = 0


class ConnectionCloseOk(NamedTuple):
    """Either way."""


class ConnectionBlocked(NamedTuple):
    """RabbitMQ: an alarm stops publishers."""

    reason: bytes


class ConnectionUnblocked(NamedTuple):
    """RabbitMQ: the alarm is over."""


class ConnectionUpdateSecret(NamedTuple):
    """RabbitMQ: a fresh token. `new_secret` is a secret."""

    new_secret: bytes
    reason: bytes

    def __repr__(self) -> str:
        return "ConnectionUpdateSecret(new_secret=<redacted>)"


class ChannelOpen(NamedTuple):
    """Client to broker."""

    reserved: bytes = b""


class ChannelOpenOk(NamedTuple):
    """Broker to client."""

    reserved: bytes = b""


class ChannelFlow(NamedTuple):
    """Either way."""

    active: bool


class ChannelFlowOk(NamedTuple):
    """Either way."""

    active: bool


class ChannelClose(NamedTuple):
    """Either way."""

    reply_code: int
    reply_text: bytes
    class_id: int = 0
    method_id: int = 0


class ChannelCloseOk(NamedTuple):
    """Either way."""
