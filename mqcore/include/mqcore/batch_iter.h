/* batch_iter.h -- read a byte range of whole v2 batches as columns: offsets, timestamps, where each value lies.
 *
 * Two passes, so that the caller allocates once and exactly: mq_run_plan reads headers only and says which batches
 * are served and how many records they announce; mq_run_columns checks their CRCs and walks their records.
 *
 * Invariants:
 *   I1  bytes are never believed twice: the second pass parses each header again, and fills no more than the first
 *       pass counted, whatever a writer did to the mapping in between.
 *   I2  a value written to the columns lies inside [start, end) of the range: value_start + value_length <= end.
 *   I3  offsets rise strictly within a run.
 *   I4  damage is an error at its batch, never a skip: the batches before it are served, the next call fails.
 * Passed over, because no consumer sees them: control batches, empty ones, those that end below min_offset, and those
 * of aborted transactions where a list is given; after their CRC, or one flipped bit could hide a batch. Compressed
 * batches end a run; who inflates them checks them. Not thread-bound; nothing is allocated but the spans. */
#ifndef MQCORE_BATCH_ITER_H
#define MQCORE_BATCH_ITER_H

#include "mqcore/batch.h"

/* A transaction that was aborted: the batches of producer_id in [first_offset, last_offset] are not served. */
typedef struct mq_aborted {
    int64_t producer_id;
    int64_t first_offset;
    int64_t last_offset; /* of its abort marker */
} mq_aborted;

typedef struct mq_run_options {
    uint64_t start; /* byte range of whole batches */
    uint64_t end;
    int64_t min_offset;   /* batches that end below it are passed over */
    uint64_t max_records; /* stop before the batch that would pass it; one batch is always taken */
    /* Where the batch before `start` ended (next_offset of the run before), -1 after a seek. Base offsets lie outside
     * the CRC: that batches follow each other is what finds a damaged one. After a seek nothing vouches for the first
     * batch but the second, so a misfit of the two is an error at once. */
    int64_t first_offset;
    bool contiguous;           /* no gaps: never compacted */
    bool check_crc;            /* of what is passed over here; mq_run_columns has its own */
    const mq_aborted *aborted; /* sorted by (producer_id, first_offset), not overlapping within one producer */
    size_t aborted_count;
} mq_run_options;

/* One served batch. */
typedef struct mq_span {
    uint64_t position;
    int64_t base_offset;
    uint32_t size;
    int32_t records;
} mq_span;

typedef struct mq_run {
    mq_span *spans;
    size_t count, capacity;
    uint64_t records;     /* what the spans announce together */
    uint64_t end;         /* first byte that the run did not take: its end, a compressed batch, or a damaged one */
    int64_t next_offset;  /* first offset after all that was taken or passed over; first_offset if nothing was */
    bool compressed_next; /* the batch at `end` is compressed: inflate it (it is checked by whoever does) */
    bool transactional;   /* a batch of a transaction is among the served ones */
} mq_run;

typedef struct mq_columns {
    int64_t *offsets;       /* room for run->records each */
    int64_t *timestamps;    /* ms; of the batch where it has log-append time */
    int64_t *value_starts;  /* byte positions in the range's buffer, meaningful for null values too (headers follow) */
    int32_t *value_lengths; /* -1: null */
} mq_columns;

/* Choose the batches of a run by their headers. *run is overwritten; free its spans with mq_run_free, after an error
 * too. MQ_ECORRUPT, MQ_ECRC: the batch at start is damaged (err->position, err->offset: the offset expected there);
 * a later damaged one ends the run before it (I4). MQ_ENOMEM. */
mq_status mq_run_plan(const uint8_t *bytes, const mq_run_options *options, mq_run *run, mq_error *err);

/* Fill the columns; run->records, ->count, ->end and ->next_offset shrink to what is sound if a batch after the first
 * is damaged (I4). MQ_ECRC, MQ_ECORRUPT: the first one is. */
mq_status mq_run_columns(const uint8_t *bytes, mq_run *run, bool check_crc, const mq_columns *columns, mq_error *err);

/* Where the keys of a run's records lie, in the order of the columns (room for run->records; -1: null).
 * MQ_ECORRUPT only if the bytes changed since. */
mq_status mq_run_keys(const uint8_t *bytes, const mq_run *run, int64_t *starts, int32_t *lengths, mq_error *err);

/* The same run over a copy of the bytes from `origin` on: positions, and those in starts (run->records), shift by that.
 * *copy is overwritten; free its spans too. MQ_ENOMEM: nothing was shifted. */
mq_status mq_run_copy(const mq_run *run, uint64_t origin, int64_t *starts, mq_run *copy);

void mq_run_free(mq_run *run);

/* Index of the first of `count` rising offsets that is `offset` or more; count if there is none. */
size_t mq_first_at_least(const int64_t *offsets, size_t count, int64_t offset);

/* What a listing of batches says of each (verify, dump, recovery tests). The layout is the numpy dtype of `scan`. */
typedef struct mq_scan_row {
    int64_t position;
    int64_t base_offset;
    int64_t last_offset;
    int64_t base_timestamp;
    int64_t max_timestamp;
    int64_t producer_id;
    int32_t size;
    int32_t leader_epoch;
    int32_t base_sequence;
    int32_t record_count;
    uint32_t crc;
    int16_t producer_epoch;
    uint16_t attributes;
} mq_scan_row;

/* List batches from *position on until end, a bad batch, or room rows; *position moves to the first one not listed.
 * Anything but MQ_OK: the batch at *position is bad (truncated, CRC, ...); the rows before it are valid. */
mq_status mq_scan(const uint8_t *bytes, uint64_t *position, uint64_t end, uint32_t max_bytes, bool check_crc,
                  mq_scan_row *rows, size_t room, size_t *count, mq_error *err);

#endif
