#include "mqcore/segment.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "mqcore/alloc.h"
#include "mqcore/limits.h"
#include "segment_state.h"

/* Space is taken ahead of the data in steps that grow with the file: idle partitions take none. */
#define SPACE_FIRST ((uint64_t)256 << 10)
#define SPACE_MAX ((uint64_t)64 << 20)
#define SPACE_FROM ((uint64_t)128 << 10)
#define SPACE_BLOCK ((uint64_t)4096)

static mq_status check_arguments(int64_t base_offset, const mq_segment_limits *limits, mq_error *err)
{
    if (base_offset < 0)
        return mq_fail(err, MQ_EINVAL, NULL, 0, "base_offset is negative");
    if (limits->segment_bytes == 0 || limits->segment_bytes > MQ_SEGMENT_BYTES_MAX)
        return mq_fail(err, MQ_EINVAL, NULL, 0, "segment_bytes is not in 1 .. 2147483647");
    if (limits->index_max_bytes < 2 * MQ_TIME_ENTRY || limits->index_max_bytes > MQ_SEGMENT_BYTES_MAX)
        return mq_fail(err, MQ_EINVAL, NULL, 0, "index_max_bytes is not in 24 .. 2147483647");
    if (limits->index_interval_bytes > MQ_SEGMENT_BYTES_MAX)
        return mq_fail(err, MQ_EINVAL, NULL, 0, "index_interval_bytes is over 2147483647");
    return MQ_OK;
}

static mq_status new_handle(mq_io *io, const char *directory, int64_t base_offset, const mq_segment_limits *limits,
                            mq_segment **segment, mq_error *err)
{
    mq_status status = check_arguments(base_offset, limits, err);
    if (status != MQ_OK)
        return status;
    const size_t size = strlen(directory) + sizeof "/00000000000000000000.log";
    mq_segment *made = mq_alloc_zeroed(sizeof *made);
    char *path = mq_alloc(size);
    if (made == NULL || path == NULL) {
        mq_free(made);
        mq_free(path);
        return mq_fail(err, MQ_ENOMEM, directory, 0, "no memory for a segment");
    }
    (void)snprintf(path, size, "%s/%020lld.log", directory, (long long)base_offset);
    made->io = io;
    made->path = path;
    made->stem = size - sizeof ".log";
    made->base_offset = base_offset;
    made->limits = *limits;
    made->fd = -1;
    made->spill_bytes = MQ_INDEX_SPILL_BYTES;
    atomic_init(&made->next_offset, base_offset);
    atomic_init(&made->loaded_bytes, UINT64_MAX);
    mq_segment_index_init(&made->index, base_offset, limits->index_interval_bytes, limits->index_max_bytes);
    pthread_mutex_init(&made->write_lock, NULL);
    pthread_mutex_init(&made->sync_lock, NULL);
    pthread_mutex_init(&made->lock, NULL);
    mq_seg_clear_hints(made);
    *segment = made;
    return MQ_OK;
}

mq_status mq_segment_open(mq_io *io, const char *directory, int64_t base_offset, const mq_segment_limits *limits,
                          uint64_t size, int64_t next_offset, bool writable, mq_segment **segment, mq_error *err)
{
    if (size > MQ_SEGMENT_BYTES_MAX || next_offset < base_offset ||
        next_offset - base_offset > (int64_t)MQ_OFFSET_DELTA_MAX + 1)
        return mq_fail(err, MQ_EINVAL, directory, size, "size or next_offset does not fit the segment");
    const mq_status status = new_handle(io, directory, base_offset, limits, segment, err);
    if (status != MQ_OK)
        return status;
    (*segment)->writable = writable;
    atomic_store(&(*segment)->written_bytes, size);
    atomic_store(&(*segment)->next_offset, next_offset);
    (*segment)->allocated_bytes = size;
    return MQ_OK;
}

static mq_status make_empty(mq_segment *segment, const char *suffix, int flags, int *fd, mq_error *err)
{
    char path[MQ_PATH_MAX];
    const mq_status status = mq_seg_sibling(segment, suffix, path, err);
    return status != MQ_OK ? status : mq_io_open(segment->io, path, O_RDWR | O_CREAT | flags, 0600, fd, err);
}

/* A segment of this name died before its log was made, or was deleted: its indexes are not ours. */
static mq_status remove_stale(mq_segment *segment, const char *suffix, mq_error *err)
{
    char path[MQ_PATH_MAX];
    const mq_status status = mq_seg_sibling(segment, suffix, path, err);
    if (status != MQ_OK)
        return status;
    if (segment->io->unlink(segment->io, path) != 0 && errno != ENOENT)
        return mq_fail(err, MQ_EIO, path, 0, "unlink of a stale index");
    return MQ_OK;
}

