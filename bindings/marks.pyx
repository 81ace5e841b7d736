"""The mapped marks page: slots, words and the sleep on them. `mqcore.log.marks.Marks` adds the file and the wakers.

Invariants:
    1. The page stays mapped as long as this object lives, closed or not: a sleeper or a reader in another thread never
       touches memory that is gone.
    2. Only the writer's object changes the page, one thread at a time (`_mutex`), and not once it is closed.
"""
import mmap as _mmap
import os
import time

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EINTR, ETIMEDOUT, errno
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from marks_c cimport *
from status cimport MQ_OK, mq_error, mq_status, raise_status

from mqcore.errors import InvariantError, StorageError, StoreClosedError, StoreError

cdef extern from "<sys/mman.h>" nogil:
    void *mmap(void *addr, size_t length, int protection, int flags, int fd, long long offset)
    int munmap(void *addr, size_t length)
    const int PROT_READ, PROT_WRITE, MAP_SHARED, MAP_ANONYMOUS
    void *MAP_FAILED

cdef extern from *:
    """
    #include <time.h>
    /* The monotonic clock as of the kernel's last tick (1 to 10 ms). */
    static inline int64_t mq_coarse_ns(void)
    {
        struct timespec now;
    #ifdef CLOCK_MONOTONIC_COARSE
        clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    #else
        clock_gettime(CLOCK_MONOTONIC, &now);
    #endif
        return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    }
    """
    int64_t mq_coarse_ns() nogil

PAGE_BYTES = mq_marks_bytes(MQ_MARKS_SLOTS)
cdef enum:
    LOOK_NS = 50000000
    LIVENESS_NS = 1000000000  # how often a sleeper in another process looks whether its writer still lives


cdef class MarksPage:
    cdef mq_marks _marks
    cdef void *_page
    cdef size_t _size
    cdef cython.pymutex _mutex
    cdef bint _writable, _watches, _closed
    cdef int64_t _looked_at  # when `living` last found the writer's lock held
    cdef public bint _armed  # some waker wants the next publish
    cdef object __weakref__

    def __cinit__(self, int fd, size_t size, *, bint writable):
        cdef mq_error err
        cdef int protection = PROT_READ | PROT_WRITE if writable else PROT_READ
        cdef int flags = MAP_SHARED if fd >= 0 else MAP_SHARED | MAP_ANONYMOUS
        self._page = mmap(NULL, size, protection, flags, fd, 0)
        if self._page == MAP_FAILED:
            self._page = NULL
            raise StorageError(f"cannot map the marks page: {os.strerror(errno)}")
        self._size = size
        self._writable = writable
        self._watches = not writable and fd >= 0
        if mq_marks_attach(&self._marks, self._page, size, fd < 0, &err) != MQ_OK:
            raise_status(err.status, &err)

    def __dealloc__(self):
        if self._page != NULL:
            munmap(self._page, self._size)

    def _format(self, bytes store_id not None):
        if len(store_id) != 16:
            raise ValueError("store_id is 16 bytes")
        mq_marks_format(&self._marks, store_id, <uint64_t>int.from_bytes(os.urandom(8), "big"), os.getpid())

    def _matches(self, bytes store_id not None):
        return len(store_id) == 16 and mq_marks_matches(&self._marks, store_id)

    @property
    def _state(self):
        return self._marks.header.state

    @property
    def writer_pid(self):
        return self._marks.header.pid

    @property
    def nonce(self):
        return self._marks.header.nonce

    def _end(self, int state):
        """Set the page's state and wake everyone, here and in other processes; of a reader's page, only wake."""
        with self._mutex:
            if self._writable and not self._closed:
                mq_marks_end(&self._marks, state)
            else:
                mq_marks_wake_all(&self._marks)
            self._closed = True

    def _abandon(self):
        with self._mutex:
            self._closed = True

    @property
    def _ended(self):
        return self._closed

    def closed(self):
        return self._closed

    def living(self):
        cdef int64_t now
        if self._closed or self._marks.header.state != MQ_MARKS_OPEN:
            return False
        now = mq_coarse_ns()
        if now >= self._looked_at + LOOK_NS:
            if self.closed():
                return False
            self._looked_at = now
        return True

    def _fire(self):
        pass

    def slot(self, topic_id, int32_t partition):
        cdef bytes key = topic_id.bytes
        cdef const uint8_t *c_key = key
        cdef int64_t found
        if len(key) != 16:
            raise ValueError("a topic id is 16 bytes")
        if not self._writable:
            with nogil:
                found = mq_marks_find(&self._marks, c_key, partition)
            return found
        with self._mutex:
            found = mq_marks_add(&self._marks, c_key, partition)
        if found < 0:
            raise StoreError("all slots of the marks page are taken", hint="Open the store again to drop those of "
                             "deleted partitions", slots=MQ_MARKS_SLOTS)
        return found

    def publish(self, uint32_t slot, int64_t log_start, int64_t high_watermark, int64_t last_stable, int64_t log_end):
        cdef int64_t[4] values
        values[0], values[1], values[2], values[3] = log_start, high_watermark, last_stable, log_end
        if not self._writable or slot >= self._marks.header.used:
            raise InvariantError("publish on a reader's page or in a slot that was not given out", slot=slot)
        with self._mutex:
            if self._closed:
                return
            mq_marks_publish(&self._marks, slot, values)
        if self._armed:
            self._fire()

    def read(self, uint32_t slot):
        cdef int64_t[4] values
        cdef mq_error err
        cdef mq_status status = mq_marks_read(&self._marks, slot, values, &err)
        if status != MQ_OK:
            raise_status(status, &err)
        return (values[0], values[1], values[2], values[3])

    def sequence(self, int64_t slot=-1):
        return mq_marks_word(&self._marks, slot)

    def wait(self, uint32_t seen, timeout_s=None, int64_t slot=-1):
        cdef int64_t now, limit, deadline = -1
        cdef int got
        if timeout_s is not None:
            deadline = <int64_t>time.monotonic_ns() + <int64_t>(min(max(<double>timeout_s, 0.0), 1e9) * 1e9)
        while mq_marks_word(&self._marks, slot) == seen and not self._closed:
            limit = deadline
            if self._watches:
                now = <int64_t>time.monotonic_ns()
                if limit < 0 or limit > now + LIVENESS_NS:
                    limit = now + LIVENESS_NS
            with nogil:
                got = mq_marks_sleep(&self._marks, slot, seen, limit)
            if got == EINTR:
                PyErr_CheckSignals()
            elif got == ETIMEDOUT:
                if limit == deadline:
                    return mq_marks_word(&self._marks, slot) != seen
                if self.closed():
                    return True
            elif got != 0:
                raise StorageError(f"cannot sleep on the marks page: {os.strerror(got)}")
        return True
