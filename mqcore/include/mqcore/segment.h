/* segment.h -- one append-only file of record batches with its indexes: the unit of roll, retention, recovery.
 *
 *   <base offset, 20 digits>.log   v2 batches back to back       .index, .timeindex   offset_index.h, time_index.h
 *                                                                .txnindex            txn_index.h, made when needed
 * Invariants:
 *   I1  base_offset <= next_offset <= base_offset + INT32_MAX + 1 (the indexes keep int32 deltas).
 *   I2  flushed_bytes <= written_bytes <= segment_bytes, but for one oversized chunk in an empty segment (< 2 GiB);
 *       past written_bytes the file is not data: a failed or torn write leaves bytes there, the next append
 *       overwrites them, seal and close cut them off. While what a failed write left could not be cut off, nothing
 *       is appended: a recovery might take a batch in it for ours.
 *   I3  base offsets rise strictly from batch to batch; gaps are legal (compaction leaves them).
 *   I4  a failed fsync is final: `failed` never goes back, appends and flushes fail from then on.
 *   I5  index entries are hints: each one used is checked against the batch header that it names.
 *   I6  memory lives until mq_segment_free and descriptors until their last user: close frees nothing under a call.
 *   I7  a closed segment opens no file: another one may have its name (compaction).
 * Threads: one writer at a time (append, seal, truncate, write_indexes, close take write_lock), any number of readers
 * and flushers beside it. Size and next offset change together under `lock`; a reader looks no further than the pair
 * that it took, and single values are atomics.
 * Lock order: write_lock (writers) -> sync_lock (fsync of the log) -> lock (descriptor, index tails, hints; short). */
#ifndef MQCORE_SEGMENT_H
#define MQCORE_SEGMENT_H

#include "mqcore/io.h"
#include "mqcore/txn_index.h"

typedef struct mq_segment mq_segment;

typedef struct mq_segment_limits {
    uint32_t index_interval_bytes; /* an index entry each so many bytes of batches */
    uint32_t index_max_bytes;      /* limit of each index file: then index_full, and the caller rolls */
    uint64_t segment_bytes;        /* roll limit of the .log file */
    bool preallocate;              /* take segment_bytes of disk at once, not in growing steps */
} mq_segment_limits;

typedef struct mq_segment_info {
    uint32_t index_entries;
    bool index_full;
    int64_t first_timestamp;         /* max_timestamp of the first batch, -1: empty */
    int64_t max_timestamp;           /* -1: empty */
    int64_t offset_of_max_timestamp; /* last offset of the first batch that has it; base_offset: empty */
} mq_segment_info;

/* Make the files of an empty segment (0600). MQ_EIO with EEXIST: the .log file is there. On any other error no file
 * is left. The caller syncs the directory. */
mq_status mq_segment_create(mq_io *io, const char *directory, int64_t base_offset, const mq_segment_limits *limits,
                            mq_segment **segment, mq_error *err);

/* A handle on a segment whose valid data ends at `size` bytes and next_offset. Opens no file yet. */
mq_status mq_segment_open(mq_io *io, const char *directory, int64_t base_offset, const mq_segment_limits *limits,
                          uint64_t size, int64_t next_offset, bool writable, mq_segment **segment, mq_error *err);

/* Close, and give the memory back. No call may be running or follow. */
void mq_segment_free(mq_segment *segment);

/* Append whole batches: number them from base_offset (>= next_offset) on, stamp the leader epoch and, for
 * append_time >= 0, the log-append time with a new CRC; index them; write them with one call. `batches` is patched in
 * place. position: out, of the first byte; next_offset: out. CRCs are not checked. On an error the segment is as
 * before (I2); the buffer may be patched. MQ_EFULL: would pass segment_bytes or I1; MQ_EINVAL: size 0 or base_offset
 * below next_offset; MQ_ETRUNCATED, MQ_ECORRUPT: no whole batches; MQ_ESTATE: sealed, closed or read-only. */
mq_status mq_segment_append(mq_segment *segment, uint8_t *batches, size_t size, int64_t base_offset,
                            int32_t leader_epoch, int64_t append_time, uint64_t *position, int64_t *next_offset,
                            mq_error *err);

/* Validate batches from outside: header, CRC, one offset a record without gaps, no control batch, and with walk every
 * record of an uncompressed batch. offsets: out, how many they take. err->position: where in the chunk. */
mq_status mq_batches_check(const uint8_t *batches, size_t size, uint32_t max_batch_bytes, bool walk, int64_t *offsets,
                           mq_error *err);

/* fdatasync the log: what was appended before the call is durable. MQ_EIO: final (I4). */
mq_status mq_segment_flush(mq_segment *segment, mq_error *err);

/* Before a roll: cut off what a failed append left (I2). On an error nothing may be written past it, here or elsewhere. */
mq_status mq_segment_trim(mq_segment *segment, mq_error *err);

/* Spill index entries that are only in memory; not synced. */
mq_status mq_segment_write_indexes(mq_segment *segment, mq_error *err);

/* At roll: last time entry, indexes written and cut, spare space freed, all files fsynced; then read-only. Again: nothing. */
mq_status mq_segment_seal(mq_segment *segment, mq_error *err);

/* Drop the batch that holds offset and all later ones, durably. In place where no view ever reached that far
 * (mq_segment_map), else by a copy that is renamed over the log: mapped bytes stay readable. */
mq_status mq_segment_truncate(mq_segment *segment, int64_t offset, mq_error *err);

/* Reader in another process: the published end moved forward. MQ_EINVAL: writable, or a step back. */
mq_status mq_segment_refresh(mq_segment *segment, uint64_t size, int64_t next_offset, mq_error *err);

/* Close the descriptor when its last user is done; flushes first if the writer left unsynced bytes. */
mq_status mq_segment_release_fd(mq_segment *segment, mq_error *err);

/* Write indexes, free spare space, close the descriptor; all later calls fail with MQ_ESTATE. Does not flush. The
 * segment is closed whatever the result; a second call does nothing. */
mq_status mq_segment_close(mq_segment *segment, mq_error *err);

/* Aborted transactions (.txnindex). */
mq_status mq_segment_append_txn(mq_segment *segment, const mq_txn_entry *entry, mq_error *err);
mq_status mq_segment_txns(mq_segment *segment, mq_txn_entry **entries, size_t *count, mq_error *err);

const char *mq_segment_path(const mq_segment *segment);
int64_t mq_segment_base_offset(const mq_segment *segment);
int64_t mq_segment_next_offset(const mq_segment *segment);
uint64_t mq_segment_size(const mq_segment *segment);
uint64_t mq_segment_flushed_size(const mq_segment *segment);
bool mq_segment_failed(const mq_segment *segment);
bool mq_segment_closed(const mq_segment *segment);
/* Index and timestamp facts; reads the index files and a few headers at the first call after open or refresh. */
mq_status mq_segment_get_info(mq_segment *segment, mq_segment_info *info, mq_error *err);

#endif
