"""Talk to etcd over gRPC, with the package `etcd3`.

The package is synchronous: what blocks runs in threads of its own and comes back with `call_soon_threadsafe`. Its
client makes the channel, the TLS credentials and the token, and lists; watches use the stub that comes with it,
because the package's own watcher hides a denied watch, cannot say `hasleader`, and does not tell when it is over.
"""

# ruff: noqa: ANN401 - neither the package nor its generated messages have types

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from proxy.errors import ConfigError
from proxy.upstream.discovery.registry import (
    ANSWER_BYTES_MAX,
    EtcdPolicy,
    Item,
    Listing,
    RegistryError,
    Watch,
    about_auth,
    member,
    prefix_end,
    tls_context,
)

try:
    import etcd3
    import grpc
except (ImportError, TypeError) as error:  # TypeError: generated code of etcd3 under protobuf 4 or newer
    raise ConfigError(
        "discovery.etcd.client: etcd3 cannot be imported; install it with the versions that work together: "
        f"pip install 'sidehop[etcd3]' ({error})"
    ) from error

# Messages that may wait for the event loop; when they are that many, gRPC's flow control slows etcd down.
BACKLOG_MAX = 100
_CHANNEL_OPTIONS = [
    ("grpc.max_receive_message_length", ANSWER_BYTES_MAX),
    # Without these a half-open connection is noticed after minutes; etcd refuses pings more often than every 5 s.
    ("grpc.keepalive_time_ms", 10000),
    ("grpc.keepalive_timeout_ms", 5000),
    ("grpc.http2.ping_timeout_ms", 5000),
]
_T = TypeVar("_T")


