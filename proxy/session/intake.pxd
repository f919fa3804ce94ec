cimport cython

from proxy.amqp cimport peek
from proxy.amqp.content cimport content_end
from proxy.session.channel cimport Channel
from proxy.session.counters cimport Counters
from proxy.session.ledger cimport forcible
from proxy.session.relay cimport emit


# Constants as C integers: a look-up of a Python global for each comparison would cost more than the rest of the walk.
cdef int ROUTE_AT, BODY, FRAME_END, HEADER, HEARTBEAT, METHOD, OVERHEAD_BYTES
cdef int PLAIN, TX
cdef unsigned long long BODY_BYTES_MAX
cdef long long HEADER_DUE, NO_CONTENT
cdef unsigned long BASIC_ACK, BASIC_NACK, BASIC_PUBLISH, BASIC_REJECT
cdef Py_ssize_t ACK_BYTES
cdef list _NOWHERE


cpdef Py_ssize_t scan_client(object owner, bytes buf, Py_ssize_t pos, Py_ssize_t size_max) except -1


cdef class _ClientWalk:
    cdef object owner
    cdef Counters counters
    cdef list channels
    cdef list out
    cdef bytes buf
    cdef bint writable
    cdef Py_ssize_t mark
    cdef Channel recording
    cdef Py_ssize_t run_at
    cdef Py_ssize_t run_count
    cdef int asked_back
    cdef bint forces_mandatory
    cdef Py_ssize_t size_max

    @cython.locals(buf=bytes, end=Py_ssize_t, channels=list, kind=int, number=Py_ssize_t, size=Py_ssize_t, size_max=Py_ssize_t, stop=Py_ssize_t, passed=Py_ssize_t, channel=Channel)
    cdef Py_ssize_t walk(self, Py_ssize_t pos) except -1
    @cython.locals(size=Py_ssize_t, ident=cython.ulong)
    cdef Py_ssize_t passes(self, Channel channel, int kind, Py_ssize_t pos, Py_ssize_t stop) except -1
    @cython.locals(whole=Py_ssize_t, bits=int, asked_back=int)
    cdef Py_ssize_t publish(self, Channel channel, Py_ssize_t pos, Py_ssize_t stop) except -1
    cdef bytes own(self)
    cdef bint renumber(self, Channel channel, long long tag, Py_ssize_t pos) except -1
    cdef record(self, Channel channel, Py_ssize_t pos, Py_ssize_t stop, Py_ssize_t publishes)
    @cython.locals(channel=Channel, unfinished=bint)
    cdef end_run(self, Py_ssize_t pos)
    @cython.locals(tag=cython.longlong, bits=int, single=bint)
    cdef settle(self, Channel channel, unsigned long ident, Py_ssize_t pos)


@cython.locals(left=cython.longlong, announced=cython.ulonglong)
cdef _content(Channel channel, int kind, bytes buf, Py_ssize_t pos, Py_ssize_t size)
