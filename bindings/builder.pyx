"""The produce path, native part: records are encoded in place into the open chunks of their partitions.

What happens to a full chunk (append, wait, errors) is Python's, per chunk: mqcore/client/dispatch.py. Public
names and their contracts: builder.pyi.
Invariants:
    1. Between reading `topic.open[partition]` and the end of the put, no Python code runs and the GIL is held
       (free-threaded builds: the accumulator's critical section). A lease is the one exception: its holder has the
       sink's lock and fills the chunk without the GIL; `open` is NULL meanwhile, and who needs it waits for the lock.
    2. A closed chunk joins its sink's queue in the same step that takes it from the sink: chunks of a partition are
       queued in the order in which they were filled.
    3. What is sent was copied when the call returned; a call that raised sent nothing (fill says how much).
    4. Buffers of all chunks together take at most buffer_bytes plus one chunk.
"""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_ITEM
from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_GetPointer
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport INT32_MAX, int32_t, int64_t, uint8_t, uint32_t
from libc.stdlib cimport free
from libc.string cimport memset
from mqcore._native.chunks cimport CLOSED, Chunk, Delivery, Sink, Topic

from batch_build cimport *
from borrow cimport Borrowed, borrow, give_back
from cells cimport GATHERED, Cells, cells_bytes, cells_from
from headers cimport encode_headers
from status cimport MQ_EFULL, MQ_ENOTFOUND, MQ_ETOOBIG, MQ_OK, mq_status

from time import monotonic

from mqcore.errors import InvalidRecordError, StoreClosedError

cdef extern from *:
    """
    #include <stdlib.h>
    #include <time.h>
    #include "mqcore/alloc.h"
    /* Milliseconds of the wall clock as of the kernel's last tick (1 to 10 ms): far cheaper than the exact one. */
    static inline int64_t mq_now_ms(void)
    {
        struct timespec now;
    #ifdef CLOCK_REALTIME_COARSE
        clock_gettime(CLOCK_REALTIME_COARSE, &now);
    #else
        clock_gettime(CLOCK_REALTIME, &now);
    #endif
        return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
    }
    /* Page-aligned: the kernel copies whole pages from it. */
    static inline void *mq_pages(size_t size)
    {
        void *bytes = NULL;
        return !mq_alloc_refused() && posix_memalign(&bytes, 4096, size) == 0 ? bytes : NULL;
    }
    """
    int64_t mq_now_ms() nogil
    void *mq_pages(size_t size) nogil
cdef extern from "pythread.h":
    unsigned long PyThread_get_thread_ident() noexcept

cdef enum:
    BLOCK = 128  # list items whose pointers are gathered at once, with keys
    LISTED = 4096  # list items that are taken in one go, GATHERED by GATHERED, without keys: about 50 us of the GIL
    LEASE_BYTES = 64 << 10  # below, filling takes a few microseconds: not worth giving the GIL away
    POOLED = 32  # free chunk buffers that an accumulator keeps
    CACHED = 8 << 20  # bytes of all open chunks: more of them are smaller, so that the next record's place is in cache
    PAGE = 4096
    SKEWED = 256 << 10  # chunks from here on begin where their place in the file does, within a page: see Sink.skew
    SMALLEST = 16 << 10  # chunk, where many partitions share buffer_bytes


