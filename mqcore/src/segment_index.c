#include "mqcore/segment_index.h"

#include <assert.h>

void mq_segment_index_init(mq_segment_index *index, int64_t base_offset, uint32_t interval_bytes, uint32_t max_bytes)
{
    mq_index_init(&index->offsets, MQ_OFFSET_ENTRY);
    mq_index_init(&index->times, MQ_TIME_ENTRY);
    index->base_offset = base_offset;
    index->interval_bytes = interval_bytes;
    index->max_bytes = max_bytes;
    mq_index_progress_reset(&index->progress, base_offset);
}

void mq_segment_index_free(mq_segment_index *index)
{
    mq_index_free(&index->offsets);
    mq_index_free(&index->times);
}

void mq_index_progress_reset(mq_index_progress *progress, int64_t base_offset)
{
    *progress = (mq_index_progress){
        .first_timestamp = -1,
        .max_timestamp = -1,
        .offset_of_max_timestamp = base_offset,
        .last_entry_timestamp = -1,
    };
}

static bool full_with(const mq_segment_index *index, uint32_t more_offsets, uint32_t more_times)
{
    return mq_index_count(&index->offsets) + more_offsets >= index->max_bytes / MQ_OFFSET_ENTRY ||
           mq_index_count(&index->times) + more_times + 1 >= index->max_bytes / MQ_TIME_ENTRY;
}

bool mq_segment_index_full(const mq_segment_index *index)
{
    return full_with(index, 0, 0); /* readers ask: pending counts are the writer's */
}

mq_status mq_segment_index_reserve(mq_segment_index *index, uint64_t bytes, mq_error *err)
{
    /* Between two entries lie more than interval_bytes, and at least a batch header. */
    const uint64_t step = index->interval_bytes > MQ_BATCH_HEADER ? index->interval_bytes : MQ_BATCH_HEADER;
    const uint64_t entries = bytes / step + 2;
    if (entries > UINT32_MAX)
        return mq_fail(err, MQ_ENOMEM, NULL, 0, "too many index entries");
    const mq_status status = mq_index_reserve(&index->offsets, (uint32_t)entries, err);
    return status != MQ_OK ? status : mq_index_reserve(&index->times, (uint32_t)entries + 1, err);
}

static void add_time(mq_segment_index *index, mq_index_progress *progress)
{
    if (progress->max_timestamp <= progress->last_entry_timestamp)
        return;
    const int64_t relative = progress->offset_of_max_timestamp - index->base_offset;
    assert(relative >= 0 && relative <= INT32_MAX);
    const mq_time_entry entry = {progress->max_timestamp, (int32_t)relative};
    mq_time_entry_put(mq_index_push(&index->times), entry);
    progress->last_entry_timestamp = progress->max_timestamp;
}

void mq_segment_index_add(mq_segment_index *index, mq_index_progress *progress, const mq_batch *batch,
                          uint64_t position)
{
    const int64_t last_offset = mq_batch_last_offset(batch);
    assert(position <= INT32_MAX && last_offset - index->base_offset <= INT32_MAX);
    if (position == 0)
        progress->first_timestamp = batch->max_timestamp;
    /* A batch that compaction emptied keeps its timestamp, for its producer's sake; no record has it. */
    if (batch->record_count > 0 && batch->max_timestamp > progress->max_timestamp) {
        progress->max_timestamp = batch->max_timestamp;
        progress->offset_of_max_timestamp = last_offset;
    }
    if (progress->bytes_since_entry > index->interval_bytes &&
        !full_with(index, index->offsets.pending, index->times.pending)) {
        const mq_offset_entry entry = {(int32_t)(last_offset - index->base_offset), (int32_t)position};
        mq_offset_entry_put(mq_index_push(&index->offsets), entry);
        add_time(index, progress);
        progress->bytes_since_entry = 0;
    }
    progress->bytes_since_entry += batch->size;
}

mq_status mq_segment_index_add_last(mq_segment_index *index, mq_index_progress *progress, mq_error *err)
{
    const mq_status status = mq_index_reserve(&index->times, index->times.pending + 1, err);
    if (status == MQ_OK)
        add_time(index, progress);
    return status;
}

void mq_segment_index_commit(mq_segment_index *index, const mq_index_progress *progress)
{
    mq_index_commit(&index->offsets);
    mq_index_commit(&index->times);
    index->progress = *progress;
}

void mq_segment_index_forget(mq_segment_index *index)
{
    mq_index_forget(&index->offsets);
    mq_index_forget(&index->times);
}
