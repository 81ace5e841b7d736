"""The queue of appenders that share the journal's rounds.

Invariants:
    1. One leader at a time: `_leading` is true from the moment a waiter takes or gets the lead until its round is over
       and, if others wait, the next one has it. Only the leader writes the journal.
    2. A ticket numbers each submission; a round takes all that are pending, so it ends with a ticket, and all up to
       `_completed` are durable.
    3. `_mutex` guards every field below it. No Python code runs while it is held, and it is never held across I/O.
    4. A round survives Ctrl-C: an interrupt that reaches Python code of the leader is kept until the round is over,
       and the round is run again (the same bytes at the same places), so no follower waits for a leader that is gone.
    5. A failed round is final: `_error` is set once, every waiter and every later caller gets an error.
    6. Whoever a round made durable is woken by the one before it in line, as soon as that one has the GIL, and the
       first by the leader: all at once would only queue up for the GIL. A waiter that has a verdict leaves only when
       it was woken, and runs no Python code between that and waking its heir.
"""
import time

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.exc cimport PyErr_CheckSignals, PyErr_WriteUnraisable
from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t
from libc.string cimport memcpy, memset

from borrow cimport HeldView
from journal_c cimport mq_journal_entry

cdef extern from "pythread.h" nogil:
    ctypedef void *PyThread_type_lock
    ctypedef long long PY_TIMEOUT_T
    ctypedef enum PyLockStatus:
        PY_LOCK_FAILURE
        PY_LOCK_ACQUIRED
        PY_LOCK_INTR
    PyThread_type_lock PyThread_allocate_lock()
    void PyThread_free_lock(PyThread_type_lock)
    int PyThread_acquire_lock(PyThread_type_lock, int wait)
    PyLockStatus PyThread_acquire_lock_timed(PyThread_type_lock, PY_TIMEOUT_T microseconds, int intr_flag)
    void PyThread_release_lock(PyThread_type_lock)

from mqcore.errors import InvariantError, StoreClosedError, TimeoutExceededError

cdef enum:
    WAITING = 0
    DURABLE = 1  # the ticket's round is done
    LEAD = 2     # run the next round: it holds the ticket
    FAILED = 3


cdef double GATHER_S = 0.001  # at most, however slow the disk
cdef double PATIENCE = 0.5


cdef class _Progress:
    """What is known of one target. running_*: as the running round took it."""

    cdef object target
    cdef uint8_t[16] topic_id
    cdef int32_t partition
    cdef int64_t submitted_next, running_next, durable_next
    cdef int64_t last_ticket, running_ticket
    cdef bint discarded


cdef class Submission:
    """Batches of one append on their way to the disk; holds their buffer until they are durable."""

    cdef readonly object target, segment, ordered
    cdef _Progress _progress
    cdef mq_journal_entry _entry
    cdef HeldView _view
    cdef bint _held

    @property
    def position(self):
        return self._entry.position

    @property
    def end_position(self):
        return self._entry.position + self._entry.size

    @property
    def next_offset(self):
        return self._entry.next_offset

    @property
    def size(self):
        return self._entry.size

    @property
    def discarded(self):
        return self._progress is not None and self._progress.discarded

    def _handle(self):
        return PyCapsule_New(&self._entry, "mqcore.journal_entry", NULL)

    cdef void _drop(self) noexcept:
        if self._held:
            self._held = False
            PyBuffer_Release(&self._view.buffer)

    def __dealloc__(self):
        self._drop()


cdef struct Waiter:
    PyThread_type_lock park  # held; released once by whoever sets the verdict
    int64_t ticket
    int verdict
    Waiter *previous
    Waiter *following
    Waiter *heir  # invariant 6