cdef class Accumulator:
    """Open chunks of all partitions that a producer writes to, and the methods that fill them. See builder.pyi."""
    cdef dict topics
    cdef object last_name, wall_ms
    cdef Topic last
    cdef readonly dict open_sinks  # sinks with an open chunk, oldest first (values: None)
    cdef readonly size_t batch_bytes, chunk_bytes, buffer_bytes, buffered
    cdef bint immediate
    cdef public bint closed, armed
    cdef uint8_t *pool[POOLED]
    cdef size_t pool_sizes[POOLED]
    cdef size_t pooled
    cdef readonly int64_t producer_id  # -1: none
    cdef int16_t producer_epoch
    cdef bint transactional

    def __init__(self, *, size_t batch_bytes, size_t chunk_bytes, size_t buffer_bytes, bint immediate=False,
                 wall_ms=None):
        if not 1024 <= batch_bytes <= chunk_bytes <= buffer_bytes or chunk_bytes > MQ_BATCH_BYTES_MAX:
            raise ValueError("sizes must be 1024 <= batch_bytes <= chunk_bytes <= buffer_bytes, chunk_bytes <= 256 MiB")
        self.batch_bytes, self.chunk_bytes, self.buffer_bytes = batch_bytes, chunk_bytes, buffer_bytes
        self.immediate, self.wall_ms = immediate, wall_ms
        self.topics, self.open_sinks = {}, {}
        self.producer_id = self.producer_epoch = -1

    def __dealloc__(self):
        while self.pooled > 0:
            self.pooled -= 1
            free(self.pool[self.pooled])

    def take_back(self, Chunk chunk not None):
        """A chunk is done or failed (Chunk.finish calls this, once)."""
        self.buffered -= chunk.room
        if chunk.exports > 0:
            return  # a view of it lives: the buffer goes with the chunk
        if self.pooled < POOLED and not self.closed and chunk.room <= self.chunk_bytes:
            self.pool[self.pooled], self.pool_sizes[self.pooled] = chunk.pages, chunk.room
            self.pooled += 1
        else:
            free(chunk.pages)
        chunk.pages = chunk.c.bytes = NULL

    cpdef Topic find(self, name):
        cdef Topic t = self.topics.get(name)
        if t is None:
            if self.closed:
                raise StoreClosedError("the producer is closed")
            t = self.topics.setdefault(name, self._open_topic(name))
        self.last_name = None  # never the new name beside the old topic, whatever the old one's end may run
        self.last = t
        self.last_name = name
        return t

    def all_topics(self):
        return list(self.topics.values())

    def forget(self, name=None):
        """No send finds this topic (None: any topic) any more: the next one asks `_open_topic`, or fails once closed."""
        self.last_name, self.last = None, None
        if name is None:
            self.topics.clear()
        else:
            self.topics.pop(name, None)

    def abandon(self, error not None):
        """Give up whatever is open, without an append (in a forked child)."""
        cdef Sink sink
        for sink in list(self.open_sinks):
            sink.topic.open[sink.partition] = NULL
            if sink.chunk is not None:
                sink.chunk.finish(error)
                sink.chunk = None
        self.open_sinks.clear()
        self.forget()

    # What a subclass does with full chunks: see builder.pyi.
    def _open_topic(self, name):
        raise NotImplementedError

    def _send_id(self, topic, value, key, headers, timestamp, partition, id):
        raise NotImplementedError

    def _dispatch(self, Sink sink):
        raise NotImplementedError

    def _make_room(self):
        raise NotImplementedError

    def _arm(self):
        raise NotImplementedError

    def _look(self, Chunk chunk):
        raise NotImplementedError

    def _wait(self, Chunk chunk, timeout):
        raise NotImplementedError

    @cython.critical_section
    def set_identity(self, int64_t producer_id, int16_t epoch, *, bint transactional=False):
        cdef Topic t
        cdef Sink sink
        if self.open_sinks or any([sink.queue for t in self.topics.values() for sink in t.made_sinks()]):
            raise ValueError("records of the identity before are not appended yet")
        self.producer_id, self.producer_epoch, self.transactional = producer_id, epoch, transactional
        for t in self.topics.values():
            for sink in t.made_sinks():
                sink.sequence = sink.stored = 0
                sink.unsure = False

    def disarm(self):
        """Nobody needs to look after chunks that linger; False if there are some."""
        if self.open_sinks:
            return False
        self.armed = False
        return True

    def now(self):
        return mq_now_ms() if self.wall_ms is None else self.wall_ms()

    @cython.critical_section
    def close_chunk(self, Sink sink not None):
        cdef Chunk chunk = sink.chunk
        cdef Topic t = sink.topic
        if chunk is None or sink.leased:
            return False
        sink.chunk = None
        t.open[sink.partition] = NULL
        self.open_sinks.pop(sink, None)
        if t.sticky == sink.partition:
            t.sticky = (sink.partition + 1) % t.partitions
        chunk.count = mq_chunk_records(&chunk.c)
        if chunk.count == 0:
            chunk.finish()
            return False
        mq_chunk_seal(&chunk.c)
        sink.sequence = (sink.sequence + chunk.count) & INT32_MAX
        chunk.stage = CLOSED
        sink.queue.append(chunk)
        return True

    cdef int make_way(self, Topic t, Sink sink, size_t need) except -1:
        """After a put found no room: wait for a lease, take a full chunk to its log, or open one of need bytes."""
        if sink.leased:
            with sink.lock:
                pass
        elif sink.chunk is not None:
            self.close_chunk(sink)
            self._dispatch(sink)
        else:
            self.open_chunk(t, sink, need)
        return 0

    cdef size_t usual_capacity(self) noexcept:
        """Of the next chunk: chunk_bytes, or a power of two where many are open or buffers run out."""
        cdef size_t room = CACHED // (<size_t>len(self.open_sinks) + 1), left = 0, capacity = SMALLEST
        if self.buffered < self.buffer_bytes:
            left = (self.buffer_bytes - self.buffered) // 4
        room = min(self.chunk_bytes, max(room, 2 * self.batch_bytes), max(left, <size_t>SMALLEST))
        if room == self.chunk_bytes:
            return room
        while 2 * capacity <= room:
            capacity *= 2
        return capacity

    cdef uint8_t *pages(self, size_t capacity) noexcept:
        """A buffer: a free one of that size (the last to come back is the warmest), or a new one."""
        cdef size_t i = self.pooled
        cdef uint8_t *bytes
        while i > 0:
            i -= 1
            if self.pool_sizes[i] == capacity:
                bytes = self.pool[i]
                self.pooled -= 1
                self.pool[i], self.pool_sizes[i] = self.pool[self.pooled], self.pool_sizes[self.pooled]
                return bytes
        if self.pooled == POOLED:  # none fits, so what is kept is of sizes that are not asked for
            self.pooled -= 1
            free(self.pool[self.pooled])
        return <uint8_t *>mq_pages(capacity)

    cdef int open_chunk(self, Topic t, Sink sink, size_t need) except -1:
        cdef Chunk chunk = Chunk.__new__(Chunk)
        cdef size_t capacity = max(need, self.usual_capacity()), skew = 0
        while self.buffered + capacity > self.buffer_bytes and self.buffered > 0:
            self._make_room()
        chunk.opened_at = monotonic()
        # From here on no Python code runs: another thread may have opened one, or closed the producer, until now.
        if self.closed:
            raise StoreClosedError("the producer is closed")
        if sink.chunk is not None or sink.leased:
            return 0
        chunk.pages = self.pages(capacity)
        if chunk.pages == NULL:
            raise MemoryError(f"no memory for a chunk of {capacity} bytes")
        chunk.room = capacity
        if capacity >= SKEWED and need + PAGE <= capacity:
            skew = sink.skew % PAGE
        mq_chunk_init(&chunk.c, chunk.pages + skew, capacity - skew, self.batch_bytes, t.batch_max)
        chunk.codec, chunk.level, chunk.c.seal_later = t.codec, t.level, t.codec != 0
        if self.producer_id >= 0:
            chunk.c.producer_id, chunk.c.producer_epoch = self.producer_id, self.producer_epoch
            chunk.c.base_sequence = sink.sequence
            chunk.c.attributes = MQ_ATTR_TRANSACTIONAL if self.transactional else 0
        chunk.sink, chunk.owner, sink.chunk = sink, self, chunk
        t.open[sink.partition] = &chunk.c
        self.buffered += capacity
        self.open_sinks[sink] = None
        if not self.armed:  # not before: disarm() must see the chunk, or this must see that it disarmed
            self.armed = True
            try:
                self._arm()
            except BaseException:  # no thread to be had: the next chunk tries again
                self.armed = False
                raise
        return 0

    cdef Delivery put(self, Topic t, mq_record *r, int32_t p):
        cdef Delivery d = Delivery.__new__(Delivery)
        cdef mq_status status
        cdef mq_chunk *c
        cdef int32_t at
        while True:
            at = p if p >= 0 else t.sticky
            c = t.open[at]
            if c != NULL:
                status = mq_chunk_put(c, r)
                if status == MQ_OK:
                    break
                if status != MQ_EFULL:
                    raise t.refusal(status, mq_record_room(r), {"partition": p if p >= 0 else None})
            elif mq_record_room(r) > t.batch_max:  # before a chunk of that size is made for it
                raise t.refusal(MQ_ETOOBIG, mq_record_room(r), {"partition": p if p >= 0 else None})
            self.make_way(t, t.sink(at), mq_record_room(r))
        d.chunk = (<Sink>PyList_GET_ITEM(t.sinks, at)).chunk
        d.index = mq_chunk_records(c) - 1
        d.timestamp = r.timestamp
        if self.immediate:
            self.close_chunk(d.chunk.sink)
            self._dispatch(d.chunk.sink)
        return d

    @cython.critical_section
    def send(self, topic, value, key=None, headers=None, timestamp=None, partition=None, id=None):
        if id is not None:
            return self._send_id(topic, value, key, headers, timestamp, partition, id)
        cdef Topic t = self.last if topic is self.last_name else self.find(topic)
        cdef mq_record r
        cdef int32_t p = -1
        if (headers is None and timestamp is None and PyBytes_CheckExact(value)
                and (key is None or PyBytes_CheckExact(key))):
            r.value, r.value_size = <const uint8_t *>PyBytes_AS_STRING(value), length_of(PyBytes_GET_SIZE(value))
            r.key, r.key_size, r.headers, r.headers_size = NULL, -1, NULL, 0
            if key is not None:
                r.key, r.key_size = <const uint8_t *>PyBytes_AS_STRING(key), length_of(PyBytes_GET_SIZE(key))
            if key is not None or partition is not None or t.needs_key:
                p = t.place(r.key, r.key_size, partition)
            r.timestamp = mq_now_ms() if self.wall_ms is None else <int64_t>self.wall_ms()
            return self.put(t, &r, p)
        return self.send_any(t, value, key, headers, timestamp, partition)

    cdef Delivery send_any(self, Topic t, value, key, headers, timestamp, partition):
        cdef Borrowed v, k
        cdef mq_record r
        cdef bytes h = encode_headers(headers) if headers else b""
        r.timestamp = self.now() if timestamp is None else t.time_of(timestamp)
        if timestamp is not None:
            t.check_times(r.timestamp, r.timestamp, self.now())
        borrow(b"" if value is None else value, &v)
        try:
            borrow(b"" if key is None else key, &k)
            try:
                r.value, r.value_size = v.bytes, -1 if value is None else length_of(<Py_ssize_t>v.size)
                r.key, r.key_size = k.bytes, -1 if key is None else length_of(<Py_ssize_t>k.size)
                r.headers, r.headers_size = <const uint8_t *>PyBytes_AS_STRING(h), <uint32_t>len(h)
                return self.put(t, &r, t.place(r.key, r.key_size, partition))
            finally:
                give_back(&k)
        finally:
            give_back(&v)

    def fill(self, Topic t not None, values, keys, times, int64_t timestamp, int32_t partition, list spans not None):
        cdef Cells *v = <Cells *>PyCapsule_GetPointer(values._handle(), b"mqcore.cells")
        cdef Cells *k = NULL
        cdef Borrowed stamps
        cdef Py_ssize_t done = 0, step = v.count
        if keys is not None:
            k = <Cells *>PyCapsule_GetPointer(keys._handle(), b"mqcore.cells")
            if k.count != v.count:
                raise ValueError(f"{v.count} values and {k.count} keys")
        if k != NULL:
            step = BLOCK
        elif v.items != NULL:
            step = LISTED
        if k == NULL and t.needs_key:
            raise keyless(t)
        borrow(b"" if times is None else times, &stamps)
        try:
            if times is not None and <Py_ssize_t>stamps.size != v.count * 8:
                raise ValueError(f"{v.count} values and {stamps.size // 8} timestamps")
            while done < v.count:
                done += self.fill_block(t, v, k, NULL if times is None else <const int64_t *>stamps.bytes, timestamp,
                                        partition, done, min(step, v.count - done), values, keys, spans)
        finally:
            give_back(&stamps)
        return done

    @cython.critical_section
    cdef Py_ssize_t fill_block(self, Topic t, Cells *v, Cells *k, const int64_t *times, int64_t timestamp, int32_t p,
                               Py_ssize_t start, Py_ssize_t count, values, keys, list spans) except -1:
        """Rows start .. start + count, or as many as go in before something must give way. Returns how many."""
        cdef const uint8_t *pointers[2][BLOCK]
        cdef int32_t sizes[2][BLOCK]
        cdef mq_rows rows
        cdef mq_status status = MQ_EFULL
        cdef Py_ssize_t taken = 0, some = min(count, GATHERED) if k == NULL and v.items != NULL else count
        cdef int32_t at = p
        cdef size_t need
        cdef Sink sink = t.sink(p if p >= 0 else t.sticky)
        memset(&rows, 0, sizeof(rows))
        rows.timestamp = timestamp
        if times != NULL:
            rows.timestamps = times + start
        if not cells_from(v, start, some, pointers[0], sizes[0], &rows.values):
            values._plain()
            return 0
        if k != NULL and not cells_from(k, start, count, pointers[1], sizes[1], &rows.keys):
            keys._plain()
            return 0
        if k != NULL and p < 0:
            taken = self.put_keyed(t, &rows, count, &at, &status, spans)
        if k == NULL or p >= 0 or (status == MQ_ENOTFOUND and taken == 0):  # no key: any partition, one row at a time
            if t.needs_key and (k == NULL or p < 0):
                raise keyless(t)
            at = sink.partition
            if rows.keys.kind != MQ_COLUMN_NULL and p < 0:
                some = count = 1
            taken = self.put_plain(t, sink, &rows, some, v, start, count, &status, spans)
        if status == MQ_OK or taken > 0:
            return taken  # what stopped it is met again, with fresh pointers, as the first row
        need = mq_rows_room(&rows, 0)
        if status == MQ_EFULL and 0 < need <= t.batch_max:
            self.make_way(t, t.sink(at), need)
            return 0
        raise t.refusal(MQ_ETOOBIG if need > t.batch_max else status, need, {"index": start, "sent": start})

    cdef Py_ssize_t put_plain(self, Topic t, Sink sink, mq_rows *rows, Py_ssize_t some, Cells *v, Py_ssize_t start,
                              Py_ssize_t count, mq_status *status, list spans) except -1:
        """The `some` rows that are there; of a list, more of its items, gathered on the way, up to count from start."""
        cdef Chunk chunk = sink.chunk
        cdef mq_chunk *c = t.open[sink.partition]
        cdef int32_t first
        cdef Py_ssize_t taken
        if c == NULL:
            status[0] = MQ_EFULL
            return 0
        if cells_bytes(v) < LEASE_BYTES or sink.owner == PyThread_get_thread_ident():
            first = mq_chunk_records(c)
            taken = <Py_ssize_t>mq_chunk_put_rows(c, rows, 0, <size_t>some, status)
            while status[0] == MQ_OK and taken < count:
                some = min(count - taken, GATHERED)
                # Into the same places: the rows there are copied.
                if not cells_from(v, start + taken, some, <const uint8_t **>rows.values.pointers,
                                  <int32_t *>rows.values.sizes, &rows.values):
                    break  # met again as the first row
                if rows.timestamps != NULL:
                    rows.timestamps += GATHERED
                taken += <Py_ssize_t>mq_chunk_put_rows(c, rows, 0, <size_t>some, status)
        else:
            with sink.lock:
                if t.open[sink.partition] != c or sink.chunk is not chunk:
                    status[0] = MQ_EFULL
                    return 0
                sink.owner, sink.leased, t.open[sink.partition] = PyThread_get_thread_ident(), True, NULL
                first = mq_chunk_records(c)
                with nogil:
                    taken = <Py_ssize_t>mq_chunk_put_rows(c, rows, 0, <size_t>some, status)
                sink.leased, t.open[sink.partition] = False, c
                sink.owner = 0
            if sink.queue:  # somebody closed a chunk meanwhile and left it to the lock's holder
                self._dispatch(sink)
        if taken > 0:
            spans.append((chunk, first, taken))
        return taken

    cdef Py_ssize_t put_keyed(self, Topic t, mq_rows *rows, Py_ssize_t count, int32_t *at, mq_status *status,
                              list spans) except -1:
        cdef PyObject *chunks[BLOCK]
        cdef int32_t firsts[BLOCK]
        cdef int32_t counts[BLOCK]
        cdef int32_t i, touched = 0
        cdef size_t taken
        for i in range(t.partitions):
            t.before[i] = mq_chunk_records(t.open[i]) if t.open[i] != NULL else 0
        taken = mq_chunks_put_keyed(t.open, t.partitions, t.consistent, rows, 0, <size_t>count, at, status)
        for i in range(t.partitions):  # owned references first: making a span may run Python code, and that may send
            if t.open[i] != NULL and mq_chunk_records(t.open[i]) > t.before[i]:
                chunks[touched] = <PyObject *>(<Sink>PyList_GET_ITEM(t.sinks, i)).chunk
                Py_INCREF(<object>chunks[touched])
                firsts[touched], counts[touched] = t.before[i], mq_chunk_records(t.open[i]) - t.before[i]
                touched += 1
        for i in range(touched):
            spans.append((<object>chunks[i], firsts[i], counts[i]))
            Py_DECREF(<object>chunks[i])
        return <Py_ssize_t>taken


cdef object keyless(Topic t):
    return InvalidRecordError("a compacted topic needs a key in each record", topic=t.name)


cdef inline int32_t length_of(Py_ssize_t size) noexcept:
    """A size as a record has it; one over int32 becomes the largest, which no limit lets through."""
    return <int32_t>size if size <= INT32_MAX else INT32_MAX
