"""What sets up deliveries on a channel: its prefetch and its consumers, in the order in which its client asked."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.session.stream import OFFSET, UNPLACED, read_on

# Do deliveries need an acknowledgement? MIXED, those of some consumers, costs a look-up each. REPLIES, by direct
# reply-to, all bear the number of the next delivery.
ACKED, UNACKED, REPLIES, MIXED = 0, 1, 2, 3


@dataclass(slots=True)
class Setup:
    """One entry of a channel's ordered list of qos and consume; a qos applies to the consumers after it.

    `tag` is empty for a qos. `frame` is what is sent on every broker. `paused`: the present broker has been told to
    cancel it, since the channel is to move. `stream_offset` is where in a stream the client has read to.
    `absent`: its queue is out of reach, no broker is asked for it.
    """

    request: int
    frame: bytes
    tag: bytes = b""
    queue: bytes = b""
    no_ack: int = ACKED
    is_global: bool = False
    exclusive: bool = False
    paused: bool = False
    stream_offset: int = UNPLACED
    absent: bool = False

    @property
    def placed(self) -> bool:
        """It reads a stream, and has got something from it."""
        return self.stream_offset >= 0

    @property
    def sought(self) -> bool:
        """The client chose where in a stream to begin; no broker accepts that for any other queue."""
        return OFFSET in self.frame

    def again(self) -> bytes:
        """The frame for the next broker: a stream is read on behind what the client has seen whole."""
        return read_on(self.frame, self.stream_offset + 1) if self.placed else self.frame
