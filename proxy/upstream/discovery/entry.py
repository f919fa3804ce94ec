"""Understand one registry value: the plain form `http://mq1:5672`, or a JSON document with more to say.

`docs/endpoint.schema.json` describes the document for people and tools. What is not understood is refused with a
reason for people; the reason never repeats credentials.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Literal, TypeVar

import msgspec

from proxy.upstream.endpoint import Endpoint

VALUE_BYTES_MAX = 64 * 1024
NAME_CHARS_MAX = 253
PORT = 5672
PORT_TLS = 5671

SCHEMES = ("http", "amqp", "amqps", "tcp")
# The whole of what an address may be; the schema holds the same pattern, and a test compares them.
URL_PATTERN = (
    r"^(?:(http|amqp|amqps|tcp)://)?"
    r"([A-Za-z0-9_][A-Za-z0-9_.-]{0,252}|\[[0-9A-Fa-f:.]{2,45}\])"
    r"(?::([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?/?$"
)
_URL = re.compile(URL_PATTERN)


class BadEntry(ValueError):
    """A registry value cannot be understood; the text says why, for people."""


class Document(msgspec.Struct, frozen=True):
    """The JSON form. Other fields are ignored, so that an older Sidehop survives a newer registrar."""

    url: str
    weight: Annotated[int, msgspec.Meta(ge=1, le=10000)] = 100
    zone: Annotated[str, msgspec.Meta(max_length=128)] = ""
    priority: Annotated[int, msgspec.Meta(ge=0, le=100)] = 0
    state: Literal["up", "drain"] = "up"
    tags: Annotated[
        dict[Annotated[str, msgspec.Meta(max_length=128)], Annotated[str, msgspec.Meta(max_length=1024)]],
        msgspec.Meta(max_length=64),
    ] = msgspec.field(default_factory=dict)


_T = TypeVar("_T")


def parse_entry(value: bytes | str, name: str = "") -> Endpoint:
    """Read a registry value. An empty name means `host:port`. Raises `BadEntry`."""
    if len(value) > VALUE_BYTES_MAX:
        raise BadEntry(f"the value has {len(value)} bytes, at most {VALUE_BYTES_MAX} are read")
    try:
        text = (value.decode() if isinstance(value, bytes) else value).strip()
    except UnicodeDecodeError as error:
        raise BadEntry("the value is not UTF-8 text") from error
    if not text:
        raise BadEntry("the value is empty")
    if text.startswith("{"):
        return _from_document(_checked(lambda: msgspec.json.decode(text, type=Document)), name)
    return _from_document(Document(url=text), name)


def parse_node(node: object) -> Endpoint:
    """Read one item of a static list or a file: an address, or the JSON form with an optional `name`.

    Raises `BadEntry`.
    """
    if isinstance(node, str):
        return parse_entry(node)
    if not isinstance(node, Mapping):
        raise BadEntry("a node is written as host:port, a URL, or a mapping with a url")
    name = node.get("name", "")
    if not isinstance(name, str):
        raise BadEntry("name: expected text")
    return _from_document(_checked(lambda: msgspec.convert(dict(node), Document)), name)


def _checked(read: Callable[[], _T]) -> _T:
    try:
        return read()
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadEntry(f"not a valid entry: {error}") from error


def _from_document(document: Document, name: str) -> Endpoint:
    match = _URL.fullmatch(document.url)
    if match is None:
        raise BadEntry(_what_is_wrong(document.url))
    scheme, host, port = match.groups()
    if host.startswith("["):
        host = host[1:-1]
        try:
            ipaddress.IPv6Address(host)
        except ValueError as error:
            raise BadEntry(f"url: {host!r} is not an IPv6 address") from error
    tls = scheme == "amqps"
    endpoint = Endpoint(
        name=name,
        host=host,
        port=int(port) if port else PORT_TLS if tls else PORT,
        tls=tls,
        weight=document.weight,
        zone=document.zone,
        priority=document.priority,
        intent=document.state,
        tags=document.tags,
    )
    if not name:
        return dataclasses.replace(endpoint, name=endpoint.address)
    if len(name) > NAME_CHARS_MAX or not name.isprintable():
        raise BadEntry(f"the name must be printable and at most {NAME_CHARS_MAX} characters long")
    return endpoint


def _what_is_wrong(url: str) -> str:
    """Name the first thing that is wrong with an address, without repeating what may be a password."""
    scheme, separator, rest = url.rpartition("://")
    if "@" in rest:
        return "url: remove the user and password; clients bring their own, and a registry is no place for secrets"
    if separator and scheme not in SCHEMES:
        return f"url: scheme {scheme[:20]!r} is not one of {', '.join(SCHEMES)} or none"
    host, slash, path = rest.partition("/")
    if slash and path:
        return "url: only scheme, host and port belong here; the virtual host is chosen by the client"
    if host.count(":") > 1 and not host.startswith("["):
        return f"url: write an IPv6 address in brackets: [{host[:45]}]"
    return f"url: {url[:100]!r} is not scheme://host:port with a port of 1 to 65535"
