"""Why a channel cannot go on, and what its client is told of it."""

from __future__ import annotations

import re
from typing import NamedTuple

from proxy.amqp import methods as m

_CAUSES = {403: "access_refused", 404: "not_found", 405: "resource_locked", 406: "precondition_failed"}

_OUT_OF_REACH = re.compile(rb"is down or inaccessible|stopped by supervisor")


class Verdict(NamedTuple):
    """The end of a channel. `cause` is one of `reports.ENDS`."""

    cause: str
    close: m.ChannelClose


def refusal(close: m.ChannelClose) -> Verdict:
    """A broker refuses what restores a channel: its client gets the broker's own words."""
    return Verdict(_CAUSES.get(close.reply_code, "refused"), close)


def is_out_of_reach(close: m.ChannelClose) -> bool:
    """The queue exists, and cannot be used at present."""
    return close.reply_code == 404 and _OUT_OF_REACH.search(close.reply_text) is not None
