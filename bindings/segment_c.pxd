# segment_c.pxd -- segment.h, segment_read.h, segment_recover.h, txn_index.h: declarations only.
from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from io_c cimport mq_io
from status cimport mq_error, mq_status

cdef extern from "mqcore/txn_index.h" nogil:
    ctypedef struct mq_txn_entry:
        int64_t producer_id
        int64_t first_offset
        int64_t last_offset
        int64_t last_stable_offset

cdef extern from "mqcore/batch.h" nogil:
    ctypedef struct mq_batches_facts:
        int64_t offsets
        int64_t base_timestamp
        int64_t max_timestamp
    bint mq_batches_survey(const uint8_t *bytes, size_t size, uint32_t max_bytes, mq_batches_facts *facts)

cdef extern from "mqcore/segment.h" nogil:
    ctypedef struct mq_segment:
        pass
    ctypedef struct mq_segment_limits:
        uint32_t index_interval_bytes
        uint32_t index_max_bytes
        uint64_t segment_bytes
        bint preallocate
    ctypedef struct mq_segment_info:
        uint32_t index_entries
        bint index_full
        int64_t first_timestamp
        int64_t max_timestamp
        int64_t offset_of_max_timestamp
    mq_status mq_segment_create(mq_io *io, const char *directory, int64_t base_offset,
                                const mq_segment_limits *limits, mq_segment **segment, mq_error *err)
    mq_status mq_segment_open(mq_io *io, const char *directory, int64_t base_offset, const mq_segment_limits *limits,
                              uint64_t size, int64_t next_offset, bint writable, mq_segment **segment, mq_error *err)
    void mq_segment_free(mq_segment *segment)
    mq_status mq_segment_append(mq_segment *segment, uint8_t *batches, size_t size, int64_t base_offset,
                                int32_t leader_epoch, int64_t append_time, uint64_t *position, int64_t *next_offset,
                                mq_error *err)
    mq_status mq_batches_check(const uint8_t *batches, size_t size, uint32_t max_batch_bytes, bint walk,
                               int64_t *offsets, mq_error *err)
    mq_status mq_segment_flush(mq_segment *segment, mq_error *err)
    mq_status mq_segment_write_indexes(mq_segment *segment, mq_error *err)
    mq_status mq_segment_seal(mq_segment *segment, mq_error *err)
    mq_status mq_segment_truncate(mq_segment *segment, int64_t offset, mq_error *err)
    mq_status mq_segment_refresh(mq_segment *segment, uint64_t size, int64_t next_offset, mq_error *err)
    mq_status mq_segment_release_fd(mq_segment *segment, mq_error *err)
    mq_status mq_segment_close(mq_segment *segment, mq_error *err)
    mq_status mq_segment_trim(mq_segment *segment, mq_error *err)
    mq_status mq_segment_append_txn(mq_segment *segment, const mq_txn_entry *entry, mq_error *err)
    mq_status mq_segment_txns(mq_segment *segment, mq_txn_entry **entries, size_t *count, mq_error *err)
    const char *mq_segment_path(const mq_segment *segment)
    int64_t mq_segment_base_offset(const mq_segment *segment)
    int64_t mq_segment_next_offset(const mq_segment *segment)
    uint64_t mq_segment_size(const mq_segment *segment)
    uint64_t mq_segment_flushed_size(const mq_segment *segment)
    bint mq_segment_failed(const mq_segment *segment)
    bint mq_segment_closed(const mq_segment *segment)
    mq_status mq_segment_get_info(mq_segment *segment, mq_segment_info *info, mq_error *err)

cdef extern from "mqcore/segment_read.h" nogil:
    mq_status mq_segment_lookup(mq_segment *segment, int64_t offset, uint64_t *position, mq_error *err)
    mq_status mq_segment_lookup_ends(mq_segment *segment, uint64_t start, uint64_t max_bytes, int64_t limit_offset,
                                     uint64_t *end, mq_error *err)
    mq_status mq_segment_tail(mq_segment *segment, uint64_t start, uint64_t max_bytes, int64_t limit_offset,
                              uint64_t *end, mq_error *err)
    mq_status mq_segment_lookup_time(mq_segment *segment, int64_t timestamp, int64_t *offset, mq_error *err)
    mq_status mq_segment_map(mq_segment *segment, uint64_t end, void **address, size_t *length, mq_error *err)
    void mq_unmap(void *address, size_t length)
    mq_status mq_map_populate(mq_io *io, void *address, size_t length, uint64_t start, uint64_t end,
                              const char *path, mq_error *err)

cdef extern from "mqcore/producer_state.h" nogil:
    ctypedef struct mq_producers:
        pass

cdef extern from "mqcore/segment_recover.h" nogil:
    ctypedef enum mq_log_end:
        MQ_END_CLEAN
        MQ_END_TORN
        MQ_END_ZEROS
        MQ_END_BAD
    ctypedef struct mq_recover_options:
        uint64_t from_position
        int64_t from_offset
        int64_t end_offset
        uint32_t max_batch_bytes
        bint allow_gaps
        uint32_t index_interval_bytes
        uint32_t index_max_bytes
        bint write_indexes
        bint sync_indexes
        int64_t markers_from
        mq_producers *producers
    ctypedef struct mq_marker:
        int64_t offset
        int64_t producer_id
        int16_t producer_epoch
        int16_t kind
    ctypedef struct mq_recovered:
        mq_log_end end
        uint64_t file_bytes
        uint64_t valid_bytes
        int64_t next_offset
        uint64_t batches
        uint64_t records
        int64_t max_timestamp
        int64_t offset_of_max_timestamp
        int32_t last_leader_epoch
        int64_t problem_position
        int64_t valid_after
        char[120] problem
        mq_marker *markers
        size_t marker_count
    void mq_recovered_free(mq_recovered *recovered)
    mq_status mq_segment_recover(mq_io *io, const char *directory, int64_t base_offset,
                                 const mq_recover_options *options, mq_recovered *recovered, mq_error *err)

cdef extern from "mqcore/alloc.h" nogil:
    void *mq_alloc(size_t size)
    void mq_free(void *block)
