from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from status cimport mq_error, mq_status

cdef extern from "mqcore/compact.h" nogil:
    ctypedef struct mq_batch:
        int64_t base_offset
        uint32_t size
    ctypedef struct mq_keymap:
        pass
    mq_keymap *mq_keymap_new(size_t max_bytes, uint64_t seed, mq_error *err)
    void mq_keymap_free(mq_keymap *m)
    mq_status mq_keymap_put(mq_keymap *m, const uint8_t *key, size_t size, int64_t offset, mq_error *err)
    int64_t mq_keymap_get(const mq_keymap *m, const uint8_t *key, size_t size)
    uint64_t mq_keymap_count(const mq_keymap *m)
    size_t mq_keymap_bytes(const mq_keymap *m)
    ctypedef struct mq_compact_rules:
        const mq_keymap *map
        int64_t end_offset
        int64_t round_end
        int64_t now_ms
        int64_t delete_retention_ms
        const int64_t *last_offsets
        size_t last_count
    ctypedef struct mq_compact_out:
        uint8_t *bytes
        size_t size
        size_t room
    ctypedef struct mq_compact_stats:
        uint64_t batches_read
        uint64_t batches_written
        uint64_t records_read
        uint64_t records_written
    enum:
        MQ_COMPACT_DISCARD
        MQ_COMPACT_KEEP
        MQ_COMPACT_HORIZON
        MQ_COMPACT_MAY_EMPTY
    ctypedef enum mq_compact_outcome:
        MQ_COMPACT_DROPPED
        MQ_COMPACT_COPIED
        MQ_COMPACT_REWRITTEN
        MQ_COMPACT_EMPTIED
    mq_status mq_compact_index_batch(mq_keymap *m, const uint8_t *batch, size_t size, int64_t start_offset,
                                     mq_error *err)
    mq_status mq_compact_index_run(mq_keymap *m, const uint8_t *bytes, size_t size, size_t *position,
                                   int64_t start_offset, int64_t *next_offset, mq_error *err)
    mq_status mq_compact_batch(const mq_compact_rules *rules, const uint8_t *batch, size_t size, unsigned flags,
                               mq_compact_out *out, mq_compact_stats *stats, mq_compact_outcome *outcome,
                               mq_error *err)
    mq_status mq_compact_run(const mq_compact_rules *rules, const uint8_t *bytes, size_t size, size_t *position,
                             size_t out_limit, mq_compact_out *out, mq_compact_stats *stats, mq_error *err)
    void mq_compact_out_free(mq_compact_out *out)
    bint mq_compact_stays(const mq_compact_rules *rules, int64_t last_offset)
    mq_status mq_compact_control_type(const uint8_t *batch, size_t size, int32_t *type, mq_error *err)
    # batch.h, which it includes
    mq_status mq_batch_check(const uint8_t *bytes, size_t size, uint32_t max_bytes, mq_batch *batch, mq_error *err)
    void mq_batch_seal(uint8_t *bytes, size_t size)
    void mq_store_be16 "mq_store_be16"(uint8_t *p, unsigned short v)
    void mq_store_be32 "mq_store_be32"(uint8_t *p, uint32_t v)
    unsigned short mq_load_be16 "mq_load_be16"(const uint8_t *p)
