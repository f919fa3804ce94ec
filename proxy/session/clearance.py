"""The limits of brokers against what a session says: bodies are cut to fit, what cannot be cut needs another broker.

Nodes of one cluster may differ in `frame_max` and `channel_max`, as while a configuration is rolled out.
"""

from __future__ import annotations

from proxy.amqp import methods as m
from proxy.amqp.fragments import FRAME_MAX_ASKED, FRAME_MIN_BYTES, cut, largest_whole
from proxy.amqp.frames import OVERHEAD_BYTES, method_frame
from proxy.session.journal import OWN_CHANNELS, Journal, Phase
from proxy.session.unrouted import Unrouted
from proxy.session.uplink import Uplink, least_limit

# The size of frames is no limit here: they were let in as they are.
_ANY_BYTES = 2**32


class Clearance:
    """Decides once for each broker connection; where all limits are the client's own, nothing is looked at again."""

    __slots__ = ("_journal", "_unrouted")

    def __init__(self, journal: Journal, unrouted: Unrouted) -> None:
        self._journal = journal
        self._unrouted = unrouted

    def objection(self, uplink: Uplink, *, last_resort: bool) -> str:
        """Why a broker cannot be used for what the session has to say again; empty if it can.

        `last_resort`: there seems to be no other one, so that channels beyond its number are given up, and what it
        cannot do is missed only if the client needs it.
        """
        journal, tune = self._journal, uplink.tune
        channels = len(journal.live_channels())
        if 0 < tune.frame_max < FRAME_MIN_BYTES:
            return f"its frame_max {tune.frame_max} is below what every broker has to take"
        if 0 < tune.frame_max < journal.frame_max_bytes and 0 < tune.frame_max - OVERHEAD_BYTES < self._largest():
            return _too_small(tune.frame_max)
        if 0 < tune.channel_max <= OWN_CHANNELS:
            return f"it allows {tune.channel_max} channels, and {OWN_CHANNELS} are needed beside the client's"
        if 0 < tune.channel_max < channels + OWN_CHANNELS and not last_resort:
            return f"its channel_max {tune.channel_max} is too small for {channels} channels"
        if uplink.lacks and not last_resort:
            return f"it lacks what the client was offered: {b', '.join(sorted(uplink.lacks)).decode()}"
        return ""

    def settle(self, uplink: Uplink) -> m.ConnectionTuneOk:
        """What is agreed with a broker, and known of its connection from here on.

        Never below what RabbitMQ 4.1 demands. A client with smaller frames gets its deliveries cut; ones that can be
        cut without a rest are asked for.
        """
        journal, tune = self._journal, uplink.tune
        room = journal.frame_max_bytes - OVERHEAD_BYTES
        wanted = journal.frame_max_bytes
        if wanted < FRAME_MAX_ASKED:
            wanted = -(-(FRAME_MAX_ASKED - OVERHEAD_BYTES) // room) * room + OVERHEAD_BYTES
        uplink.frame_max_bytes = least_limit(tune.frame_max, wanted)
        uplink.channel_max = least_limit(tune.channel_max, journal.courier)
        uplink.delivery_room_bytes = room if uplink.frame_max_bytes > journal.frame_max_bytes else 0
        journal.review_limits()
        return m.ConnectionTuneOk(uplink.channel_max, uplink.frame_max_bytes, 0)

    def fit(self, buf: bytes, pos: int) -> tuple[bytes, int]:
        """A region of the client's frames as all present brokers take it; one that can take none of it is left.

        Marks go on its publishes, where they are wanted and there is room.
        """
        journal = self._journal
        size_max = journal.frame_max_bytes
        if journal.stamp is not None:
            room = journal.body_room_bytes or size_max - OVERHEAD_BYTES
            buf, pos = journal.stamp.put(buf, pos, size_max, room)
        if not journal.body_room_bytes:
            return buf, pos
        whole = largest_whole(buf, pos, size_max)
        if whole > journal.body_room_bytes and journal.phase in (Phase.RUNNING, Phase.FLUSHING):
            for uplink in journal.uplinks:
                if 0 < uplink.frame_max_bytes < whole + OVERHEAD_BYTES:
                    journal.lifecycle.too_narrow(uplink, _too_small(uplink.frame_max_bytes))
        return cut(buf, pos, journal.body_room_bytes, size_max) if journal.body_room_bytes else (buf, pos)

    def _largest(self) -> int:
        """The largest frame among what another broker would have to be told."""
        journal = self._journal
        frames: list[bytes] = [method_frame(0, declaration) for declaration, _ in journal.topology.replay()]
        frames.extend(frame for _, frame in journal.secret_updates)
        frames.extend(self._unrouted.kept())
        for channel in journal.live_channels():
            frames.extend(entry.frame for entry in channel.setup)
            frames.extend(request.frame for request in channel.pending)
            frames.extend(channel.parked)
            frames.extend(map(bytes, channel.ledger.kept()))
        return max((largest_whole(each, 0, _ANY_BYTES) for each in frames), default=0)


def _too_small(frame_max: int) -> str:
    return f"its frame_max {frame_max} is too small for a frame that cannot be cut"
