cdef class Counters:
    cdef public long long bytes_from_broker
    cdef public long long bytes_from_client
    cdef public long long confirms
    cdef public long long deliveries
    cdef public long long publishes
    cdef public long long replayed_publishes
    cdef public long long returns
    cdef public long long settles
    cdef public long long stale_acks
    cdef public long long suppressed
    cdef public long long unrouted
