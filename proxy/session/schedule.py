"""When a session has something to do but to keep its connections alive."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxy.session.session import Session


def rest_due(session: Session) -> float:
    """The first of all deadlines but those of heartbeats, in monotonic seconds; infinity if there is none."""
    attachment, restoration = session.attachment, session.restoration
    due = [session.ending.until, attachment.retry_at, restoration.retry_at, restoration.restraint.due]
    due.extend(session.restarts.due())
    due.extend(session.move.due())
    due.extend(session.confirms.due())
    due.extend(session.unrouted.due())
    due.extend(session.cancellations.due())
    due.extend(session.requests.due())
    due.append(attachment.deadline if attachment.searching else None)
    due.extend(uplink.stage_deadline for uplink in session.journal.uplinks)
    return min((at for at in due if at is not None), default=math.inf)
