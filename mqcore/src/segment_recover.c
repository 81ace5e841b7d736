#include "mqcore/segment_recover.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "mqcore/alloc.h"
#include "mqcore/control_marker.h"
#include "mqcore/crc32c.h"
#include "mqcore/header_walk.h"
#include "mqcore/limits.h"
#include "mqcore/segment_index.h"
#include "recover_state.h"

/* Read in pieces that stay in the second-level cache: the checksum then finds them there. */
#define READ_BYTES ((size_t)512 << 10)
/* I4: a hostile file can look like a batch header at every byte; each candidate costs its length. */
#define SEARCH_BUDGET ((uint64_t)8 << 30)

/* Make [position, position + need) readable; the caller asks for no byte past the end. NULL: err. */
static const uint8_t *window(source *src, uint64_t position, size_t need, mq_status *status, mq_error *err)
{
    assert(position + need <= src->size);
    if (position >= src->at && position - src->at + need <= src->have)
        return src->bytes + (position - src->at);
    if (need > src->capacity || src->capacity < READ_BYTES) {
        const size_t capacity = need + READ_BYTES;
        uint8_t *buffer = mq_realloc(src->buffer, capacity);
        if (buffer == NULL) {
            *status = mq_fail(err, MQ_ENOMEM, src->path, position, "no memory to read a batch");
            return NULL;
        }
        src->bytes = src->buffer = buffer;
        src->capacity = capacity;
    }
    size_t kept = 0;
    if (position >= src->at && position < src->at + src->have) { /* the start of a batch that the window cut */
        kept = (size_t)(src->at + src->have - position);
        memmove(src->buffer, src->buffer + (position - src->at), kept);
    }
    size_t want = need - kept > READ_BYTES ? need - kept : READ_BYTES;
    if (want > src->capacity - kept)
        want = src->capacity - kept;
    if (want > src->size - position - kept)
        want = (size_t)(src->size - position - kept);
    src->at = position;
    src->have = 0;
    *status = mq_io_read_all(src->io, src->fd, src->buffer + kept, want, position + kept, src->path, err);
    if (*status != MQ_OK)
        return NULL;
    src->have = kept + want;
    return src->buffer;
}

static mq_status only_zeros(source *src, uint64_t from, bool *zeros, mq_error *err)
{
    mq_status status = MQ_OK;
    *zeros = true;
    for (uint64_t at = from; at < src->size && *zeros;) {
        const size_t part = src->size - at < 65536 ? (size_t)(src->size - at) : 65536;
        const uint8_t *bytes = window(src, at, part, &status, err);
        if (bytes == NULL)
            return status;
        *zeros = bytes[0] == 0 && memcmp(bytes, bytes + 1, part - 1) == 0;
        at += part;
    }
    return MQ_OK;
}

/* Checksum of bytes in the file, piece by piece through a second window. */
static mq_status crc_of(source *src, uint64_t at, uint64_t end, uint32_t *crc, mq_error *err)
{
    mq_status status = MQ_OK;
    *crc = 0;
    while (at < end) {
        const size_t part = end - at < READ_BYTES ? (size_t)(end - at) : READ_BYTES;
        const uint8_t *bytes = window(src, at, part, &status, err);
        if (bytes == NULL)
            return status;
        *crc = mq_crc32c(*crc, bytes, part);
        at += part;
    }
    return MQ_OK;
}

/* Whether a batch that can follow lies at `header` (its first bytes), and how long it is. */
static bool plausible(const scan *s, const uint8_t *header, uint64_t left, mq_batch *batch)
{
    return mq_batch_parse(header, left, s->options->max_batch_bytes, batch, NULL) == MQ_OK &&
           batch->base_offset >= s->out->next_offset && batch->base_offset >= s->base_offset &&
           mq_batch_last_offset(batch) - s->base_offset <= MQ_OFFSET_DELTA_MAX;
}

