/* segment_index.h -- both indexes of one segment, and the one rule of when a batch gets an entry.
 * The rule is Kafka's (LogSegment.append, by batch): when more than interval_bytes of batches were added since the last
 * entry, the batch that comes next gets one in the offset index, and the greatest timestamp so far, that batch included,
 * one in the time index if it rose.
 * Invariants:
 *   I1  the offset and the time index stop growing together when either is full: an offset entry always has its time.
 *   I2  mq_index_progress is plain data: a writer works on a copy and stores it when its write succeeded. */
#ifndef MQCORE_SEGMENT_INDEX_H
#define MQCORE_SEGMENT_INDEX_H

#include "mqcore/batch.h"
#include "mqcore/offset_index.h"
#include "mqcore/time_index.h"

typedef struct mq_index_progress {
    uint64_t bytes_since_entry;
    int64_t first_timestamp;         /* max_timestamp of the first batch, -1: none yet */
    int64_t max_timestamp;           /* -1: none yet */
    int64_t offset_of_max_timestamp; /* last offset of the first batch that has it */
    int64_t last_entry_timestamp;    /* of the newest time index entry, -1: none */
} mq_index_progress;

typedef struct mq_segment_index {
    mq_index offsets;
    mq_index times;
    int64_t base_offset;
    uint32_t interval_bytes;
    uint32_t max_bytes;
    mq_index_progress progress;
} mq_segment_index;

void mq_segment_index_init(mq_segment_index *index, int64_t base_offset, uint32_t interval_bytes, uint32_t max_bytes);
void mq_segment_index_free(mq_segment_index *index);
void mq_index_progress_reset(mq_index_progress *progress, int64_t base_offset);

/* Either index has no room for another batch's entry (the time index keeps one for the roll, as Kafka does). Under the
 * owner's lock; pending entries are not counted. */
bool mq_segment_index_full(const mq_segment_index *index);
/* Room for all entries that `bytes` of batches can make (under the owner's lock). */
mq_status mq_segment_index_reserve(mq_segment_index *index, uint64_t bytes, mq_error *err);
/* Account for a batch at position (< 2 GiB); entries become pending. */
void mq_segment_index_add(mq_segment_index *index, mq_index_progress *progress, const mq_batch *batch,
                          uint64_t position);
/* The time entry that a roll and a close add: the greatest timestamp, if it has no entry yet (pending, too). */
mq_status mq_segment_index_add_last(mq_segment_index *index, mq_index_progress *progress, mq_error *err);
/* Pending entries and progress become part of the index (under the owner's lock). */
void mq_segment_index_commit(mq_segment_index *index, const mq_index_progress *progress);
void mq_segment_index_forget(mq_segment_index *index);

#endif
