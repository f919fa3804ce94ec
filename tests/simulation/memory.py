"""What a session keeps for its client: counted anew from what is there, and held against the limits of its policy."""

from __future__ import annotations

from proxy.session.journal import Journal
from proxy.session.ledger import RUN_BYTES
from proxy.session.policy import SessionPolicy
from proxy.session.relay import HOLDS_MAX
from proxy.session.session import Session
from tests.simulation.cluster import Violation

# What may come on top of a limit before anybody can stop it: one content, one frame of the largest kind; and for each
# channel, a publish that had begun when a broker was lost.
CONTENT_BYTES = 100_000
FRAME_BYTES = 131_072 + 8
CHANNELS_MAX = 9


def check_limits(journal: Journal, policy: SessionPolicy, chunk_bytes: int) -> None:
    """What is kept is below its limits. `chunk_bytes`: the largest piece in which the client's bytes have come."""
    load = journal.load
    parked_max = policy.parked_bytes_max + chunk_bytes + CHANNELS_MAX * CONTENT_BYTES
    # What was parked is published in one piece when there is a broker again.
    unsettled_max = policy.unsettled_bytes_max + parked_max
    held_max = HOLDS_MAX * policy.delivery_hold_bytes_max + FRAME_BYTES
    kept_max = policy.redelivery_hold_bytes_max + CONTENT_BYTES
    inlets = [journal.inlet, *(uplink.inlet for uplink in journal.uplinks)]
    for name, kept_bytes, most_bytes in (
        ("parked", load.parked_bytes, parked_max),
        ("unsettled", load.unsettled_bytes, unsettled_max),
        ("held", load.held_bytes, held_max),
        ("kept back", load.kept_bytes, kept_max),
        ("of a frame", max(inlet.kept_bytes for inlet in inlets), FRAME_BYTES),
        ("in all", journal.retained_bytes, parked_max + unsettled_max + held_max + kept_max + 3 * FRAME_BYTES),
    ):
        if not 0 <= kept_bytes <= most_bytes:
            raise Violation(f"{kept_bytes} bytes are {name}, {most_bytes} may be")


def check_count(session: Session) -> None:
    """What a session thinks that it keeps is what is there."""
    load = session.journal.load
    channels = [channel for channel in session.journal.channels if channel is not None]
    runs = [run for channel in channels for run in channel.ledger._runs]
    strays = session.unrouted.kept()
    committing = [request.commit for channel in channels for request in channel.pending if request.commit]
    astray = [frames for commit in committing for frames in commit.astray]
    arrears = [channel.arrears for channel in channels if channel.arrears is not None]
    for name, thought, there in (
        ("parked", load.parked_bytes, sum(len(frame) for channel in channels for frame in channel.parked)),
        ("held", load.held_bytes, sum(len(piece) for channel in channels for piece in channel.held or ())),
        ("kept back", load.kept_bytes, sum(len(content) for each in arrears for _, content in each._kept)),
        (
            "unsettled",
            load.unsettled_bytes,
            sum(len(piece) for run in runs for piece in run.pieces)
            + sum(len(frames) for frames in (*strays, *astray))
            + RUN_BYTES * len((*runs, *strays, *astray)),
        ),
    ):
        if thought != there:
            raise Violation(f"{there} bytes are {name}, and it thinks that {thought} are")
