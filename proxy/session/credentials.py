"""Who the client is, and what is said of it to every broker. Held in memory only."""

from __future__ import annotations

from dataclasses import dataclass, replace

from proxy.amqp.methods import ConnectionStartOk
from proxy.amqp.wire import (
    Table,
    bool_value,
    pack_table,
    parse_table,
    table_of,
    table_value,
    text_of,
    text_value,
)

# Only these can be said again to another broker: EXTERNAL is bound to a certificate, challenges to a moment.
MECHANISMS = (b"PLAIN", b"AMQPLAIN")

# What Sidehop understands and so always asks of a broker, whatever the client can do.
_UPSTREAM_CAPABILITIES = (
    b"publisher_confirms",
    b"exchange_exchange_bindings",
    b"basic.nack",
    b"consumer_cancel_notify",
    b"connection.blocked",
    b"authentication_failure_close",
)


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """A client's identity and properties, as `connection.start-ok` gave them. `response` is a secret."""

    mechanism: bytes
    response: bytes
    locale: bytes
    properties: Table
    user: str
    name: str

    def __repr__(self) -> str:
        return f"Credentials(user={self.user!r}, mechanism={self.mechanism!r}, response=<redacted>)"

    @classmethod
    def of(cls, start: ConnectionStartOk) -> Credentials:
        """Take them from the client's start-ok. Raises `ClientError` for broken tables."""
        properties = parse_table(start.client_properties)
        return cls(
            mechanism=start.mechanism,
            response=start.response,
            locale=start.locale,
            properties=properties,
            user=_user(start.mechanism, start.response),
            name=text_of(properties, b"connection_name"),
        )

    def start_ok(self, via: str) -> ConnectionStartOk:
        """What is said to a broker: the client's own properties, with the proxy added to the connection name."""
        properties = dict(self.properties)
        capabilities = table_of(properties, b"capabilities")
        for name in _UPSTREAM_CAPABILITIES:
            capabilities[name] = bool_value(True)
        properties[b"capabilities"] = table_value(capabilities)
        properties[b"connection_name"] = text_value(f"{self.name} ({via})" if self.name else via)
        return ConnectionStartOk(pack_table(properties), self.mechanism, self.response, self.locale)

    def with_secret(self, secret: bytes) -> Credentials:
        """The same client with a fresh secret (`connection.update-secret`)."""
        if self.mechanism == b"PLAIN":
            authzid, user, _ = [*self.response.split(b"\0", 2), b"", b""][:3]
            return replace(self, response=b"\0".join((authzid, user, secret)))
        table = parse_table(self.response)
        table[b"PASSWORD"] = text_value(secret)
        return replace(self, response=pack_table(table))

    def can(self, capability: bytes) -> bool:
        """Whether the client said that it understands an extension."""
        return table_of(self.properties, b"capabilities").get(capability) == b"t\x01"


def _user(mechanism: bytes, response: bytes) -> str:
    if mechanism == b"PLAIN":
        parts = response.split(b"\0")
        return parts[1].decode("utf-8", "replace") if len(parts) > 1 else ""
    return text_of(parse_table(response), b"LOGIN")


class Face:
    """What clients are shown in `connection.start` before their broker is known: what the brokers said last."""

    __slots__ = ("properties",)

    def __init__(self) -> None:
        capabilities: Table = {name: bool_value(True) for name in _UPSTREAM_CAPABILITIES}
        capabilities |= {b"per_consumer_qos": bool_value(True), b"direct_reply_to": bool_value(True)}
        self.properties = pack_table(
            {
                b"capabilities": table_value(capabilities),
                b"product": text_value("RabbitMQ"),
                b"platform": text_value("Sidehop"),
            }
        )

    def learn(self, server_properties: bytes) -> None:
        """A broker introduced itself."""
        self.properties = server_properties
