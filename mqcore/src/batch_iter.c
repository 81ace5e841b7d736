#include "mqcore/batch_iter.h"

#include <stdlib.h>
#include <string.h>

#include "mqcore/crc32c.h"
#include "mqcore/record.h"

static mq_status damaged(mq_error *err, mq_status status, uint64_t position, int64_t offset, const char *what)
{
    mq_fail(err, status, NULL, position, what);
    if (err != NULL)
        err->offset = offset;
    return status;
}

/* Parse the header of the batch at `at`; in a stored range whatever is wrong with it is damage. */
static mq_status parse_stored(const uint8_t *bytes, uint64_t at, uint64_t end, int64_t offset, mq_batch *b,
                              mq_error *err)
{
    mq_error inner;
    const mq_status status = mq_batch_parse(bytes + at, end - at, MQ_BATCH_BYTES_MAX, b, &inner);
    return status == MQ_OK ? MQ_OK : damaged(err, MQ_ECORRUPT, at, offset, inner.what);
}

static bool crc_matches(const uint8_t *batch, const mq_batch *b)
{
    return mq_crc32c(0, batch + MQ_BATCH_CRC_START, b->size - MQ_BATCH_CRC_START) == b->crc;
}

static bool is_aborted(const mq_run_options *o, const mq_batch *b)
{
    if (o->aborted_count == 0 || (b->attributes & MQ_ATTR_TRANSACTIONAL) == 0)
        return false;
    size_t low = 0, high = o->aborted_count; /* up to the last transaction of this producer that starts before b ends */
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        const mq_aborted *a = &o->aborted[middle];
        const bool after = a->producer_id != b->producer_id ? a->producer_id > b->producer_id
                                                            : a->first_offset > mq_batch_last_offset(b);
        if (after)
            high = middle;
        else
            low = middle + 1;
    }
    if (low == 0)
        return false;
    const mq_aborted *a = &o->aborted[low - 1];
    return a->producer_id == b->producer_id && b->base_offset <= a->last_offset;
}

static bool add_span(mq_run *run, uint64_t position, const mq_batch *b)
{
    if (run->count == run->capacity) {
        const size_t capacity = run->capacity == 0 ? 32 : run->capacity * 2;
        mq_span *spans = realloc(run->spans, capacity * sizeof *spans);
        if (spans == NULL)
            return false;
        run->spans = spans;
        run->capacity = capacity;
    }
    run->spans[run->count++] = (mq_span){position, b->base_offset, b->size, b->record_count};
    run->records += (uint64_t)b->record_count;
    run->transactional |= (b->attributes & MQ_ATTR_TRANSACTIONAL) != 0;
    return true;
}

/* NULL, or why the batch cannot stand where it does; expected: the end of the batch before it, -1 if unknown. */
static const char *misplaced(const mq_run_options *o, int64_t expected, const mq_batch *b)
{
    if (expected < 0)
        return o->contiguous && b->base_offset > o->min_offset ? "a batch starts above the offset that lies in it"
                                                               : NULL;
    if (b->base_offset < expected)
        return "a batch starts below the end of the one before it";
    return o->contiguous && b->base_offset != expected ? "a batch does not start where the one before it ended" : NULL;
}

