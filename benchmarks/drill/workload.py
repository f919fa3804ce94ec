"""What the applications of a cell do, and what counts for it as accepted, settled, and a sign of life."""

from __future__ import annotations

from dataclasses import dataclass

QUEUE_TYPES = ("quorum", "classic", "stream")
_QUEUES = QUEUE_TYPES[:2]


@dataclass(frozen=True, slots=True)
class Workload:
    """Two applications, one that sends and one that receives, by the roles that a client library has for them.

    `settles`: the sender hears what became of a message (a confirm, a commit, a reply), and its silence is measured.
    `accepts`: what was handed to the library counts as accepted. Within a transaction nothing is, before the commit.
    `rate_max`: messages per second; what waits for an answer each time would only fall behind at a higher one.
    """

    name: str
    sender: str
    receiver: str
    settles: bool = True
    accepts: bool = True
    queue_types: tuple[str, ...] = _QUEUES
    rate_max: int = 10**6

    @property
    def progress(self) -> str:
        """What the sender tells while it gets on."""
        return "confirmed" if self.settles else "published"


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("confirm", "publish", "consume", queue_types=QUEUE_TYPES),
        Workload("plain", "publish_plain", "consume", settles=False, queue_types=QUEUE_TYPES),
        Workload("get", "publish", "get", rate_max=100),
        Workload("tx", "commit", "consume", accepts=False, rate_max=100),
        Workload("rpc", "ask", "answer", rate_max=50),
        Workload("reply-to", "ask_direct", "answer", rate_max=50),
    )
}