class GrpcRegistry:
    """An etcd cluster behind one gRPC channel, which is made anew for each member."""

    def __init__(self, policy: EtcdPolicy, first_member: int) -> None:
        self._policy = policy
        self._members = [member(url) for url in policy.endpoints]
        self._index = first_member
        tls_context(policy)  # gRPC takes the files only when it connects; a wrong path should end the start
        # One call at a time; the second thread is for closing a channel whose call hangs.
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="etcd3")
        self._client: Any = None
        self._token: Any = None

    async def read(self, *, serializable: bool = False) -> Listing:
        """List the prefix."""
        answer = await self._call(lambda client: self._range(client, serializable=serializable))
        items = tuple(Item(_text(kv.key), kv.value, kv.mod_revision) for kv in answer.kvs)
        return Listing(items, answer.header.revision, complete=not answer.more)

    async def watch(self, start_revision: int) -> Watch:
        """Watch the prefix; returns when etcd has confirmed the watch."""
        watch = await self._call(functools.partial(self._open_watch, start_revision, asyncio.get_running_loop()))
        try:
            with self._border():
                async with asyncio.timeout(self._policy.timeout_s):
                    await watch.created()
        except BaseException:
            watch.close()
            raise
        return watch

    async def rotate(self, *, drop_token: bool) -> None:
        """Turn to the next member, with certificates as they are on disk now."""
        if drop_token:
            self._token = None
        self._index = (self._index + 1) % len(self._members)
        await self._drop()

    async def close(self) -> None:
        """Close the channel and let the threads end; a call that hangs ends by its own time limit."""
        await self._drop()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _drop(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await asyncio.get_running_loop().run_in_executor(self._threads, client.close)

    async def _call(self, call: Callable[[Any], _T]) -> _T:
        with self._border():
            loop = asyncio.get_running_loop()
            # The package has time limits for most calls but not for all (connecting, authenticating).
            async with asyncio.timeout(self._policy.timeout_s * 2):
                if self._client is None:
                    self._client = await loop.run_in_executor(self._threads, self._connect)
                return await loop.run_in_executor(self._threads, call, self._client)

    def _connect(self) -> Any:
        """Make a client, which authenticates unless there is a token: each one costs etcd 60-140 ms."""
        policy, where = self._policy, self._members[self._index]
        authenticate = bool(policy.user) and self._token is None
        client = etcd3.client(
            host=f"[{where.host}]" if ":" in where.host else where.host,
            port=where.port,
            ca_cert=policy.ca or None,
            cert_key=policy.key or None,
            cert_cert=policy.cert or None,
            timeout=policy.timeout_s,
            user=policy.user if authenticate else None,
            password=policy.secret() if authenticate else None,
            grpc_options=_CHANNEL_OPTIONS,
        )
        if authenticate:
            self._token = client.metadata
        client.metadata = self._token
        return client

    def _range(self, client: Any, *, serializable: bool) -> Any:
        key = self._policy.prefix.encode()
        request = etcd3.etcdrpc.RangeRequest(
            key=key, range_end=prefix_end(key), limit=self._policy.entries_max, serializable=serializable
        )
        # The token goes as metadata alone: gRPC refuses the package's call credentials on a plaintext channel.
        return client.kvstub.Range(request, self._policy.timeout_s, metadata=client.metadata)

    def _open_watch(self, start_revision: int, loop: asyncio.AbstractEventLoop, client: Any) -> _GrpcWatch:
        key = self._policy.prefix.encode()
        create = etcd3.etcdrpc.WatchCreateRequest(key=key, range_end=prefix_end(key), start_revision=start_revision)
        request = etcd3.etcdrpc.WatchRequest(create_request=create)
        return _GrpcWatch(self._members[self._index].url, client, request, loop)

    @contextlib.contextmanager
    def _border(self) -> Iterator[None]:
        """Translate what the package and gRPC raise."""
        where = self._members[self._index].url
        try:
            yield
        except TimeoutError as error:
            raise RegistryError(f"{where}: no answer in time") from error
        except grpc.RpcError as error:
            raise RegistryError(f"{where}: {_told(error)}", auth=about_auth(_told(error))) from error
        except etcd3.Etcd3Exception as error:
            raise RegistryError(f"{where}: {error or type(error).__name__}") from error
        except OSError as error:
            raise RegistryError(f"{where}: {error}") from error


class _GrpcWatch:
    """One watch stream, read by a thread of its own until it is over or cancelled."""

    def __init__(self, url: str, client: Any, request: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._url = url
        self._loop = loop
        self._arrived: asyncio.Queue[Any] = asyncio.Queue()
        self._room = threading.Semaphore(BACKLOG_MAX)
        metadata = [*(client.metadata or ()), ("hasleader", "true")]
        self._stream = etcd3.etcdrpc.WatchStub(client.channel).Watch(iter((request,)), metadata=metadata)
        threading.Thread(target=self._pump, name="etcd3-watch", daemon=True).start()

    async def created(self) -> None:
        """Wait until etcd confirms the watch."""
        while not (await self._message()).created:
            pass

    async def changes(self) -> tuple[list[Item], int]:
        """Wait for the next changes."""
        while True:
            message = await self._message()
            if message.events:
                items = [
                    Item(_text(event.kv.key), None if event.type else event.kv.value, event.kv.mod_revision)
                    for event in message.events
                ]
                return items, message.header.revision

    def close(self) -> None:
        """Cancel the stream; its thread ends with it."""
        self._stream.cancel()
        self._room.release()

    async def _message(self) -> Any:
        message = await self._arrived.get()
        self._room.release()
        if isinstance(message, str):
            raise self._ended(message)
        if message.compact_revision:
            raise self._ended(f"its start is compacted (up to revision {message.compact_revision})")
        if message.canceled:
            raise self._ended(message.cancel_reason or "canceled by etcd")
        return message

    def _ended(self, reason: str) -> RegistryError:
        return RegistryError(f"{self._url}: the watch ended: {reason}", auth=about_auth(reason))

    def _pump(self) -> None:
        try:
            for message in self._stream:
                self._room.acquire()
                self._hand_over(message)
            self._hand_over("etcd closed it")
        except grpc.RpcError as error:
            self._hand_over(_told(error))

    def _hand_over(self, message: Any) -> None:
        # The loop may be closed before the stream notices that it is cancelled.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._arrived.put_nowait, message)


def _told(error: grpc.RpcError) -> str:
    return f"{error.code().name}: {error.details()}" if isinstance(error, grpc.Call) else str(error)


def _text(key: bytes) -> str:
    return key.decode(errors="backslashreplace")
