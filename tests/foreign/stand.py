"""What a suite runs against: a cluster, and Sidehop in front of it, with TLS as well where a suite asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.foreign.workshop import Address
from tests.support.certificates import Authority, Pair
from tests.support.cluster import Cluster
from tests.support.ports import BASE, free_port
from tests.support.sidehop import Sidehop

WAYS = ("direct", "sidehop")


class Stand:
    """A cluster of its own, booted when it is entered and wiped when it is left."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._cluster = Cluster(folder / "cluster", BASE)

    @contextmanager
    def booted(self) -> Iterator[Stand]:
        self._cluster.wipe()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._pair = Authority(self._folder).issue("server")
        self._tls_port = free_port()
        try:
            self._cluster.start()
            self._listen_by_tls()
            yield self
        finally:
            self._cluster.wipe()

    @contextmanager
    def way(self, way: str, *, tls: bool) -> Iterator[Address]:
        """Where clients connect on this way, to brokers that remember nothing. A log of Sidehop with errors raises."""
        self._forget()
        if way == "direct":
            yield Address(self._cluster.amqp_port(1), self._tls_port)
            return
        nodes = [part for address in self._cluster.addresses for part in ("--node", address)]
        plain = Sidehop(self._folder, free_port(), free_port(), *nodes)
        secure = Sidehop(self._folder, free_port(), free_port(), *nodes, env=_tls(self._pair))
        proxies = [plain, secure] if tls else [plain]
        try:
            for proxy in proxies:
                proxy.start()
            yield Address(plain.port, secure.port)
            for proxy in proxies:
                proxy.stop()
        finally:
            for proxy in proxies:
                proxy.kill()

    def _forget(self) -> None:
        """What one run leaves behind must not decide how the next one ends."""
        self._cluster.ctl(1, "delete_vhost", "/")
        self._cluster.ctl(1, "add_vhost", "/")
        self._cluster.ctl(1, "set_permissions", "-p", "/", "guest", ".*", ".*", ".*")

    def _listen_by_tls(self) -> None:
        """At run time, because the configuration file would have all nodes listen on the same port."""
        options = f'[{{certfile, "{self._pair.cert}"}}, {{keyfile, "{self._pair.key}"}}]'
        self._cluster.eval(
            1, f'ok = rabbit_networking:start_ssl_listener({{"127.0.0.1", {self._tls_port}}}, {options}, 10).'
        )


def _tls(pair: Pair) -> dict[str, str]:
    return {"SIDEHOP_LISTEN__TLS_CERT": str(pair.cert), "SIDEHOP_LISTEN__TLS_KEY": str(pair.key)}
