# journal_c.pxd -- journal.h: declarations only.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from status cimport mq_error, mq_status

cdef extern from "mqcore/io.h" nogil:
    ctypedef struct mq_io:
        pass

cdef extern from "mqcore/alloc.h" nogil:
    void *mq_realloc(void *block, size_t size)
    void mq_free(void *block)

cdef extern from "mqcore/journal.h" nogil:
    ctypedef struct mq_journal:
        pass
    ctypedef struct mq_journal_options:
        uint8_t[16] store_id
        uint64_t salt
        uint32_t file_bytes
        uint32_t file_limit
        uint32_t files_present
        bint read_only
    ctypedef struct mq_journal_entry:
        uint8_t[16] topic_id
        int32_t partition
        int32_t leader_epoch
        int64_t segment_base
        int64_t position
        int64_t base_offset
        int64_t next_offset
        const uint8_t *bytes
        uint32_t size
    ctypedef struct mq_journal_stat:
        uint64_t sequence
        uint64_t checkpointed
        uint64_t recorded
        uint64_t live_bytes
        uint64_t capacity_bytes
        uint64_t missing
        uint32_t files
        uint32_t missing_file
        uint64_t missing_position
        bint failed
        bint wants_file
    ctypedef struct mq_journal_cursor:
        uint64_t sequence
    mq_status mq_journal_open(mq_io *io, const char *directory, const mq_journal_options *options, mq_journal **out,
                              mq_error *err)
    void mq_journal_close(mq_journal *journal)
    void mq_journal_stats(const mq_journal *journal, mq_journal_stat *stat)
    mq_status mq_journal_next(mq_journal *journal, mq_journal_cursor *cursor, mq_journal_entry *entry, mq_error *err)
    void mq_journal_cursor_free(mq_journal_cursor *cursor)
    mq_status mq_journal_write(mq_journal *journal, const mq_journal_entry *entries, size_t count, uint64_t *sequence,
                               mq_error *err)
    mq_status mq_journal_grow(mq_journal *journal, bint beside_writer, mq_error *err)
    void mq_journal_set_checkpointed(mq_journal *journal, uint64_t sequence)
