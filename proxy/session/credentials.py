"""Who the client is, and what is said of it to every broker. Held in memory only."""

from __future__ import annotations

from dataclasses import dataclass, replace

from proxy.amqp.frames import method_frame
from proxy.amqp.methods import ConnectionStart, ConnectionStartOk
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
# What works through Sidehop if the broker can do it.
_UNDERSTOOD = frozenset((*_UPSTREAM_CAPABILITIES, b"consumer_priorities", b"per_consumer_qos", b"direct_reply_to"))

_TRUE = bool_value(True)

# A broker that nobody has met for so long says nothing about those of today.
FACE_AGE_MAX_S = 3600.0
FACES_MAX = 256


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
        return table_of(self.properties, b"capabilities").get(capability) == _TRUE


def _user(mechanism: bytes, response: bytes) -> str:
    if mechanism == b"PLAIN":
        parts = response.split(b"\0")
        return parts[1].decode("utf-8", "replace") if len(parts) > 1 else ""
    return text_of(parse_table(response), b"LOGIN")


class Face:
    """What clients are shown in `connection.start` before their broker is known, shared by all sessions.

    `greeting` is the whole frame. Its properties are what a broker said last, but for the capabilities: those that
    every broker has, since a client may end up on any of them.
    """

    __slots__ = ("_said", "_seen", "capabilities", "greeting")

    def __init__(self) -> None:
        # By endpoint: when it was met, what it can do, and in what words, which are the same for each session.
        self._seen: dict[str, tuple[float, frozenset[bytes], bytes]] = {}
        self._said = b""
        self.capabilities = _UNDERSTOOD
        self.greeting = b""
        self._show({b"product": text_value("RabbitMQ"), b"platform": text_value("Sidehop")})

    def learn(self, endpoint: str, server_properties: bytes, now: float) -> frozenset[bytes]:
        """A broker introduced itself; returns what it can do. Raises `ClientError` for a broken table."""
        known = self._seen.pop(endpoint, None)
        same = known is not None and known[2] == server_properties
        able = known[1] if known is not None and same else _able(server_properties)
        self._seen[endpoint] = (now, able, server_properties)
        if same and server_properties == self._said and now < self._seen_first_at() + FACE_AGE_MAX_S:
            return able  # as for nearly every session: nothing was learned
        met = list(self._seen.items())[-FACES_MAX:]
        self._seen = {name: entry for name, entry in met if now < entry[0] + FACE_AGE_MAX_S}
        common = frozenset.intersection(*(each for _, each, _ in self._seen.values()))
        if common != self.capabilities or server_properties != self._said:  # else sessions share what they are shown
            self.capabilities, self._said = common, server_properties
            self._show(parse_table(server_properties))
        return able

    def _seen_first_at(self) -> float:
        return next(iter(self._seen.values()))[0]

    def _show(self, properties: Table) -> None:
        capabilities = dict.fromkeys(sorted(self.capabilities), _TRUE)
        shown = pack_table(properties | {b"capabilities": table_value(capabilities)})
        self.greeting = method_frame(0, ConnectionStart(0, 9, shown, b" ".join(MECHANISMS), b"en_US"))


def _able(server_properties: bytes) -> frozenset[bytes]:
    capabilities = table_of(parse_table(server_properties), b"capabilities")
    return _UNDERSTOOD & {name for name, value in capabilities.items() if value == _TRUE}
