"""Publishes that are confirmed behind the client's back: nobody but us waits for their confirms.

Those of a client that asks for no confirms, and those from before it asked.
"""

from __future__ import annotations

from itertools import takewhile

from proxy.session.channel import Channel


def covered_upto(channel: Channel) -> int:
    """The number of the last such publish."""
    return channel.ledger.window.top if channel.covered else channel.confirm_base


def covered_unsettled(channel: Channel) -> int:
    """How many have no confirm yet. Half a publish is none; what no queue took is withheld, and tried again anyway."""
    if channel.covered:
        return channel.ledger.unsettled - int(channel.ledger.unfinished)
    upto = channel.confirm_base
    return sum(1 for _ in takewhile(lambda number: number <= upto, channel.ledger.window.open_numbers())) if upto else 0


def covered_waiting(channel: Channel) -> bool:
    """Some have no confirm yet, or are withheld. Asked for each confirm, so nothing is counted."""
    if channel.covered:
        return covered_unsettled(channel) > 0 or bool(channel.withheld)
    upto = channel.confirm_base
    return channel.ledger.window.any_open(1, upto) or any(number <= upto for number in channel.withheld or ())
