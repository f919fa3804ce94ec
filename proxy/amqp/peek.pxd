cpdef unsigned long long u16(bytes buf, Py_ssize_t pos)
cpdef unsigned long long u32(bytes buf, Py_ssize_t pos)
cpdef unsigned long long u64(bytes buf, Py_ssize_t pos)
