"""The cluster that the other tests rely on hurts nodes as it says, and heals."""

from __future__ import annotations

import socket

import pytest

from tests.support.cluster import Cluster


@pytest.mark.parametrize("hurt", ["kill9", "stop_app", "pause", "stop"])
def test_a_hurt_node_answers_nobody_and_is_made_whole(cluster: Cluster, hurt: str) -> None:
    getattr(cluster, hurt)(2)
    assert not cluster.is_up(2, patience_s=0.5)
    assert cluster.is_up(1)

    cluster.make_whole()

    assert [cluster.is_up(n) for n in (1, 2, 3)] == [True, True, True]


def test_a_partition_is_healed_by_booting_one_side_again(cluster: Cluster) -> None:
    cluster.partition(1, 2)
    assert "mq2@localhost" not in cluster.eval(1, "nodes().")

    cluster.make_whole()

    assert "mq2@localhost" in cluster.eval(1, "nodes().")


def test_an_operator_closes_the_connections_of_one_node_only(cluster: Cluster) -> None:
    import pika

    here = pika.BlockingConnection(pika.URLParameters(cluster.url(1)))
    there = pika.BlockingConnection(pika.URLParameters(cluster.url(2)))

    cluster.close_connections(1)

    with pytest.raises(pika.exceptions.ConnectionClosedByBroker, match="closed by the operator"):
        here.process_data_events(time_limit=5)
    there.process_data_events(time_limit=0)
    assert there.is_open
    there.close()


def test_ports_are_the_ones_promised(cluster: Cluster) -> None:
    for n in (1, 2, 3):
        socket.create_connection(("127.0.0.1", cluster.http_port(n)), timeout=5).close()
