# cells.pxd -- cells of Python's arrays for the core: Arrow arrays, 2-D bytes, lists. No object per value, no copy.
# Memory: a column points into its source; whoever filled it keeps the source (capsules, buffer) as long as the column.
from cpython.buffer cimport PyBUF_FORMAT, PyBUF_SIMPLE, PyBUF_STRIDED_RO, Py_buffer, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_ITEM
from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_GetPointer
from cpython.sequence cimport PySequence_Fast_ITEMS
from libc.stdint cimport INT32_MAX, int32_t, int64_t, uint8_t
from libc.stdlib cimport atol

from batch_build cimport (
    MQ_COLUMN_NULL, MQ_COLUMN_OFFSETS32, MQ_COLUMN_OFFSETS64, MQ_COLUMN_POINTERS, MQ_COLUMN_RANGES, MQ_COLUMN_ROWS, mq_column,
)

cdef extern from *:
    """
    #include <stdint.h>
    #ifndef ARROW_C_DATA_INTERFACE
    #define ARROW_C_DATA_INTERFACE /* Apache Arrow, "The Arrow C data interface": a stable ABI, to be copied */
    struct ArrowSchema {
        const char *format, *name, *metadata;
        int64_t flags, n_children;
        struct ArrowSchema **children, *dictionary;
        void (*release)(struct ArrowSchema *);
        void *private_data;
    };
    struct ArrowArray {
        int64_t length, null_count, offset, n_buffers, n_children;
        const void **buffers;
        struct ArrowArray **children, *dictionary;
        void (*release)(struct ArrowArray *);
        void *private_data;
    };
    #endif
    """
    ctypedef struct ArrowSchema "struct ArrowSchema":
        const char *format
        ArrowSchema *dictionary
    ctypedef struct ArrowArray "struct ArrowArray":
        int64_t length
        int64_t null_count
        int64_t offset
        int64_t n_buffers
        const void **buffers


cdef enum:
    GATHERED = 32  # items of a list that are pointed at before they are copied
    LEAD = 16  # items by which fetching is ahead of pointing: then headers too are there when they are read


# A column of send_many, handed from module to module as PyCapsule("mqcore.cells"): an array (items NULL, c points into
# it), or a list of bytes and None, gathered block by block. Its owner is a mqcore._native.inputs.Column.
ctypedef struct Cells:
    mq_column c
    Py_ssize_t count
    PyObject *items


cdef inline Py_ssize_t arrow_column(object capsules, mq_column *c) except -1:
    """Fill c from what `__arrow_c_array__()` gave; return the number of cells. The caller keeps the capsules."""
    cdef ArrowSchema *schema = <ArrowSchema *>PyCapsule_GetPointer(capsules[0], b"arrow_schema")
    cdef ArrowArray *array = <ArrowArray *>PyCapsule_GetPointer(capsules[1], b"arrow_array")
    cdef char kind = schema.format[0]
    if schema.dictionary != NULL or kind not in (b"z", b"Z", b"u", b"U", b"w") or (kind != b"w" and schema.format[1]):
        raise TypeError(
            f"Arrow type {(<bytes>schema.format).decode()!r} has no plain bytes: cast to binary, large_binary or "
            "fixed-size binary")
    c.kind = MQ_COLUMN_NULL
    if array.length == 0:
        return 0
    if array.n_buffers < (2 if kind == b"w" else 3):
        raise ValueError("a malformed Arrow array: buffers are missing")
    if array.null_count != 0 and array.buffers[0] != NULL:
        c.valid = <const uint8_t *>array.buffers[0]
        c.valid_start = <size_t>array.offset
    if kind == b"w":
        c.kind = MQ_COLUMN_ROWS
        c.width = <int32_t>atol(schema.format + 2)
        c.stride = c.width
        c.base = <const uint8_t *>array.buffers[1] + array.offset * c.width
    elif kind == b"z" or kind == b"u":
        c.kind = MQ_COLUMN_OFFSETS32
        c.offsets32 = <const int32_t *>array.buffers[1] + array.offset
        c.base = <const uint8_t *>array.buffers[2]
    else:
        c.kind = MQ_COLUMN_OFFSETS64
        c.offsets64 = <const int64_t *>array.buffers[1] + array.offset
        c.base = <const uint8_t *>array.buffers[2]
    return array.length


cdef inline Py_ssize_t rows_column(object source, Py_buffer *view, mq_column *c) except -1:
    """Fill c from a 2-D array of bytes; return the number of rows. PyBuffer_Release(view) is the caller's."""
    PyObject_GetBuffer(source, view, PyBUF_STRIDED_RO | PyBUF_FORMAT)
    try:
        if view.ndim != 2 or view.itemsize != 1:
            raise TypeError(
                f"values of {view.ndim} dimension(s) and {view.itemsize} byte(s) an item: give 2-D uint8 (one row a "
                "value), a list of bytes, or an Arrow binary array")
        if view.shape[1] > INT32_MAX or (view.shape[1] > 1 and view.strides[1] != 1):
            raise ValueError("the bytes of a row do not lie together: pass numpy.ascontiguousarray(values)")
    except BaseException:
        PyBuffer_Release(view)
        raise
    c.kind = MQ_COLUMN_ROWS
    c.base = <const uint8_t *>view.buf
    c.stride = view.strides[0]
    c.width = <int32_t>view.shape[1]
    return view.shape[0]


