/* The index files that a recovery makes of what it found. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "mqcore/alloc.h"
#include "recover_state.h"

/* Whether the file has these bytes already: after a crash of a quiet store most indexes do. */
static bool is_same(mq_io *io, const char *path, const uint8_t *bytes, size_t size)
{
    int fd;
    uint64_t file_bytes = 0;
    if (mq_io_open(io, path, O_RDONLY, 0, &fd, NULL) != MQ_OK)
        return false;
    bool same = mq_io_size(fd, &file_bytes, path, NULL) == MQ_OK && file_bytes == size;
    uint8_t block[4096];
    for (size_t at = 0; at < size && same; at += sizeof block) {
        const size_t part = size - at < sizeof block ? size - at : sizeof block;
        same = mq_io_read_all(io, fd, block, part, at, path, NULL) == MQ_OK && memcmp(block, bytes + at, part) == 0;
    }
    mq_io_close(io, fd);
    return same;
}

static mq_status replace_file(scan *s, const char *path, const uint8_t *bytes, size_t size, mq_error *err)
{
    mq_io *io = s->src.io;
    if (!s->options->sync_indexes) {
        if (is_same(io, path, bytes, size))
            return MQ_OK;
        /* A rename over a file makes ext4 write the new one out at once (auto_da_alloc): milliseconds each, for files
         * that the next open can do without. Without a name in the way it does not. */
        (void)io->unlink(io, path);
    }
    return mq_io_write_atomic(io, path, bytes, size, 0600, s->options->sync_indexes, err);
}

static mq_status write_index(scan *s, const mq_index *index, const char *stem, const char *suffix, mq_error *err)
{
    char path[MQ_PATH_MAX];
    const int length = snprintf(path, sizeof path, "%s%s", stem, suffix);
    if (length < 0 || (size_t)length >= sizeof path)
        return mq_fail(err, MQ_EINVAL, stem, 0, "the path is too long");
    return replace_file(s, path, index->tail, (size_t)index->tail_count * index->entry_size, err);
}

/* Aborts whose transaction began before what the caller gave keep the first offset that the old file notes, if any. */
static mq_status complete_aborts(scan *s, const char *path, mq_error *err)
{
    mq_recovered *out = s->out;
    mq_txn_entry *old = NULL;
    size_t old_count = 0;
    bool unknown = false;
    for (size_t i = 0; i < out->aborted_count; i++)
        unknown |= out->aborted[i].first_offset < 0;
    if (unknown) {
        const mq_status status = mq_txn_index_load(s->src.io, path, &old, &old_count, err);
        if (status == MQ_EIO || status == MQ_ENOMEM)
            return status; /* a file that breaks the format has nothing to say */
    }
    size_t kept = 0;
    for (size_t i = 0, j = 0; i < out->aborted_count; i++) {
        mq_txn_entry entry = out->aborted[i];
        while (j < old_count && old[j].last_offset < entry.last_offset)
            j++;
        if (entry.first_offset < 0 && j < old_count && old[j].last_offset == entry.last_offset &&
            old[j].producer_id == entry.producer_id)
            entry = old[j];
        if (entry.first_offset >= 0)
            out->aborted[kept++] = entry;
    }
    out->aborted_count = kept;
    mq_free(old);
    return MQ_OK;
}

static mq_status write_txns(scan *s, const char *stem, mq_error *err)
{
    char path[MQ_PATH_MAX + sizeof ".txnindex"];
    (void)snprintf(path, sizeof path, "%s.txnindex", stem);
    mq_status status = complete_aborts(s, path, err);
    const mq_recovered *out = s->out;
    if (status == MQ_OK && out->aborted_count == 0) {
        if (s->src.io->unlink(s->src.io, path) != 0 && errno != ENOENT)
            status = mq_fail(err, MQ_EIO, path, 0, "unlink of a stale transaction index");
        return status;
    }
    uint8_t *bytes = status == MQ_OK ? mq_alloc(out->aborted_count * MQ_TXN_ENTRY) : NULL;
    if (status == MQ_OK && bytes == NULL)
        status = mq_fail(err, MQ_ENOMEM, path, 0, "no memory for the transaction index");
    if (status != MQ_OK)
        return status;
    for (size_t i = 0; i < out->aborted_count; i++)
        mq_txn_entry_put(bytes + i * MQ_TXN_ENTRY, &out->aborted[i]);
    status = replace_file(s, path, bytes, out->aborted_count * MQ_TXN_ENTRY, err);
    mq_free(bytes);
    return status;
}

mq_status mq_recover_write_indexes(scan *s, const char *stem, mq_error *err)
{
    mq_status status = mq_segment_index_add_last(&s->index, &s->progress, err);
    if (status != MQ_OK)
        return status;
    mq_segment_index_commit(&s->index, &s->progress);
    status = write_index(s, &s->index.offsets, stem, ".index", err);
    if (status == MQ_OK)
        status = write_index(s, &s->index.times, stem, ".timeindex", err);
    return status != MQ_OK ? status : write_txns(s, stem, err);
}