/* Find a good batch behind the problem: then the problem is damage, and what follows was once written. */
static mq_status search_after(scan *s, uint64_t from, mq_error *err)
{
    source *src = &s->src;
    source second = *src; /* candidates are read beside the search */
    second.buffer = NULL;
    second.capacity = 0;
    if (src->io != NULL)
        second.have = 0;
    mq_status status = MQ_OK;
    uint64_t budget = SEARCH_BUDGET;
    for (uint64_t at = from; s->out->valid_after < 0 && status == MQ_OK && src->size - at >= MQ_BATCH_HEADER;) {
        const size_t part = src->size - at < READ_BYTES ? (size_t)(src->size - at) : READ_BYTES;
        const uint8_t *bytes = window(src, at, part, &status, err);
        if (bytes == NULL)
            break;
        const uint8_t *end = bytes + part - MQ_BATCH_HEADER + 17; /* magic of the last header that fits */
        const uint8_t *magic = bytes + 16;
        while ((magic = memchr(magic, 2, (size_t)(end - magic))) != NULL) {
            const uint64_t position = at + (uint64_t)(magic - bytes) - 16;
            mq_batch batch;
            uint32_t crc;
            if (plausible(s, magic - 16, src->size - position, &batch)) {
                status = crc_of(&second, position + MQ_BATCH_CRC_START, position + batch.size, &crc, err);
                const bool spent = budget < batch.size; /* not decided: damage is the answer that cuts nothing */
                budget -= spent ? budget : batch.size;
                if (status != MQ_OK || crc == batch.crc || spent) {
                    s->out->valid_after = status == MQ_OK ? (int64_t)position : -1;
                    break;
                }
            }
            if (++magic == end)
                break;
        }
        at += part - MQ_BATCH_HEADER + 1;
    }
    mq_free(second.buffer);
    return status;
}

static mq_status report(scan *s, uint64_t position, mq_status why, const char *what, mq_error *err)
{
    mq_recovered *out = s->out;
    out->problem_position = (int64_t)position;
    out->end = why == MQ_ETRUNCATED ? MQ_END_TORN : MQ_END_BAD;
    (void)snprintf(out->problem, sizeof out->problem, "%s", what);
    bool zeros = false;
    mq_status status = MQ_OK;
    if (position < s->src.size)
        status = only_zeros(&s->src, position, &zeros, err);
    if (status != MQ_OK)
        return status;
    if (zeros) {
        out->end = MQ_END_ZEROS;
        (void)snprintf(out->problem, sizeof out->problem, "only zero bytes follow");
        return MQ_OK;
    }
    if (position < s->src.size)
        status = search_after(s, position + 1, err);
    if (status == MQ_OK && out->valid_after >= 0)
        out->end = MQ_END_BAD;
    return status;
}

static const char *wrong_offset(const scan *s, const mq_batch *batch)
{
    if (batch->base_offset < s->base_offset || mq_batch_last_offset(batch) - s->base_offset > MQ_OFFSET_DELTA_MAX)
        return "an offset outside its segment";
    if (s->options->end_offset > 0 && mq_batch_last_offset(batch) >= s->options->end_offset)
        return "an offset of the next segment";
    if (s->expected >= 0 && batch->base_offset < s->expected)
        return "an offset that was used already";
    if (!s->options->allow_gaps && batch->base_offset != (s->expected >= 0 ? s->expected : s->base_offset))
        return "a gap in the offsets";
    return NULL;
}

static mq_status list_marker(mq_recovered *out, const mq_batch *batch, const uint8_t *body, size_t size, mq_error *err)
{
    const int kind = mq_marker_read(batch, body, size).type;
    if (kind == MQ_MARKER_OTHER)
        return MQ_OK;
    if (out->marker_count == out->marker_capacity) {
        const size_t capacity = out->marker_capacity > 0 ? 2 * out->marker_capacity : 64;
        mq_marker *markers = mq_realloc(out->markers, capacity * sizeof *markers);
        if (markers == NULL)
            return mq_fail(err, MQ_ENOMEM, NULL, 0, "no memory for markers");
        out->markers = markers;
        out->marker_capacity = capacity;
    }
    out->markers[out->marker_count++] =
        (mq_marker){batch->base_offset, batch->producer_id, batch->producer_epoch, (int16_t)kind};
    return MQ_OK;
}

/* The batch takes its place in producer state; an abort is noted for the .txnindex. */
static mq_status note_producer(scan *s, const mq_batch *batch, const uint8_t *body, size_t body_size, mq_error *err)
{
    mq_recovered *out = s->out;
    if (out->aborted_count == out->aborted_room) {
        const size_t room = out->aborted_room > 0 ? out->aborted_room * 2 : 16;
        mq_txn_entry *aborted = mq_realloc(out->aborted, room * sizeof *aborted);
        if (aborted == NULL)
            return mq_fail(err, MQ_ENOMEM, NULL, 0, "no memory for aborted transactions");
        out->aborted = aborted;
        out->aborted_room = room;
    }
    mq_txn_entry *ended = &out->aborted[out->aborted_count];
    const mq_status status = mq_producers_add_batch(s->producers, batch, body, body_size, -1, ended, err);
    if (status == MQ_OK && ended->producer_id >= 0)
        out->aborted_count++;
    return status;
}

