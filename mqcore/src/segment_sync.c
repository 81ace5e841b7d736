/* segment_sync.c -- what makes a segment durable, complete or shorter: flush, spill, seal, truncation; its batches'
 * validation and its aborted transactions. */
#include "mqcore/segment.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "mqcore/alloc.h"
#include "mqcore/limits.h"
#include "mqcore/segment_read.h"
#include "segment_state.h"

#define COPY_BYTES ((size_t)1 << 20)

/* Remember that an fsync failed; the first errno stays (I4). */
static void fail_for_good(mq_segment *segment, int error)
{
    int none = 0;
    (void)atomic_compare_exchange_strong(&segment->failed, &none, error != 0 ? error : EIO);
}

mq_status mq_seg_sync(mq_segment *segment, mq_error *err)
{
    mq_error local;
    err = err != NULL ? err : &local;
    if (!segment->writable)
        return MQ_OK;
    pthread_mutex_lock(&segment->sync_lock);
    const uint64_t written = mq_seg_written(segment);
    mq_status status = MQ_OK;
    int fd;
    if ((errno = atomic_load(&segment->failed)) != 0)
        status = mq_fail(err, MQ_EIO, segment->path, 0, "an earlier fsync failed, which is final");
    else if (atomic_load(&segment->flushed_bytes) < written && (status = mq_seg_get_fd(segment, &fd, err)) == MQ_OK) {
        atomic_store(&segment->dirty, false); /* before: bytes written from here on are dirty again */
        if (segment->io->fdatasync(segment->io, fd) != 0) {
            status = mq_fail(err, MQ_EIO, segment->path, written, "fdatasync");
            fail_for_good(segment, err->sys_errno);
        } else {
            atomic_store(&segment->flushed_bytes, written);
        }
        mq_seg_put_fd(segment);
    }
    pthread_mutex_unlock(&segment->sync_lock);
    return status;
}

static mq_status spill_one(mq_segment *segment, mq_index *index, const char *suffix, bool durable, mq_error *err)
{
    char path[MQ_PATH_MAX];
    mq_status status = mq_seg_sibling(segment, suffix, path, err);
    if (status == MQ_OK)
        status = mq_index_write_tail(index, segment->io, path, durable, err);
    if (status == MQ_OK) {
        pthread_mutex_lock(&segment->lock);
        mq_index_spilled(index);
        pthread_mutex_unlock(&segment->lock);
    }
    return status;
}

mq_status mq_seg_spill(mq_segment *segment, bool durable, mq_error *err)
{
    const mq_status status = spill_one(segment, &segment->index.offsets, ".index", durable, err);
    return status != MQ_OK ? status : spill_one(segment, &segment->index.times, ".timeindex", durable, err);
}

mq_status mq_seg_trim(mq_segment *segment, mq_error *err)
{
    int fd;
    mq_status status = MQ_OK;
    if (segment->torn && (status = mq_seg_get_fd(segment, &fd, err)) == MQ_OK) {
        status = mq_io_resize(segment->io, fd, mq_seg_written(segment), segment->path, err);
        segment->torn = status != MQ_OK;
        segment->untrimmed |= segment->torn;
        mq_seg_put_fd(segment);
    }
    return status;
}

mq_status mq_segment_trim(mq_segment *segment, mq_error *err)
{
    pthread_mutex_lock(&segment->write_lock);
    mq_status status = mq_seg_open_state(segment, err);
    if (status == MQ_OK)
        status = mq_seg_trim(segment, err);
    pthread_mutex_unlock(&segment->write_lock);
    return status;
}

