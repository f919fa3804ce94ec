"""The whole way: nodes registered in a real etcd, a proxy that finds them there, applications, and a node that goes."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.support.account import account, total
from tests.support.applications import AioPikaApplication, PikaApplication
from tests.support.clients import PikaClient
from tests.support.cluster import Cluster
from tests.support.etcd import Etcd
from tests.support.sidehop import Sidehop

STEPS = 15
PREFIX = "/mq/nodes/"
# For probes: without a login, a node that is back stays on probation until a session has tried it.
LOGIN = {"SIDEHOP_HEALTH__USER": "guest", "SIDEHOP_HEALTH__PASSWORD": "guest"}


def register(etcd: Etcd, cluster: Cluster, name: str) -> None:
    etcd.ctl("put", PREFIX + name, f"http://{cluster.addresses[cluster.number_at(name) - 1]}")


def register_to_drain(etcd: Etcd, cluster: Cluster, name: str) -> None:
    url = f"http://{cluster.addresses[cluster.number_at(name) - 1]}"
    etcd.ctl("put", PREFIX + name, json.dumps({"url": url, "state": "drain"}))


def endpoints_in_use(proxy: Sidehop) -> list[str]:
    return [session["endpoint"] for session in proxy.sessions()]


@pytest.fixture
def start_with_etcd(cluster: Cluster, etcd: Etcd, start_sidehop: Callable[..., Sidehop]) -> Callable[[str], Sidehop]:
    """A proxy that was told where etcd is, how to choose and how to probe; returns when it has found all nodes well."""
    for name in cluster.names:
        register(etcd, cluster, name)

    def start(policy: str) -> Sidehop:
        proxy = start_sidehop("--etcd", etcd.url, "--policy", policy, env=LOGIN)
        for name in cluster.names:
            proxy.wait_endpoint(name, "up")
        return proxy

    return start


def test_applications_on_nodes_found_in_etcd_do_not_notice_that_theirs_is_killed(
    start_with_etcd: Callable[[str], Sidehop], cluster: Cluster, queue_name: str
) -> None:
    proxy = start_with_etcd("first")
    applications = [
        kind(proxy.port, f"{queue_name}.{number}") for number, kind in enumerate((PikaApplication, AioPikaApplication))
    ]
    for application in applications:
        application.start()
    for application in applications:
        application.wait_progress(STEPS)
    before, replayed_before = proxy.sessions(), total(proxy, "replayed_publishes")
    (used,) = set(endpoints_in_use(proxy))

    cluster.kill9(cluster.number_at(used))
    proxy.wait_for(lambda: all(session["failovers"] for session in proxy.sessions()), "a failover of each", 60)
    for application in applications:
        application.wait_progress(STEPS)

    assert used not in endpoints_in_use(proxy)
    assert [session["id"] for session in proxy.sessions()] == [session["id"] for session in before]
    account(proxy, cluster, applications, replayed_before)
    cluster.make_whole()
    proxy.wait_endpoint(used, "up", 60)


def test_a_node_that_etcd_asks_to_drain_keeps_only_who_cannot_leave_and_gets_no_new_sessions(
    start_with_etcd: Callable[[str], Sidehop], cluster: Cluster, etcd: Etcd, queue_name: str
) -> None:
    proxy = start_with_etcd("round_robin")
    staying = PikaClient(proxy.port)
    channel = staying.channel(confirms=True)
    channel.declare(queue_name, durable=True, arguments={"x-queue-type": "quorum"})
    private = channel.declare("", exclusive=True)
    (drained,) = endpoints_in_use(proxy)

    register_to_drain(etcd, cluster, drained)
    proxy.wait_endpoint(drained, "draining")
    newcomers = [PikaClient(proxy.port) for _ in range(6)]

    assert sorted(endpoints_in_use(proxy)) == sorted([drained, *3 * sorted(set(cluster.names) - {drained})])
    channel.publish(b"drained, and at work", queue_name)
    for client in newcomers:
        client.close()
    proxy.wait_sessions(1)

    # What the drain was for: the node stops, and whoever was still there goes on elsewhere.
    cluster.stop_app(cluster.number_at(drained))
    proxy.wait_for(lambda: drained not in endpoints_in_use(proxy), "the session to leave")
    channel.publish(b"elsewhere", queue_name)
    # A quorum queue that has just elected a leader may count late.
    proxy.wait_for(lambda: channel.count(queue_name) == 2, "both messages to be counted")
    assert channel.count(private) == 0

    cluster.make_whole()
    register(etcd, cluster, drained)
    proxy.wait_endpoint(drained, "up", 60)
    channel.delete(queue_name)
    staying.close()
