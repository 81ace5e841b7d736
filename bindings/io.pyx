"""The seam between mqcore and files: every write to a store's files goes through an `Io`.

Invariants:
    1. The C table behind an Io lives as long as the Io: whoever takes `_handle()` keeps the Io alive.
    2. A name that is there already, or missing, is the caller's news: FileExistsError, FileNotFoundError and their
       kin pass through as OSError. Every other failure is a StorageError or a DiskFullError.
"""
import errno as _errno
import os

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport uint64_t

from io_c cimport *
from status cimport MQ_EIO, MQ_OK, mq_error, mq_status, raise_status

cdef extern from "<fcntl.h>":
    const int O_RDONLY, O_RDWR, O_WRONLY, O_CREAT, O_DIRECTORY

cdef extern from "mqcore/status.h" nogil:
    mq_status mq_fail(mq_error *err, mq_status status, const char *path, uint64_t position, const char *what)

cdef extern from "mqcore/alloc.h" nogil:
    void *mq_alloc(size_t size)
    void mq_free(void *block)

_NAMES = frozenset({_errno.ENOENT, _errno.EEXIST, _errno.ENOTEMPTY, _errno.ENOTDIR, _errno.EISDIR})


cdef bytes _path(object path):
    """The path as the file system has it; a NUL in it would silently cut it."""
    encoded = os.fsencode(path)
    if b"\0" in encoded:
        raise ValueError("a path holds a NUL byte")
    return encoded


cdef int _raise(mq_status status, mq_error *err) except -1:
    if status == MQ_EIO and err.sys_errno in _NAMES:
        raise OSError(err.sys_errno, os.strerror(err.sys_errno), os.fsdecode(<bytes>err.path))
    return raise_status(status, err)