static mq_status accept(scan *s, const mq_batch *batch, uint64_t position, const uint8_t *body, size_t body_size,
                        mq_error *err)
{
    mq_status status = mq_segment_index_reserve(&s->index, batch->size, err);
    if (status == MQ_OK)
        status = note_producer(s, batch, body, body_size, err);
    if (status == MQ_OK && (batch->attributes & MQ_ATTR_CONTROL) != 0 && batch->producer_id >= 0 &&
        batch->base_offset >= s->options->markers_from)
        status = list_marker(s->out, batch, body, body_size, err);
    if (status != MQ_OK)
        return status;
    mq_segment_index_add(&s->index, &s->progress, batch, position);
    mq_segment_index_commit(&s->index, &s->progress);
    s->expected = mq_batch_last_offset(batch) + 1;
    s->out->next_offset = s->expected;
    s->out->valid_bytes = position + batch->size;
    s->out->last_leader_epoch = batch->leader_epoch;
    return MQ_OK;
}

/* Headers up to from_position: for the index, and to know where offsets stand. *good: false, a problem is reported. */
static mq_status walk_headers(scan *s, bool *good, mq_error *err)
{
    source *src = &s->src;
    const uint64_t from = s->options->from_position;
    mq_error why;
    mq_status status;
    mq_walk walk;
    mq_walk_start(&walk, src->io, src->fd, src->path, 0, from);
    while ((status = mq_walk_next(&walk, &why)) == MQ_OK) {
        const char *wrong = wrong_offset(s, &walk.batch);
        if (wrong != NULL) {
            *good = false;
            return report(s, walk.at, MQ_ECORRUPT, wrong, err);
        }
        uint8_t body[MQ_MARKER_BODY_MAX];
        size_t body_size = 0;
        if ((walk.batch.attributes & MQ_ATTR_CONTROL) != 0) {
            const size_t whole = walk.batch.size - MQ_BATCH_HEADER;
            body_size = whole < sizeof body ? whole : sizeof body;
            status = mq_io_read_all(src->io, src->fd, body, body_size, walk.at + MQ_BATCH_HEADER, src->path, err);
        }
        if (status != MQ_OK || (status = accept(s, &walk.batch, walk.at, body, body_size, err)) != MQ_OK)
            return status;
    }
    *good = status == MQ_ENOTFOUND;
    if (*good || status == MQ_EIO) {
        if (!*good && err != NULL)
            *err = why;
        return *good ? MQ_OK : status;
    }
    return report(s, walk.position, MQ_ECORRUPT, why.what, err);
}

static mq_status scan_batches(scan *s, mq_error *err)
{
    source *src = &s->src;
    mq_status status = MQ_OK;
    for (uint64_t at = s->options->from_position; at < src->size;) {
        const uint64_t left = src->size - at;
        mq_batch batch;
        mq_error why;
        if (left < MQ_BATCH_HEADER)
            return report(s, at, MQ_ETRUNCATED, "the file ends inside a batch header", err);
        const uint8_t *bytes = window(src, at, MQ_BATCH_HEADER, &status, err);
        if (bytes == NULL)
            return status;
        const mq_status parsed = mq_batch_parse(bytes, left, s->options->max_batch_bytes, &batch, &why);
        if (parsed != MQ_OK)
            return report(s, at, parsed, why.what, err);
        bytes = window(src, at, batch.size, &status, err);
        if (bytes == NULL)
            return status;
        if (mq_crc32c(0, bytes + MQ_BATCH_CRC_START, batch.size - MQ_BATCH_CRC_START) != batch.crc)
            return report(s, at, MQ_ECRC, "batch checksum (CRC32C) does not match", err);
        const char *wrong = wrong_offset(s, &batch);
        if (wrong != NULL)
            return report(s, at, MQ_ECORRUPT, wrong, err);
        if ((status = accept(s, &batch, at, bytes + MQ_BATCH_HEADER, batch.size - MQ_BATCH_HEADER, err)) != MQ_OK)
            return status;
        s->out->batches++;
        s->out->records += (uint64_t)batch.record_count;
        at += batch.size;
    }
    return MQ_OK;
}

