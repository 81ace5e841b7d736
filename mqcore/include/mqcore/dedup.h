/* dedup.h -- which 64-bit message ids were seen, in time buckets of compressed bitmaps.
 *
 * An id is a Snowflake: 41 bits of milliseconds since an epoch, 10 of worker, 12 of sequence, most significant first
 * (any 64-bit id works; ids that do not grow with time cost more memory). A bucket holds the ids of bucket_ms
 * milliseconds, the range of log offsets at which they were first seen, and is dropped as a whole.
 * Invariants:
 *   I1  no false answer: an id is "seen" if and only if it was set (or is pending) and its bucket did not expire
 *   I2  bytes_used <= max_bytes; a set that would pass it is refused with MQ_EFULL and changes nothing
 *   I3  min_offset <= max_offset of a bucket, both -1 if no id of it came with an offset; every id that was set with
 *       an offset lies in its bucket's range, so that a hit can be confirmed in the log
 *   I4  an id is pending under at most one tag, and never both pending and set
 *   I5  the form of a bucket (open or packed) never changes an answer
 * Threads: none; the caller serialises. Callers that append to a log set ids after the append, never before. */
#ifndef MQCORE_DEDUP_H
#define MQCORE_DEDUP_H

#include <stdbool.h>

#include "mqcore/status.h"

enum {
    MQ_ID_TIME_SHIFT = 22, /* worker and sequence below the milliseconds */
    MQ_ID_WORKER_SHIFT = 12,
    MQ_DEDUP_BUCKET_MS_MAX = 1024
};

typedef enum mq_seen {
    MQ_SEEN_NEW = 0,
    MQ_SEEN_DUPLICATE = 1,
    MQ_SEEN_PENDING = 2 /* in a transaction that neither committed nor aborted yet */
} mq_seen;

typedef struct mq_dedup mq_dedup;

typedef struct mq_dedup_config {
    int64_t epoch_ms;   /* millisecond 0 of the ids, in ms since 1970 */
    uint32_t bucket_ms; /* a power of two, 1 .. MQ_DEDUP_BUCKET_MS_MAX */
    size_t max_bytes;   /* bound on memory, at least 64 KiB */
} mq_dedup_config;

typedef struct mq_dedup_stats {
    uint64_t ids; /* set, not pending */
    uint64_t pending;
    size_t bytes_used;
    size_t buckets, buckets_open;
    int64_t oldest_ms, newest_ms; /* start of the first, end of the last bucket, ms since 1970; -1 when empty */
} mq_dedup_stats;

/* NULL with err filled: MQ_EINVAL (config), MQ_ENOMEM. */
mq_dedup *mq_dedup_new(const mq_dedup_config *config, mq_error *err);
void mq_dedup_free(mq_dedup *d);
const mq_dedup_config *mq_dedup_configuration(const mq_dedup *d);
void mq_dedup_get_stats(const mq_dedup *d, mq_dedup_stats *stats);

/* Answer whether the id was seen, and set it. offset: of its record in the log, or -1.
 * MQ_EFULL (I2), MQ_ENOMEM: nothing changed. */
mq_status mq_dedup_test_and_set(mq_dedup *d, uint64_t id, int64_t offset, mq_seen *seen, mq_error *err);

/* The same for `count` ids with offsets base_offset, base_offset + 1, … (or all -1). seen: count answers, an id that
 * occurs twice is a duplicate the second time. done: how many were answered (== count unless MQ_EFULL, MQ_ENOMEM);
 * duplicates: how many of those were not new. */
mq_status mq_dedup_test_and_set_many(mq_dedup *d, const uint64_t *ids, size_t count, int64_t base_offset, uint8_t *seen,
                                     size_t *done, size_t *duplicates, mq_error *err);

/* The answer without setting. min_offset, max_offset (each may be NULL): where the first record with this id lies;
 * -1 if unknown. */
mq_seen mq_dedup_find(mq_dedup *d, uint64_t id, int64_t *min_offset, int64_t *max_offset);
void mq_dedup_find_many(mq_dedup *d, const uint64_t *ids, size_t count, uint8_t *seen);

/* Note an id of an open transaction (tag: its producer id). seen: MQ_SEEN_NEW if it was added. */
mq_status mq_dedup_add_pending(mq_dedup *d, uint64_t tag, uint64_t id, int64_t offset, mq_seen *seen, mq_error *err);
/* The transaction committed: its ids are set. MQ_EFULL, MQ_ENOMEM: some are, none is lost; call again. */
mq_status mq_dedup_confirm(mq_dedup *d, uint64_t tag, size_t *confirmed, mq_error *err);
/* The transaction aborted: its ids were never seen. Returns how many. */
size_t mq_dedup_abort(mq_dedup *d, uint64_t tag);

/* Drop the buckets that end at or before before_ms (ms since 1970). Returns how many ids left; pending ones stay. */
uint64_t mq_dedup_expire(mq_dedup *d, int64_t before_ms);
/* Pack every bucket that ends at or before before_ms into its smallest form (buckets out of use are packed by
 * themselves; a late id reopens one). MQ_ENOMEM: some are packed. */
mq_status mq_dedup_pack(mq_dedup *d, int64_t before_ms, mq_error *err);

/* Snapshot: little-endian, version 1, CRC-32C at the end (dedup_snapshot.c has the format). Pending ids are in it.
 * *bytes is malloc'd, the caller frees it. */
mq_status mq_dedup_serialize(const mq_dedup *d, uint8_t **bytes, size_t *size, mq_error *err);
/* The inverse. Every byte is checked; MQ_ECORRUPT, MQ_ECRC, MQ_ETRUNCATED, MQ_EUNSUPPORTED (version), MQ_EFULL (more
 * than max_bytes). The snapshot's epoch and bucket_ms hold, max_bytes is the caller's. */
mq_dedup *mq_dedup_deserialize(const uint8_t *bytes, size_t size, size_t max_bytes, mq_error *err);

#endif
