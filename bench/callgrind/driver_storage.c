/* driver_storage.c -- batches built and read, segments and their indexes: see driver.c. Files go to $TMPDIR, a new
 * directory each run, removed afterwards. A count here has the C library's part of a system call, not the kernel's. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "driver.h"
#include "mqcore/batch_build.h"
#include "mqcore/batch_iter.h"
#include "mqcore/io.h"
#include "mqcore/segment.h"
#include "mqcore/segment_read.h"

enum { RECORDS = 500, VALUE = 100, SMALL = 10, FILLED = 2000 };

static void must(mq_status status)
{
    if (status != MQ_OK) {
        fprintf(stderr, "driver: %s\n", mq_status_name(status));
        exit(3);
    }
}

/* One record into an open chunk, as `send` does it; the chunk starts anew when it is full. */
static void chunk_put(long n)
{
    const size_t capacity = 1u << 20;
    uint8_t *bytes = malloc(capacity), *value = noise(VALUE);
    mq_chunk chunk;
    mq_record record = {.value = value, .timestamp = 1700000000000, .key_size = -1, .value_size = VALUE};
    mq_chunk_init(&chunk, bytes, capacity, 65536, capacity);
    for (long i = 0; i < n; i++) {
        record.timestamp++;
        if (mq_chunk_put(&chunk, &record) != MQ_OK) {
            mq_chunk_init(&chunk, bytes, capacity, 65536, capacity);
            must(mq_chunk_put(&chunk, &record));
        }
    }
    keep(bytes[70]);
    free(bytes);
    free(value);
}

/* 500 rows of a 2-D array into a chunk, sealed: what `send_many` does for half a batch. */
static void chunk_put_rows(long n)
{
    const size_t capacity = 1u << 17;
    uint8_t *bytes = malloc(capacity), *values = noise(RECORDS * VALUE);
    mq_rows rows = {.keys = {.kind = MQ_COLUMN_NULL},
                    .values = {.kind = MQ_COLUMN_ROWS, .base = values, .stride = VALUE, .width = VALUE},
                    .timestamp = 1700000000000};
    for (long i = 0; i < n; i++) {
        mq_chunk chunk;
        mq_status status;
        mq_chunk_init(&chunk, bytes, capacity, 65536, capacity);
        keep(mq_chunk_put_rows(&chunk, &rows, 0, RECORDS, &status));
        must(status);
        mq_chunk_seal(&chunk);
    }
    free(bytes);
    free(values);
}

/* A batch of 500 records as columns, its CRC checked: what a consumer's batch costs. */
static void columns_read(long n)
{
    static int64_t offsets[RECORDS], timestamps[RECORDS], starts[RECORDS];
    static int32_t lengths[RECORDS];
    const mq_columns columns = {offsets, timestamps, starts, lengths};
    size_t size;
    uint8_t *bytes = plain_batch(RECORDS, &size);
    const mq_run_options options = {.end = size, .max_records = 10000, .first_offset = -1, .contiguous = true};
    for (long i = 0; i < n; i++) {
        mq_run run;
        mq_error err;
        must(mq_run_plan(bytes, &options, &run, &err));
        must(mq_run_columns(bytes, &run, true, &columns, &err));
        keep((uint64_t)starts[RECORDS - 1]);
        mq_run_free(&run);
    }
    free(bytes);
}

static void batches_check(long n)
{
    size_t size;
    uint8_t *bytes = plain_batch(RECORDS, &size);
    mq_error err;
    int64_t offsets;
    for (long i = 0; i < n; i++)
        must(mq_batches_check(bytes, size, 1u << 20, true, &offsets, &err));
    keep((uint64_t)offsets);
    free(bytes);
}

static mq_segment *new_segment(char *directory)
{
    const char *parent = getenv("TMPDIR");
    const mq_segment_limits limits = {4096, 10u << 20, 1u << 30, false};
    mq_segment *segment = NULL;
    mq_error err;
    snprintf(directory, 300, "%s/segment-XXXXXX", parent != NULL ? parent : "/tmp");
    if (mkdtemp(directory) == NULL)
        exit(3);
    must(mq_segment_create(mq_io_posix(), directory, 0, &limits, &segment, &err));
    return segment;
}

static void remove_segment(mq_segment *segment, const char *directory)
{
    static const char *const suffixes[] = {"log", "index", "timeindex"};
    char path[400];
    mq_segment_free(segment);
    for (size_t i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%020d.%s", directory, 0, suffixes[i]);
        unlink(path);
    }
    rmdir(directory);
}

static void append(mq_segment *segment, uint8_t *batch, size_t size, long times)
{
    mq_error err;
    uint64_t position;
    int64_t next = mq_segment_next_offset(segment);
    for (long i = 0; i < times; i++)
        must(mq_segment_append(segment, batch, size, next, 0, -1, &position, &next, &err));
}

/* A batch of 10 records: offsets stamped, indexed, one positioned write. */
static void segment_append(long n)
{
    char directory[300];
    size_t size;
    uint8_t *batch = plain_batch(SMALL, &size);
    mq_segment *segment = new_segment(directory);
    append(segment, batch, size, n);
    remove_segment(segment, directory);
    free(batch);
}

/* Where an offset lies among 2,000 batches: the index, then a few headers. */
static void segment_lookup(long n)
{
    char directory[300];
    size_t size;
    uint8_t *batch = plain_batch(SMALL, &size);
    mq_segment *segment = new_segment(directory);
    mq_error err;
    uint64_t position;
    append(segment, batch, size, FILLED);
    for (long i = 0; i < n; i++) {
        must(mq_segment_lookup(segment, i * 7919 % (FILLED * SMALL), &position, &err));
        keep(position);
    }
    remove_segment(segment, directory);
    free(batch);
}

const bench_case storage_cases[] = {
    {"chunk_put", chunk_put},
    {"chunk_put_rows", chunk_put_rows},
    {"columns_read", columns_read},
    {"batches_check", batches_check},
    {"segment_append", segment_append},
    {"segment_lookup", segment_lookup},
    {NULL, NULL},
};
