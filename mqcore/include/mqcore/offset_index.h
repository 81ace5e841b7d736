/* offset_index.h -- entries of a segment's .index file, as Kafka's OffsetIndex lays them out.
 *
 *   0 relative_offset int32 (a batch's last offset minus the segment's base offset) | 4 position int32 (of that batch)
 *
 * Invariants: relative offsets and positions rise strictly; both are >= 0. Only the first entry may have relative
 * offset 0: a later one is preallocated space that a crash left behind, and ends the index. */
#ifndef MQCORE_OFFSET_INDEX_H
#define MQCORE_OFFSET_INDEX_H

#include "mqcore/index_file.h"
#include "mqcore/wire.h"

enum { MQ_OFFSET_ENTRY = 8 };

typedef struct mq_offset_entry {
    int32_t relative_offset;
    int32_t position;
} mq_offset_entry;

static inline void mq_offset_entry_put(uint8_t *bytes, mq_offset_entry entry)
{
    mq_store_be32(bytes, (uint32_t)entry.relative_offset);
    mq_store_be32(bytes + 4, (uint32_t)entry.position);
}

static inline mq_offset_entry mq_offset_entry_get(const uint8_t *bytes)
{
    const mq_offset_entry entry = {(int32_t)mq_load_be32(bytes), (int32_t)mq_load_be32(bytes + 4)};
    return entry;
}

/* A search target: entries with an offset > last_offset or a position > last_position lie after it. */
typedef struct mq_offset_target {
    int64_t last_offset; /* relative */
    int64_t last_position;
} mq_offset_target;

/* mq_index_after over mq_offset_target. */
bool mq_offset_index_after(const uint8_t *entry, uint32_t slot, const void *target);

/* Check the bytes of a whole file: whole entries, strictly rising, none past the log's size and next offset (relative).
 * MQ_ECORRUPT: position and what. */
mq_status mq_offset_index_check(const uint8_t *bytes, size_t size, int64_t next_relative_offset, uint64_t log_bytes,
                                mq_error *err);

#endif
