/* segment_load.c -- the index of a segment that was opened: taken from the files as far as the log agrees with them,
 * redone from batch headers where they lack or contradict (an index may be behind the log or ahead of it). */
#include "mqcore/segment.h"

#include <stdio.h>
#include <string.h>

#include "mqcore/limits.h"
#include "segment_state.h"

mq_status mq_seg_sibling(const mq_segment *segment, const char *suffix, char path[], mq_error *err)
{
    const int length = snprintf(path, MQ_PATH_MAX, "%.*s%s", (int)segment->stem, segment->path, suffix);
    if (length < 0 || length >= MQ_PATH_MAX)
        return mq_fail(err, MQ_EINVAL, segment->path, 0, "the path is too long");
    return MQ_OK;
}

void mq_seg_unload(mq_segment *segment)
{
    pthread_mutex_lock(&segment->lock);
    atomic_store(&segment->loaded_bytes, UINT64_MAX);
    mq_index_cut(&segment->index.offsets, 0);
    mq_index_cut(&segment->index.times, 0);
    mq_index_progress_reset(&segment->index.progress, segment->base_offset);
    pthread_mutex_unlock(&segment->lock);
}

/* What the files hold that the log confirms: the newest time entry that names a batch of the log rightly, the offset
 * entries up to that batch, and nothing later. A time index that is behind or spoilt then only makes the walk that
 * follows longer. start: out, position of the batch of the last offset entry kept, 0: none. */
static void keep_entries(mq_segment *segment, int fd, const mq_extent *seen, uint32_t *offsets, uint32_t *times,
                         mq_index_progress *progress, uint64_t *start)
{
    char path[MQ_PATH_MAX];
    uint8_t bytes[MQ_INDEX_ENTRY_MAX];
    mq_walk walk;
    bool stepped;
    uint32_t kept = 0;
    *offsets = *times = 0;
    *start = 0;
    mq_index_progress_reset(progress, segment->base_offset);
    const int64_t last = seen->next_offset - 1 - segment->base_offset;
    if (mq_seg_sibling(segment, ".timeindex", path, NULL) != MQ_OK ||
        !mq_index_floor_file(segment->io, path, MQ_TIME_ENTRY, UINT32_MAX, mq_time_index_after_offset, &last, bytes,
                             &kept))
        return;
    const mq_time_entry time = mq_time_entry_get(bytes);
    const int64_t offset = segment->base_offset + time.relative_offset;
    mq_seg_floor(segment, &walk, fd, offset, seen->size, seen->size, &stepped);
    const mq_offset_target target = {walk.last_offset - segment->base_offset, (int64_t)walk.at};
    if (!stepped || mq_seg_sibling(segment, ".index", path, NULL) != MQ_OK ||
        !mq_index_floor_file(segment->io, path, MQ_OFFSET_ENTRY, UINT32_MAX, mq_offset_index_after, &target, bytes,
                             offsets))
        return;
    const uint64_t position = walk.at;
    mq_status status = MQ_OK;
    while (status == MQ_OK && walk.last_offset < offset)
        status = mq_walk_next(&walk, NULL);
    if (status != MQ_OK || walk.last_offset != offset || walk.batch.max_timestamp != time.timestamp) {
        *offsets = 0;
        return;
    }
    *times = kept;
    *start = position;
    progress->max_timestamp = progress->last_entry_timestamp = time.timestamp;
    progress->offset_of_max_timestamp = offset;
}