cdef class Io:
    """The machine's own calls. Safe to share between threads; holds no state."""

    cdef mq_io *_io
    cdef object __weakref__

    def __cinit__(self):
        self._io = mq_io_posix()

    def _handle(self):
        """Capsule "mqcore.io" of the C table; valid while this object lives."""
        return PyCapsule_New(self._io, "mqcore.io", NULL)

    def write_atomic(self, path, data, int mode=0o600, *, bint durable=True):
        cdef bytes name = _path(path)
        cdef const char *c_name = name
        cdef Py_buffer view
        cdef mq_error err
        cdef mq_status status
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            with nogil:
                status = mq_io_write_atomic(self._io, c_name, view.buf, <size_t>view.len, <mode_t>mode,
                                             durable, &err)
        finally:
            PyBuffer_Release(&view)
        if status != MQ_OK:
            _raise(status, &err)

    def read_file(self, path, limit=64 << 20):
        from mqcore.errors import RecordTooLargeError
        cdef bytes name = _path(path)
        cdef const char *c_name = name
        cdef mq_error err
        cdef mq_status status
        cdef int fd = -1
        cdef uint64_t size = 0
        cdef size_t got = 0
        cdef char *into
        cdef bytes data
        with nogil:
            status = mq_io_open(self._io, c_name, O_RDONLY, 0, &fd, &err)
            if status == MQ_OK:
                status = mq_io_size(fd, &size, c_name, &err)
        try:
            if status == MQ_OK:
                if size > <uint64_t>limit:
                    raise RecordTooLargeError("the file is over the limit", path=path, size=size, limit=limit)
                data = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>size)
                into = PyBytes_AS_STRING(data)
                with nogil:
                    status = mq_io_read_some(self._io, fd, into, <size_t>size, 0, &got, c_name, &err)
        finally:
            mq_io_close(self._io, fd)
        if status != MQ_OK:
            _raise(status, &err)
        return data if got == size else data[:got]

    def write_at(self, path, data, position, int mode=0o600):
        cdef bytes name = _path(path)
        cdef const char *c_name = name
        cdef uint64_t c_position = position
        cdef Py_buffer view
        cdef mq_error err
        cdef mq_status status
        cdef int fd = -1
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            with nogil:
                status = mq_io_open(self._io, c_name, O_WRONLY | O_CREAT, <mode_t>mode, &fd, &err)
                if status == MQ_OK:
                    status = mq_io_write_all(self._io, fd, view.buf, <size_t>view.len, c_position, c_name, &err)
                    mq_io_close(self._io, fd)
        finally:
            PyBuffer_Release(&view)
        if status != MQ_OK:
            _raise(status, &err)

    def mkdir(self, path, int mode=0o700):
        cdef bytes name = _path(path)
        cdef const char *c_name = name
        cdef mq_error err
        cdef int result
        with nogil:
            result = self._io.mkdir(self._io, c_name, <mode_t>mode)
            if result != 0:
                mq_fail(&err, MQ_EIO, c_name, 0, "mkdir")
        if result != 0:
            _raise(MQ_EIO, &err)

    def rename(self, old, new):
        cdef bytes from_name = _path(old), to_name = _path(new)
        cdef const char *c_from = from_name
        cdef const char *c_to = to_name
        cdef mq_error err
        cdef int result
        with nogil:
            result = self._io.rename(self._io, c_from, c_to)
            if result != 0:
                mq_fail(&err, MQ_EIO, c_from, 0, "rename")
        if result != 0:
            _raise(MQ_EIO, &err)

    def link(self, old, new):
        cdef bytes from_name = _path(old), to_name = _path(new)
        cdef const char *c_from = from_name
        cdef const char *c_to = to_name
        cdef mq_error err
        cdef int result
        with nogil:
            result = self._io.link(self._io, c_from, c_to)
            if result != 0:
                mq_fail(&err, MQ_EIO, c_to, 0, "link")
        if result != 0:
            _raise(MQ_EIO, &err)

    def unlink(self, path):
        cdef bytes name = _path(path)
        cdef const char *c_name = name
        cdef mq_error err
        cdef int result
        with nogil:
            result = self._io.unlink(self._io, c_name)
            if result != 0:
                mq_fail(&err, MQ_EIO, c_name, 0, "unlink")
        if result != 0:
            _raise(MQ_EIO, &err)

    def rmdir(self, path):
        cdef bytes name = _path(path)
        cdef const char *c_name = name
        cdef mq_error err
        cdef int result
        with nogil:
            result = self._io.rmdir(self._io, c_name)
            if result != 0:
                mq_fail(&err, MQ_EIO, c_name, 0, "rmdir")
        if result != 0:
            _raise(MQ_EIO, &err)

    def truncate(self, path, size):
        cdef bytes name = _path(path)
        cdef const char *c_name = name
        cdef uint64_t c_size = size
        cdef mq_error err
        cdef mq_status status
        cdef int fd = -1
        with nogil:
            status = mq_io_open(self._io, c_name, O_RDWR, 0, &fd, &err)
            if status == MQ_OK:
                status = mq_io_resize(self._io, fd, c_size, c_name, &err)
            if status == MQ_OK and self._io.fdatasync(self._io, fd) != 0:
                status = mq_fail(&err, MQ_EIO, c_name, c_size, "fdatasync")
            mq_io_close(self._io, fd)
        if status != MQ_OK:
            _raise(status, &err)

    def sync_file(self, path):
        self._sync(path, O_RDONLY, False)

    def sync_dir(self, path):
        self._sync(path, O_RDONLY | O_DIRECTORY, False)

    def sync_filesystem(self, path):
        self._sync(path, O_RDONLY, True)

    cdef int _sync(self, object path, int flags, bint whole) except -1:
        cdef bytes name = _path(path)
        cdef const char *c_name = name
        cdef mq_error err
        cdef mq_status status
        cdef int fd = -1
        with nogil:
            status = mq_io_open(self._io, c_name, flags, 0, &fd, &err)
            if status == MQ_OK:
                if (self._io.syncfs(self._io, fd) if whole else self._io.fsync(self._io, fd)) != 0:
                    status = mq_fail(&err, MQ_EIO, c_name, 0, "syncfs" if whole else "fsync")
                mq_io_close(self._io, fd)
        if status != MQ_OK:
            _raise(status, &err)
        return 0


cdef class FaultyIo(Io):
    """An Io that counts its calls and spoils the chosen ones: for tests of what storage does then."""

    cdef mq_io_fault *_fault

    def __cinit__(self):
        self._fault = <mq_io_fault *>mq_alloc(sizeof(mq_io_fault))
        if self._fault == NULL:
            raise MemoryError()
        mq_io_fault_init(self._fault, mq_io_posix())
        self._io = &self._fault.io

    def __dealloc__(self):
        mq_free(self._fault)

    @property
    def calls(self):
        return mq_io_fault_calls(self._fault)

    @property
    def fired(self):
        return self._fault.fired

    def arm(self, long long at, object errno, *, object short=-1, bint sticky=False, str only="",
            double delay_s=0.0):
        cdef unsigned mask = 0
        cdef int call
        if at < 1:
            raise ValueError("at counts from 1: the next call")
        for name in filter(None, (part.strip() for part in only.split(","))):
            call = 0
            while mq_io_fault_name(call) != NULL and (<bytes>mq_io_fault_name(call)).decode() != name:
                call += 1
            if mq_io_fault_name(call) == NULL:
                raise ValueError(f"no call is named {name!r}")
            mask |= 1u << call
        mq_io_fault_arm(self._fault, at, <int>errno, <long long>short, sticky, mask, <unsigned>(delay_s * 1e6))

    def disarm(self):
        mq_io_fault_disarm(self._fault)
