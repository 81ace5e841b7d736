#include "mqcore/time_index.h"

bool mq_time_index_after_time(const uint8_t *bytes, uint32_t slot, const void *timestamp)
{
    const mq_time_entry entry = mq_time_entry_get(bytes);
    return (slot > 0 && entry.relative_offset == 0) || entry.timestamp >= *(const int64_t *)timestamp;
}

bool mq_time_index_after_offset(const uint8_t *bytes, uint32_t slot, const void *relative_offset)
{
    const mq_time_entry entry = mq_time_entry_get(bytes);
    return (slot > 0 && entry.relative_offset == 0) || entry.relative_offset > *(const int64_t *)relative_offset;
}

mq_status mq_time_index_check(const uint8_t *bytes, size_t size, int64_t next_relative_offset, mq_error *err)
{
    if (size % MQ_TIME_ENTRY != 0)
        return mq_fail(err, MQ_ECORRUPT, NULL, size - size % MQ_TIME_ENTRY, "the time index ends inside an entry");
    mq_time_entry last = {-1, -1};
    for (size_t at = 0; at < size; at += MQ_TIME_ENTRY) {
        const mq_time_entry entry = mq_time_entry_get(bytes + at);
        if (entry.timestamp <= last.timestamp || entry.relative_offset <= last.relative_offset)
            return mq_fail(err, MQ_ECORRUPT, NULL, at, "time index entries do not rise");
        if (entry.relative_offset >= next_relative_offset)
            return mq_fail(err, MQ_ECORRUPT, NULL, at, "a time index entry is ahead of the log");
        last = entry;
    }
    return MQ_OK;
}