mq_status mq_segment_create(mq_io *io, const char *directory, int64_t base_offset, const mq_segment_limits *limits,
                            mq_segment **segment, mq_error *err)
{
    mq_status status = new_handle(io, directory, base_offset, limits, segment, err);
    if (status != MQ_OK)
        return status;
    mq_segment *made = *segment;
    made->writable = true;
    if ((status = make_empty(made, ".log", O_EXCL, &made->fd, err)) == MQ_OK) {
        static const char *const suffixes[] = {".index", ".timeindex"};
        for (int i = 0; i < 2 && status == MQ_OK; i++) {
            int fd;
            if ((status = make_empty(made, suffixes[i], O_TRUNC, &fd, err)) == MQ_OK)
                mq_io_close(io, fd);
        }
        if (status == MQ_OK)
            status = remove_stale(made, ".txnindex", err);
        if (status != MQ_OK) { /* err keeps the first cause */
            (void)io->unlink(io, made->path);
            (void)remove_stale(made, ".index", NULL);
            (void)remove_stale(made, ".timeindex", NULL);
        }
    }
    if (status != MQ_OK) {
        made->writable = false;
        mq_segment_free(made);
        *segment = NULL;
        return status;
    }
    atomic_store(&made->loaded_bytes, 0);
    if (limits->preallocate && io->fallocate(io, made->fd, 0, (off_t)limits->segment_bytes) == 0) {
        made->allocated_bytes = limits->segment_bytes;
        made->untrimmed = true;
    }
    return MQ_OK;
}

void mq_segment_free(mq_segment *segment)
{
    if (segment == NULL)
        return;
    assert(segment->fd_users == 0);
    mq_io_close(segment->io, segment->fd);
    mq_segment_index_free(&segment->index);
    pthread_mutex_destroy(&segment->write_lock);
    pthread_mutex_destroy(&segment->sync_lock);
    pthread_mutex_destroy(&segment->lock);
    mq_free(segment->path);
    mq_free(segment);
}

/* A reader whose descriptor was closed for a while must find the file that it knew: the writer may have put a compacted
 * one under its name. ENOENT then, as if the name were gone: look at the directory again. lock is held. */
static mq_status check_file(mq_segment *segment, mq_error *err)
{
    struct stat found;
    if (fstat(segment->fd, &found) != 0)
        return mq_fail(err, MQ_EIO, segment->path, 0, "cannot stat the log");
    if (segment->inode == 0)
        segment->inode = (uint64_t)found.st_ino;
    if (segment->inode == (uint64_t)found.st_ino)
        return MQ_OK;
    if (segment->fd_users == 0) {
        mq_io_close(segment->io, segment->fd);
        segment->fd = -1;
        segment->fd_drop = false;
    }
    errno = ENOENT;
    return mq_fail(err, MQ_EIO, segment->path, 0, "the log file was replaced");
}

mq_status mq_seg_get_fd(mq_segment *segment, int *fd, mq_error *err)
{
    pthread_mutex_lock(&segment->lock);
    mq_status status = mq_seg_open_state(segment, err); /* I7: `closed` is set before the descriptor goes */
    if (status == MQ_OK && segment->fd < 0)
        status = mq_io_open(segment->io, segment->path, segment->writable ? O_RDWR : O_RDONLY, 0, &segment->fd, err);
    if (status == MQ_OK && !segment->writable)
        status = check_file(segment, err);
    if (status == MQ_OK) {
        segment->fd_users++;
        *fd = segment->fd;
    }
    pthread_mutex_unlock(&segment->lock);
    return status;
}

static void drop_fd_if_idle(mq_segment *segment)
{
    if (segment->fd_drop && segment->fd_users == 0) {
        mq_io_close(segment->io, segment->fd);
        segment->fd = -1;
        segment->fd_drop = false;
    }
}

void mq_seg_put_fd(mq_segment *segment)
{
    pthread_mutex_lock(&segment->lock);
    assert(segment->fd_users > 0);
    segment->fd_users--;
    drop_fd_if_idle(segment);
    pthread_mutex_unlock(&segment->lock);
}

static void drop_fd(mq_segment *segment)
{
    pthread_mutex_lock(&segment->lock);
    segment->fd_drop = segment->fd >= 0;
    drop_fd_if_idle(segment);
    pthread_mutex_unlock(&segment->lock);
}

mq_status mq_seg_open_state(const mq_segment *segment, mq_error *err)
{
    if (atomic_load_explicit(&((mq_segment *)segment)->closed, memory_order_acquire))
        return mq_fail(err, MQ_ESTATE, segment->path, 0, "the segment is closed");
    return MQ_OK;
}

static mq_status failed_state(mq_segment *segment, mq_error *err)
{
    errno = atomic_load(&segment->failed);
    return errno == 0 ? MQ_OK : mq_fail(err, MQ_EIO, segment->path, 0, "an earlier fsync failed, which is final");
}

