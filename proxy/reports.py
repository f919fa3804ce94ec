"""The one catalogue of events. Everything Sidehop says about itself is a `Report` with a name from here.

The engine and the discovery sources do not log: they hand over reports, so that a test can assert them. `ops.log`
renders them. Never a payload, a credential or a SASL response among the facts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

Level = Literal["debug", "info", "warning", "error"]
Scope = Literal["connection", "channel", "consumer", "publish", "topology"]

# error: someone must act; warning: degraded, heals itself; info: life cycle of sessions and endpoints; debug: the rest.
EVENTS: dict[str, tuple[Level, str]] = {
    # the process
    "started": ("info", "Listening; the configuration was accepted."),
    "stopping": ("info", "A stop signal arrived; sessions may finish until the grace period ends."),
    "stopped": ("info", "The end; sessions_cut counts clients that were still there."),
    "internal_error": ("error", "A bug, with its stack: it ended one session with 541, or else the process."),
    "worker_started": ("info", "One of several processes serves clients; lines of its own name it as worker."),
    "worker_died": ("error", "One of several processes is gone and its sessions with it; another one takes its place."),
    "log_lines_dropped": ("warning", "The log was read too slowly; so many lines are lost."),
    "library_complained": ("warning", "A library that Sidehop uses had something to say."),
    "memory_high": ("warning", "What is kept for clients nears its limit; those that would add to it wait."),
    "memory_full": ("error", "What is kept for clients has reached its limit; new clients are refused."),
    "memory_eased": ("info", "There is room again; nobody waits for it any more."),
    # sessions
    "session_opened": ("info", "A client has a broker behind it and may work."),
    "session_closed": ("info", "A session is over; the line tells it all."),
    "session_refused": ("warning", "A client was turned away before it had a session."),
    "failover_started": ("warning", "The broker behind a session is gone or ends; the client is kept."),
    "failover_attempt_failed": ("warning", "One attempt to attach a session to another broker failed; it goes on."),
    "failover_done": ("info", "A session has another broker; the client noticed nothing."),
    "failover_given_up": ("error", "No broker took the session in time; the client was told with 320."),
    "session_moved": ("info", "A session has left a broker that drains, all its channels are at another one."),
    "session_stays": ("info", "A session cannot leave a draining broker unnoticed; it stays, and tries again."),
    "channel_restarted": ("warning", "One channel was set up again on the same connection."),
    "publishes_dropped": (
        "error",
        "A client is gone or has been told, and what it had published was not confirmed in time; it may be lost.",
    ),
    "publishes_unroutable": (
        "error",
        "No queue took publishes in time, while a broker was down; confirms were a nack, commits 541.",
    ),
    "consumer_paused": ("warning", "A consumer's queue is out of reach; it is waited for, the client does not know."),
    "consumer_resumed": ("info", "A paused consumer gets messages again."),
    "consumer_given_up": ("warning", "A consumer has ended, its queue is gone or stays away; its client may be told."),
    "deliveries_at_risk": ("info", "Consumers without acknowledgements lost their broker, and perhaps messages."),
    "channel_given_up": ("error", "One channel could not be restored; the client was told."),
    "queues_recreated": ("info", "Transient queues are there again, and empty."),
    "topology_lost": ("warning", "A transient queue or exchange is not declared again."),
    # endpoints and discovery
    "endpoint_added": ("info", "Discovery names a new endpoint."),
    "endpoint_changed": ("info", "Discovery describes an endpoint differently."),
    "endpoint_removed": (
        "info",
        "An endpoint is gone from discovery, and is down or has no sessions left; it is forgotten.",
    ),
    "endpoint_state": ("info", "An endpoint's state changed."),
    "pool_panic": ("warning", "Too few endpoints are well, health is ignored until more are."),
    "probe_refused": ("warning", "The login of a health probe was refused; the probe says nothing about the broker."),
    "discovery_synced": ("info", "The registry answered after an outage or for the first time."),
    "discovery_failed": ("warning", "The registry does not answer; the last good endpoints stay in use."),
    "discovery_rejected": ("warning", "A registry entry could not be understood; the others are not affected."),
    "discovery_emptied": ("warning", "The registry names no endpoint; the last good ones stay in use."),
    "discovery_restored": ("warning", "The registry did not answer at start; endpoints saved on disk are in use."),
    "snapshot_off": (
        "info",
        "The last good endpoints are not kept on disk; a start without the registry finds none.",
    ),
    "snapshot_unusable": ("warning", "The endpoints saved on disk cannot be used; they are ignored."),
    "snapshot_saved_failed": ("warning", "The last good endpoints could not be written to disk."),
}

# What no failover can hide: of what something ended or was lost, and why. All of it is counted, so an operator need
# not read the log to know that it happened.
ENDS: dict[Scope, dict[str, str]] = {
    "connection": {
        "no_broker": "320: no broker within `session.failover_timeout_s`.",
        "lost_inside_body": "320: its broker was lost inside a delivery that was too large to be kept whole.",
        "refused": "The broker's own words: none lets it in again, or one ends it while it is being restored.",
        "internal_error": "541: a bug of Sidehop's.",
    },
    "channel": {
        "transaction_rolled_back": "541: an open transaction was lost with its broker.",
        "commit_unknown": "541: a commit was lost with its broker, before its answer.",
        "commit_unroutable": "541: committed, but no queue took all of it in time.",
        "not_answered": "541: its broker does not answer what restores it, as without a quorum.",
        "not_found": "404: what it uses is not there any more.",
        "resource_locked": "405: another connection still holds its queue.",
        "precondition_failed": "406: what it had declared exists otherwise.",
        "queue_lost": "404: a queue of its own was lost with its broker, and cannot or shall not be declared again.",
        "access_refused": "403: another client has its seat, or a right was taken away.",
        "refused": "The broker's own words: it refuses something else that restores the channel.",
        "too_many_channels": "506: the present broker takes fewer channels.",
    },
    "consumer": {
        "queue_gone": "`basic.cancel`: its queue was deleted, or died with its home.",
        "queue_out_of_reach": "`basic.cancel`: its queue was away for `session.home_down_timeout_s`.",
        "no_ack": "Nothing: without acknowledgements, what was on the wire from a lost broker may be lost.",
    },
    "publish": {
        "unconfirmed": "Nothing, or the end of its connection: accepted, and not known to be stored.",
        "unroutable": "`basic.nack`, 541 at a commit, else nothing: no queue took it in time.",
    },
    "topology": {
        "recreated_empty": "Nothing: a transient queue was declared again; its messages, if any, are lost.",
        "not_restored": "A `channel.close`, counted as well: a queue, exchange or binding is not declared again.",
    },
}
# The events that say so, with facts `cause` and, where it is not one, `count`. A connection's is `session_closed`.
ENDING_EVENTS: dict[str, Scope] = {
    "channel_given_up": "channel",
    "consumer_given_up": "consumer",
    "deliveries_at_risk": "consumer",
    "publishes_dropped": "publish",
    "publishes_unroutable": "publish",
    "queues_recreated": "topology",
    "topology_lost": "topology",
}


@dataclass(frozen=True, slots=True)
class Report:
    """One thing that happened. `event` is a name from `EVENTS`; facts are `session, client, endpoint, channel,
    generation, reply_code, reason`, `*_s`, `*_bytes` and counts."""

    event: str
    facts: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.event in EVENTS, f"event {self.event!r} is not in the catalogue"
        scope = ENDING_EVENTS.get(self.event)
        assert scope is None or self.facts["cause"] in ENDS[scope], f"{self.event}: {self.facts}"


ReportSink = Callable[[Report], None]
