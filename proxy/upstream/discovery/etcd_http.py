"""Talk to etcd through its JSON gateway, with aiohttp.

Facts measured on etcd 3.4 and 3.5 that the code relies on: 64-bit integers are strings, bytes are base64, fields that
are zero are left out; a refused, expired or compacted watch is an HTTP 200 whose stream stays open and says
`canceled`; the token travels bare, without `Bearer`; `Grpc-Metadata-hasleader` makes a watch end within seconds when
its member loses the quorum, where it would be silent otherwise.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
import msgspec

from proxy.upstream.discovery.registry import (
    ANSWER_BYTES_MAX,
    EtcdPolicy,
    Item,
    Listing,
    RegistryError,
    Watch,
    about_auth,
    load_certificates,
    member,
    prefix_end,
    tls_context,
)


class _Header(msgspec.Struct):
    revision: int = 0


class _KeyValue(msgspec.Struct):
    key: bytes = b""
    value: bytes = b""
    mod_revision: int = 0


class _Range(msgspec.Struct):
    header: _Header
    kvs: list[_KeyValue] = []
    more: bool = False


class _Event(msgspec.Struct):
    kv: _KeyValue
    type: str = "PUT"


class _Watched(msgspec.Struct):
    header: _Header = msgspec.field(default_factory=_Header)
    created: bool = False
    canceled: bool = False
    cancel_reason: str = ""
    compact_revision: int = 0
    events: list[_Event] = []


class _Failure(msgspec.Struct):
    message: str = ""


class _Message(msgspec.Struct):
    result: _Watched | None = None
    error: _Failure | None = None


class _Token(msgspec.Struct):
    token: str


_read_range = msgspec.json.Decoder(_Range, strict=False)
_read_message = msgspec.json.Decoder(_Message, strict=False)
_read_failure = msgspec.json.Decoder(_Failure)
_read_token = msgspec.json.Decoder(_Token)


class GatewayRegistry:
    """An etcd cluster behind one HTTP session. A token is kept until it is refused: each one costs etcd 60-140 ms."""

    def __init__(self, policy: EtcdPolicy, first_member: int) -> None:
        self._policy = policy
        self._members = [member(url).url for url in policy.endpoints]
        self._index = first_member
        self._tls = tls_context(policy)
        self._session: aiohttp.ClientSession | None = None
        self._token = ""
        key = policy.prefix.encode()
        self._range = {"key": _base64(key), "range_end": _base64(prefix_end(key))}

    async def read(self, *, serializable: bool = False) -> Listing:
        """List the prefix."""
        ask: dict[str, object] = {**self._range, "limit": self._policy.entries_max, "serializable": serializable}
        with self._border():
            async with asyncio.timeout(self._policy.timeout_s):
                found = _read_range.decode(await self._ask("/v3/kv/range", ask, await self._authorization()))
        items = tuple(Item(_text(kv.key), kv.value, kv.mod_revision) for kv in found.kvs)
        return Listing(items, found.header.revision, complete=not found.more)

    async def watch(self, start_revision: int) -> Watch:
        """Watch the prefix; returns when etcd has confirmed the watch."""
        create = {"create_request": {**self._range, "start_revision": str(start_revision)}}
        with self._border():
            async with asyncio.timeout(self._policy.timeout_s):
                headers = {**await self._authorization(), "Grpc-Metadata-hasleader": "true"}
                response = await self._post("/v3/watch", create, headers)
                watch = _GatewayWatch(self, response)
                try:
                    await watch.created()
                except BaseException:
                    watch.close()
                    raise
        return watch

    async def rotate(self, *, drop_token: bool) -> None:
        """Turn to the next member, with certificates as they are on disk now."""
        self._index = (self._index + 1) % len(self._members)
        if drop_token:
            self._token = ""
        if self._tls is not None:
            try:
                load_certificates(self._tls, self._policy)
            except (OSError, ssl.SSLError):
                return  # half-written by a rotation: the old ones are as good as any until the next failure

    async def close(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()

    async def _authorization(self) -> dict[str, str]:
        if not self._policy.user:
            return {}
        if not self._token:
            ask: dict[str, object] = {"name": self._policy.user, "password": self._policy.secret()}
            self._token = _read_token.decode(await self._ask("/v3/auth/authenticate", ask, {})).token
        return {"Authorization": self._token}

    async def _ask(self, path: str, body: dict[str, object], headers: dict[str, str]) -> bytes:
        async with await self._post(path, body, headers) as response:
            answer = await _bounded(response)
        if response.status != 200:
            raise self.refused(response.status, answer)
        return answer

    async def _post(self, path: str, body: object, headers: dict[str, str]) -> aiohttp.ClientResponse:
        if self._session is None:
            # Time limits are set where a call begins: a watch has none, and aiohttp's own default would end it.
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None))
        url = self._members[self._index] + path
        return await self._session.post(
            url, data=msgspec.json.encode(body), headers=headers, ssl=self._tls or True, allow_redirects=False
        )

    @contextmanager
    def _border(self) -> Iterator[None]:
        """Translate what libraries raise."""
        where = self._members[self._index]
        try:
            yield
        except TimeoutError as error:
            raise RegistryError(f"{where}: no answer within {self._policy.timeout_s:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise RegistryError(f"{where}: {error or type(error).__name__}") from error
        except msgspec.MsgspecError as error:
            # Some releases answer a bad token with nothing at all (etcd issues 15256 and 20332).
            raise RegistryError(f"{where}: the answer is not etcd's: {error}", auth=True) from error

    def refused(self, status: int, answer: bytes) -> RegistryError:
        """Say what etcd refused, and what can be done where that is known."""
        try:
            message = _read_failure.decode(answer).message
        except msgspec.MsgspecError:
            message = answer[:200].decode(errors="replace").strip()
        text = f"{self._members[self._index]}: HTTP {status} {message}".rstrip()
        if status == 404:
            text += (
                " - the JSON gateway is off (etcd --enable-grpc-gateway=false) or this is not etcd v3: turn it on, or"
                " set discovery.etcd.client to etcd3"
            )
        elif "CommonName" in message:
            text += (
                " - with authentication on, the gateway takes no client certificate that has a common name (CN): use"
                " one without CN, or set discovery.etcd.client to etcd3"
            )
        elif status == 503 and self._policy.cert:
            text += (
                " - if etcd itself is well: with --client-cert-auth its server certificate also needs the extended key"
                " usage clientAuth, because the gateway calls etcd with it; or set discovery.etcd.client to etcd3"
            )
        # Texts and codes for a bad token differ between versions; these at least say that etcd itself is well.
        return RegistryError(text, auth=status in (400, 401, 403, 500) or about_auth(message))

    def ended(self, reason: str) -> RegistryError:
        """Say why a watch is over."""
        return RegistryError(f"{self._members[self._index]}: the watch ended: {reason}", auth=about_auth(reason))


class _GatewayWatch:
    """One streamed answer: a JSON message per line."""

    def __init__(self, registry: GatewayRegistry, response: aiohttp.ClientResponse) -> None:
        self._registry = registry
        self._response = response
        self._buffer = bytearray()
        self._searched = 0

    async def created(self) -> None:
        """Wait until etcd confirms the watch. Raises `RegistryError`."""
        if self._response.status != 200:
            raise self._registry.refused(self._response.status, await _bounded(self._response))
        while not (await self._message()).created:
            pass

    async def changes(self) -> tuple[list[Item], int]:
        """Wait for the next changes."""
        try:
            while True:
                message = await self._message()
                if message.events:
                    items = [
                        Item(
                            _text(event.kv.key),
                            None if event.type == "DELETE" else event.kv.value,
                            event.kv.mod_revision,
                        )
                        for event in message.events
                    ]
                    return items, message.header.revision
        except aiohttp.ClientPayloadError as error:
            raise self._registry.ended("the connection was cut") from error
        except (aiohttp.ClientError, OSError, msgspec.MsgspecError) as error:
            raise self._registry.ended(str(error) or type(error).__name__) from error

    def close(self) -> None:
        """Closing the connection is the only way to cancel here; etcd frees the watch then."""
        self._response.close()

    async def _message(self) -> _Watched:
        message = _read_message.decode(await self._line())
        if message.error is not None:
            raise self._registry.ended(message.error.message)
        watched = message.result or _Watched()
        if watched.compact_revision:
            raise self._registry.ended(f"its start is compacted (up to revision {watched.compact_revision})")
        if watched.canceled:
            raise self._registry.ended(watched.cancel_reason or "canceled by etcd")
        return watched

    async def _line(self) -> bytes:
        # Only `readany` is awaited and it keeps its data when cancelled, so a time limit around us loses nothing.
        while (end := self._buffer.find(b"\n", self._searched)) < 0:
            self._searched = len(self._buffer)
            if self._searched > ANSWER_BYTES_MAX:
                raise self._registry.ended(f"a message is longer than {ANSWER_BYTES_MAX} bytes")
            chunk = await self._response.content.readany()
            if not chunk:
                raise self._registry.ended("etcd closed it")
            self._buffer += chunk
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        self._searched = 0
        return line


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    answer = bytearray()
    while chunk := await response.content.readany():
        answer += chunk
        if len(answer) > ANSWER_BYTES_MAX:
            response.close()
            raise RegistryError(f"the answer is longer than {ANSWER_BYTES_MAX} bytes: is etcd.prefix right?")
    return bytes(answer)


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _text(key: bytes) -> str:
    return key.decode(errors="backslashreplace")
