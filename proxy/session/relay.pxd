cimport cython

from proxy.amqp cimport peek
from proxy.amqp.content cimport content_end
from proxy.session.channel cimport Channel
from proxy.session.counters cimport Counters
from proxy.session.ledger cimport Ledger


# Constants as C integers: a look-up of a Python global for each comparison would cost more than the rest of the walk.
cdef int BODY, FRAME_END, HEADER, HEARTBEAT, METHOD, OVERHEAD_BYTES
cdef int ACKED, CONFIRM, MIXED, PASSES, RENUMBERED, REPLIES, TX
cdef long long HEADER_DUE, NO_CONTENT
cdef long long TAG_GAP_MAX
cdef unsigned long long BODY_BYTES_MAX
cdef unsigned long BASIC_ACK, BASIC_DELIVER, BASIC_NACK
cdef Py_ssize_t BROKER_FRAME_MAX_BYTES, ACK_BYTES


cpdef Py_ssize_t scan_broker(object owner, bytes buf, Py_ssize_t pos) except -1


cdef class _BrokerWalk:
    cdef object owner
    cdef Counters counters
    cdef list channels
    cdef list out
    cdef object speaker
    cdef bytes buf
    cdef bint writable
    cdef Py_ssize_t mark
    cdef Py_ssize_t at
    cdef Channel inline
    cdef Py_ssize_t inline_at

    @cython.locals(buf=bytes, end=Py_ssize_t, channels=list, kind=int, number=Py_ssize_t, size=Py_ssize_t, stop=Py_ssize_t, passed=Py_ssize_t, channel=Channel)
    cdef Py_ssize_t walk(self, Py_ssize_t pos) except -1
    @cython.locals(size=Py_ssize_t, ident=cython.ulong)
    cdef Py_ssize_t passes(self, Channel channel, int kind, Py_ssize_t pos, Py_ssize_t stop) except -1
    @cython.locals(complete=bint, stop=Py_ssize_t)
    cdef content(self, Channel channel, int kind, Py_ssize_t pos, Py_ssize_t size)
    cdef show(self, Channel channel, list content)
    @cython.locals(buf=bytes, tag_at=Py_ssize_t, tag=cython.longlong, no_ack=int, whole=Py_ssize_t)
    cdef Py_ssize_t deliver(self, Channel channel, Py_ssize_t pos, Py_ssize_t stop) except -1
    @cython.locals(tag=cython.longlong, multiple=bint)
    cdef confirm(self, Channel channel, unsigned long ident, Py_ssize_t pos)
    @cython.locals(ledger=Ledger, number=cython.longlong, settled=cython.longlong, waited_for=bint)
    cdef bint renumber(self, Channel channel, long long tag, bint multiple, Py_ssize_t pos) except -1
    cdef bytes own(self)
    cdef emit_upto(self, Py_ssize_t pos, Py_ssize_t mark)
    cdef emit_whole(self)
    @cython.locals(channel=Channel)
    cdef hold_inline(self, Py_ssize_t pos)


cpdef emit(list out, object buf, Py_ssize_t start, Py_ssize_t stop)
@cython.locals(left=cython.longlong, announced=cython.ulonglong)
cdef bint _delivered(Channel channel, int kind, bytes buf, Py_ssize_t pos, Py_ssize_t size) except -1
cdef _hold(Channel channel, list out, bytes buf, Py_ssize_t start, Py_ssize_t stop, Py_ssize_t limit_bytes)
