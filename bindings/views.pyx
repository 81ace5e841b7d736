"""Reads of a state in a transaction: a dict lookup or two, or one of LMDB, without a Python frame. See views.pyi."""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItemWithError
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy

from crc32c_core cimport mq_crc32c

cdef enum:
    CHECKSUM_BYTES = 4

cdef object MISSING = object()


cdef class Clock:
    """When a state was changed: read on every look, so it is no Python attribute."""

    cdef public long long stamp
    cdef public Py_ssize_t in_progress

    def __init__(self):
        self.stamp = 0
        self.in_progress = 0


cdef class Front:
    """What readers of a view see of it in memory."""

    cdef public object layers

    def __init__(self):
        self.layers = None


cdef inline object looked_up(dict changes, bytes key):
    """The value of a key in a dict of changes, MISSING without one."""
    cdef PyObject *found = PyDict_GetItemWithError(changes, key)
    return <object>found if found != NULL else MISSING


cdef class TransactedMap:
    cdef public dict changes
    cdef public set keys_read
    cdef public long long stamp
    cdef public bint over
    cdef Clock clock
    cdef object view
    cdef Front front
    cdef Py_ssize_t key_bytes_max, pair_bytes_max
    cdef object layers  # of the view, when `stored` was made
    cdef object stored  # key as stored -> value as stored, or None
    cdef object reader
    cdef bytes head

    def __init__(self, view, Clock clock not None, Py_ssize_t key_bytes_max, Py_ssize_t pair_bytes_max):
        self.view = view
        self.front = view.front
        self.clock = clock
        self.key_bytes_max = key_bytes_max
        self.pair_bytes_max = pair_bytes_max
        self.changes = {}
        self.keys_read = set()
        self.stamp = 0
        self.over = False
        self.layers = self.stored = self.reader = None
        self.head = b""

    cdef object look(self, key):
        """The value, None without one."""
        cdef object layers, found
        if self.over or not PyBytes_CheckExact(key) or PyBytes_GET_SIZE(key) > self.key_bytes_max:
            return self._look_again(key)
        found = looked_up(self.changes, <bytes>key)
        if found is not MISSING:
            return found
        if self.clock.in_progress or self.clock.stamp != self.stamp:
            return self._look_again(key)
        layers = self.front.layers
        if layers is None:
            return self._look_again(key)
        found = looked_up(<dict>(<tuple>layers)[0], <bytes>key)
        if found is MISSING:
            found = looked_up(<dict>(<tuple>layers)[2], <bytes>key)
            if found is MISSING:
                if layers is not self.layers:
                    self.renew(layers)
                found = self.fetch(<bytes>key)
                # A rebuild empties the table, and shows other layers when it is done.
                if found is MISSING or self.front.layers is not layers:
                    return self._look_again(key)
        if self.clock.stamp != self.stamp:
            return self._look_again(key)
        self.keys_read.add(key)
        return found

    cdef int renew(self, layers) except -1:
        """Read what is stored as of now, or later than these layers were made: they lie over it either way."""
        self.let_go()
        self.reader, self.stored, self.head = self.view.stored_reader()
        self.layers = layers
        return 0

    cdef object fetch(self, bytes key):
        """What is stored; MISSING if its checksum fails."""
        cdef Py_ssize_t head = PyBytes_GET_SIZE(self.head), size = PyBytes_GET_SIZE(key), found_size
        cdef uint8_t *data
        cdef uint32_t crc
        if not head:
            return self.stored(key)
        cdef bytes stored_key = PyBytes_FromStringAndSize(NULL, head + size)
        memcpy(PyBytes_AS_STRING(stored_key), PyBytes_AS_STRING(self.head), head)
        memcpy(PyBytes_AS_STRING(stored_key) + head, PyBytes_AS_STRING(key), size)
        found = self.stored(stored_key)
        if found is None:
            return None
        found_size = PyBytes_GET_SIZE(<bytes?>found) - CHECKSUM_BYTES
        if found_size < 0:
            return MISSING
        data = <uint8_t *>PyBytes_AS_STRING(found)
        crc = mq_crc32c(0, <uint8_t *>PyBytes_AS_STRING(stored_key), head + size)
        crc = mq_crc32c(crc, data + CHECKSUM_BYTES, found_size)
        if crc != (<uint32_t>data[0] << 24 | <uint32_t>data[1] << 16 | <uint32_t>data[2] << 8 | data[3]):
            return MISSING
        return PyBytes_FromStringAndSize(<char *>data + CHECKSUM_BYTES, found_size)

    cdef int let_go(self) except -1:
        reader = self.reader
        self.layers = self.stored = self.reader = None
        if reader is not None:
            reader.close()
        return 0

    def get(self, key, default=None):
        value = self.look(key)
        return default if value is None else value

    def __getitem__(self, key):
        value = self.look(key)
        if value is None:
            raise KeyError(key)
        return value

    def __contains__(self, key):
        return self.look(key) is not None

    def __setitem__(self, key, value):
        if (
            self.over
            or not PyBytes_CheckExact(key)
            or not PyBytes_CheckExact(value)
            or PyBytes_GET_SIZE(key) > self.key_bytes_max
            or PyBytes_GET_SIZE(key) + PyBytes_GET_SIZE(value) > self.pair_bytes_max
        ):
            self._set_checked(key, value)
        else:
            self.changes[key] = value

    def __delitem__(self, key):
        if self.look(key) is None:
            raise KeyError(key)
        self.changes[bytes(key)] = None

    def finish(self):
        self.over = True
        self.changes = {}
        self.keys_read = set()
        self.let_go()

    def _look_again(self, key):
        raise NotImplementedError

    def _set_checked(self, key, value):
        raise NotImplementedError
