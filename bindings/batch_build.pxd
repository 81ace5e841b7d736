# batch_build.pxd -- mqcore/batch_build.h, no more.
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t
from status cimport mq_status

cdef extern from "mqcore/batch_build.h" nogil:
    ctypedef struct mq_chunk:
        uint8_t *bytes
        size_t capacity
        size_t size
        size_t batch_start
        size_t batch_bytes
        size_t batch_max
        int32_t batch_records
        int32_t records
        int64_t producer_id
        int32_t base_sequence
        int16_t producer_epoch
        uint16_t attributes
        bint seal_later
    ctypedef struct mq_record:
        const uint8_t *key
        const uint8_t *value
        const uint8_t *headers
        int64_t timestamp
        int32_t key_size
        int32_t value_size
        uint32_t headers_size
    ctypedef enum mq_column_kind:
        MQ_COLUMN_NULL
        MQ_COLUMN_POINTERS
        MQ_COLUMN_OFFSETS32
        MQ_COLUMN_OFFSETS64
        MQ_COLUMN_ROWS
        MQ_COLUMN_RANGES
    ctypedef struct mq_column:
        mq_column_kind kind
        const uint8_t *base
        const uint8_t **pointers
        const int32_t *sizes
        const int32_t *offsets32
        const int64_t *offsets64
        ptrdiff_t stride
        int32_t width
        const uint8_t *valid
        size_t valid_start
        const void *const *ahead
        size_t ahead_count
    ctypedef struct mq_rows:
        mq_column keys
        mq_column values
        const int64_t *timestamps
        int64_t timestamp
    enum:
        MQ_BATCH_HEADER
        MQ_BATCH_LOG_OVERHEAD
        MQ_ATTR_TRANSACTIONAL
    void mq_chunk_init(mq_chunk *c, uint8_t *bytes, size_t capacity, size_t batch_bytes, size_t batch_max)
    void mq_chunk_seal(mq_chunk *c)
    size_t mq_record_room(const mq_record *r)
    mq_status mq_chunk_put(mq_chunk *c, const mq_record *r)
    int32_t mq_chunk_records(const mq_chunk *c)
    size_t mq_rows_room(const mq_rows *rows, size_t i)
    size_t mq_chunk_put_rows(mq_chunk *c, const mq_rows *rows, size_t first, size_t end, mq_status *status)
    size_t mq_chunks_put_keyed(mq_chunk **chunks, int32_t partitions, bint consistent, const mq_rows *rows,
                               size_t first, size_t end, int32_t *partition, mq_status *status)
    int32_t mq_batches_sequence(const uint8_t *batches)
    void mq_batches_restamp(uint8_t *batches, size_t size, int32_t sequence, bint seal_later)
    size_t mq_header_size(int32_t name_size, int32_t value_size)
    uint8_t *mq_header_put(uint8_t *p, const uint8_t *name, int32_t name_size, const uint8_t *value,
                           int32_t value_size)
    size_t mq_batch_repack(uint8_t *at, const uint8_t *batch, size_t size, const uint8_t *packed, size_t packed_size,
                           unsigned codec)

cdef extern from "mqcore/wire.h" nogil:
    uint32_t mq_load_be32(const uint8_t *p)
    size_t mq_varint_size(int64_t v)
    uint8_t *mq_put_varint(uint8_t *p, int64_t v)

cdef extern from "mqcore/limits.h":
    enum:
        MQ_HEADERS_MAX
        MQ_RECORD_BYTES_MAX
        MQ_BATCH_BYTES_MAX
