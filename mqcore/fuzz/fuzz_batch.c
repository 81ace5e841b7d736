/* Any bytes as records: the fast parser and the slow one agree. Any bytes as a segment: sealed first, so that the fuzzer gets past the CRC. Nothing is read outside the range, the
 * columns lie inside it, offsets rise, and the walk and the columns agree on which batch is sound. */
#include <stdlib.h>

#include "mqcore/batch_iter.h"
#include "mqcore/record.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void seal_all(uint8_t *bytes, size_t size)
{
    mq_batch b;
    for (size_t at = 0; mq_batch_parse(bytes + at, size - at, MQ_BATCH_BYTES_MAX, &b, NULL) == MQ_OK; at += b.size)
        mq_batch_seal(bytes + at, b.size);
}

static void check_columns(const uint8_t *bytes, size_t size, mq_run *run, mq_error *err)
{
    const size_t records = (size_t)run->records;
    int64_t *words = malloc(records * 40 + 1);
    if (words == NULL)
        abort();
    int64_t *offsets = words, *starts = words + 2 * records, *key_starts = words + 3 * records;
    int32_t *lengths = (int32_t *)(words + 4 * records), *key_lengths = lengths + records;
    const mq_columns columns = {offsets, words + records, starts, lengths};
    const mq_status status = mq_run_columns(bytes, run, true, &columns, err);
    if (run->count > 0 && (status == MQ_OK) != (run->records > 0))
        abort();
    if (status == MQ_OK && mq_run_keys(bytes, run, key_starts, key_lengths, err) != MQ_OK)
        abort();
    for (size_t i = 0; status == MQ_OK && i < run->records; i++) {
        if (i > 0 && offsets[i] <= offsets[i - 1])
            abort();
        if (lengths[i] < -1 || starts[i] < 0 || (uint64_t)starts[i] + (uint64_t)(lengths[i] + (lengths[i] < 0)) > size)
            abort();
        if (key_lengths[i] < -1 || key_starts[i] + key_lengths[i] > starts[i])
            abort();
    }
    mq_batch b;
    for (size_t i = 0; status == MQ_OK && i < run->count; i++)
        if (mq_batch_parse(bytes + run->spans[i].position, run->spans[i].size, MQ_BATCH_BYTES_MAX, &b, err) != MQ_OK ||
            mq_batch_walk(bytes + run->spans[i].position, &b, err) != MQ_OK)
            abort();
    free(words);
}

static void compare_parsers(const uint8_t *at, const uint8_t *end)
{
    mq_record_guess guess = {0};
    while (at < end) {
        mq_record fast = {0}, slow;
        const bool good = mq_record_parse_next(at, end, &fast, &guess);
        if (good != mq_record_parse_slow(at, end, &slow))
            abort();
        if (!good)
            return;
        if (fast.key_length != slow.key_length || fast.value_length != slow.value_length || fast.end != slow.end ||
            fast.value != slow.value || fast.key != slow.key || fast.headers != slow.headers ||
            fast.header_count != slow.header_count || fast.offset_delta != slow.offset_delta ||
            fast.timestamp_delta != slow.timestamp_delta || fast.end <= at || fast.end > end)
            abort();
        at = fast.end;
    }
}

/* The survey says what the batches say one by one, and takes nothing that one of them is not. */
static void check_survey(const uint8_t *bytes, size_t size)
{
    mq_batches_facts facts;
    const bool whole = mq_batches_survey(bytes, size, MQ_BATCH_BYTES_MAX, &facts);
    mq_batch b = {0};
    mq_error err;
    int64_t offsets = 0, least = INT64_MAX, most = -1;
    size_t at = 0;
    for (; at < size && mq_batch_parse(bytes + at, size - at, MQ_BATCH_BYTES_MAX, &b, &err) == MQ_OK; at += b.size) {
        offsets += (int64_t)b.last_offset_delta + 1;
        least = b.base_timestamp < least ? b.base_timestamp : least;
        most = b.max_timestamp > most ? b.max_timestamp : most;
    }
    if (whole != (size > 0 && at == size))
        abort();
    if (whole && (facts.offsets != offsets || facts.base_timestamp != least || facts.max_timestamp != most))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 4)
        return 0;
    const uint8_t mode = data[0];
    const mq_aborted aborted[] = {{0, data[1], data[1] + data[2]}, {data[3], 0, 100}};
    size -= 4;
    uint8_t *bytes = malloc(size > 0 ? size : 1);
    if (bytes == NULL)
        abort();
    memcpy(bytes, data + 4, size);
    compare_parsers(bytes, bytes + size);
    seal_all(bytes, size);
    check_survey(bytes, size);
    mq_error err;
    mq_run run;
    const mq_run_options options = {.end = size,
                                    .min_offset = mode & 1 ? data[1] : 0,
                                    .max_records = mode & 2 ? data[2] : 1u << 20,
                                    .first_offset = mode & 4 ? data[3] : -1,
                                    .contiguous = (mode & 8) != 0,
                                    .check_crc = true,
                                    .aborted = aborted,
                                    .aborted_count = mode & 16 ? 2 : 0};
    if (mq_run_plan(bytes, &options, &run, &err) == MQ_OK)
        check_columns(bytes, size, &run, &err);
    mq_run_free(&run);
    mq_scan_row rows[8];
    size_t count;
    uint64_t at = 0;
    while (mq_scan(bytes, &at, size, MQ_BATCH_BYTES_MAX, true, rows, 8, &count, &err) == MQ_OK && count > 0)
        continue;
    free(bytes);
    return 0;
}