cdef inline const void *memory_of(object array) except NULL:
    """Where a contiguous array lies. It stays there as long as the array lives, for what is read-only and never resized."""
    cdef Py_buffer view
    PyObject_GetBuffer(array, &view, PyBUF_SIMPLE)
    cdef const void *at = view.buf
    PyBuffer_Release(&view)
    return at


cdef inline Py_ssize_t ranges_column(tuple arrays, mq_column *c) except -1:
    """Fill c from what `Values.to_numpy()` gave, whose ranges were checked and cannot change; return the number of cells.
    The caller keeps the arrays. A column of nulls only is one without cells to look at."""
    cdef Py_ssize_t i, count = len(arrays[1])
    c.kind = MQ_COLUMN_NULL
    if count == 0:
        return 0
    c.base = <const uint8_t *>memory_of(arrays[0])
    c.offsets64 = <const int64_t *>memory_of(arrays[1])
    c.sizes = <const int32_t *>memory_of(arrays[2])
    for i in range(count):
        if c.sizes[i] >= 0:
            c.kind = MQ_COLUMN_RANGES
            break
    return count


cdef inline bint gather(list items, Py_ssize_t start, Py_ssize_t count, const uint8_t **pointers,
                        int32_t *sizes) noexcept:
    """Point at items start .. start + count, each bytes or None; False where one is something else.

    start + count <= len(items). The pointers are borrowed: good until Python code runs or the GIL is released.
    """
    cdef Py_ssize_t i, size
    cdef PyObject *item
    for i in range(count):
        item = PyList_GET_ITEM(items, start + i)
        if PyBytes_CheckExact(<object>item):
            size = PyBytes_GET_SIZE(<object>item)
            pointers[i] = <const uint8_t *>PyBytes_AS_STRING(<object>item)
            sizes[i] = <int32_t>size if size <= INT32_MAX else INT32_MAX  # far over any batch: refused by its size
        elif <object>item is None:
            pointers[i] = NULL
            sizes[i] = -1
        else:
            return False
    return True


cdef inline mq_column column_from(const mq_column *c, Py_ssize_t start) noexcept:
    """The same cells, counted from `start`."""
    cdef mq_column moved = c[0]
    moved.valid_start += <size_t>start
    if c.kind == MQ_COLUMN_ROWS:
        moved.base = c.base + start * c.stride
    elif c.kind == MQ_COLUMN_OFFSETS32:
        moved.offsets32 = c.offsets32 + start
    elif c.kind == MQ_COLUMN_OFFSETS64:
        moved.offsets64 = c.offsets64 + start
    elif c.kind == MQ_COLUMN_RANGES:
        moved.offsets64 = c.offsets64 + start
        moved.sizes = c.sizes + start
    return moved


cdef inline bint cells_from(const Cells *cells, Py_ssize_t start, Py_ssize_t count, const uint8_t **pointers,
                            int32_t *sizes, mq_column *c) noexcept:
    """Fill c with count cells from start on; a list's by pointers and sizes (count places each), see gather.

    False: the list shrank, or has items that are no bytes yet (Column._plain).
    """
    if cells.items == NULL:
        c[0] = column_from(&cells.c, start)
        return True
    if start + count > len(<list>cells.items) or not gather(<list>cells.items, start, count, pointers, sizes):
        return False
    c[0] = cells.c
    c.pointers = pointers
    c.sizes = sizes
    # A list's objects lie anywhere: those of the next block are fetched while this one is copied.
    cdef Py_ssize_t left = len(<list>cells.items) - start - count - LEAD
    c.ahead = <const void *const *>PySequence_Fast_ITEMS(<list>cells.items) + start + count + LEAD
    c.ahead_count = <size_t>min(count, max(left, 0))
    return True


cdef inline Py_ssize_t cells_bytes(const Cells *cells) noexcept:
    """About how many bytes an array's cells have; 0 for a list (its cells are not looked at ahead)."""
    cdef Py_ssize_t n = cells.count
    if cells.items != NULL or n == 0:
        return 0
    if cells.c.kind == MQ_COLUMN_ROWS:
        return n * cells.c.width
    if cells.c.kind == MQ_COLUMN_OFFSETS32:
        return cells.c.offsets32[n] - cells.c.offsets32[0]
    if cells.c.kind == MQ_COLUMN_RANGES:
        return <Py_ssize_t>(cells.c.offsets64[n - 1] - cells.c.offsets64[0])
    if cells.c.kind == MQ_COLUMN_NULL:
        return 0
    return <Py_ssize_t>(cells.c.offsets64[n] - cells.c.offsets64[0])