mq_status mq_seg_finish(mq_segment *segment, bool durable, mq_error *err)
{
    pthread_mutex_lock(&segment->lock);
    mq_index_progress progress = segment->index.progress;
    mq_status status = mq_segment_index_add_last(&segment->index, &progress, err);
    if (status == MQ_OK)
        mq_segment_index_commit(&segment->index, &progress);
    pthread_mutex_unlock(&segment->lock);
    if (status == MQ_OK)
        status = mq_seg_spill(segment, durable, err);
    int fd;
    if (segment->untrimmed) { /* even after an error: the space is worth a try */
        mq_error second;
        mq_error *into = status == MQ_OK ? err : &second;
        mq_status cut = mq_seg_get_fd(segment, &fd, into);
        if (cut == MQ_OK) {
            cut = mq_io_resize(segment->io, fd, mq_seg_written(segment), segment->path, into);
            mq_seg_put_fd(segment);
        }
        segment->untrimmed = cut != MQ_OK;
        segment->torn &= segment->untrimmed;
        status = status == MQ_OK ? cut : status;
    }
    segment->allocated_bytes = mq_seg_written(segment);
    return status;
}

static mq_status seal_locked(mq_segment *segment, mq_error *err)
{
    char path[MQ_PATH_MAX];
    if (atomic_load(&segment->sealed)) /* again: a caller that was interrupted does not know of the first time */
        return mq_seg_open_state(segment, err);
    mq_status status = mq_seg_writable(segment, err);
    if (status == MQ_OK)
        status = mq_seg_load(segment, err);
    if (status == MQ_OK)
        status = mq_seg_finish(segment, true, err); /* indexes are hints: a failed fsync of theirs may be tried again */
    if (status == MQ_OK)
        status = mq_seg_sibling(segment, ".txnindex", path, err);
    if (status == MQ_OK && segment->txn_dirty && (status = mq_txn_index_sync(segment->io, path, err)) == MQ_EIO)
        fail_for_good(segment, EIO);
    if (status == MQ_OK && segment->failed_write)
        atomic_store(&segment->flushed_bytes, 0); /* all data may be synced, and the cut behind it not */
    if (status == MQ_OK)
        status = mq_seg_sync(segment, err);
    if (status != MQ_OK)
        return status;
    segment->txn_dirty = segment->failed_write = false;
    atomic_store(&segment->sealed, true);
    return MQ_OK;
}

mq_status mq_segment_seal(mq_segment *segment, mq_error *err)
{
    pthread_mutex_lock(&segment->write_lock);
    const mq_status status = seal_locked(segment, err);
    pthread_mutex_unlock(&segment->write_lock);
    return status;
}

mq_status mq_segment_write_indexes(mq_segment *segment, mq_error *err)
{
    pthread_mutex_lock(&segment->write_lock);
    mq_status status = mq_seg_open_state(segment, err);
    if (status == MQ_OK && segment->writable && atomic_load(&segment->loaded_bytes) != UINT64_MAX)
        status = mq_seg_spill(segment, false, err);
    pthread_mutex_unlock(&segment->write_lock);
    return status;
}

/* Copy the first `size` bytes of the log beside it, and rename the copy over it: old mappings keep the old file.
 * cut: out, the log is the copy now, whatever the status. */
