# value_bytes.pxd -- bytes objects of values, and those that nobody kept used again.
#
# Who walks over values drops most of them at once: allocating and freeing such an object costs more than filling it. An
# iterator keeps the last two that it handed out; one that nobody else refers to any more, and that has the right size,
# takes the next value (as zip() does with its tuple). Whoever kept it, in whatever form, holds a reference, and then it is
# left alone. Without the GIL a count of references says less, so there each value is a new object.
from libc.stdint cimport int64_t, uint8_t

cdef extern from *:
    """
    #include <string.h>
    enum { MQ_SPARE_BYTES_MIN = 2, MQ_SPARE_BYTES_MAX = 512 }; /* smaller ones are shared by all; larger ones pin memory */

    static inline PyObject *mq_bytes_again(PyObject **spare, const uint8_t *from, Py_ssize_t size)
    {
    #ifndef Py_GIL_DISABLED
        PyObject *old = *spare;
        if (old != NULL && Py_REFCNT(old) == 1 && PyBytes_GET_SIZE(old) == size) {
            memcpy(PyBytes_AS_STRING(old), from, (size_t)size);
    #if defined(__GNUC__)
    #pragma GCC diagnostic push
    #pragma GCC diagnostic ignored "-Wdeprecated-declarations" /* the cached hash: a field that only CPython may rely on */
    #endif
            ((PyBytesObject *)old)->ob_shash = -1;
    #if defined(__GNUC__)
    #pragma GCC diagnostic pop
    #endif
            Py_INCREF(old);
            return old;
        }
    #endif
        PyObject *made = PyBytes_FromStringAndSize((const char *)from, size);
    #ifndef Py_GIL_DISABLED
        if (made != NULL && size >= MQ_SPARE_BYTES_MIN && size <= MQ_SPARE_BYTES_MAX) {
            Py_INCREF(made);
            Py_XSETREF(*spare, made);
        }
    #else
        (void)spare;
    #endif
        return made;
    }
    static inline void mq_bytes_forget(PyObject **spare)
    {
        Py_CLEAR(spare[0]);
        Py_CLEAR(spare[1]);
    }
    """
    ctypedef struct PyObject
    object mq_bytes_again(PyObject **spare, const uint8_t *start, Py_ssize_t size)
    void mq_bytes_forget(PyObject **spare)


cdef inline object next_bytes(PyObject **spares, Py_ssize_t index, const uint8_t *bytes, int64_t start, int length):
    """The bytes of value `index`, None for null. spares: two, of which a `for` loop's variable still holds one."""
    return None if length < 0 else mq_bytes_again(&spares[index & 1], bytes + start, length)
