# Inlined where they are used: a call through another module's table would cost more than the reading.
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE


cdef inline unsigned long long u16(bytes buf, Py_ssize_t pos) except? -1:
    if pos < 0 or pos + 2 > PyBytes_GET_SIZE(buf):
        raise IndexError("read beyond the end")
    cdef const unsigned char *at = <const unsigned char *>PyBytes_AS_STRING(buf) + pos
    return <unsigned long long>at[0] << 8 | at[1]


cdef inline unsigned long long u32(bytes buf, Py_ssize_t pos) except? -1:
    if pos < 0 or pos + 4 > PyBytes_GET_SIZE(buf):
        raise IndexError("read beyond the end")
    cdef const unsigned char *at = <const unsigned char *>PyBytes_AS_STRING(buf) + pos
    return <unsigned long long>at[0] << 24 | at[1] << 16 | at[2] << 8 | at[3]


cdef inline unsigned long long u64(bytes buf, Py_ssize_t pos) except? -1:
    return u32(buf, pos) << 32 | u32(buf, pos + 4)


# CPython counts on nobody changing a `bytes` that somebody else can see. A chunk is seen by its session only, from the
# event loop that made it to the socket that it leaves by; it is never hashed and never of one byte, which are shared.
cdef inline bytes owned(bytes buf):
    return buf


cdef inline int put8(bytes buf, Py_ssize_t pos, int value) except -1:
    if pos < 0 or pos + 1 > PyBytes_GET_SIZE(buf):
        raise IndexError("write beyond the end")
    (<unsigned char *>PyBytes_AS_STRING(buf))[pos] = <unsigned char>value
    return 0


cdef inline int put64(bytes buf, Py_ssize_t pos, unsigned long long value) except -1:
    if pos < 0 or pos + 8 > PyBytes_GET_SIZE(buf):
        raise IndexError("write beyond the end")
    cdef unsigned char *at = <unsigned char *>PyBytes_AS_STRING(buf) + pos
    cdef int index
    for index in range(8):
        at[index] = <unsigned char>(value >> (56 - 8 * index))
    return 0