static mq_status run(scan *s, int64_t base_offset, const mq_recover_options *options, mq_recovered *out, mq_error *err)
{
    s->options = options;
    s->base_offset = base_offset;
    s->expected = -1;
    s->out = out;
    s->producers = options->producers;
    if (s->producers == NULL && (s->producers = s->own_producers = mq_producers_new(UINT32_MAX)) == NULL)
        return mq_fail(err, MQ_ENOMEM, s->src.path, 0, "no memory for producer state");
    *out = (mq_recovered){
        .file_bytes = s->src.size,
        .next_offset = base_offset,
        .last_leader_epoch = -1,
        .problem_position = -1,
        .valid_after = -1,
    };
    mq_segment_index_init(&s->index, base_offset, options->index_interval_bytes, options->index_max_bytes);
    mq_index_progress_reset(&s->progress, base_offset);
    if (options->from_position > s->src.size || options->from_position > MQ_SEGMENT_BYTES_MAX)
        return mq_fail(err, MQ_EINVAL, s->src.path, s->src.size, "from_position is out of range");
    if (s->src.size >
        MQ_SEGMENT_BYTES_MAX) /* not by us; no position past it can be indexed, so nothing there is ours */
        s->src.size = MQ_SEGMENT_BYTES_MAX;
    bool good = true;
    mq_status status = MQ_OK;
    if (status == MQ_OK && options->from_position > 0 && s->src.io != NULL)
        status = walk_headers(s, &good, err);
    if (status == MQ_OK && good && options->from_offset >= 0) {
        if (s->expected > options->from_offset) /* what the caller vouched for is not what lies there */
            status = report(s, options->from_position, MQ_ECORRUPT, "offsets before from_position are too high", err);
        else
            s->expected = options->from_offset;
    }
    if (status == MQ_OK && out->problem_position < 0)
        status = scan_batches(s, err);
    out->max_timestamp = s->progress.max_timestamp;
    out->offset_of_max_timestamp = s->progress.offset_of_max_timestamp;
    return status;
}

void mq_recovered_free(mq_recovered *recovered)
{
    mq_free(recovered->markers);
    recovered->markers = NULL;
    mq_free(recovered->aborted);
    recovered->aborted = NULL;
    recovered->aborted_count = recovered->aborted_room = 0;
}

mq_status mq_segment_recover(mq_io *io, const char *directory, int64_t base_offset, const mq_recover_options *options,
                             mq_recovered *recovered, mq_error *err)
{
    char stem[MQ_PATH_MAX];
    char path[MQ_PATH_MAX + sizeof ".log"];
    const int length = snprintf(stem, sizeof stem, "%s/%020lld", directory, (long long)base_offset);
    *recovered = (mq_recovered){0}; /* so that it can be freed after any error */
    if (base_offset < 0 || length < 0 || (size_t)length + sizeof ".timeindex.tmp" >= sizeof stem)
        return mq_fail(err, MQ_EINVAL, directory, 0, "base_offset is negative, or the path too long");
    (void)snprintf(path, sizeof path, "%s.log", stem);
    scan s = {.src = {.io = io, .path = path}};
    mq_status status = mq_io_open(io, path, O_RDONLY, 0, &s.src.fd, err);
    if (status != MQ_OK)
        return status;
    status = mq_io_size(s.src.fd, &s.src.size, path, err);
    if (status == MQ_OK)
        status = run(&s, base_offset, options, recovered, err);
    if (status == MQ_OK && options->write_indexes)
        status = mq_recover_write_indexes(&s, stem, err);
    mq_io_close(io, s.src.fd);
    mq_free(s.src.buffer);
    mq_producers_free(s.own_producers);
    mq_segment_index_free(&s.index);
    return status;
}

mq_status mq_recover_bytes(const uint8_t *bytes, size_t size, int64_t base_offset, const mq_recover_options *options,
                           mq_recovered *recovered, mq_error *err)
{
    scan s = {.src = {.fd = -1, .size = size, .bytes = bytes, .have = size}};
    const mq_status status = run(&s, base_offset, options, recovered, err);
    mq_producers_free(s.own_producers);
    mq_segment_index_free(&s.index);
    return status;
}
