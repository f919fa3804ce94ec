"""A session may have two thousand channels: what is done for each answer must not be done for each channel as well."""

from __future__ import annotations

import sys

from proxy.amqp import methods as m
from tests.support.engine import FailOver, FromBroker, FromClient, Story, with_channel
from tests.support.engine_frames import consume, consume_ok, on


def calls_to_recover(channels: int) -> int:
    """How many Python calls it takes until that many channels with a consumer each are as they were."""
    numbers = range(1, channels + 1)
    story = with_channel(*numbers)
    story = (story >> FromClient(*(consume(number) for number in numbers))).forget()
    story = (story >> FromBroker(*(consume_ok(number) for number in numbers))).forget()
    story = (story >> FailOver()).forget()
    answers = [FromBroker(on(number, m.ChannelOpenOk()), consume_ok(number)) for number in numbers]
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        story = answered(story, answers)
    finally:
        sys.setprofile(None)
    assert story.session.attachment.since is None, "the failover is over"
    return calls


def answered(story: Story, answers: list[FromBroker]) -> Story:
    for each in answers:
        story = (story >> each).forget()
    return story


def test_twice_the_channels_are_twice_the_work():
    assert calls_to_recover(400) < 2.5 * calls_to_recover(200)
