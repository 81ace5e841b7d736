#include "mqcore/header_walk.h"

void mq_walk_start(mq_walk *walk, mq_io *io, int fd, const char *path, uint64_t position, uint64_t end)
{
    walk->io = io;
    walk->fd = fd;
    walk->path = path;
    walk->end = end;
    walk->position = position;
    walk->at = position;
    walk->batch.size = 0;
    walk->last_offset = -1;
    walk->buffer_at = 0;
    walk->buffer_size = 0;
}

/* The header at walk->position, read if it is not in the buffer; NULL: the read failed. */
static const uint8_t *header(mq_walk *walk, mq_status *status, mq_error *err)
{
    const uint64_t skip = walk->position - walk->buffer_at;
    if (walk->position >= walk->buffer_at && skip + MQ_BATCH_HEADER <= walk->buffer_size)
        return walk->buffer + skip;
    /* Small batches: the next headers come with this one. Large ones: do not read records for nothing. */
    size_t want = walk->batch.size >= MQ_WALK_BUFFER ? MQ_BATCH_HEADER : MQ_WALK_BUFFER;
    if (want > walk->end - walk->position)
        want = (size_t)(walk->end - walk->position);
    walk->buffer_size = 0;
    *status = mq_io_read_all(walk->io, walk->fd, walk->buffer, want, walk->position, walk->path, err);
    if (*status != MQ_OK)
        return NULL;
    walk->buffer_at = walk->position;
    walk->buffer_size = want;
    return walk->buffer;
}

mq_status mq_walk_next(mq_walk *walk, mq_error *err)
{
    if (walk->position >= walk->end)
        return MQ_ENOTFOUND;
    if (walk->end - walk->position < MQ_BATCH_HEADER)
        return mq_fail(err, MQ_ECORRUPT, walk->path, walk->position, "the data ends inside a batch header");
    mq_status status = MQ_OK;
    const uint8_t *bytes = header(walk, &status, err);
    if (bytes == NULL)
        return status;
    mq_batch batch;
    mq_error why;
    /* Only the header's bytes are there; the size given is what follows in the file, for the length check. */
    status = mq_batch_parse(bytes, (size_t)(walk->end - walk->position), MQ_BATCH_BYTES_MAX, &batch, &why);
    if (status != MQ_OK)
        return mq_fail(err, status == MQ_ETRUNCATED ? MQ_ECORRUPT : status, walk->path, walk->position, why.what);
    if (batch.base_offset <= walk->last_offset)
        return mq_fail(err, MQ_ECORRUPT, walk->path, walk->position, "base offsets do not rise");
    walk->batch = batch;
    walk->at = walk->position;
    walk->position += batch.size;
    walk->last_offset = mq_batch_last_offset(&batch);
    return MQ_OK;
}
