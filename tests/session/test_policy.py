"""Small parts: thresholds that are refused at start, integers that are counted."""

from __future__ import annotations

import pytest

from proxy.amqp import methods as m
from proxy.errors import ConfigError
from proxy.session.channel import Channel
from proxy.session.counters import Counters
from proxy.session.ledger import Load
from proxy.session.policy import SessionPolicy
from proxy.session.setup import Setup


@pytest.mark.parametrize(
    "nonsense",
    [
        {"failover_timeout_s": 0},
        {"heartbeat_s": 0.5},
        {"client_heartbeat_s": 65536},
        {"parked_bytes_max": 1},
        {"unsettled_bytes_max": 1},
        {"publish_bytes_max": 1},
        {"delivery_hold_bytes_max": 1},
        {"frame_max_bytes": 4095},
        {"channel_max": 1},
        {"handshake_timeout_s": 0},
        {"close_flush_timeout_s": -1},
        {"retry_base_s": 3.0, "retry_max_s": 2.0},
        {"nack_hold_s": -1},
        {"redelivery_hold_timeout_s": -1},
        {"redelivery_hold_bytes_max": 1},
    ],
    ids=str,
)
def test_nonsense_is_refused_by_name(nonsense):
    with pytest.raises(ConfigError) as refused:
        SessionPolicy(**nonsense)
    assert next(iter(nonsense)) in refused.value.reason


def test_counts_add_up():
    one, two = Counters(), Counters()
    one.publishes, two.publishes, two.deliveries = 1, 2, 5
    one.add(two)
    assert (one.publishes, one.deliveries) == (3, 5)


def test_counts_that_are_taken_begin_again():
    counters = Counters()
    counters.settles = 7
    assert (counters.take().settles, counters.settles) == (7, 0)


def test_a_qos_that_no_consumer_follows_any_more_does_not_pile_up():
    channel = Channel(1, Load())
    qos, consume = m.method_id(m.BasicQos), m.method_id(m.BasicConsume)
    for round_ in range(3):
        channel.remember(Setup(qos, b"qos %d" % round_))
        channel.remember(Setup(consume, b"consume", tag=b"c"))
        channel.forget_consumer(b"c")
    assert [entry.frame for entry in channel.setup] == [b"qos 2"]


def test_forgetting_a_stranger_changes_nothing():
    assert Channel(1, Load()).forget_consumer(b"stranger") is None
