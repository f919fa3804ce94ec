cimport cython

from proxy.amqp.peek cimport u16, u32, u64
from proxy.session.channel cimport Channel
from proxy.session.counters cimport Counters
from proxy.session.ledger cimport force_mandatory


# Constants as C integers: a look-up of a Python global for each comparison would cost more than the rest of the walk.
cdef int BODY, FRAME_END, HEADER, HEARTBEAT, METHOD, OVERHEAD_BYTES
cdef int ACKED, MIXED, PLAIN, TX
cdef long long HEADER_DUE, NO_CONTENT
cdef unsigned long BASIC_ACK, BASIC_DELIVER, BASIC_NACK, BASIC_PUBLISH, BASIC_REJECT
cdef Py_ssize_t BROKER_FRAME_MAX_BYTES, _ACK_BYTES
cdef list _NOWHERE


cpdef Py_ssize_t scan_client(object owner, bytes buf, Py_ssize_t pos, Py_ssize_t size_max) except -1
cpdef Py_ssize_t scan_broker(object owner, bytes buf, Py_ssize_t pos) except -1


cdef class _ClientWalk:
    cdef object owner
    cdef Counters counters
    cdef list channels
    cdef list out
    cdef bytes buf
    cdef object sent
    cdef bytearray forced
    cdef Py_ssize_t mark
    cdef Channel recording
    cdef Py_ssize_t run_at
    cdef Py_ssize_t run_count

    @cython.locals(buf=bytes, end=Py_ssize_t, channels=list, kind=int, number=Py_ssize_t, size=Py_ssize_t, stop=Py_ssize_t, channel=Channel)
    cdef Py_ssize_t walk(self, Py_ssize_t pos, Py_ssize_t size_max) except -1
    @cython.locals(ident=cython.ulong)
    cdef bint passes(self, Channel channel, int kind, Py_ssize_t pos, Py_ssize_t size) except -1
    cdef publish(self, Channel channel, Py_ssize_t pos, Py_ssize_t stop)
    cdef record(self, Channel channel, Py_ssize_t pos, Py_ssize_t stop, Py_ssize_t publishes)
    @cython.locals(channel=Channel, unfinished=bint)
    cdef end_run(self, Py_ssize_t pos)
    @cython.locals(tag=cython.longlong, bits=int)
    cdef settle(self, Channel channel, unsigned long ident, Py_ssize_t pos)


cdef class _BrokerWalk:
    cdef object owner
    cdef Counters counters
    cdef list channels
    cdef list out
    cdef object speaker
    cdef bytes buf
    cdef Py_ssize_t mark
    cdef Py_ssize_t at
    cdef Channel inline
    cdef Py_ssize_t inline_at

    @cython.locals(buf=bytes, end=Py_ssize_t, channels=list, kind=int, number=Py_ssize_t, size=Py_ssize_t, stop=Py_ssize_t, channel=Channel)
    cdef Py_ssize_t walk(self, Py_ssize_t pos) except -1
    @cython.locals(ident=cython.ulong)
    cdef bint passes(self, Channel channel, int kind, Py_ssize_t pos, Py_ssize_t size) except -1
    @cython.locals(complete=bint, stop=Py_ssize_t)
    cdef content(self, Channel channel, int kind, Py_ssize_t pos, Py_ssize_t size)
    @cython.locals(buf=bytes, tag_at=Py_ssize_t, tag=cython.longlong)
    cdef deliver(self, Channel channel, Py_ssize_t pos, Py_ssize_t stop)
    @cython.locals(tag=cython.longlong, multiple=bint)
    cdef confirm(self, Channel channel, unsigned long ident, Py_ssize_t pos)
    cdef emit_upto(self, Py_ssize_t pos, Py_ssize_t mark)
    cdef emit_whole(self)
    @cython.locals(channel=Channel)
    cdef hold_inline(self, Py_ssize_t pos)


cdef _emit(list out, object buf, Py_ssize_t start, Py_ssize_t stop)
@cython.locals(left=cython.longlong)
cdef _content(Channel channel, int kind, bytes buf, Py_ssize_t pos, Py_ssize_t size)
@cython.locals(left=cython.longlong)
cdef bint _delivered(Channel channel, int kind, bytes buf, Py_ssize_t pos, Py_ssize_t size) except -1
cdef _hold(Channel channel, list out, bytes buf, Py_ssize_t start, Py_ssize_t stop, Py_ssize_t limit_bytes)
