#include "mqcore/offset_index.h"

bool mq_offset_index_after(const uint8_t *bytes, uint32_t slot, const void *target)
{
    const mq_offset_target *t = target;
    const mq_offset_entry entry = mq_offset_entry_get(bytes);
    if (slot > 0 && entry.relative_offset == 0)
        return true; /* preallocated zeros */
    return entry.relative_offset > t->last_offset || entry.position > t->last_position;
}

mq_status mq_offset_index_check(const uint8_t *bytes, size_t size, int64_t next_relative_offset, uint64_t log_bytes,
                                mq_error *err)
{
    if (size % MQ_OFFSET_ENTRY != 0)
        return mq_fail(err, MQ_ECORRUPT, NULL, size - size % MQ_OFFSET_ENTRY, "the offset index ends inside an entry");
    mq_offset_entry last = {-1, -1};
    for (size_t at = 0; at < size; at += MQ_OFFSET_ENTRY) {
        const mq_offset_entry entry = mq_offset_entry_get(bytes + at);
        if (entry.relative_offset <= last.relative_offset || entry.position <= last.position)
            return mq_fail(err, MQ_ECORRUPT, NULL, at, "offset index entries do not rise");
        if (entry.relative_offset >= next_relative_offset || (uint64_t)entry.position >= log_bytes)
            return mq_fail(err, MQ_ECORRUPT, NULL, at, "an offset index entry is ahead of the log");
        last = entry;
    }
    return MQ_OK;
}
