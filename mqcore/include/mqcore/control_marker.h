/* control_marker.h -- the control batch that ends a transaction in a partition (KIP-98): one record, 78 bytes.
 *
 *   key    0 version int16 | 2 type int16 (0 abort, 1 commit)
 *   value  0 version int16 | 2 coordinator_epoch int32
 *
 * Invariant: what mq_marker_build writes passes mq_batch_check, and mq_marker_read says of it what was put in. */
#ifndef MQCORE_CONTROL_MARKER_H
#define MQCORE_CONTROL_MARKER_H

#include "mqcore/batch.h"

enum {
    MQ_MARKER_ABORT = 0,
    MQ_MARKER_COMMIT = 1,
    MQ_MARKER_OTHER = -1,   /* another control record, or none: compaction emptied the batch */
    MQ_MARKER_BYTES = 78,   /* of a batch made here */
    MQ_MARKER_BODY_MAX = 70 /* bytes after the header that mq_marker_read looks at, at most */
};

typedef struct mq_marker_content {
    int type;
    int32_t coordinator_epoch; /* -1: the value does not say */
} mq_marker_content;

/* What the first record of a control batch says. body: its first bytes after the header. */
mq_marker_content mq_marker_read(const mq_batch *batch, const uint8_t *body, size_t size);

/* Write a marker's batch (base offset 0, leader epoch -1: the log stamps both) into MQ_MARKER_BYTES bytes. */
void mq_marker_build(uint8_t *bytes, int64_t producer_id, int16_t producer_epoch, bool commit,
                     int32_t coordinator_epoch, int64_t timestamp_ms);

#endif