mq_status mq_seg_writable(mq_segment *segment, mq_error *err)
{
    const mq_status status = mq_seg_open_state(segment, err);
    if (status != MQ_OK)
        return status;
    if (!segment->writable)
        return mq_fail(err, MQ_ESTATE, segment->path, 0, "the segment is read-only");
    if (atomic_load(&segment->sealed))
        return mq_fail(err, MQ_ESTATE, segment->path, 0, "the segment is sealed");
    return failed_state(segment, err);
}

/* Take space ahead of data that will end at `end`. Never an error: the write that follows says what is wrong. */
static void take_space(mq_segment *segment, int fd, uint64_t written, uint64_t end)
{
    if (end <= segment->allocated_bytes || end <= SPACE_FROM || segment->no_fallocate)
        return;
    uint64_t step = written;
    step = step < SPACE_FIRST ? SPACE_FIRST : step > SPACE_MAX ? SPACE_MAX : step;
    const uint64_t limit = end > segment->limits.segment_bytes ? end : segment->limits.segment_bytes;
    uint64_t target = end + step < limit ? end + step : limit;
    target = (target + SPACE_BLOCK - 1) / SPACE_BLOCK * SPACE_BLOCK;
    if (segment->io->fallocate(segment->io, fd, (off_t)written, (off_t)(target - written)) == 0) {
        segment->untrimmed = true;
    } else if (errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL) {
        segment->no_fallocate = true;
    } /* else a full disk, most likely: plain writes may still fit; do not ask again at once */
    segment->allocated_bytes = target;
}

/* Number and index the batches of a chunk; nothing of the segment but pending index entries changes. */
static mq_status stamp(mq_segment *segment, uint8_t *batches, size_t size, uint64_t written, int64_t base_offset,
                       int32_t leader_epoch, int64_t append_time, mq_index_progress *progress, int64_t *next_offset,
                       mq_error *err)
{
    int64_t next = base_offset;
    for (size_t at = 0; at < size;) {
        mq_batch batch;
        const mq_status status = mq_batch_parse(batches + at, size - at, MQ_BATCH_BYTES_MAX, &batch, err);
        if (status != MQ_OK) {
            if (err != NULL)
                err->position = at;
            return status;
        }
        batch.base_offset = next;
        if (next - segment->base_offset > (int64_t)MQ_OFFSET_DELTA_MAX - batch.last_offset_delta)
            return mq_fail(err, MQ_EFULL, segment->path, written, "an offset would be too far from the base offset");
        mq_batch_assign(batches + at, next, leader_epoch);
        if (append_time >= 0) {
            mq_batch_set_append_time(batches + at, batch.size, append_time);
            batch.max_timestamp = append_time;
        }
        mq_segment_index_add(&segment->index, progress, &batch, written + at);
        next += (int64_t)batch.last_offset_delta + 1;
        at += batch.size;
    }
    *next_offset = next;
    return MQ_OK;
}

/* Write out index tails that grew long. A failure costs memory until the next try, nothing else. */
static void spill(mq_segment *segment)
{
    const mq_segment_index *index = &segment->index;
    if ((uint64_t)index->offsets.tail_count * MQ_OFFSET_ENTRY < segment->spill_bytes &&
        (uint64_t)index->times.tail_count * MQ_TIME_ENTRY < segment->spill_bytes)
        return;
    if (mq_seg_spill(segment, false, NULL) == MQ_OK)
        segment->spill_bytes = MQ_INDEX_SPILL_BYTES;
    else
        segment->spill_bytes += MQ_INDEX_SPILL_BYTES;
}

