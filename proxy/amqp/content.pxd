cimport cython

from proxy.amqp cimport peek


cdef int BODY, FRAME_END, HEADER, OVERHEAD_BYTES
cdef unsigned long long BODY_BYTES_MAX
cdef Py_ssize_t _HEADER_BYTES


@cython.locals(end=Py_ssize_t, size=Py_ssize_t, stop=Py_ssize_t, left=cython.ulonglong)
cpdef Py_ssize_t content_end(bytes buf, Py_ssize_t pos, Py_ssize_t number, Py_ssize_t size_max) except -1