mq_status mq_run_plan(const uint8_t *bytes, const mq_run_options *o, mq_run *run, mq_error *err)
{
    *run = (mq_run){.end = o->start, .next_offset = o->first_offset};
    while (run->end < o->end) {
        const uint64_t at = run->end;
        const int64_t expected = run->next_offset;
        const bool first = at == o->start;
        mq_batch b;
        mq_status status = parse_stored(bytes, at, o->end, expected, &b, err);
        const char *what = status == MQ_OK ? misplaced(o, expected, &b) : NULL;
        if (what != NULL) {
            status = damaged(err, MQ_ECORRUPT, at, expected, what);
            if (o->first_offset < 0)
                return status; /* which of the two is damaged, nothing tells: neither is served */
        }
        if (status == MQ_OK && (uint64_t)b.record_count * MQ_RECORD_MIN > b.size - MQ_BATCH_HEADER &&
            (b.attributes & MQ_ATTR_CODEC) == 0) /* before memory is spent on it */
            status = damaged(err, MQ_ECORRUPT, at, b.base_offset, "record_count is more than the batch can hold");
        if (status != MQ_OK)
            return first ? status : MQ_OK; /* I4: the next call starts here, and fails */
        const bool passed_over = mq_batch_last_offset(&b) < o->min_offset || b.record_count == 0 ||
                                 (b.attributes & MQ_ATTR_CONTROL) != 0 || is_aborted(o, &b);
        if (passed_over) {
            if (o->check_crc && !crc_matches(bytes + at, &b)) {
                status = damaged(err, MQ_ECRC, at, b.base_offset, "batch checksum (CRC32C) does not match");
                return first ? status : MQ_OK;
            }
        } else {
            if ((b.attributes & MQ_ATTR_CODEC) != 0) {
                run->compressed_next = true;
                return MQ_OK;
            }
            if (run->count > 0 && run->records + (uint64_t)b.record_count > o->max_records)
                return MQ_OK;
            if (!add_span(run, at, &b))
                return mq_fail(err, MQ_ENOMEM, NULL, at, "no memory for the list of batches");
        }
        run->end = at + b.size;
        run->next_offset = mq_batch_last_offset(&b) + 1;
    }
    return MQ_OK;
}

/* The records of one batch into the columns from index 0 on. On damage *bad is the byte where. */
static const char *fill(const uint8_t *bytes, uint64_t position, const mq_batch *b, int64_t *restrict offsets,
                        int64_t *restrict timestamps, int64_t *restrict starts, int32_t *restrict lengths,
                        const uint8_t **bad)
{
    const uint8_t *at = bytes + position + MQ_BATCH_HEADER;
    const uint8_t *const end = bytes + position + b->size;
    const int64_t base_offset = b->base_offset;
    /* Unsigned: a timestamp out of range wraps as Java's does, it is no undefined behaviour. */
    const uint64_t base_timestamp = (uint64_t)b->base_timestamp;
    const int32_t last_offset_delta = b->last_offset_delta;
    const size_t count = (size_t)b->record_count;
    int32_t last_delta = -1;
    mq_record_guess guess = {0};
    for (size_t i = 0; i < count; i++) {
        mq_record record;
        if (MQ_UNLIKELY(!mq_record_parse_next(at, end, &record, &guess))) {
            *bad = at;
            return "a record's fields do not fill its length, or it passes the end of its batch";
        }
        if (MQ_UNLIKELY(record.offset_delta <= last_delta || record.offset_delta > last_offset_delta)) {
            *bad = at;
            return "record offsets do not rise inside their batch";
        }
        last_delta = record.offset_delta;
        offsets[i] = base_offset + last_delta;
        timestamps[i] = (int64_t)(base_timestamp + (uint64_t)record.timestamp_delta);
        starts[i] = record.value - bytes;
        lengths[i] = record.value_length;
        at = record.end;
    }
    *bad = at;
    if (at != end)
        return "bytes follow a batch's last record";
    if (b->attributes & MQ_ATTR_LOG_APPEND_TIME)
        for (size_t i = 0; i < count; i++)
            timestamps[i] = b->max_timestamp;
    return NULL;
}

/* Keep the first `spans` batches: the next one is damaged. */
static void shrink(mq_run *run, size_t spans, uint64_t records)
{
    run->end = run->spans[spans].position;
    run->next_offset = run->spans[spans].base_offset;
    run->count = spans;
    run->records = records;
    run->compressed_next = false;
}

static mq_status reparse(const uint8_t *bytes, const mq_span *span, mq_batch *b, mq_error *err)
{
    const mq_status status =
        parse_stored(bytes, span->position, span->position + span->size, span->base_offset, b, err);
    if (status != MQ_OK)
        return status;
    if (b->size != span->size || b->record_count != span->records || (b->attributes & MQ_ATTR_CODEC) != 0 ||
        b->base_offset != span->base_offset)
        return damaged(err, MQ_ECORRUPT, span->position, span->base_offset, "a batch changed while it was read");
    return MQ_OK;
}

