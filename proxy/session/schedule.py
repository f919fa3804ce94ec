"""When a session has something to do but to keep its connections alive."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxy.session.session import Session


def rest_due(session: Session) -> float:
    """The first of all deadlines but those of heartbeats, in monotonic seconds; infinity if there is none."""
    attachment, restoration, journal = session.attachment, session.restoration, session.journal
    due = [session.ending.until, attachment.retry_at, restoration.retry_at, restoration.restraint.due]
    due.append(session.move.start_at)
    if attachment.searching:
        due.append(attachment.deadline)
    due.extend(uplink.stage_deadline for uplink in journal.uplinks)
    if journal.channels:  # these are about channels; a session that comes asks after every word of its handshake
        due.extend(session.restarts.due())
        due.extend(session.move.due())
        due.extend(session.confirms.due())
        due.extend(session.unrouted.due())
        due.extend(session.cancellations.due())
        due.extend(session.requests.due())
    return min([at for at in due if at is not None], default=math.inf)
