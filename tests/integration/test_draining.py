"""A node is drained under applications at work: they move to another one, and nothing shows it, no duplicate either."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.account import account, total
from tests.support.applications import at_work
from tests.support.cluster import NODES, Cluster
from tests.support.sidehop import Sidehop

STEPS = 15


class Registry:
    """A file of brokers, as an operator would edit it."""

    def __init__(self, path: Path, cluster: Cluster) -> None:
        self._path = path
        self._cluster = cluster
        self.say()

    def say(self, *draining: str) -> None:
        nodes = [{"url": each, "state": "drain" if each in draining else "up"} for each in self._cluster.addresses]
        whole = self._path.with_suffix(".new")
        whole.write_text(json.dumps(nodes))
        whole.replace(self._path)


@pytest.fixture
def registry(cluster: Cluster, tmp_path: Path) -> Registry:
    return Registry(tmp_path / "brokers.json", cluster)


@pytest.fixture
def proxy(registry: Registry, start_sidehop: Callable[..., Sidehop], tmp_path: Path) -> Sidehop:
    environment = {
        "SIDEHOP_DISCOVERY__SOURCE": "file",
        "SIDEHOP_DISCOVERY__FILE__PATH": str(tmp_path / "brokers.json"),
        "SIDEHOP_DISCOVERY__FILE__POLL_S": "0.2",
        "SIDEHOP_SESSION__MOVE_SPREAD_S": "0.5",
    }
    return start_sidehop("--policy", "first", env=environment)


def wait_left(proxy: Sidehop, address: str) -> None:
    def left() -> bool:
        sessions = proxy.sessions()
        return all(each["endpoint"] != address and each["state"] == "attached" for each in sessions)

    proxy.wait_for(left, f"all to leave {address}", 60)


def test_applications_leave_a_draining_node_without_a_loss_or_a_duplicate(
    proxy: Sidehop, cluster: Cluster, registry: Registry, queue_name: str
) -> None:
    applications = at_work(proxy.port, queue_name, STEPS, movable=True)
    before = total(proxy, "replayed_publishes")
    home = proxy.sessions()[0]["endpoint"]
    # Round and round: each of them is left once, the first twice.
    for turn in range(len(NODES) + 1):
        address = cluster.addresses[(cluster.number_at(home) - 1 + turn) % len(NODES)]
        registry.say(*[each for each in cluster.addresses if each == address])
        wait_left(proxy, address)
        node = cluster.number_at(address)
        proxy.wait_for(lambda n=node: cluster.connections(n) == 0, "the node to be empty", 30)
        for application in applications:
            application.wait_progress(STEPS)

    assert len(proxy.events("session_moved")) >= len(applications) * 2
    assert proxy.events("failover_started") == []
    account(proxy, cluster, applications, before)
    assert total(proxy, "replayed_publishes") == before
    for application in applications:
        # Not one came twice. A quorum queue may call one redelivered that it had chosen a consumer for and not sent.
        assert len(application.received) == application.published


def test_a_session_that_would_show_it_stays_until_its_node_really_goes(
    proxy: Sidehop, cluster: Cluster, registry: Registry, queue_name: str
) -> None:
    applications = at_work(proxy.port, queue_name, STEPS)
    before = total(proxy, "replayed_publishes")
    address = proxy.sessions()[0]["endpoint"]
    registry.say(address)
    proxy.wait_for(lambda: len(proxy.events("session_stays")) == len(applications), "each to say that it stays", 30)
    assert all("exclusive queue" in line["reason"] for line in proxy.events("session_stays"))
    assert {each["endpoint"] for each in proxy.sessions()} == {address}

    cluster.stop(cluster.number_at(address))
    wait_left(proxy, address)
    for application in applications:
        application.wait_progress(STEPS)
    account(proxy, cluster, applications, before)
