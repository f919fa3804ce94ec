"""The broker that aiormq's and aio-pika's tests would start in a container: one that is there already.

Copied into their unpacked archives and run by their pytest, so it imports nothing of this project. For aio-pika it
stands in for the module that talks to Docker, for aiormq for the `conftest.py` that is missing in its archive.
FOREIGN_PORT and FOREIGN_TLS_PORT say where the broker listens on 127.0.0.1.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import pytest
from yarl import URL


class DockerNotAvailableError(Exception):
    """Never raised: nothing here needs Docker."""


@dataclass
class ContainerInfo:
    id: str = "none"
    host: str = "127.0.0.1"
    ports: dict[str, int] = field(
        default_factory=lambda: {
            "5672/tcp": int(os.environ["FOREIGN_PORT"]),
            "5671/tcp": int(os.environ["FOREIGN_TLS_PORT"]),
        }
    )


DockerHostInfo = ContainerInfo


def check_docker_available() -> ContainerInfo:
    return ContainerInfo()


class DockerClient:
    def __init__(self, host: ContainerInfo) -> None:
        self._host = host

    def run(self, image: str, ports: list[str], environment: dict[str, str] | None = None) -> ContainerInfo:
        return self._host

    def kill(self, container_id: str) -> None:
        """The broker stays: others use it as well."""

    remove = kill


@pytest.fixture(scope="session")
def rabbitmq_container() -> ContainerInfo:
    return ContainerInfo()


@pytest.fixture(scope="session")
def amqp_direct_url(rabbitmq_container: ContainerInfo) -> URL:
    return URL(f"amqp://guest:guest@{rabbitmq_container.host}:{rabbitmq_container.ports['5672/tcp']}//")
