# producer_c.pxd -- mqcore/producer_state.h, producer_snapshot.h and control_marker.h, no more.
from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t

from io_c cimport mq_io
from segment_c cimport mq_producers, mq_txn_entry
from status cimport mq_error, mq_status

cdef extern from "mqcore/producer_state.h" nogil:
    ctypedef struct mq_producer_batch:
        int64_t last_offset
        int64_t timestamp
        int32_t last_sequence
        int32_t offset_delta
    ctypedef struct mq_producer:
        int64_t producer_id
        int64_t last_timestamp
        int64_t txn_first_offset
        int32_t coordinator_epoch
        int16_t epoch
        uint8_t batch_count
        mq_producer_batch *batches
    ctypedef enum mq_sequence_verdict:
        MQ_SEQUENCE_NONE
        MQ_SEQUENCE_NEW
        MQ_SEQUENCE_DUPLICATE
        MQ_SEQUENCE_OLD
        MQ_SEQUENCE_GAP
        MQ_SEQUENCE_STALE
        MQ_SEQUENCE_IN_TXN
        MQ_SEQUENCE_TOO_MANY_IDS
    ctypedef struct mq_sequence_answer:
        mq_sequence_verdict verdict
        bint transactional
        int16_t epoch
        int16_t known_epoch
        int32_t sequence
        int32_t expected
        int64_t producer_id
        int64_t base_offset
        int64_t next_offset
        int64_t timestamp
    mq_producers *mq_producers_new(uint32_t limit)
    void mq_producers_free(mq_producers *s)
    void mq_producers_set_limit(mq_producers *s, uint32_t limit)
    mq_status mq_producers_check(mq_producers *s, const uint8_t *bytes, size_t size, mq_sequence_answer *answer,
                                 mq_error *err)
    mq_status mq_producers_add(mq_producers *s, const uint8_t *bytes, size_t size, int64_t now_ms, mq_error *err)
    bint mq_producers_end_of(const mq_producers *s, int64_t producer_id, int64_t offset, mq_txn_entry *ended)
    mq_status mq_producers_fence(mq_producers *s, int64_t producer_id, int16_t epoch, int32_t coordinator_epoch,
                                 int64_t now_ms, mq_error *err)
    mq_status mq_producers_walk(mq_producers *s, mq_io *io, const char *path, uint64_t position, uint64_t end,
                                mq_error *err)
    int64_t mq_producers_stable_end(mq_producers *s, int64_t mark)
    bint mq_producers_unstable(const mq_producers *s)
    size_t mq_producers_expire(mq_producers *s, int64_t before_ms)
    int64_t mq_producers_next_offset(const mq_producers *s)
    void mq_producers_moved(mq_producers *s, int64_t next_offset)
    uint32_t mq_producers_count(const mq_producers *s)
    size_t mq_producers_bytes(const mq_producers *s)
    const mq_producer *mq_producers_find(const mq_producers *s, int64_t producer_id)
    const mq_producer *mq_producers_each(const mq_producers *s, const mq_producer *last)

cdef extern from "mqcore/producer_snapshot.h" nogil:
    mq_status mq_producers_encode(const mq_producers *s, int32_t leader_epoch, uint8_t **bytes, size_t *size,
                                  mq_error *err)
    mq_status mq_producers_decode(const uint8_t *bytes, size_t size, int64_t offset, uint32_t limit, mq_producers **s,
                                  int32_t *leader_epoch, mq_error *err)

cdef extern from "mqcore/control_marker.h" nogil:
    enum:
        MQ_MARKER_BYTES
    void mq_marker_build(uint8_t *bytes, int64_t producer_id, int16_t producer_epoch, bint commit,
                         int32_t coordinator_epoch, int64_t timestamp_ms)

cdef extern from "mqcore/alloc.h" nogil:
    void mq_free(void *block)
