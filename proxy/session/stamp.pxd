cimport cython

from proxy.amqp cimport peek


cdef int FRAME_END, HEADER, OVERHEAD_BYTES
cdef Py_ssize_t _HEADER_BYTES_MIN
cdef int _CONTENT_TYPE, _CONTENT_ENCODING, _HEADERS, _MORE_FLAGS
cdef bytes _OURS, _ID_HEAD, _REPLAY_ENTRY


cdef class Stamp:
    cdef long long _count
    cdef bytes _token

    @cython.locals(start=Py_ssize_t, mark=Py_ssize_t, end=Py_ssize_t, size=Py_ssize_t, stop=Py_ssize_t, pieces=list)
    cpdef tuple put(self, bytes buf, Py_ssize_t pos, Py_ssize_t size_max, Py_ssize_t room)
    @cython.locals(flags=int, last=Py_ssize_t, at=Py_ssize_t, rest=Py_ssize_t, table=bytes, text=bytes, payload=bytes)
    cdef bytes marked(self, bytes buf, Py_ssize_t pos, Py_ssize_t stop, Py_ssize_t room)
