# marks_c.pxd -- marks.h: declarations only.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from status cimport mq_error, mq_status

cdef extern from "mqcore/marks.h" nogil:
    const uint32_t MQ_MARKS_SLOTS
    ctypedef enum mq_marks_state:
        MQ_MARKS_OPEN
    ctypedef struct mq_marks_header:
        uint64_t nonce
        int64_t pid
        uint32_t state
        uint32_t used
    ctypedef struct mq_marks:
        mq_marks_header *header
    size_t mq_marks_bytes(uint32_t slots)
    mq_status mq_marks_attach(mq_marks *marks, void *page, size_t size, bint is_private, mq_error *err)
    void mq_marks_format(mq_marks *marks, const uint8_t *store_id, uint64_t nonce, int64_t pid)
    bint mq_marks_matches(const mq_marks *marks, const uint8_t *store_id)
    int64_t mq_marks_add(mq_marks *marks, const uint8_t *topic_id, int32_t partition)
    int64_t mq_marks_find(const mq_marks *marks, const uint8_t *topic_id, int32_t partition)
    void mq_marks_publish(mq_marks *marks, uint32_t slot, const int64_t *values)
    mq_status mq_marks_read(const mq_marks *marks, uint32_t slot, int64_t *values, mq_error *err)
    void mq_marks_end(mq_marks *marks, int state)
    void mq_marks_wake_all(const mq_marks *marks)
    uint32_t mq_marks_word(const mq_marks *marks, int64_t slot)
    int mq_marks_sleep(const mq_marks *marks, int64_t slot, uint32_t seen, int64_t deadline_ns)
