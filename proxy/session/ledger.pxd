cimport cython

from proxy.session.window cimport Window


cdef class Load:
    cdef public long long held_bytes
    cdef public long long kept_bytes
    cdef public long long parked_bytes
    cdef public long long unsettled_bytes
    cdef public long long unsettled_bytes_max
    cdef public long long withheld


cdef class Run:
    cdef public long long first
    cdef public long long count
    cdef public list pieces
    cdef public int asked_back
    cdef public long long size_bytes


cdef class Ledger:
    cdef Load _load
    cdef long long _oldest_last
    cdef list _opened
    cdef object _opened_run
    cdef Py_ssize_t _opened_size
    cdef readonly object _runs
    cdef list _replayed
    cdef long long _shift
    cdef public Window window
    cdef public long long returned_upto
    cdef public bint unfinished

    @cython.locals(run=Run, size=Py_ssize_t)
    cpdef record(self, bytes buf, Py_ssize_t start, Py_ssize_t stop, Py_ssize_t count, bint unfinished, int asked_back)
    cpdef long long number_of(self, long long tag)
    @cython.locals(window=Window, settled=cython.longlong)
    cpdef long long settle(self, long long number, bint multiple) except -1
    @cython.locals(oldest=Run)
    cdef _let_go(self)


cdef Py_ssize_t _PUBLISH_BYTES_MIN


cpdef bint forcible(bytes frames, Py_ssize_t pos, Py_ssize_t stop) except -1
