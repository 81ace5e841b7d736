"""What one thread is asked to do: bits that callers add and the thread takes, asleep while there are none.

Invariants:
    1. `_mutex` guards the bits and `_parked`; it is never held while the thread sleeps, and no Python code runs under it.
    2. `_work` is held but for the moment between a request that found the thread parked and its waking.
"""
cimport cython

cdef extern from "pythread.h" nogil:
    ctypedef void *PyThread_type_lock
    PyThread_type_lock PyThread_allocate_lock()
    void PyThread_free_lock(PyThread_type_lock)
    int PyThread_acquire_lock(PyThread_type_lock, int wait)
    void PyThread_release_lock(PyThread_type_lock)


cdef class Inbox:
    """Requests to one thread. Any number of threads may add some."""

    cdef cython.pymutex _mutex
    cdef unsigned _wanted
    cdef bint _parked
    cdef PyThread_type_lock _work

    def __cinit__(self):
        self._work = PyThread_allocate_lock()
        if self._work == NULL:
            raise MemoryError("lock")
        PyThread_acquire_lock(self._work, 0)

    def __dealloc__(self):
        if self._work != NULL:
            PyThread_release_lock(self._work)
            PyThread_free_lock(self._work)

    def request(self, unsigned bits):
        with self._mutex:
            self._wanted |= bits
            if self._parked:
                self._parked = False
                PyThread_release_lock(self._work)

    def take(self):
        cdef unsigned bits = 0
        while True:
            with self._mutex:
                bits, self._wanted = self._wanted, 0
                self._parked = bits == 0
            if bits != 0:
                return bits
            with nogil:
                PyThread_acquire_lock(self._work, 1)