cdef class CommitQueue:
    """Appenders that wait for the disk: the first becomes the leader of a round, the others are in it or in the next."""

    cdef object _write_round, _final_error
    cdef cython.pymutex _mutex
    cdef dict _targets  # id(target) -> _Progress
    cdef list _pending
    cdef int64_t _pending_bytes, _ticket, _completed
    cdef bint _leading, _closed
    cdef object _error
    cdef Waiter *_first
    cdef Waiter *_last
    cdef PyThread_type_lock _gathered  # held; released once _expected submissions are pending, if _gathering
    cdef bint _gathering
    cdef Py_ssize_t _expected
    cdef double _took  # s, the last round; a leader gathers for PATIENCE of it at most

    def __cinit__(self, write_round, final_error):
        self._write_round, self._final_error = write_round, final_error
        self._targets, self._pending = {}, []
        self._gathered = PyThread_allocate_lock()
        if self._gathered == NULL:
            raise MemoryError("lock")
        PyThread_acquire_lock(self._gathered, 0)

    def __dealloc__(self):
        if self._gathered != NULL:
            PyThread_release_lock(self._gathered)
            PyThread_free_lock(self._gathered)

    @property
    def pending_bytes(self):
        return self._pending_bytes

    @property
    def error(self):
        return self._error

    # ---- submit ----

    cdef _Progress _progress_of(self, object target):
        cdef _Progress progress = self._targets.get(id(target))
        cdef bytes topic_id
        if progress is None:
            topic_id = target.topic_id.bytes
            if len(topic_id) != 16:
                raise InvariantError("a topic id is 16 bytes")
            progress = _Progress()
            progress.target = target
            memcpy(&progress.topic_id[0], <const uint8_t *>topic_id, 16)
            progress.partition = target.partition
            progress.submitted_next = progress.running_next = progress.durable_next = -1
            progress = self._targets.setdefault(id(target), progress)
        return progress

    cdef int _refuse(self) except -1:
        if self._error is not None:
            raise self._final_error(self._error)
        if self._closed:
            raise StoreClosedError("the store is closed")
        return 0

    def submit(self, target, segment, batches, int64_t position, int64_t base_offset, int64_t next_offset,
               int32_t leader_epoch, object ordered=False):
        cdef Submission s = Submission()
        cdef _Progress progress = self._progress_of(target)
        s.target, s.segment, s._progress, s.ordered = target, segment, progress, ordered
        PyObject_GetBuffer(batches, &s._view.buffer, PyBUF_SIMPLE)
        s._held = True
        if s._view.buffer.len == 0 or s._view.buffer.len > 0x7fffffff or next_offset <= base_offset:
            raise InvariantError("a submission is empty or too large", size=s._view.buffer.len, offset=base_offset)
        s._entry.topic_id = progress.topic_id
        s._entry.partition, s._entry.leader_epoch = progress.partition, leader_epoch
        s._entry.segment_base, s._entry.position = segment.base_offset, position
        s._entry.base_offset, s._entry.next_offset = base_offset, next_offset
        s._entry.bytes, s._entry.size = <const uint8_t *>s._view.buffer.buf, <uint32_t>s._view.buffer.len
        with self._mutex:
            refused = self._error is not None or self._closed
            if not refused:
                self._ticket += 1
                self._pending.append(s)
                self._pending_bytes += s._entry.size
                progress.submitted_next = next_offset
                progress.last_ticket = self._ticket
                if self._gathering and len(self._pending) >= self._expected:
                    self._gathering = False
                    PyThread_release_lock(self._gathered)
        if refused:
            self._refuse()
        return self._pending_bytes

    def mark(self):
        """A submission without data: the next round writes a record even if nothing else is there."""
        cdef Submission s = Submission()
        with self._mutex:
            self._ticket += 1
            self._pending.append(s)
            ticket = self._ticket
        return ticket

    def discard(self, target):
        cdef _Progress progress
        with self._mutex:
            progress = self._targets.pop(id(target), None)
            if progress is not None:
                progress.discarded = True

    # ---- wait ----

    def wait(self, target, int64_t next_offset, timeout_s=None):
        cdef _Progress progress = self._targets.get(id(target))
        cdef int64_t ticket = 0
        cdef bint unknown = progress is None
        if not unknown:
            with self._mutex:
                if progress.durable_next >= next_offset:
                    return
                if next_offset <= progress.running_next:
                    ticket = progress.running_ticket
                elif next_offset <= progress.submitted_next:
                    ticket = progress.last_ticket
                else:
                    unknown = True
        if unknown:
            self._refuse()
            raise InvariantError("waiting for an offset that was never submitted", offset=next_offset)
        self._wait(ticket, timeout_s)

    def wait_ticket(self, int64_t ticket, timeout_s=None):
        self._wait(ticket, timeout_s)

    def drain(self, timeout_s=None):
        self._wait(self._ticket, timeout_s)

    cdef int _wait(self, int64_t ticket, object timeout_s) except -1:
        cdef Waiter w
        cdef int verdict = WAITING
        memset(&w, 0, sizeof(w))
        w.ticket = ticket
        with self._mutex:
            if self._completed >= ticket:
                verdict = DURABLE
            elif self._error is not None:
                verdict = FAILED
            elif not self._leading:
                self._leading = True
                verdict = LEAD
            else:
                w.park = PyThread_allocate_lock()
                if w.park != NULL:
                    PyThread_acquire_lock(w.park, 0)
                    self._link(&w)
        if verdict == DURABLE:
            return 0
        if verdict == FAILED:
            raise self._final_error(self._error)
        if verdict == LEAD:
            return self._lead()
        if w.park == NULL:
            raise MemoryError("lock")
        return self._park(&w, timeout_s)

    cdef int _park(self, Waiter *w, object timeout_s) except -1:
        """Sleep until there is a verdict. A timeout or a signal takes w out, unless it just got the lead."""
        cdef PyLockStatus got
        cdef long long micros = -1
        cdef double deadline = 0 if timeout_s is None else time.monotonic() + <double>timeout_s
        cdef bint promised
        interrupt = None
        while True:
            if timeout_s is not None:
                micros = <long long>(min(max(deadline - time.monotonic(), 0.0), 1e9) * 1e6)
            with nogil:
                got = PyThread_acquire_lock_timed(w.park, micros, 1)
            if got == PY_LOCK_ACQUIRED:
                break
            if got == PY_LOCK_INTR:
                self._wake_heir(w)
                try:
                    PyErr_CheckSignals()
                except BaseException as error:
                    interrupt = error
                if interrupt is None:
                    continue
            with self._mutex:
                promised = w.verdict != WAITING
                if not promised:
                    self._unlink(w)
            if promised:
                with nogil:
                    PyThread_acquire_lock(w.park, 1)
            break
        self._wake_heir(w)
        PyThread_free_lock(w.park)
        if w.verdict == LEAD:
            self._lead()
        if interrupt is not None:
            raise interrupt
        if w.verdict == FAILED:
            raise self._final_error(self._error)
        if w.verdict == WAITING:
            raise TimeoutExceededError("not durable in time", hint="It may still become durable", timeout_s=timeout_s)
        return 0

    cdef void _link(self, Waiter *w) noexcept:
        w.previous = self._last
        if self._last != NULL:
            self._last.following = w
        else:
            self._first = w
        self._last = w

    cdef void _unlink(self, Waiter *w) noexcept:
        if w.previous != NULL:
            w.previous.following = w.following
        else:
            self._first = w.following
        if w.following != NULL:
            w.following.previous = w.previous
        else:
            self._last = w.previous

    cdef void _decide(self, Waiter *w, int verdict) noexcept:
        self._unlink(w)
        w.verdict = verdict
        PyThread_release_lock(w.park)  # w is gone after this

    cdef void _wake_heir(self, Waiter *w) noexcept:
        cdef Waiter *heir
        with self._mutex:
            heir, w.heir = w.heir, NULL
        if heir != NULL:
            PyThread_release_lock(heir.park)  # heir is gone after this

    # ---- lead ----

    cdef int _lead(self) except -1:
        """Run one round with everything that is pending. Called with `_leading` true, which it passes on."""
        cdef list round_, touched, fresh
        cdef int64_t end, total
        cdef Py_ssize_t count = 0
        cdef Submission s
        cdef _Progress progress
        cdef double began
        interrupt = failure = None
        self._gather()
        began = time.monotonic()
        with self._mutex:
            try:  # all memory first: a leader that fails in the middle would keep the lead, and everyone waiting
                touched, fresh = [None] * len(self._pending), []
            except BaseException:
                self._abdicate()
                raise
            round_, self._pending = self._pending, fresh
            total, self._pending_bytes = self._pending_bytes, 0
            end = self._ticket
            for s in round_:
                progress = s._progress
                if progress is None:
                    continue
                if progress.running_ticket != end:
                    progress.running_ticket = end
                    touched[count] = progress
                    count += 1
                progress.running_next = s._entry.next_offset
        while True:
            try:
                self._write_round(round_, total)
            except Exception as error:
                failure = error
            except BaseException as error:
                interrupt = error  # invariant 4
                continue
            break
        self._took = time.monotonic() - began
        if failure is None:
            interrupt = self._advance(touched, interrupt)
        self._finish(round_, touched, end, failure)
        if interrupt is not None:
            raise interrupt
        if failure is not None:
            raise self._final_error(failure)
        return 0

    cdef void _abdicate(self) noexcept:
        """Give the lead to the first waiter, without a round. The caller holds the mutex."""
        self._leading = self._first != NULL
        if self._leading:
            self._decide(self._first, LEAD)

    cdef void _gather(self) noexcept:
        """Those whom the last round woke are about to submit again: one round for all is cheaper than two. Never waits
        for more than there were, nor long; alone, never."""
        cdef long long micros = <long long>(min(self._took * PATIENCE, GATHER_S) * 1e6)
        cdef bint wait = False
        with self._mutex:
            if len(self._pending) < self._expected and micros > 0:
                self._gathering = wait = True
        if not wait:
            return
        with nogil:
            PyThread_acquire_lock_timed(self._gathered, micros, 0)
        with self._mutex:
            if not self._gathering:  # released, now or just after the wait: it is held again for the next one
                PyThread_acquire_lock(self._gathered, 0)
            self._gathering = False

    cdef object _advance(self, list touched, object interrupt):
        """Tell each target how far it is durable. Its own errors are not the round's: the bytes are safe."""
        cdef _Progress progress
        cdef int attempt
        for progress in touched:
            attempt = 0
            while progress is not None:  # None: the list is as long as the round, which may have fewer targets
                try:
                    progress.target.advance_durable(progress.running_next)
                except Exception:
                    attempt += 1  # memory may be there now; without the mark readers wait for the next round
                    if attempt < 3:
                        continue
                    PyErr_WriteUnraisable(progress.target)
                except BaseException as error:
                    interrupt = error
                    continue
                break
        return interrupt

    cdef int _finish(self, list round_, list touched, int64_t end, object failure) except -1:
        """Publish the round's outcome, hand the lead on, wake everyone in it."""
        cdef _Progress progress
        cdef Submission s
        cdef Waiter *w
        cdef Waiter *following
        cdef Waiter *heirs = NULL
        cdef Waiter *youngest = NULL
        cdef Py_ssize_t woken = 1
        for s in round_:
            s._drop()
        with self._mutex:
            if failure is not None:
                self._error = failure
                round_, self._pending = self._pending, []  # dropped after the mutex
                self._pending_bytes = 0
            else:
                self._completed = end
                for progress in touched:
                    if progress is not None:
                        progress.durable_next = progress.running_next
            self._leading = False
            w = self._first
            while w != NULL:  # first the next leader: the disk is idle until it is awake
                following = w.following
                if failure is None and w.ticket > end:
                    self._leading = True
                    self._decide(w, LEAD)
                    break
                w = following
            w = self._first
            while w != NULL:
                following = w.following
                if failure is not None:
                    self._decide(w, FAILED)
                elif w.ticket <= end:
                    self._unlink(w)
                    w.verdict = DURABLE
                    if heirs == NULL:
                        heirs = w
                    else:
                        youngest.heir = w
                    youngest = w
                    woken += 1
                w = following
            self._expected = woken + len(self._pending)
        if heirs != NULL:
            PyThread_release_lock(heirs.park)
        return 0

    def fail(self, error):
        """Outside a round something final happened (a checkpoint's fsync): as if a round had failed."""
        with self._mutex:
            self._error = error if self._error is None else self._error

    def close(self):
        with self._mutex:
            self._closed = True