/* The headers from `start` on: entries that the files lack, and the greatest timestamp. */
static mq_status redo(mq_segment *segment, int fd, const mq_extent *seen, uint64_t start, mq_index_progress *progress,
                      mq_error *err)
{
    mq_walk walk;
    mq_walk_start(&walk, segment->io, fd, segment->path, 0, seen->size);
    mq_status status = MQ_OK;
    if (start > 0) {
        if ((status = mq_walk_next(&walk, err)) != MQ_OK)
            return status;
        progress->first_timestamp = walk.batch.max_timestamp;
        mq_walk_start(&walk, segment->io, fd, segment->path, start, seen->size);
        if ((status = mq_walk_next(&walk, err)) != MQ_OK)
            return status;
        progress->bytes_since_entry = walk.batch.size; /* the batch that has the last entry */
    }
    while ((status = mq_walk_next(&walk, err)) == MQ_OK) {
        if (walk.last_offset - segment->base_offset > MQ_OFFSET_DELTA_MAX || walk.last_offset >= seen->next_offset ||
            walk.batch.base_offset < segment->base_offset)
            return mq_fail(err, MQ_ECORRUPT, segment->path, walk.at, "an offset outside its segment");
        mq_segment_index_add(&segment->index, progress, &walk.batch, walk.at);
    }
    return status == MQ_ENOTFOUND ? MQ_OK : status;
}

mq_status mq_seg_load(mq_segment *segment, mq_error *err)
{
    const mq_extent seen = mq_seg_extent(segment);
    const uint64_t loaded = atomic_load(&segment->loaded_bytes);
    if (loaded == seen.size || (loaded != UINT64_MAX && segment->writable))
        return MQ_OK;
    int fd;
    mq_status status = mq_seg_get_fd(segment, &fd, err);
    if (status != MQ_OK)
        return status;
    uint64_t file_bytes = 0;
    status = mq_io_size(fd, &file_bytes, segment->path, err);
    if (status == MQ_OK && file_bytes < seen.size)
        status = mq_fail(err, MQ_ETRUNCATED, segment->path, file_bytes, "the log file is shorter than its data");
    mq_seg_unload(segment);
    uint32_t offsets = 0;
    uint32_t times = 0;
    uint64_t start = 0;
    mq_index_progress progress;
    if (status == MQ_OK)
        keep_entries(segment, fd, &seen, &offsets, &times, &progress, &start);
    pthread_mutex_lock(&segment->lock);
    mq_index_cut(&segment->index.offsets, offsets);
    mq_index_cut(&segment->index.times, times);
    if (status == MQ_OK)
        status = mq_segment_index_reserve(&segment->index, seen.size - start, err);
    pthread_mutex_unlock(&segment->lock);
    if (status == MQ_OK)
        status = redo(segment, fd, &seen, start, &progress, err);
    pthread_mutex_lock(&segment->lock);
    if (status == MQ_OK) {
        mq_segment_index_commit(&segment->index, &progress);
        atomic_store(&segment->loaded_bytes, seen.size);
    } else {
        mq_segment_index_forget(&segment->index);
    }
    pthread_mutex_unlock(&segment->lock);
    mq_seg_put_fd(segment);
    segment->untrimmed = true; /* what lies past the data is not known: one cut at close */
    return status;
}

mq_status mq_segment_get_info(mq_segment *segment, mq_segment_info *info, mq_error *err)
{
    mq_status status = MQ_OK;
    const uint64_t loaded = atomic_load(&segment->loaded_bytes);
    if (loaded == UINT64_MAX || (!segment->writable && loaded != mq_seg_written(segment))) {
        if ((status = mq_seg_open_state(segment, err)) != MQ_OK)
            return status;
        pthread_mutex_lock(&segment->write_lock);
        status = mq_seg_load(segment, err);
        pthread_mutex_unlock(&segment->write_lock);
    }
    if (status != MQ_OK)
        return status;
    pthread_mutex_lock(&segment->lock);
    const mq_index_progress *progress = &segment->index.progress;
    *info = (mq_segment_info){
        .index_entries = mq_index_count(&segment->index.offsets),
        .index_full = mq_segment_index_full(&segment->index),
        .first_timestamp = progress->first_timestamp,
        .max_timestamp = progress->max_timestamp,
        .offset_of_max_timestamp = progress->offset_of_max_timestamp,
    };
    pthread_mutex_unlock(&segment->lock);
    return MQ_OK;
}
