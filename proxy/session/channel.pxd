from proxy.session.ledger cimport Ledger, Load
from proxy.session.window cimport Window


cdef class Channel:
    cdef public int number
    cdef public object uplink
    cdef public list out
    cdef public bint flowing
    cdef public long long publish_left
    cdef public bint ledgered
    cdef public Ledger ledger
    cdef public int mode
    cdef public bint tx_dirty
    cdef public object tx_wanted_back
    cdef public bint committing
    cdef public bint muted
    cdef public long long deliver_left
    cdef public list held
    cdef public long long held_bytes
    cdef public object held_get
    cdef public bint streaming
    cdef public bint returning
    cdef public set withheld
    cdef public bint rewrites
    cdef public long long offset
    cdef public Window window
    cdef public object arrears
    cdef public object handed
    cdef public int no_ack
    cdef public dict readers
    cdef public object reader
    cdef public long long reader_offset
    cdef public long long read_since
    cdef public int confirm_path
    cdef public long long confirm_base
    cdef public list doubted
    cdef public Load load
    cdef public bint opened
    cdef public bint awaits_close_ok
    cdef public list setup
    cdef public bytes last_queue
    cdef public list pending
    cdef public list parked
    cdef public bint discarding
    cdef public object settling
    cdef public object restart_at
    cdef public object restart_deadline
    cdef public double replay_until
    cdef public bint restart_topology
    cdef public bint restart_wanted
    cdef public int restarts
    cdef public tuple last_error
    cdef public object verdict

    cpdef hold(self, object piece, Py_ssize_t size)
    cpdef list release(self)
    cpdef follow(self, bytes header, bint complete)
