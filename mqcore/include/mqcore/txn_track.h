/* txn_track.h -- which transactions are open and which were aborted, from the batches of a log in order (KIP-98): what
 * recovery rebuilds a segment's .txnindex from.
 * Invariants:
 *   I1  a producer id has at most one open transaction: it begins with its first transactional batch after a marker.
 *   I2  an abort's last stable offset is what Kafka notes: the first offset of the oldest transaction that is still
 *       open, else the offset after the marker.
 * Transactions span segments: what is open at the end of one is given to the next. */
#ifndef MQCORE_TXN_TRACK_H
#define MQCORE_TXN_TRACK_H

#include "mqcore/batch.h"
#include "mqcore/txn_index.h"

typedef struct mq_open_txn {
    int64_t producer_id;
    int64_t first_offset;
} mq_open_txn;

typedef struct mq_txn_track {
    mq_open_txn *open; /* by producer id */
    size_t open_count, open_capacity;
    mq_txn_entry *aborted; /* by last offset; first_offset -1: the transaction began before what was given */
    size_t aborted_count, aborted_capacity;
} mq_txn_track;

/* The kind of a control batch (its one record's key is int16 version, int16 type): MQ_MARKER_OTHER if it is no
 * transaction's. body: its first bytes after the header; 70 are enough. */
enum { MQ_MARKER_ABORT = 0, MQ_MARKER_COMMIT = 1, MQ_MARKER_OTHER = -1 };
int mq_marker_kind(const uint8_t *body, size_t size);

void mq_txn_track_free(mq_txn_track *track);

/* A transaction that was open before the first batch. MQ_ENOMEM. */
mq_status mq_txn_track_open(mq_txn_track *track, int64_t producer_id, int64_t first_offset, mq_error *err);

/* The next batch. body: its first `body_size` bytes after the header, needed for control batches alone (70 are enough). */
mq_status mq_txn_track_add(mq_txn_track *track, const mq_batch *batch, const uint8_t *body, size_t body_size,
                           mq_error *err);

#endif
