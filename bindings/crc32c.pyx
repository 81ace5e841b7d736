"""CRC-32C (Castagnoli) of bytes-like objects. See crc32c.pyi."""
from libc.stdint cimport uint32_t

from borrow cimport Borrowed, borrow, give_back
from crc32c_core cimport mq_crc32c, mq_crc32c_active, mq_crc32c_name, mq_crc32c_usable, mq_crc32c_with

# Below this a checksum takes less time than handing the GIL over and getting it back.
cdef enum:
    GIL_BYTES = 65536


def crc32c(data, uint32_t crc=0, /) -> int:
    cdef Borrowed b
    borrow(data, &b)
    if b.size <= GIL_BYTES:
        crc = mq_crc32c(crc, b.bytes, b.size)
    else:
        with nogil:
            crc = mq_crc32c(crc, b.bytes, b.size)
    give_back(&b)
    return crc


def implementations() -> tuple:
    cdef int i = 0
    names = []
    while mq_crc32c_name(i) != NULL:
        if mq_crc32c_usable(i):
            names.append((<bytes>mq_crc32c_name(i)).decode())
        i += 1
    return tuple(names)


def active() -> str:
    return (<bytes>mq_crc32c_name(mq_crc32c_active())).decode()


def crc32c_with(str implementation, data, uint32_t crc=0, /) -> int:
    cdef Borrowed b
    cdef int i = 0
    wanted = implementation.encode()
    while mq_crc32c_name(i) != NULL:
        if <bytes>mq_crc32c_name(i) == wanted and mq_crc32c_usable(i):
            borrow(data, &b)
            with nogil:
                crc = mq_crc32c_with(i, crc, b.bytes, b.size)
            give_back(&b)
            return crc
        i += 1
    raise ValueError(f"no usable implementation {implementation!r}: {', '.join(implementations())}")
