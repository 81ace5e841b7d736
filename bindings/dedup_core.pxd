from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from status cimport mq_error, mq_status

cdef extern from "mqcore/dedup.h" nogil:
    ctypedef enum mq_seen:
        MQ_SEEN_NEW
        MQ_SEEN_DUPLICATE
        MQ_SEEN_PENDING
    ctypedef struct mq_dedup:
        pass
    ctypedef struct mq_dedup_config:
        int64_t epoch_ms
        uint32_t bucket_ms
        size_t max_bytes
    ctypedef struct mq_dedup_stats:
        uint64_t ids
        uint64_t pending
        size_t bytes_used
        size_t buckets
        size_t buckets_open
        int64_t oldest_ms
        int64_t newest_ms
    mq_dedup *mq_dedup_new(const mq_dedup_config *config, mq_error *err)
    void mq_dedup_free(mq_dedup *d)
    const mq_dedup_config *mq_dedup_configuration(const mq_dedup *d)
    void mq_dedup_get_stats(const mq_dedup *d, mq_dedup_stats *stats)
    mq_status mq_dedup_test_and_set(mq_dedup *d, uint64_t id, int64_t offset, mq_seen *seen, mq_error *err)
    mq_status mq_dedup_test_and_set_many(mq_dedup *d, const uint64_t *ids, size_t count, int64_t base_offset,
                                         uint8_t *seen, size_t *done, size_t *duplicates, mq_error *err)
    mq_seen mq_dedup_find(mq_dedup *d, uint64_t id, int64_t *min_offset, int64_t *max_offset)
    void mq_dedup_find_many(mq_dedup *d, const uint64_t *ids, size_t count, uint8_t *seen)
    mq_status mq_dedup_add_pending(mq_dedup *d, uint64_t tag, uint64_t id, int64_t offset, mq_seen *seen, mq_error *err)
    mq_status mq_dedup_confirm(mq_dedup *d, uint64_t tag, size_t *confirmed, mq_error *err)
    size_t mq_dedup_abort(mq_dedup *d, uint64_t tag)
    uint64_t mq_dedup_expire(mq_dedup *d, int64_t before_ms)
    mq_status mq_dedup_pack(mq_dedup *d, int64_t before_ms, mq_error *err)
    mq_status mq_dedup_serialize(const mq_dedup *d, uint8_t **bytes, size_t *size, mq_error *err)
    mq_dedup *mq_dedup_deserialize(const uint8_t *bytes, size_t size, size_t max_bytes, mq_error *err)

cdef extern from "mqcore/dedup128.h" nogil:
    ctypedef struct mq_dedup128:
        pass
    mq_dedup128 *mq_dedup128_new(size_t max_bytes, uint64_t seed, mq_error *err)
    void mq_dedup128_free(mq_dedup128 *d)
    size_t mq_dedup128_bytes_used(const mq_dedup128 *d)
    uint64_t mq_dedup128_ids(const mq_dedup128 *d)
    uint64_t mq_dedup128_pending(const mq_dedup128 *d)
    mq_status mq_dedup128_test_and_set_many(mq_dedup128 *d, const uint8_t *ids, size_t count, int64_t now_ms,
                                            int64_t base_offset, uint8_t *seen, size_t *done, size_t *duplicates,
                                            mq_error *err)
    mq_seen mq_dedup128_find(const mq_dedup128 *d, const uint8_t *id, int64_t *offset)
    mq_status mq_dedup128_add_pending(mq_dedup128 *d, uint64_t tag, const uint8_t *id, int64_t offset, mq_seen *seen,
                                      mq_error *err)
    mq_status mq_dedup128_confirm(mq_dedup128 *d, uint64_t tag, int64_t now_ms, size_t *confirmed, mq_error *err)
    size_t mq_dedup128_abort(mq_dedup128 *d, uint64_t tag)
    uint64_t mq_dedup128_expire(mq_dedup128 *d, int64_t before_ms)
    mq_status mq_dedup128_serialize(const mq_dedup128 *d, uint8_t **bytes, size_t *size, mq_error *err)
    mq_dedup128 *mq_dedup128_deserialize(const uint8_t *bytes, size_t size, size_t max_bytes, uint64_t seed,
                                         mq_error *err)
