"""Bugs that somebody could make. Each must be noticed by a test; none of them looks wrong at first sight."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """A bug: `old` occurs once in `file` of `proxy/session`, and becomes `new`."""

    file: str
    old: str
    new: str
    breaks: str


MUTANTS = (
    # Delivery tags.
    Mutant(
        "answers.py",
        "tag = U64.unpack_from(frame, 11)[0] + channel.offset",
        "tag = U64.unpack_from(frame, 11)[0]",
        "a message that was got after a failover has a tag of before",
    ),
    Mutant(
        "channel.py",
        "self.offset = self.window.top\n",
        "self.offset = self.window.floor\n",
        "tags begin again at the last settled one",
    ),
    Mutant(
        "requests.py",
        "U64.pack(max(tag - offset, 0))",
        "U64.pack(tag)",
        "an ack reaches the next broker under the client's number",
    ),
    Mutant(
        "requests.py",
        "if not settled and not judged and (tag == 0 or tag <= window.top):",
        "if not settled and not judged and tag == 0:",
        "a stale multiple ack is passed on",
    ),
    Mutant(
        "window.py",
        "        self.floor = self._stops[0]\n        self._above -= self._stops[0] - self._starts[0] + 1",
        "        self.floor = self._stops[0]\n        self._above -= self._stops[0] - self._starts[0]",
        "the window's count is off by one after a gap has closed",
    ),
    Mutant(
        "window.py",
        "joins_right = at < len(starts) and starts[at] == number + 1",
        "joins_right = at < len(starts) and starts[at] >= number + 1",
        "a number out of order settles those between it and the next gap",
    ),
    Mutant(
        "channel.py",
        "            self.pending.appendleft(self.held_get)\n",
        "",
        "a get whose answer was cut is never answered",
    ),
    # Publishes and confirms.
    Mutant(
        "ledger.py",
        "return self._replayed[tag - 1] if 0 < tag <= len(self._replayed) else tag + self._shift",
        "return tag + self._shift",
        "confirms after a failover are translated by a plain offset",
    ),
    Mutant(
        "ledger.py",
        "self._shift = self.window.top - len(self._replayed)\n",
        "self._shift = self.window.top - len(self._replayed) - 1\n",
        "confirms of new publishes after a failover are off by one",
    ),
    Mutant(
        "answers.py",
        "if channel.mode == CONFIRM and number > channel.confirm_base:",
        "if number > channel.confirm_base:",
        "a hidden confirm is passed to the client",
    ),
    Mutant(
        "answers.py",
        "        return soon or journal.troubled(journal.now)",
        "        return False",
        "a nack during the recovery is passed to the client",
    ),
    Mutant(
        "channel.py",
        "            self.parked.appendleft(unfinished)\n            self.load.parked_bytes += len(unfinished)\n",
        "",
        "the beginning of a half publish is lost",
    ),
    Mutant(
        "channel.py",
        "        self.parked.append(frame)\n",
        "        self.parked.appendleft(frame)\n",
        "parked frames are sent in the wrong order",
    ),
    Mutant(
        "restoration.py",
        "                self._publish_again(channel)\n"
        "            self._set_up(channel, [entry for entry in channel.setup if entry.queue != DIRECT_REPLY_TO])\n",
        "                self._set_up(channel, [entry for entry in channel.setup if entry.queue != DIRECT_REPLY_TO])\n"
        "                self._publish_again(channel)\n",
        "publishes are sent again behind the consumers, and plain consumers not at all",
    ),
    Mutant(
        "ledger.py",
        "        self.settle(self.window.floor, multiple=True)\n        return whole[cut:]",
        "        return whole[cut:]",
        "settled publishes before a half one are kept in memory",
    ),
    Mutant(
        "journal.py",
        "                channel.ledger.compact()\n",
        "                pass\n",
        "memory behind one publish that is not confirmed is never given up",
    ),
    Mutant(
        "journal.py",
        "if load.parked_bytes > policy.parked_bytes_max * slack:",
        "if load.parked_bytes < 0:",
        "input is parked without a limit",
    ),
    # Consumers and topology.
    Mutant(
        "channel.py",
        "        self.setup.append(entry)\n",
        "        self.setup.insert(0, entry)\n",
        "prefetch and consumers come back in another order",
    ),
    Mutant(
        "answers.py",
        "entry = channel.forget_consumer(m.decode(m.BasicCancel, frame[7:-1]).consumer_tag)",
        "entry = None",
        "a consumer that the broker has cancelled comes back",
    ),
    Mutant(
        "topology.py",
        "        if m.exclusive or m.auto_delete or not m.durable:\n            self.queues[m.queue]",
        "        if m.auto_delete or not m.durable:\n            self.queues[m.queue]",
        "an exclusive queue that was declared durable does not come back",
    ),
    Mutant(
        "journal.py",
        "return self.channel_max + 1",
        "return self.channel_max",
        "topology is declared on a channel that the client may use",
    ),
    # Requests.
    Mutant(
        "answers.py",
        "request = channel.pending.popleft()",
        "request = channel.pending[0]",
        "a request is answered more than once",
    ),
    Mutant(
        "channel.py",
        "self.pending = deque(request for request in self.pending if not request.hidden)",
        "self.pending = deque(self.pending)",
        "the steps of a replay are replayed as well",
    ),
    Mutant(
        "restoration.py",
        "            if channel.covered and channel.ledger.unsettled:\n                return False",
        "            if channel.covered and channel.ledger.unsettled < 0:\n                return False",
        "a close that a loss has answered drops what was published before it",
    ),
    # Transactions.
    Mutant(
        "requests.py",
        "        channel.tx_dirty = False\n",
        "",
        "a transaction stays dirty for ever",
    ),
    Mutant(
        "restoration.py",
        "committing = any(request.dirty for request in asked)",
        "committing = False",
        "a commit of lost work is asked of the next broker and succeeds",
    ),
    # Losses.
    Mutant(
        "relay.py",
        "    if channel.held_bytes > limit_bytes:\n",
        "    if channel.held_bytes > 0:\n",
        "half a delivery is shown to the client",
    ),
    Mutant(
        "loss.py",
        "        if streaming:\n",
        "        if streaming and not orphans:\n",
        "the loss of half a delivery is not told",
    ),
    Mutant(
        "loss.py",
        "if self._forced_at is not None and journal.now < self._forced_at + FORCED_CLOSE_PAUSE_S:",
        "if self._forced_at is not None and journal.now < self._forced_at:",
        "an operator can never get rid of a client",
    ),
    Mutant(
        "pulse.py",
        "        return self._journal.now >= uplink.heard_at + MISSED_HEARTBEATS * uplink.heartbeat_s\n",
        "        return False\n",
        "a broker that hangs is never left",
    ),
    Mutant(
        "restarts.py",
        "if channel.restart_deadline is not None and journal.now > channel.restart_deadline and channel.last_error[0]:",
        "if channel.restart_deadline is not None and journal.now < 0 and channel.last_error[0]:",
        "a channel is set up again for ever",
    ),
    Mutant(
        "loss.py",
        "if told and not any(each.blocked for each in journal.uplinks):",
        "if told and any(each.blocked for each in journal.uplinks):",
        "a client stays blocked by a broker that is gone",
    ),
    Mutant(
        "relay.py",
        "if channel is not None and channel.uplink is not self.speaker:",
        "if channel is not None and channel.uplink is None:",
        "a broker is heard on a channel that has moved away from it",
    ),
    # Moves.
    Mutant(
        "move.py",
        "        if waiting:\n            return\n        leaving.stage = Stage.CLOSING",
        "        leaving.stage = Stage.CLOSING",
        "the old broker is left before its channels have moved",
    ),
    Mutant(
        "move.py",
        "if channel.pending or channel.window.open_count or self._inside_something(channel):",
        "if channel.window.open_count or self._inside_something(channel):",
        "a move does not wait until its consumers are cancelled",
    ),
    Mutant(
        "move.py",
        "if channel.pending or channel.window.open_count or self._inside_something(channel):",
        "if channel.pending or self._inside_something(channel):",
        "a move does not wait until the client has settled what it holds",
    ),
    Mutant(
        "move.py",
        '            self._attachment.failed("an exclusive queue was declared meanwhile")\n            return False\n',
        "            return True\n",
        "channels are split while an exclusive queue ties them together",
    ),
    Mutant(
        "move.py",
        "            self._resume_those_on_the_way()\n",
        "            self._until.clear()\n",
        "channels that were about to leave stay silent when the new broker is lost",
    ),
    Mutant(
        "restoration.py",
        "if each.request != cancel or each.answered is not None]",
        "if each.request]",
        "a move's cancel is asked of the next broker, and ends the consumer there",
    ),
    Mutant(
        "move.py",
        "            if entry.tag in ended:\n                continue  # by the client, meanwhile\n",
        "",
        "a consumer that the client has cancelled during a move comes back",
    ),
)
