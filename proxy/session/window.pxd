cimport cython


cdef class Window:
    cdef public long long floor
    cdef public long long top
    cdef long long _above
    cdef public list _starts
    cdef list _stops

    cpdef reset(self, long long floor)
    cpdef bint is_open(self, long long number)
    cpdef bint settle(self, long long number)
    @cython.locals(settled=cython.longlong)
    cpdef long long settle_upto(self, long long number) except -1
    cpdef append(self, Window later)
    cdef _absorb(self)