static mq_status replace_by_copy(mq_segment *segment, int fd, uint64_t size, bool *cut, mq_error *err)
{
    char temporary[MQ_PATH_MAX];
    char directory[MQ_PATH_MAX];
    mq_status status = mq_seg_sibling(segment, ".log.tmp", temporary, err);
    if (status != MQ_OK)
        return status;
    const size_t name = sizeof "/00000000000000000000" - 1;
    (void)snprintf(directory, sizeof directory, "%.*s", (int)(segment->stem - name), segment->path);
    mq_io *io = segment->io;
    int copy;
    if ((status = mq_io_open(io, temporary, O_RDWR | O_CREAT | O_TRUNC, 0600, &copy, err)) != MQ_OK)
        return status;
    uint8_t *bytes = mq_alloc(COPY_BYTES);
    if (bytes == NULL)
        status = mq_fail(err, MQ_ENOMEM, segment->path, 0, "no memory for a copy");
    for (uint64_t at = 0; at < size && status == MQ_OK; at += COPY_BYTES) {
        const size_t part = size - at < COPY_BYTES ? (size_t)(size - at) : COPY_BYTES;
        status = mq_io_read_all(io, fd, bytes, part, at, segment->path, err);
        if (status == MQ_OK)
            status = mq_io_write_all(io, copy, bytes, part, at, temporary, err);
    }
    mq_free(bytes);
    if (status == MQ_OK && io->fsync(io, copy) != 0)
        status = mq_fail(err, MQ_EIO, temporary, 0, "fsync of a copy");
    if (status == MQ_OK && io->rename(io, temporary, segment->path) != 0)
        status = mq_fail(err, MQ_EIO, segment->path, 0, "rename of a copy");
    if (status != MQ_OK) {
        mq_io_close(io, copy);
        (void)io->unlink(io, temporary);
        return status;
    }
    *cut = true;
    /* In one step for all who hold the number: their running preads end on the old file, later ones see the new. */
    if (dup3(copy, fd, O_CLOEXEC) < 0)
        status = mq_fail(err, MQ_EIO, segment->path, 0, "dup3");
    mq_io_close(io, copy);
    return status != MQ_OK ? status : mq_io_sync_dir(io, directory, err);
}

/* Size, next offset; hints found before are not believed after. */
static void set_extent(mq_segment *segment, uint64_t size, int64_t next_offset)
{
    pthread_mutex_lock(&segment->lock);
    atomic_store(&segment->written_bytes, size);
    atomic_store(&segment->next_offset, next_offset);
    segment->truncations++;
    for (int i = 0; i < HINTS; i++)
        segment->hints[i].offset = -1;
    pthread_mutex_unlock(&segment->lock);
}

static mq_status truncate_log(mq_segment *segment, int fd, uint64_t position, bool *cut, mq_error *err)
{
    if (atomic_load(&segment->viewed_bytes) > position) {
        const mq_status status = replace_by_copy(segment, fd, position, cut, err);
        if (*cut)
            atomic_store(&segment->viewed_bytes, 0);
        return status;
    }
    const mq_status status = mq_io_resize(segment->io, fd, position, segment->path, err);
    if (status != MQ_OK)
        return status;
    *cut = true;
    if (segment->io->fdatasync(segment->io, fd) != 0)
        return mq_fail(err, MQ_EIO, segment->path, position, "fdatasync after a truncation");
    return MQ_OK;
}

/* Make the log end at position and next_offset. Once bytes are gone, a failure is final: what the disk has is unknown. */
static mq_status cut_log(mq_segment *segment, int fd, uint64_t position, int64_t next_offset, mq_error *err)
{
    mq_error local;
    err = err != NULL ? err : &local;
    bool cut = false;
    const mq_extent old = mq_seg_extent(segment);
    pthread_mutex_lock(&segment->sync_lock);    /* a flush that saw the old size must not call it durable */
    set_extent(segment, position, next_offset); /* first: no reader looks at bytes that go */
    const mq_status status = truncate_log(segment, fd, position, &cut, err);
    if (!cut) {
        set_extent(segment, old.size, old.next_offset);
    } else {
        atomic_store(&segment->flushed_bytes, status == MQ_OK ? position : 0);
        atomic_store(&segment->sealed, false);
        segment->allocated_bytes = position;
        if (status != MQ_OK)
            fail_for_good(segment, err->sys_errno);
    }
    pthread_mutex_unlock(&segment->sync_lock);
    return status;
}

