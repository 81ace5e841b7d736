/* batch.h -- the header of a v2 record batch (magic 2, KIP-98) and what can be checked without its records.
 *
 *    0 base_offset int64 | 8 batch_length int32 | 12 leader_epoch int32 | 16 magic int8 | 17 crc uint32
 *   21 attributes int16 | 23 last_offset_delta int32 | 27 base_timestamp int64 | 35 max_timestamp int64
 *   43 producer_id int64 | 51 producer_epoch int16 | 53 base_sequence int32 | 57 record_count int32 | 61 records
 *
 * Invariants of an accepted batch:
 *   I1  size == 12 + batch_length, MQ_BATCH_HEADER <= size <= the limit given
 *   I2  crc covers bytes 21 .. size: base_offset and leader_epoch may be patched without touching it
 *   I3  0 <= last_offset_delta; base_offset >= 0, and the offset after the batch's last fits int64
 *   I4  record_count <= last_offset_delta + 1 (compaction leaves gaps); count >= 0, and 0 only after compaction */
#ifndef MQCORE_BATCH_H
#define MQCORE_BATCH_H

#include <stdbool.h>

#include "mqcore/limits.h"
#include "mqcore/status.h"

enum {
    MQ_BATCH_HEADER = 61,       /* bytes before the first record */
    MQ_BATCH_LOG_OVERHEAD = 12, /* base_offset and batch_length: not counted in batch_length */
    MQ_BATCH_CRC_START = 21,
    MQ_ATTR_CODEC = 0x07,
    MQ_ATTR_LOG_APPEND_TIME = 0x08,
    MQ_ATTR_TRANSACTIONAL = 0x10,
    MQ_ATTR_CONTROL = 0x20,
    MQ_ATTR_DELETE_HORIZON = 0x40
};

typedef struct mq_batch {
    int64_t base_offset;
    uint32_t size; /* whole batch, header included */
    int32_t leader_epoch;
    uint32_t crc;
    uint16_t attributes;
    int32_t last_offset_delta;
    int64_t base_timestamp; /* ms since 1970; the delete horizon where MQ_ATTR_DELETE_HORIZON is set */
    int64_t max_timestamp;
    int64_t producer_id;
    int16_t producer_epoch;
    int32_t base_sequence;
    int32_t record_count;
} mq_batch;

static inline int64_t mq_batch_last_offset(const mq_batch *b)
{
    return b->base_offset + b->last_offset_delta;
}

/* Parse and check the header of the batch at bytes (I1, I3, I4); the CRC is not computed.
 * MQ_ETRUNCATED: fewer than the announced bytes are there; MQ_ETOOBIG: announces more than max_bytes;
 * MQ_EUNSUPPORTED: magic 0 or 1; MQ_ECORRUPT: anything else. err->position is 0: the caller adds its own. */
mq_status mq_batch_parse(const uint8_t *bytes, size_t size, uint32_t max_bytes, mq_batch *batch, mq_error *err);

/* mq_batch_parse, then the CRC (MQ_ECRC). What every batch passes before it is stored or served. */
mq_status mq_batch_check(const uint8_t *bytes, size_t size, uint32_t max_bytes, mq_batch *batch, mq_error *err);

/* What the headers of whole batches back to back say together: offsets that they take, least base and largest maximal
 * timestamp. False: they are not whole v2 batches of at most max_bytes each, or there is none. No CRC is computed. */
typedef struct mq_batches_facts {
    int64_t offsets;
    int64_t base_timestamp;
    int64_t max_timestamp;
} mq_batches_facts;
bool mq_batches_survey(const uint8_t *bytes, size_t size, uint32_t max_bytes, mq_batches_facts *facts);

/* Walk every record of an uncompressed batch: lengths, deltas and header counts fit, and the last one ends at
 * the batch's end. MQ_ECORRUPT says at which byte. Compressed batches: MQ_EUNSUPPORTED (inflate first). */
mq_status mq_batch_walk(const uint8_t *bytes, const mq_batch *batch, mq_error *err);

/* Stamp base offset and leader epoch in place; outside the CRC (I2). */
void mq_batch_assign(uint8_t *bytes, int64_t base_offset, int32_t leader_epoch);

/* Set log-append time: attribute bit, max_timestamp, and the CRC over the result. */
void mq_batch_set_append_time(uint8_t *bytes, size_t size, int64_t timestamp_ms);

/* Recompute and store the CRC of a batch whose bytes after the CRC were changed. */
void mq_batch_seal(uint8_t *bytes, size_t size);

#endif
