from libc.stdint cimport uint32_t

cdef extern from "mqcore/crc32c.h" nogil:
    uint32_t mq_crc32c(uint32_t crc, const void *bytes, size_t size)
    const char *mq_crc32c_name(int implementation)
    int mq_crc32c_usable(int implementation)
    int mq_crc32c_active()
    uint32_t mq_crc32c_with(int implementation, uint32_t crc, const void *bytes, size_t size)