static mq_status truncate_locked(mq_segment *segment, int64_t offset, mq_error *err)
{
    char path[MQ_PATH_MAX];
    uint64_t position;
    mq_walk walk;
    int fd;
    const mq_extent old = mq_seg_extent(segment);
    mq_status status = mq_segment_lookup(segment, offset, &position, err);
    if (status != MQ_OK || position == old.size)
        return status;
    if ((status = mq_seg_get_fd(segment, &fd, err)) != MQ_OK)
        return status;
    mq_walk_start(&walk, segment->io, fd, segment->path, position, old.size);
    status = mq_walk_next(&walk, err);
    const int64_t next = position == 0 ? segment->base_offset : walk.batch.base_offset;
    if (status == MQ_OK)
        status = mq_seg_sibling(segment, ".txnindex", path, err);
    if (status == MQ_OK)
        status = mq_txn_index_truncate(segment->io, path, next, err);
    if (status == MQ_OK)
        status = cut_log(segment, fd, position, next, err);
    mq_seg_put_fd(segment);
    if (status != MQ_OK)
        return status;
    mq_seg_unload(segment); /* the next load takes from the index files what the shorter log confirms, and cuts them */
    return mq_seg_load(segment, err);
}

mq_status mq_segment_truncate(mq_segment *segment, int64_t offset, mq_error *err)
{
    pthread_mutex_lock(&segment->write_lock);
    const bool sealed = atomic_exchange(&segment->sealed, false);
    mq_status status = mq_seg_writable(segment, err);
    atomic_store(&segment->sealed, sealed);
    if (status == MQ_OK)
        status = mq_seg_load(segment, err);
    if (status == MQ_OK)
        status = mq_seg_spill(segment, false, err); /* entries that stay must be in the files for the reload */
    if (status == MQ_OK)
        status = truncate_locked(segment, offset, err);
    if (status == MQ_OK)
        status = mq_seg_spill(segment, false, err);
    pthread_mutex_unlock(&segment->write_lock);
    return status;
}

mq_status mq_batches_check(const uint8_t *batches, size_t size, uint32_t max_batch_bytes, bool walk, int64_t *offsets,
                           mq_error *err)
{
    int64_t total = 0;
    for (size_t at = 0; at < size;) {
        mq_batch batch;
        mq_status status = mq_batch_check(batches + at, size - at, max_batch_bytes, &batch, err);
        uint64_t inside = 0;
        if (status == MQ_OK && (batch.record_count == 0 || batch.record_count != batch.last_offset_delta + 1))
            status = mq_fail(err, MQ_ECORRUPT, NULL, 0, "a batch's record count is not its number of offsets");
        if (status == MQ_OK && (batch.attributes & MQ_ATTR_CONTROL) != 0)
            status = mq_fail(err, MQ_ECORRUPT, NULL, 0, "a control batch from outside");
        if (status == MQ_OK && walk && (batch.attributes & MQ_ATTR_CODEC) == 0) {
            status = mq_batch_walk(batches + at, &batch, err);
            inside = status != MQ_OK && err != NULL ? err->position : 0;
        }
        if (status != MQ_OK) {
            if (err != NULL)
                err->position = at + inside;
            return status;
        }
        total += (int64_t)batch.last_offset_delta + 1;
        at += batch.size;
    }
    *offsets = total;
    return MQ_OK;
}

mq_status mq_segment_append_txn(mq_segment *segment, const mq_txn_entry *entry, mq_error *err)
{
    char path[MQ_PATH_MAX];
    pthread_mutex_lock(&segment->write_lock);
    mq_status status = mq_seg_writable(segment, err);
    if (status == MQ_OK)
        status = mq_seg_sibling(segment, ".txnindex", path, err);
    if (status == MQ_OK)
        status = mq_txn_index_append(segment->io, path, entry, err);
    segment->txn_dirty |= status == MQ_OK;
    pthread_mutex_unlock(&segment->write_lock);
    return status;
}

mq_status mq_segment_txns(mq_segment *segment, mq_txn_entry **entries, size_t *count, mq_error *err)
{
    char path[MQ_PATH_MAX];
    *entries = NULL;
    *count = 0;
    mq_status status = mq_seg_open_state(segment, err);
    if (status == MQ_OK)
        status = mq_seg_sibling(segment, ".txnindex", path, err);
    return status != MQ_OK ? status : mq_txn_index_load(segment->io, path, entries, count, err);
}
