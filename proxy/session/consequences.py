"""What the loss of a broker itself has done: what was asked for is the case, so the client is answered."""

from __future__ import annotations

from proxy.amqp import methods as m
from proxy.session.channel import Channel
from proxy.session.cover import covered_unsettled
from proxy.session.journal import Journal
from proxy.session.pending import Pending


def answered_by_loss(journal: Journal, channel: Channel, request: Pending) -> bool:
    """Answer a request that a lost broker has fulfilled by being lost; False if it must be asked again."""
    answer: tuple[object, ...]
    if request.request == m.CHANNEL_CLOSE:
        if covered_unsettled(channel):
            return False  # what was published before must reach the next broker first
        answer = m.ChannelCloseOk()
    elif request.request == m.method_id(m.BasicCancel):
        answer = m.BasicCancelOk(m.decode(m.BasicCancel, request.frame[7:-1]).consumer_tag)
    elif request.request == m.BASIC_RECOVER and request.frame[11]:  # without requeueing, a broker refuses it (540)
        answer = m.BasicRecoverOk()
    elif request.request == m.TX_ROLLBACK:
        answer = m.TxRollbackOk()
    elif request.request == m.TX_COMMIT and not request.dirty:
        answer = m.TxCommitOk()
    elif request.request == m.method_id(m.ConfirmSelect):
        answer = m.ConfirmSelectOk()  # the replay selects it again, since the mode is remembered
    elif request.request == m.method_id(m.TxSelect):
        answer = m.TxSelectOk()
    else:
        return False
    if not request.silent:
        journal.tell_client(channel.number, answer)
    if request.answered is not None:
        request.answered(b"")
    return True
