/* producer_snapshot.h -- producer state as a file, <offset, 20 digits>.snapshot: Kafka's ProducerStateManager format,
 * version 1, and behind it what Kafka's reader skips.
 *
 *    0 version int16 (1) | 2 crc uint32, CRC-32C of all bytes from 6 on | 6 count int32
 *   10 count times 46 bytes: producer_id int64 | epoch int16 | last_sequence int32 | last_offset int64 |
 *      offset_delta int32 | timestamp int64 | coordinator_epoch int32 | current_txn_first_offset int64
 *      (last_sequence, last_offset -1: no batch of this epoch; current_txn_first_offset -1: no transaction)
 *   then, in a file that mqcore wrote: "mqprod01" | leader_epoch int32, of the last offset before the snapshot's |
 *      for each producer, in the same order: batches uint8 (0 .. 5), and as often last_sequence int32 |
 *      last_offset int64 | offset_delta int32 | timestamp int64, oldest first
 *
 * Invariants: all integers are big-endian; what is decoded is a state that mqcore could have been in: ids differ, every
 * offset is below the snapshot's, no two transactions begin at one offset. */
#ifndef MQCORE_PRODUCER_SNAPSHOT_H
#define MQCORE_PRODUCER_SNAPSHOT_H

#include "mqcore/producer_state.h"

enum { MQ_SNAPSHOT_NO_EPOCH = -1 };

/* The snapshot at mq_producers_next_offset or after it. bytes: mq_alloc, the caller frees with mq_free. MQ_ENOMEM. */
mq_status mq_producers_encode(const mq_producers *s, int32_t leader_epoch, uint8_t **bytes, size_t *size,
                              mq_error *err);

/* The state at `offset`. leader_epoch: MQ_SNAPSHOT_NO_EPOCH where Kafka wrote the file. MQ_ECRC, MQ_ECORRUPT,
 * MQ_ETRUNCATED, MQ_EUNSUPPORTED (another version), MQ_ENOMEM: *s is not set. */
mq_status mq_producers_decode(const uint8_t *bytes, size_t size, int64_t offset, uint32_t limit, mq_producers **s,
                              int32_t *leader_epoch, mq_error *err);

#endif
