/* time_index.h -- entries of a segment's .timeindex file, as Kafka's TimeIndex lays them out.
 *
 *   0 timestamp int64 (greatest max_timestamp so far) | 8 relative_offset int32 (last offset of the batch that has it)
 *
 * Invariants: timestamps rise strictly, relative offsets rise strictly, both are >= 0. An entry says: no batch up to
 * that offset has a greater timestamp. As in the offset index a later entry with relative offset 0 ends the index. */
#ifndef MQCORE_TIME_INDEX_H
#define MQCORE_TIME_INDEX_H

#include "mqcore/index_file.h"
#include "mqcore/wire.h"

enum { MQ_TIME_ENTRY = 12 };

typedef struct mq_time_entry {
    int64_t timestamp; /* ms since 1970 */
    int32_t relative_offset;
} mq_time_entry;

static inline void mq_time_entry_put(uint8_t *bytes, mq_time_entry entry)
{
    mq_store_be64(bytes, (uint64_t)entry.timestamp);
    mq_store_be32(bytes + 8, (uint32_t)entry.relative_offset);
}

static inline mq_time_entry mq_time_entry_get(const uint8_t *bytes)
{
    const mq_time_entry entry = {(int64_t)mq_load_be64(bytes), (int32_t)mq_load_be32(bytes + 8)};
    return entry;
}

/* mq_index_after over an int64_t timestamp: entries with timestamp >= it lie after. */
bool mq_time_index_after_time(const uint8_t *entry, uint32_t slot, const void *timestamp);
/* mq_index_after over an int64_t relative offset: entries with a relative offset > it lie after. */
bool mq_time_index_after_offset(const uint8_t *entry, uint32_t slot, const void *relative_offset);

/* Check the bytes of a whole file: whole entries, strictly rising, none past the log's next offset (relative). */
mq_status mq_time_index_check(const uint8_t *bytes, size_t size, int64_t next_relative_offset, mq_error *err);

#endif