mq_status mq_run_columns(const uint8_t *bytes, mq_run *run, bool check_crc, const mq_columns *columns, mq_error *err)
{
    uint64_t done = 0;
    for (size_t i = 0; i < run->count; i++) {
        const mq_span span = run->spans[i];
        mq_batch b;
        mq_status status = reparse(bytes, &span, &b, err);
        if (status == MQ_OK && check_crc && !crc_matches(bytes + span.position, &b))
            status = damaged(err, MQ_ECRC, span.position, span.base_offset, "batch checksum (CRC32C) does not match");
        if (status == MQ_OK) {
            const uint8_t *bad;
            const char *what = fill(bytes, span.position, &b, columns->offsets + done, columns->timestamps + done,
                                    columns->value_starts + done, columns->value_lengths + done, &bad);
            if (what != NULL)
                status = damaged(err, MQ_ECORRUPT, (uint64_t)(bad - bytes), span.base_offset, what);
        }
        if (status != MQ_OK) {
            shrink(run, i, done);
            return i == 0 ? status : MQ_OK;
        }
        done += (uint64_t)span.records;
    }
    return MQ_OK;
}

mq_status mq_run_keys(const uint8_t *bytes, const mq_run *run, int64_t *starts, int32_t *lengths, mq_error *err)
{
    for (size_t i = 0; i < run->count; i++) {
        const mq_span *span = &run->spans[i];
        const uint8_t *at = bytes + span->position + MQ_BATCH_HEADER;
        const uint8_t *const end = bytes + span->position + span->size;
        mq_record_guess guess = {0};
        for (int32_t k = 0; k < span->records; k++) {
            mq_record record;
            if (MQ_UNLIKELY(!mq_record_parse_next(at, end, &record, &guess)))
                return damaged(err, MQ_ECORRUPT, (uint64_t)(at - bytes), span->base_offset,
                               "a batch changed while it was read");
            starts[k] = record.key - bytes;
            lengths[k] = record.key_length;
            at = record.end;
        }
        starts += span->records;
        lengths += span->records;
    }
    return MQ_OK;
}

mq_status mq_run_copy(const mq_run *run, uint64_t origin, int64_t *starts, mq_run *copy)
{
    *copy = *run;
    copy->capacity = run->count > 0 ? run->count : 1;
    copy->spans = malloc(copy->capacity * sizeof *copy->spans);
    if (copy->spans == NULL)
        return MQ_ENOMEM;
    for (size_t i = 0; i < run->count; i++) {
        copy->spans[i] = run->spans[i];
        copy->spans[i].position -= origin;
    }
    for (uint64_t i = 0; i < run->records; i++)
        starts[i] -= (int64_t)origin;
    copy->end -= origin;
    return MQ_OK;
}

void mq_run_free(mq_run *run)
{
    free(run->spans);
    run->spans = NULL;
    run->count = run->capacity = 0;
}

size_t mq_first_at_least(const int64_t *offsets, size_t count, int64_t offset)
{
    size_t low = 0, high = count;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (offsets[middle] < offset)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

mq_status mq_scan(const uint8_t *bytes, uint64_t *position, uint64_t end, uint32_t max_bytes, bool check_crc,
                  mq_scan_row *rows, size_t room, size_t *count, mq_error *err)
{
    *count = 0;
    while (*count < room && *position < end) {
        const uint64_t at = *position;
        mq_batch b;
        const mq_status status = check_crc ? mq_batch_check(bytes + at, end - at, max_bytes, &b, err)
                                           : mq_batch_parse(bytes + at, end - at, max_bytes, &b, err);
        if (status != MQ_OK) {
            if (err != NULL)
                err->position = at;
            return status;
        }
        rows[(*count)++] = (mq_scan_row){
            .position = (int64_t)at,
            .base_offset = b.base_offset,
            .last_offset = mq_batch_last_offset(&b),
            .base_timestamp = b.base_timestamp,
            .max_timestamp = b.max_timestamp,
            .producer_id = b.producer_id,
            .size = (int32_t)b.size,
            .leader_epoch = b.leader_epoch,
            .base_sequence = b.base_sequence,
            .record_count = b.record_count,
            .crc = b.crc,
            .producer_epoch = b.producer_epoch,
            .attributes = b.attributes,
        };
        *position = at + b.size;
    }
    return MQ_OK;
}
