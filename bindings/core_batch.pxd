# core_batch.pxd -- batch.h, batch_iter.h, record.h and arrow_layout.h of the core, as Cython sees them.
from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from status cimport mq_error, mq_status

cdef extern from "mqcore/limits.h" nogil:
    enum:
        MQ_BATCH_BYTES_MAX
        MQ_HEADERS_MAX

cdef extern from "mqcore/wire.h" nogil:
    uint16_t mq_load_be16(const uint8_t *p)
    void mq_store_be16(uint8_t *p, uint16_t v)
    void mq_store_be32(uint8_t *p, uint32_t v)

cdef extern from "mqcore/batch.h" nogil:
    enum:
        MQ_BATCH_HEADER
        MQ_BATCH_LOG_OVERHEAD
        MQ_ATTR_CODEC
        MQ_ATTR_LOG_APPEND_TIME
        MQ_ATTR_TRANSACTIONAL
        MQ_ATTR_CONTROL
        MQ_ATTR_DELETE_HORIZON
    ctypedef struct mq_batch:
        int64_t base_offset
        uint32_t size
        int32_t leader_epoch
        uint32_t crc
        uint16_t attributes
        int32_t last_offset_delta
        int64_t base_timestamp
        int64_t max_timestamp
        int64_t producer_id
        int16_t producer_epoch
        int32_t base_sequence
        int32_t record_count
    int64_t mq_batch_last_offset(const mq_batch *b)
    mq_status mq_batch_parse(const uint8_t *bytes, size_t size, uint32_t max_bytes, mq_batch *batch, mq_error *err)
    mq_status mq_batch_check(const uint8_t *bytes, size_t size, uint32_t max_bytes, mq_batch *batch, mq_error *err)
    mq_status mq_batch_walk(const uint8_t *bytes, const mq_batch *batch, mq_error *err)
    void mq_batch_assign(uint8_t *bytes, int64_t base_offset, int32_t leader_epoch)

cdef extern from "mqcore/record.h" nogil:
    ctypedef struct mq_header:
        const uint8_t *key
        const uint8_t *value
        int32_t key_length
        int32_t value_length
    bint mq_header_count(const uint8_t **at, const uint8_t *end, int32_t *count)
    bint mq_header_next(const uint8_t **at, const uint8_t *end, mq_header *header)

cdef extern from "mqcore/batch_iter.h" nogil:
    ctypedef struct mq_aborted:
        int64_t producer_id
        int64_t first_offset
        int64_t last_offset
    ctypedef struct mq_run_options:
        uint64_t start
        uint64_t end
        int64_t min_offset
        uint64_t max_records
        int64_t first_offset
        bint contiguous
        bint check_crc
        const mq_aborted *aborted
        size_t aborted_count
    ctypedef struct mq_span:
        uint64_t position
        int64_t base_offset
        uint32_t size
        int32_t records
    ctypedef struct mq_run:
        mq_span *spans
        size_t count
        uint64_t records
        uint64_t end
        int64_t next_offset
        bint compressed_next
        bint transactional
    ctypedef struct mq_columns:
        int64_t *offsets
        int64_t *timestamps
        int64_t *value_starts
        int32_t *value_lengths
    mq_status mq_run_plan(const uint8_t *bytes, const mq_run_options *options, mq_run *run, mq_error *err)
    mq_status mq_run_columns(const uint8_t *bytes, mq_run *run, bint check_crc, const mq_columns *columns,
                             mq_error *err)
    mq_status mq_run_keys(const uint8_t *bytes, const mq_run *run, int64_t *starts, int32_t *lengths, mq_error *err)
    mq_status mq_run_copy(const mq_run *run, uint64_t origin, int64_t *starts, mq_run *copy)
    void mq_run_free(mq_run *run)
    size_t mq_first_at_least(const int64_t *offsets, size_t count, int64_t offset)
    ctypedef struct mq_scan_row:
        int64_t position
    mq_status mq_scan(const uint8_t *bytes, uint64_t *position, uint64_t end, uint32_t max_bytes, bint check_crc,
                      mq_scan_row *rows, size_t room, size_t *count, mq_error *err)

cdef extern from "mqcore/arrow_layout.h" nogil:
    enum:
        MQ_ARROW_VIEW
    int64_t mq_arrow_size(const int32_t *lengths, size_t count)
    void mq_arrow_gather(const uint8_t *bytes, const int64_t *starts, const int32_t *lengths, size_t count,
                         uint8_t *data, int64_t *positions)
    void mq_arrow_views(const uint8_t *bytes, const int64_t *starts, const int32_t *lengths, size_t count,
                        int64_t origin, uint8_t *views)
    size_t mq_arrow_validity(const int32_t *lengths, size_t count, uint8_t *bits)
