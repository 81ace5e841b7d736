/* segment_recover.h -- what a .log file holds after a crash: how far it is good, what is wrong behind that, and whether
 * that is the torn end of the last write or damage in the middle. And its index files, made anew.
 * Invariants:
 *   I1  the .log file is only read. The index files are replaced as a whole and describe the valid part alone.
 *   I2  from from_position on every byte of the valid part passed header checks, its CRC and (unless gaps are allowed)
 *       the continuity of offsets. Before it only headers are read.
 *   I3  wrong bytes are never an error: they are the report. Errors are of the disk, memory and arguments.
 *   I4  work is bounded by the file's size: the search for a later batch has a budget of checksummed bytes. */
#ifndef MQCORE_SEGMENT_RECOVER_H
#define MQCORE_SEGMENT_RECOVER_H

#include "mqcore/io.h"
#include "mqcore/producer_state.h"

typedef enum mq_log_end {
    MQ_END_CLEAN, /* the file ends with a batch */
    MQ_END_TORN,  /* the last batch is incomplete, nothing follows */
    MQ_END_ZEROS, /* zero bytes up to the end: space that was taken and never written */
    MQ_END_BAD    /* anything else: valid_after tells a torn tail from damage */
} mq_log_end;

typedef struct mq_recover_options {
    uint64_t from_position; /* a batch's first byte */
    int64_t from_offset;    /* its base offset, -1: unknown */
    int64_t end_offset;     /* base offset of the next segment that holds data, 0: none */
    uint32_t max_batch_bytes;
    bool allow_gaps; /* a compacted segment: offsets rise, with holes */
    uint32_t index_interval_bytes;
    uint32_t index_max_bytes;
    bool write_indexes;
    bool sync_indexes;       /* fsync each; else the caller syncs the file system */
    int64_t markers_from;    /* transaction markers at or past it are listed; INT64_MAX: none */
    mq_producers *producers; /* as of from_position, carried on through the valid part; NULL: nothing is known */
} mq_recover_options;

/* A control batch that ends a transaction. kind: MQ_MARKER_ABORT or MQ_MARKER_COMMIT. */
typedef struct mq_marker {
    int64_t offset;
    int64_t producer_id;
    int16_t producer_epoch;
    int16_t kind;
} mq_marker;

typedef struct mq_recovered {
    mq_log_end end;
    uint64_t file_bytes;
    uint64_t valid_bytes;
    int64_t next_offset;
    uint64_t batches; /* good ones from from_position on */
    uint64_t records;
    int64_t max_timestamp; /* of the whole valid part, -1: none */
    int64_t offset_of_max_timestamp;
    int32_t last_leader_epoch; /* of the last good batch, -1: none */
    int64_t problem_position;  /* -1: clean */
    int64_t valid_after;       /* position of a good batch behind the problem, -1: none found */
    char problem[120];         /* "" if clean */
    mq_marker *markers;        /* in the valid part, at or past markers_from, ascending */
    size_t marker_count, marker_capacity;
    mq_txn_entry *aborted; /* in the valid part; first_offset -1: its transaction began before what is known */
    size_t aborted_count, aborted_room;
} mq_recovered;

/* Give back what a recovered (also one of a failed call) owns. */
void mq_recovered_free(mq_recovered *recovered);

/* Scan directory/<base_offset>.log. MQ_EIO: also when it is missing (ENOENT). MQ_EINVAL: from_position past the end. */
mq_status mq_segment_recover(mq_io *io, const char *directory, int64_t base_offset, const mq_recover_options *options,
                             mq_recovered *recovered, mq_error *err);

/* The same over bytes in memory, for tests: no indexes are made. */
mq_status mq_recover_bytes(const uint8_t *bytes, size_t size, int64_t base_offset, const mq_recover_options *options,
                           mq_recovered *recovered, mq_error *err);

#endif