static mq_status append_locked(mq_segment *segment, uint8_t *batches, size_t size, int64_t base_offset,
                               int32_t leader_epoch, int64_t append_time, uint64_t *position, int64_t *next_offset,
                               mq_error *err)
{
    mq_status status = mq_seg_writable(segment, err);
    if (status == MQ_OK)
        status = mq_seg_load(segment, err);
    if (status == MQ_OK)
        status = mq_seg_trim(segment, err);
    if (status != MQ_OK)
        return status;
    const uint64_t written = mq_seg_written(segment);
    if (size == 0 || base_offset < mq_seg_next(segment))
        return mq_fail(err, MQ_EINVAL, segment->path, written, size == 0 ? "no batches" : "base_offset is taken");
    const uint64_t roof = written == 0 ? MQ_SEGMENT_BYTES_MAX : segment->limits.segment_bytes;
    if (written > roof || size > roof - written)
        return mq_fail(err, MQ_EFULL, segment->path, written, "the chunk would pass segment_bytes");
    pthread_mutex_lock(&segment->lock);
    status = mq_segment_index_reserve(&segment->index, size, err);
    pthread_mutex_unlock(&segment->lock);
    int fd = -1;
    if (status != MQ_OK || (status = mq_seg_get_fd(segment, &fd, err)) != MQ_OK)
        return status;
    mq_index_progress progress = segment->index.progress;
    int64_t next = base_offset;
    status = stamp(segment, batches, size, written, base_offset, leader_epoch, append_time, &progress, &next, err);
    if (status == MQ_OK) {
        take_space(segment, fd, written, written + size);
        atomic_store(&segment->dirty, true);
        /* Positioned: a torn write moves nothing, so I2 alone hides its bytes. */
        status = mq_io_write_all(segment->io, fd, batches, size, written, segment->path, err);
        if (status != MQ_OK) {
            /* Whole batches may lie there, which a recovery would take for ours, and their room is somebody's. */
            mq_error second;
            segment->torn = segment->failed_write = true;
            (void)mq_seg_trim(segment, &second);
            segment->allocated_bytes = written;
        }
    }
    mq_seg_put_fd(segment);
    if (status != MQ_OK) {
        mq_segment_index_forget(&segment->index);
        return status;
    }
    pthread_mutex_lock(&segment->lock);
    mq_segment_index_commit(&segment->index, &progress);
    atomic_store_explicit(&segment->loaded_bytes, written + size, memory_order_relaxed);
    atomic_store_explicit(&segment->written_bytes, written + size, memory_order_release);
    atomic_store_explicit(&segment->next_offset, next, memory_order_release);
    pthread_mutex_unlock(&segment->lock);
    *position = written;
    *next_offset = next;
    spill(segment);
    return MQ_OK;
}

mq_status mq_segment_append(mq_segment *segment, uint8_t *batches, size_t size, int64_t base_offset,
                            int32_t leader_epoch, int64_t append_time, uint64_t *position, int64_t *next_offset,
                            mq_error *err)
{
    pthread_mutex_lock(&segment->write_lock);
    const mq_status status =
        append_locked(segment, batches, size, base_offset, leader_epoch, append_time, position, next_offset, err);
    pthread_mutex_unlock(&segment->write_lock);
    return status;
}

mq_status mq_segment_flush(mq_segment *segment, mq_error *err)
{
    mq_status status = mq_seg_open_state(segment, err);
    if (status != MQ_OK)
        return status;
    return mq_seg_sync(segment, err);
}

mq_status mq_segment_refresh(mq_segment *segment, uint64_t size, int64_t next_offset, mq_error *err)
{
    mq_status status = mq_seg_open_state(segment, err);
    if (status != MQ_OK)
        return status;
    pthread_mutex_lock(&segment->lock);
    if (segment->writable || size < mq_seg_written(segment) || next_offset < mq_seg_next(segment) ||
        size > MQ_SEGMENT_BYTES_MAX || next_offset - segment->base_offset > (int64_t)MQ_OFFSET_DELTA_MAX + 1) {
        status = mq_fail(err, MQ_EINVAL, segment->path, size, "a refresh is for readers, and only forward");
    } else {
        atomic_store(&segment->written_bytes, size);
        atomic_store(&segment->next_offset, next_offset);
    }
    pthread_mutex_unlock(&segment->lock);
    return status;
}

mq_status mq_segment_release_fd(mq_segment *segment, mq_error *err)
{
    mq_status status = MQ_OK;
    if (segment->writable && atomic_load(&segment->dirty) && !mq_segment_failed(segment) && !mq_segment_closed(segment))
        status = mq_seg_sync(segment, err);
    drop_fd(segment);
    return status;
}

mq_status mq_segment_close(mq_segment *segment, mq_error *err)
{
    mq_status status = MQ_OK;
    pthread_mutex_lock(&segment->write_lock);
    if (!atomic_load(&segment->closed)) {
        if (segment->writable && !atomic_load(&segment->sealed) && atomic_load(&segment->loaded_bytes) != UINT64_MAX)
            status = mq_seg_finish(segment, false, err);
        atomic_store(&segment->closed, true);
        drop_fd(segment);
    }
    pthread_mutex_unlock(&segment->write_lock);
    return status;
}

const char *mq_segment_path(const mq_segment *segment)
{
    return segment->path;
}

int64_t mq_segment_base_offset(const mq_segment *segment)
{
    return segment->base_offset;
}

int64_t mq_segment_next_offset(const mq_segment *segment)
{
    return mq_seg_next(segment);
}

uint64_t mq_segment_size(const mq_segment *segment)
{
    return mq_seg_written(segment);
}

uint64_t mq_segment_flushed_size(const mq_segment *segment)
{
    return atomic_load(&((mq_segment *)segment)->flushed_bytes);
}

bool mq_segment_failed(const mq_segment *segment)
{
    return atomic_load(&((mq_segment *)segment)->failed) != 0;
}

bool mq_segment_closed(const mq_segment *segment)
{
    return atomic_load(&((mq_segment *)segment)->closed);
}
