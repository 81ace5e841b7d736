"""Many values as one argument: the cells of an Arrow array, of 2-D bytes, or of a list, for send_many. See inputs.pyi.

Invariant: a Column keeps its source (and a list's items) alive and, of arrays, in place; it copies no cell that is
bytes. What the caller changes in an array meanwhile may be sent in part; it never moves a length (read once).
"""
cimport cython
from cpython.buffer cimport PyBuffer_Release
from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_New

from batch_build cimport MQ_COLUMN_POINTERS
from borrow cimport HeldView
from cells cimport Cells, arrow_column, ranges_column, rows_column

import sysconfig

from mqcore._native.columns import Values

cdef bint FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


@cython.final
cdef class Column:
    """The cells of one argument of send_many."""
    cdef Cells cells
    cdef object source
    cdef list items
    cdef HeldView view
    cdef bint viewed

    def __cinit__(self, source not None):
        self.cells.c.kind = MQ_COLUMN_POINTERS
        if type(source) is list:  # first: to ask a list for what it has not costs as much as all of this
            # With a GIL a list is read in place: no other thread runs between reading an item and copying its bytes.
            self.items = list(source) if FREE_THREADED else source
        elif isinstance(source, (str, bytes, bytearray)):
            raise TypeError(f"one {type(source).__name__} where many values belong: use send, or a list")
        elif type(source) is Values:
            self.source = source.to_numpy()
            self.cells.count = ranges_column(self.source, &self.cells.c)
        elif hasattr(source, "__arrow_c_array__"):
            self.source = source.__arrow_c_array__()
            self.cells.count = arrow_column(self.source, &self.cells.c)
        elif hasattr(source, "__array_interface__") or isinstance(source, memoryview):
            self.cells.count = rows_column(source, &self.view.buffer, &self.cells.c)
            self.viewed = True
        else:
            self.items = list(source)
        if self.items is not None:
            self.cells.items = <PyObject *>self.items
            self.cells.count = len(self.items)

    def __dealloc__(self):
        if self.viewed:
            PyBuffer_Release(&self.view.buffer)

    def __len__(self):
        return self.cells.count

    def _handle(self):
        return PyCapsule_New(&self.cells, b"mqcore.cells", NULL)

    def _plain(self):
        """Make bytes of every item that is something else (bytearray, memoryview, ...). Raises TypeError, ValueError."""
        if len(self.items) < self.cells.count:
            raise ValueError("a list was changed while it was sent")
        # bytes(memoryview(..)), not bytes(..): that would make n zeros of a number n.
        self.items = [item if item is None or type(item) is bytes else bytes(memoryview(item)) for item in self.items]
        self.cells.items = <PyObject *>self.items  # of them as many as there were first: keys and times are as many
