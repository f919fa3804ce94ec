"""Bugs that somebody could make. Each must be noticed by a test; none of them looks wrong at first sight."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """A bug: `old` occurs once in all of `proxy/session`, and becomes `new`."""

    old: str
    new: str
    breaks: str


MUTANTS = (
    # Delivery tags.
    Mutant(
        "tag = U64.unpack_from(frame, 11)[0] + channel.offset",
        "tag = U64.unpack_from(frame, 11)[0]",
        "a message that was got after a failover has a tag of before",
    ),
    Mutant(
        "channel.window = Window(top)\n",
        "channel.window = Window(stale.floor)\n",
        "tags begin again at the last settled one",
    ),
    Mutant(
        "U64.pack(max(tag - offset, 0))",
        "U64.pack(tag)",
        "an ack reaches the next broker under the client's number",
    ),
    Mutant(
        "if not settled and not judged and tag <= window.top:",
        "if not settled and not judged and tag == 0:",
        "a stale multiple ack is passed on",
    ),
    Mutant(
        "        self.floor = self._stops[0]\n        self._above -= self._stops[0] - self._starts[0] + 1",
        "        self.floor = self._stops[0]\n        self._above -= self._stops[0] - self._starts[0]",
        "the window's count is off by one after a gap has closed",
    ),
    Mutant(
        "joins_right = at < len(starts) and starts[at] == number + 1",
        "joins_right = at < len(starts) and starts[at] >= number + 1",
        "a number out of order settles those between it and the next gap",
    ),
    Mutant(
        "        if no_ack != REPLIES:\n",
        "        if no_ack != REPLIES or tag > channel.window.top:\n",
        "a reply by direct reply-to takes the number of the next delivery",
    ),
    Mutant(
        "_tag_of(pieces[0]) == window.top and ",
        "",
        "a reply waits for room that it doesn't need",
    ),
    Mutant(
        "            self.pending.insert(0, self.held_get)\n",
        "",
        "a get whose answer was cut is never answered",
    ),
    Mutant(
        "            verdict = judged(method, close)\n",
        "            verdict = refusal(close)\n",
        "a client is told that it may not have the name which its broker had given",
    ),
    Mutant(
        "*(self._lacking if self._seeks else ())",
        "",
        "a search for a copy of a stream goes round between two brokers that have none",
    ),
    # Refusals while a channel is set up again.
    Mutant(
        "return next(iter(about or alike), None)",
        "return next(iter(alike), None)",
        "a client's error is taken for that of a consumer which is asked for again and not answered yet",
    ),
    Mutant(
        "        return request.hidden\n    ident",
        "        return True\n    ident",
        "a client hears of its error when a failover may have ended, since it came during a replay",
    ),
    # What is said to be gone.
    Mutant(
        " and not journal.troubled(journal.now) and not self._cancellations.awaits_word(close):",
        " and not self._cancellations.awaits_word(close):",
        "a queue of the client's own that has gone with a broker never comes back once an error has said so",
    ),
    Mutant(
        " and not self._cancellations.awaits_word(close):",
        ":",
        "a consumer ends since another channel has met the absence of its queue, which has died with its node",
    ),
    # Prefetch.
    Mutant(
        "each.request == _CONSUME and not each.hidden for",
        "each.request == _CONSUME for",
        "a prefetch waits for a consumer that nobody asks for",
    ),
    # Publishes that outlive their exchange.
    Mutant(
        "each.request == _CONSUME and not each.hidden for",
        "each.request == _CONSUME and not each.silent for",
        "a prefetch is replayed before a consumer that it was said behind",
    ),
    Mutant(
        "        return [n for n, frames in again if n <= upto and",
        "        return [n for n, frames in again if",
        "a publish to an exchange that its client has deleted is dropped, and its mistake not told",
    ),
    Mutant(
        "noted += [(each, exchange, each.ledger.window.top) for",
        "noted += [(each, exchange, each.ledger.window.floor) for",
        "a channel ends since its client has deleted an exchange behind a publish that was not confirmed",
    ),
    # The patience of an end.
    Mutant(
        "        if now >= self.until and not well:\n            self.until = max(self.until, self._long_until)\n",
        "",
        "a close drops what is not confirmed though a broker has gone down while it waited",
    ),
    Mutant(
        "                self.until = patience.until\n                return\n",
        "                pass\n",
        "the end of a connection drops what is not confirmed though a broker has gone down while it waited",
    ),
    # Direct reply-to.
    Mutant(
        "        self.reply_queues.pop(channel.number, None)\n",
        "",
        "a request names the reply queue of a channel that is over",
    ),
    Mutant(
        "        if flags & _CORRELATION_ID:\n            properties.shortstr()\n",
        "",
        "a request with a correlation id keeps an address that dies with its broker",
    ),
    # Topology that is not there yet.
    Mutant(
        "        self.missing, self._refused_now = self._refused_now, NOTHING\n",
        "        self._refused_now = NOTHING\n",
        "what another connection holds is not asked for again",
    ),
    Mutant(
        "        self.released = not self.missing <= self._refused_now\n",
        "",
        "channels wait on for a queue that is back",
    ),
    Mutant(
        "waits = channel.awaits_close_ok or self._restoration.misses(channel)",
        "waits = channel.awaits_close_ok",
        "a channel is restored before its queue is there",
    ),
    Mutant(
        "return not spent and now < self._failing_since[-1] + self._journal.policy.failover_timeout_s",
        "return not spent and now < self._failed_at + self._journal.policy.failover_timeout_s",
        "a request that breaks brokers breaks them for ever",
    ),
    # Brokers with other limits.
    Mutant(
        "        channel.out.extend(journal.fitted_again(piece) for piece in ledger.replay())\n",
        "        channel.out.extend(ledger.replay())\n",
        "what is published again is not cut for a broker with smaller frames",
    ),
    Mutant(
        "if whole > journal.body_room_bytes and",
        "if whole > size_max and",
        "a broker gets a header frame that it does not take",
    ),
    Mutant(
        "uplink.delivery_room_bytes = room if",
        "uplink.delivery_room_bytes = 0 if",
        "a client gets larger frames than it has agreed to",
    ),
    Mutant(
        "        uplink.lacks = self.journal.offered - able or NOTHING\n",
        "        uplink.lacks = able - self.journal.offered\n",
        "a broker that cannot do what the client was offered is as good as any",
    ),
    # What no queue takes.
    Mutant(
        "stray.taken, stray.astray = True, False",
        "stray.taken = True",
        "what came back once is taken for what comes back every time",
    ),
    Mutant(
        "        del self._waiting[:sent]\n",
        "",
        "what is tried again is tried twice",
    ),
    Mutant(
        "        if multiple and channel.withheld:\n",
        "        if multiple and not channel.withheld:\n",
        "a multiple confirm covers what is withheld",
    ),
    Mutant(
        "        channel.ledger.settle(number, multiple=False)\n        channel.withhold(number)\n",
        "        channel.withhold(number)\n",
        "what came back is published twice after a failover",
    ),
    Mutant(
        "        self._waiting[:0] = back\n",
        "",
        "what the courier had published is forgotten with its broker",
    ),
    Mutant(
        "            if nack and self._uplink is not None:\n",
        "            if False and nack and self._uplink is not None:\n",
        "a poisoned courier is never opened anew",
    ),
    Mutant(
        "    return frames[pos + 13] != 0 or frames[pos + 14] <= 20 or ",
        "    return True or ",
        "a reply by direct reply-to is published again though it arrived",
    ),
    Mutant(
        "        channel.choose_confirm_path()\n        journal.counters.confirms += 1\n",
        "        journal.counters.confirms += 1\n",
        "confirms never pass untouched again",
    ),
    Mutant(
        "journal.confirm(channel, tag, multiple and not symptom, nack)",
        "journal.confirm(channel, tag, multiple, nack)",
        "an ack of several confirms what its broker has refused, and nobody believed it",
    ),
    Mutant(
        "if self._uplink not in (None, uplink):",
        "if self._uplink is None:",
        "two couriers of a session that moves have the same numbers",
    ),
    Mutant(
        "if each.publish_left == NO_CONTENT or each not in live]:",
        "if each.publish_left == NO_CONTENT]:",
        "a session waits for the move of a channel that has ended",
    ),
    # Queues without a quorum.
    Mutant(
        "            channel.replay_until = self.journal.now + self.journal.policy.failover_timeout_s\n",
        "            channel.replay_until = self.journal.now + 11.0\n",
        "a channel whose queue has no quorum is given up in a hurry",
    ),
    # Queues that are out of reach.
    Mutant(
        'rb"is down or inaccessible|stopped by supervisor"',
        'rb"is down or unreachable|stopped by supervisor"',
        "a queue whose home is down is taken for one that is gone",
    ),
    Mutant(
        "        elif not entry.absent and not _is_asked_for(channel, entry):\n",
        "        elif not entry.absent:\n",
        "a consumer that is asked for anew is taken for one that its broker has ended",
    ),
    Mutant(
        "            entry.paused = False  # a channel that",
        "            pass  # a channel that",
        "a consumer that comes back while its channel waits to leave is not cancelled again",
    ),
    Mutant(
        "absence not in self._absences or self._is_over(absence.channel):",
        "absence not in self._absences:",
        "a consumer is ended on a channel that has ended",
    ),
    Mutant(
        "            if entry.absent:\n                continue\n",
        "",
        "a replay asks for a consumer whose queue is out of reach",
    ),
    Mutant(
        "if ends or channel.publish_left != NO_CONTENT or channel.muted:",
        "if channel.publish_left != NO_CONTENT or channel.muted:",
        "a consumer that the client is cancelling is asked for again",
    ),
    # Places in a stream.
    Mutant(
        "read_on(self.frame, self.stream_offset + 1)",
        "read_on(self.frame, self.stream_offset)",
        "the last message of a stream is shown again",
    ),
    Mutant(
        "        if not complete or reader is None:",
        "        if reader is None:",
        "a message of a stream of which the client got half is skipped",
    ),
    Mutant(
        "        walk.emit_whole()\n",
        "",
        "what a broker said before a mistake counts, and is not shown",
    ),
    # What has to wait while the client holds stale deliveries.
    Mutant(
        "return self._kept[0][0] - 1 if self._kept else window.top",
        "return window.top",
        "an ack of everything settles what the client has not been shown",
    ),
    Mutant(
        "        for tag, content in self._kept:\n            window.settle(tag)\n",
        "        for _, content in self._kept:\n",
        "what was kept back when a second broker died counts as held by the client for ever",
    ),
    Mutant(
        "return bool(self._kept) or self.stale.open_count",
        "return self.stale.open_count",
        "a delivery overtakes those that wait",
    ),
    # Copies that the client does not see.
    Mutant(
        "        if answer is not Answer.AGAIN:\n            self._note(name, answer)\n",
        "        self._note(name, answer)\n",
        "what the client wants to see again is kept from it",
    ),
    Mutant(
        "        name = (identity.queue, identity.what)\n",
        '        name = (b"", identity.what)\n',
        "a message of one queue is taken for that of another",
    ),
    Mutant(
        "if multiple and handed is not None and handed.shadows:",
        "if multiple and handed is not None and not handed:",
        "an ack of everything settles a copy of what is held on another channel",
    ),
    Mutant(
        "[each for each in self._held if each > offset and not window.is_open(each)]",
        "[each for each in self._held if each > offset and not window.top]",
        "what was kept back and never shown is taken for seen",
    ),
    Mutant(
        "        if not identity.exact and not redelivered and copies.known(name):\n",
        "        if not identity.exact and redelivered and copies.known(name):\n",
        "a second message with the same message-id is taken for a copy",
    ),
    Mutant(
        "        self._copies.lose(self)\n        while self._held:\n",
        "        while self._held:\n",
        "a copy that the broker has taken back is given back once more",
    ),
    # Marks.
    Mutant(
        "        channel.out.extend(journal.fitted_again(piece) for piece in ledger.replay())\n",
        "        channel.out.extend(journal.fitted(piece) for piece in ledger.replay())\n",
        "what is sent again does not say so",
    ),
    Mutant(
        "                mark = stop\n            pos = stop\n        if not pieces:\n            return buf, start\n",
        "                mark = pos\n            pos = stop\n        if not pieces:\n            return buf, start\n",
        "a publish has two content headers, one of them with a mark",
    ),
    Mutant(
        "            if mark and mark == mark_in(sent.properties):\n",
        "            if not mark and mark == mark_in(sent.properties):\n",
        "what came back is taken for its neighbour though it bears a mark",
    ),
    # Publishes and confirms.
    Mutant(
        "        if request.request not in _OF_QUEUES:\n            break\n",
        "        break\n",
        "an answer that a queue gives late is taken for an answer to nothing",
    ),
    Mutant(
        "            if ident not in _BY_TAG or _same_tag(request, frame):\n",
        "            if request:\n",
        "answers of queues are taken in the order of the requests",
    ),
    Mutant(
        "        self._withhold(Stray(channel, number, frames, route, journal.now, sent.mandatory))\n",
        "        self._withhold(Stray(channel, number, frames, route, journal.now))\n",
        "a client never gets back what it wants back",
    ),
    Mutant(
        "return bool(self.exchange) and not is_persistent(",
        "return not is_persistent(",
        "a transient message to a queue whose home is down is confirmed and lost",
    ),
    Mutant(
        "            channel.settling = Patience(journal.policy, journal.now, well=journal.well)\n",
        "            channel.settling = Patience(journal.policy, journal.now, well=True)\n",
        "a channel without a quorum is closed before its publishes are stored",
    ),
    Mutant(
        "        if stray.asked_back and (astray or (nack and not confirmed)):\n",
        "        if stray.asked_back and nack:\n",
        "what a well cluster cannot route is confirmed to a client that wants it back",
    ),
    Mutant(
        "                    yield own, as_asked(frames, run.asked_back)\n",
        "                    yield own, frames\n",
        "what is mandatory behind a client's back comes back to it",
    ),
    Mutant(
        "        if self.recording is not None and (self.recording is not channel or asked_back != self.asked_back):\n",
        "        if self.recording is not None and self.recording is not channel:\n",
        "what one publish asks for is taken for what the next one asks for",
    ),
    Mutant(
        "        return as_asked(whole[cut:], run.asked_back)\n",
        "        return whole[cut:]\n",
        "half a publish that is taken back is mandatory by its client's wish",
    ),
    Mutant(
        "return self._replayed[tag - 1] if 0 < tag <= len(self._replayed) else tag + self._shift",
        "return tag + self._shift",
        "confirms after a failover are translated by a plain offset",
    ),
    Mutant(
        "self._shift = self.window.top - len(self._replayed)\n",
        "self._shift = self.window.top - len(self._replayed) - 1\n",
        "confirms of new publishes after a failover are off by one",
    ),
    Mutant(
        "if channel.mode == CONFIRM and number > channel.confirm_base:",
        "if number > channel.confirm_base:",
        "a hidden confirm is passed to the client",
    ),
    Mutant(
        "        return soon or journal.troubled(journal.now)",
        "        return False",
        "a nack during the recovery is passed to the client",
    ),
    Mutant(
        "            self.parked.insert(0, unfinished)\n            self.load.parked_bytes += len(unfinished)\n",
        "",
        "the beginning of a half publish is lost",
    ),
    Mutant(
        "        self.parked.append(frame)\n",
        "        self.parked.appendleft(frame)\n",
        "parked frames are sent in the wrong order",
    ),
    Mutant(
        "                self._publish_again(channel)\n"
        "            self._set_up(channel, [entry for entry in channel.setup if entry.queue != DIRECT_REPLY_TO])\n",
        "                self._set_up(channel, [entry for entry in channel.setup if entry.queue != DIRECT_REPLY_TO])\n"
        "                self._publish_again(channel)\n",
        "publishes are sent again behind the consumers, and plain consumers not at all",
    ),
    Mutant(
        "        self.settle(self.window.floor, multiple=True)\n        return as_asked",
        "        return as_asked",
        "settled publishes before a half one are kept in memory",
    ),
    Mutant(
        "                channel.ledger.compact()\n",
        "                pass\n",
        "memory behind one publish that is not confirmed is never given up",
    ),
    Mutant(
        "if load.parked_bytes > parked_max * slack:",
        "if load.parked_bytes < 0:",
        "input is parked without a limit",
    ),
    # Consumers and topology.
    Mutant(
        "        self.setup.append(entry)\n",
        "        self.setup.insert(0, entry)\n",
        "prefetch and consumers come back in another order",
    ),
    Mutant(
        "            channel.forget_consumer(entry.tag)\n",
        "",
        "a consumer that the broker has cancelled comes back",
    ),
    Mutant(
        "        if m.exclusive or m.auto_delete or not m.durable:\n            self.queues[m.queue]",
        "        if m.auto_delete or not m.durable:\n            self.queues[m.queue]",
        "an exclusive queue that was declared durable does not come back",
    ),
    Mutant(
        "return self.channel_max + 1",
        "return self.channel_max",
        "topology is declared on a channel that the client may use",
    ),
    # Requests.
    Mutant(
        "        channel.pending.remove(request)\n",
        "        channel.pending.index(request)\n",
        "a request is answered more than once",
    ),
    Mutant(
        "self.pending = [request for request in self.pending if not request.hidden]",
        "self.pending = list(self.pending)",
        "the steps of a replay are replayed as well",
    ),
    Mutant(
        "        if covered_unsettled(channel):\n            return False",
        "        if covered_unsettled(channel) < 0:\n            return False",
        "a close that a loss has answered drops what was published before it",
    ),
    # Transactions.
    Mutant(
        "        channel.tx_dirty, channel.tx_wanted_back = False, NOTHING\n",
        "        channel.tx_wanted_back = NOTHING\n",
        "a transaction stays dirty for ever",
    ),
    Mutant(
        "        if not commit.waiting:\n            self._tell(channel, commit)\n\n",
        "        if True:\n            self._tell(channel, commit)\n\n",
        "a commit is answered though no queue has what it committed",
    ),
    Mutant(
        "            channel.committing, channel.flowing = True, False\n",
        "",
        "what is answered behind a commit overtakes its answer",
    ),
    Mutant(
        "stray.since + patience_s <= journal.now and (stray.awaited or excess_bytes > 0)",
        "stray.since + patience_s <= journal.now",
        "what no publisher hears of is given up while there is room for it",
    ),
    Mutant(
        "return self._believed_until.get(route, 0.0) > journal.now and not journal.troubled(journal.now)",
        "return self._believed_until.get(route, 0.0) > journal.now",
        "a route that once led nowhere is believed to while a broker is down",
    ),
    Mutant(
        "        if channel.streaming:\n            self.unsaid.append((channel, frame))",
        "        if False:\n            self.unsaid.append((channel, frame))",
        "words of ours go out inside a delivery",
    ),
    Mutant(
        'for text in (b"exclusive use", NO_COPY)',
        "for text in (NO_COPY,)",
        "a seat that somebody else has is given up for good",
    ),
    Mutant(
        "            if channel.replay_until <= journal.now:\n",
        "            if channel.replay_until < 0:\n",
        "a channel waits without end for a broker that does not answer its replay",
    ),
    Mutant(
        "                for _ in leading_declarations(asked):",
        "                for _ in leading_declarations([]):",
        "what was published behind an unanswered declaration is sent again before it",
    ),
    Mutant(
        "committing = any(request.dirty for request in asked)",
        "committing = False",
        "a commit of lost work is asked of the next broker and succeeds",
    ),
    # Losses.
    Mutant(
        "    if channel.held_bytes <= limit_bytes and",
        "    if channel.held_bytes <= 0 and",
        "half a delivery is shown to the client",
    ),
    Mutant(
        "        if any(channel.streaming for channel in orphans):\n",
        "        if any(channel.streaming for channel in orphans[1:]):\n",
        "the loss of half a delivery is not told",
    ),
    Mutant(
        "if self._forced_at is not None and journal.now < self._forced_at + FORCED_CLOSE_PAUSE_S:",
        "if self._forced_at is not None and journal.now < self._forced_at:",
        "an operator can never get rid of a client",
    ),
    Mutant(
        "        return self._journal.now >= uplink.heard_at + MISSED_HEARTBEATS * uplink.heartbeat_s\n",
        "        return False\n",
        "a broker that hangs is never left",
    ),
    Mutant(
        "if channel.restart_deadline is not None and journal.now > channel.restart_deadline and channel.last_error[0]:",
        "if channel.restart_deadline is not None and journal.now < 0 and channel.last_error[0]:",
        "a channel is set up again for ever",
    ),
    Mutant(
        "            self.review_blocked(m.ConnectionUnblocked())\n",
        "            pass\n",
        "a client stays blocked by a broker that is gone",
    ),
    Mutant(
        "if channel is not None and channel.uplink is not self.speaker:",
        "if channel is not None and channel.uplink is None:",
        "a broker is heard on a channel that has moved away from it",
    ),
    # Moves.
    Mutant(
        "        if waiting:\n            return\n        leaving.stage = Stage.CLOSING",
        "        leaving.stage = Stage.CLOSING",
        "the old broker is left before its channels have moved",
    ),
    Mutant(
        "if channel.pending or channel.holds or self._inside_something(channel):",
        "if channel.holds or self._inside_something(channel):",
        "a move does not wait until its consumers are cancelled",
    ),
    Mutant(
        "if channel.pending or channel.holds or self._inside_something(channel):",
        "if channel.pending or self._inside_something(channel):",
        "a move does not wait until the client has settled what it holds",
    ),
    Mutant(
        "if journal.topology.queues or journal.uplink is None or journal.uplink.blocked:",
        "if journal.uplink is None or journal.uplink.blocked:",
        "channels are split while an exclusive queue ties them together",
    ),
    Mutant(
        "                self._stop()\n",
        "                self._until.clear()\n",
        "channels that were about to leave stay silent when the new broker is lost",
    ),
    Mutant(
        "if each.request != cancel or each.answered is not None]",
        "if each.request]",
        "a move's cancel is asked of the next broker, and ends the consumer there",
    ),
    Mutant(
        "            if entry.tag in ended:\n                continue  # by the client, meanwhile\n",
        "",
        "a consumer that the client has cancelled during a move comes back",
    ),
    Mutant(
        "        awaited = not restoration.topology_done or restoration.missing\n",
        "        awaited = not restoration.missing\n",
        "a queue that somebody else has deleted, as the client was told, comes back",
    ),
    Mutant(
        "        awaited = not restoration.topology_done or restoration.missing\n",
        "        awaited = not restoration.topology_done\n",
        "a queue that is not back yet is given up for a client that asks for it too early",
    ),
    Mutant(
        "absence.since, absence.attempts, absence.shown = tried.since, tried.attempts, tried.shown",
        "pass",
        "a channel is set up again without end for a consumer of whose queue nobody may ask",
    ),
    Mutant(
        "            return [] if copies.answered(name) else content\n",
        "            return []\n",
        "a message that was acknowledged with all others before it was whole is never shown",
    ),
    Mutant(
        "        elif not window.is_open(tag):\n            # While",
        "        elif tag == 0:\n            # While",
        "a copy that was acknowledged with all others before it was whole is acknowledged twice",
    ),
    # What is told and counted.
    Mutant(
        "            if lost:\n                journal.give_up(channel, channel.verdict)",
        "            if lost:\n                journal.close_channel(channel, channel.verdict.close)",
        "a transaction that is lost with its broker is not counted",
    ),
    Mutant(
        "recreated = queue.exclusive or not (found.message_count or found.consumer_count)",
        "recreated = True",
        "a queue that was in use all the time counts as lost",
    ),
    Mutant(
        "if journal.phase in (Phase.RUNNING, Phase.FLUSHING) and not journal.attached:",
        "if journal.phase is Phase.FLUSHING:",
        "what was accepted and then found no broker is dropped in silence",
    ),
    Mutant(
        "if absence.refusal is not None and not self._understood:",
        "if absence.refusal is None and not self._understood:",
        "a client that does not know broker cancels waits for ever for a consumer that a failover has cost",
    ),
    Mutant(
        "awaited = absence.refusal is not None or self._is_restored(absence.entry.queue)",
        "awaited = self._is_restored(absence.entry.queue)",
        "a shared queue that is late after a failover is not waited for",
    ),
    Mutant(
        "if channel is owner or any(entry.tag and entry.queue == queue for entry in channel.setup)",
        "if channel is owner",
        "a channel that consumes from a lost queue of another channel is not told",
    ),
    Mutant(
        "return declaration._replace(passive=True)",
        "return declaration",
        "a queue of whose loss a client wants to know is declared again",
    ),
    Mutant(
        "        if channel.uplink is None:\n            self.give_up(channel, verdict)",
        "        if channel.verdict is None:\n            self.give_up(channel, verdict)",
        "a channel is told that it is over while its broker has it open",
    ),
    Mutant(
        "if commit is None or _route(pieces[0]) in commit.wanted_back:",
        "if commit is None or commit.wanted_back:",
        "one publish that a client has made mandatory brings back all others of its transaction",
    ),
    # Memory.
    Mutant(
        "            window.settle(tag)\n            self._load.kept_bytes -= len(content)\n",
        "            window.settle(tag)\n",
        "what was kept back for a client and is dropped with its broker counts as kept for ever",
    ),
    Mutant(
        "            if self._load.kept_bytes > self._bytes_max:",
        "            if len(content) > self._bytes_max:",
        "what waits for a client to settle is kept without a limit",
    ),
    Mutant(
        "parked_max, unsettled_max = min(parked_max, self.share_bytes), min(unsettled_max, self.share_bytes)",
        "parked_max = min(parked_max, self.share_bytes)",
        "a process that is short of memory goes on to keep publishes",
    ),
    Mutant(
        "request.declared_before and close.reply_code == RESOURCE_LOCKED",
        "False",
        "a queue that an unanswered declaration has made is another connection's to the client",
    ),
    Mutant(
        "not any(each.declared_before for each in channel.pending)",
        "True",
        "a declaration is repeated for ever",
    ),
    Mutant(
        "since = max(self.client_heard_at, self._journal.recovered_at or self.client_heard_at)",
        "since = self.client_heard_at",
        "a client that waited for a broker is gone the moment one is there",
    ),
    Mutant(
        "            self._journal.stirred = True\n            for uplink",
        "            for uplink",
        "the time of a broker that is read again never begins",
    ),
    Mutant(
        "                channel.restart_deadline = None  # that",
        "                # that",
        "a channel that is given up takes the others with it",
    ),
    Mutant(
        "            channel.settling = None\n            self._reasons",
        "            self._reasons",
        "what follows a transaction goes before it when confirms take too long",
    ),
    Mutant(
        "    return channel.ledger.window.any_open(1, upto) or",
        "    return",
        "what was published before confirm.select is forgotten by a close behind it",
    ),
    Mutant(
        "    upto = channel.confirm_base\n    return sum",
        "    upto = 0\n    return sum",
        "what was published before confirm.select is not counted when nobody waits for it any longer",
    ),
    Mutant(
        "return None if until is None else max(until, self._pulse.answers_by)",
        "return until",
        "a client that does not read loses its channels after a failover",
    ),
    Mutant(
        "if load.withheld or self.share_bytes == 0:",
        "if load.withheld:",
        "half publishes are read though nothing is left to keep them in",
    ),
    Mutant(
        "if self.inline is not None:\n                    self.hold_inline(pos)  # it",
        "if self.inline is None:\n                    self.hold_inline(pos)  # it",
        "a heartbeat inside a delivery shows its beginning twice",
    ),
    # What is told of waits and refusals.
    Mutant(
        "    elif request.request == m.BASIC_RECOVER and request.frame[11]:",
        "    elif request.request == m.BASIC_RECOVER:",
        "a recover that a broker would have refused is agreed to",
    ),
    Mutant(
        "    yield from _unconfirmed([each for each in unconfirmed if each is not timed], None)\n",
        "",
        "a channel that waits for a confirm is silent while that of another is measured",
    ),
)
