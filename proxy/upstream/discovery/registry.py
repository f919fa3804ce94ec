"""What etcd is to the recipe that follows it: list a prefix, watch it, and how to reach it."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol
from urllib.parse import urlsplit

from proxy.errors import ConfigError
from proxy.upstream.pem import unusable

ETCD_PORT = 2379
ANSWER_BYTES_MAX = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class EtcdPolicy:
    """How to reach etcd and how to keep up with it. Times are seconds.

    `prefix` ends with a slash, one is added if it lacks: `/mq/nodes` must neither take in `/mq/nodes-old/mq1` nor
    call a broker `/mq1`.
    `password_file` is read again at each authentication, so that a rotated secret is taken up. `ca`, `cert` and `key`
    are PEM files. `reconcile_s` is the period of an independent comparison with the registry, jittered by a fifth: a
    half-open watch is silent for ever and only this notices it. Retries wait a random time up to a cap that doubles
    from `retry_base_s` to `retry_max_s`. More than `entries_max` keys below `prefix` are taken for a wrong prefix.
    """

    endpoints: tuple[str, ...] = ("http://127.0.0.1:2379",)
    prefix: str = "/mq/nodes/"
    user: str = ""
    password: str = field(default="", repr=False)
    password_file: str = ""
    ca: str = ""
    cert: str = ""
    key: str = ""
    client: Literal["http", "etcd3"] = "http"
    reconcile_s: float = 45.0
    timeout_s: float = 5.0
    retry_base_s: float = 0.2
    retry_max_s: float = 5.0
    entries_max: int = 10000

    def __post_init__(self) -> None:
        _need(bool(self.endpoints), "endpoints: name at least one URL, for example http://127.0.0.1:2379")
        for url in self.endpoints:
            member(url)
        _need(bool(self.prefix), "prefix must not be empty: every key of etcd would be taken for a broker")
        if not self.prefix.endswith("/"):
            object.__setattr__(self, "prefix", self.prefix + "/")
        _need(
            not (self.password and self.password_file), "password and discovery.etcd.password_file: give one, not both"
        )
        _need(
            bool(self.user) == bool(self.password or self.password_file),
            "user and discovery.etcd.password (or discovery.etcd.password_file) go together",
        )
        _need(bool(self.cert) == bool(self.key), "cert and discovery.etcd.key go together")
        _need(self.client in ("http", "etcd3"), "client must be http or etcd3")
        _need(self.reconcile_s > 0 and self.timeout_s > 0, "reconcile_s and discovery.etcd.timeout_s must be above 0")
        _need(
            0 < self.retry_base_s <= self.retry_max_s,
            "retry_base_s must be above 0 and at most discovery.etcd.retry_max_s",
        )
        _need(self.entries_max >= 1, "entries_max must be at least 1")
        secure = [url.startswith("https://") for url in self.endpoints]
        _need(
            not (self.ca or self.cert) or all(secure),
            "ca, discovery.etcd.cert and discovery.etcd.key need discovery.etcd.endpoints that begin with https://",
        )
        # The package would quietly talk plaintext to an https endpoint.
        _need(
            not (self.client == "etcd3" and any(secure)) or bool(self.ca),
            "ca: name one, since the client etcd3 does no TLS without (the client http knows the system's CAs)",
        )

    def secret(self) -> str:
        """The password, fresh from its file if there is one. Raises `RegistryError`."""
        if not self.password_file:
            return self.password
        try:
            return Path(self.password_file).read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise RegistryError(f"discovery.etcd.password_file cannot be read: {error}") from error


def _need(fact: bool, text: str) -> None:
    if not fact:
        raise ConfigError(f"discovery.etcd.{text}")


@dataclass(frozen=True, slots=True)
class Member:
    """One etcd member; `url` has no path and no credentials, so it may be shown."""

    url: str
    host: str
    port: int


def member(url: str) -> Member:
    """Read `http(s)://host[:2379]`. Raises `ConfigError`."""
    wrong = "discovery.etcd.endpoints: write each as http://host:2379 or https://host:2379, without path or password"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or ETCD_PORT
    except ValueError as error:
        raise ConfigError(wrong) from error
    if parts.scheme not in ("http", "https") or not host or parts.path.strip("/") or parts.query or "@" in parts.netloc:
        raise ConfigError(wrong)
    shown = f"[{host}]" if ":" in host else host
    return Member(f"{parts.scheme}://{shown}:{port}", host, port)


@dataclass(frozen=True, slots=True)
class Item:
    """One key as a list or a watch tells it; `value` is None if it was deleted in `mod_revision`."""

    key: str
    value: bytes | None
    mod_revision: int


@dataclass(frozen=True, slots=True)
class Listing:
    """The whole prefix at one revision; `complete` is False if there were more keys than asked for."""

    items: tuple[Item, ...]
    revision: int
    complete: bool = True


class RegistryError(Exception):
    """The registry refused, ended or did not answer; the text is for people.

    `auth` says that a fresh token might help.
    """

    def __init__(self, reason: str, *, auth: bool = False) -> None:
        super().__init__(reason)
        self.auth = auth


# etcd says these in the text of errors whose code differs between versions (dropped tokens are even "unknown").
_AUTH_SIGNS = (
    "invalid auth token",
    "auth token is not",
    "permission denied",
    "user name is empty",
    "revision of auth store is old",
    "unauthenticated",
)


def about_auth(text: str) -> bool:
    """Whether an error of etcd may be cured by authenticating again."""
    lowered = text.lower()
    return any(sign in lowered for sign in _AUTH_SIGNS)


class Watch(Protocol):
    """An established watch."""

    async def changes(self) -> tuple[list[Item], int]:
        """Wait for the next changes and their revision. Safe to cancel: nothing is lost.

        Raises `RegistryError` when the watch is over, for whatever reason.
        """
        ...

    def close(self) -> None:
        """Give the watch up; the server frees it."""
        ...


class Registry(Protocol):
    """An etcd cluster, talked to through one member at a time. Every failure is a `RegistryError`."""

    async def read(self, *, serializable: bool = False) -> Listing:
        """List the prefix. `serializable` answers without a quorum and may be old."""
        ...

    async def watch(self, start_revision: int) -> Watch:
        """Watch the prefix; returns when the server has confirmed the watch."""
        ...

    async def rotate(self, *, drop_token: bool) -> None:
        """Turn to the next member."""
        ...

    async def close(self) -> None:
        """Free everything."""
        ...


def tls_context(policy: EtcdPolicy) -> ssl.SSLContext | None:
    """What the policy's files make, None if no member speaks TLS. Raises `ConfigError` that names an unusable file."""
    if not any(url.startswith("https://") for url in policy.endpoints):
        return None
    try:
        context = ssl.create_default_context(cafile=policy.ca or None)
        load_certificates(context, policy)
    except (OSError, ssl.SSLError) as error:
        names = ("ca", "cert", "key")
        raise unusable({f"discovery.etcd.{name}": getattr(policy, name) for name in names}, error) from error
    return context


def load_certificates(context: ssl.SSLContext, policy: EtcdPolicy) -> None:
    """Read them from disk. A context in use takes them for new handshakes: rotated ones need no restart."""
    if policy.ca:
        context.load_verify_locations(policy.ca)
    if policy.cert:
        # An empty password: OpenSSL would ask for one at the terminal, and wait.
        context.load_cert_chain(policy.cert, policy.key, password="")


def prefix_end(prefix: bytes) -> bytes:
    """The first key after all keys with this prefix, as etcd ranges want it."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else b"\0"
