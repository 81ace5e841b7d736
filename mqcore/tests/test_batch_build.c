/* What batch_build writes, batch.h accepts; nothing is written past the room; and every record comes back in order. */
#include "mqcore/batch_build.h"
#include "mqcore/hash.h"
#include "test.h"

static const mq_record EMPTY = {NULL, NULL, NULL, 1000, -1, -1, 0};

static mq_record value_of(const char *text)
{
    mq_record r = EMPTY;
    r.value = (const uint8_t *)text;
    r.value_size = (int32_t)strlen(text);
    return r;
}

/* Check and walk every batch of a sealed chunk; return its records, or -1. */
static int64_t walk_chunk(const mq_chunk *c)
{
    int64_t records = 0;
    size_t at = 0;
    while (at < c->batch_start) {
        mq_batch b;
        mq_error err;
        if (mq_batch_check(c->bytes + at, c->batch_start - at, MQ_BATCH_BYTES_MAX, &b, &err) != MQ_OK ||
            mq_batch_walk(c->bytes + at, &b, &err) != MQ_OK || b.base_offset != records)
            return -1;
        records += b.record_count;
        at += b.size;
    }
    return records;
}

static void test_golden_record(void)
{
    uint8_t *room = malloc(200), headers[16];
    mq_chunk c;
    mq_chunk_init(&c, room, 200, 200, 200);
    uint8_t *end = mq_put_varint(headers, 1);
    end = mq_header_put(end, (const uint8_t *)"h", 1, NULL, -1);
    mq_record r = {(const uint8_t *)"k", (const uint8_t *)"val", headers, 7, 1, 3, (uint32_t)(end - headers)};
    CHECK(mq_header_size(1, -1) == (size_t)(end - headers) - 1);
    CHECK(mq_chunk_put(&c, &r) == MQ_OK);
    r.timestamp = 5; /* deltas may be negative */
    CHECK(mq_chunk_put(&c, &r) == MQ_OK);
    mq_chunk_seal(&c);
    static const uint8_t first[] = {26, 0, 0, 0, 2, 'k', 6, 'v', 'a', 'l', 2, 2, 'h', 1};
    static const uint8_t second[] = {26, 0, 3, 2, 2, 'k', 6, 'v', 'a', 'l', 2, 2, 'h', 1};
    CHECK(memcmp(room + 61, first, sizeof first) == 0);
    CHECK(memcmp(room + 61 + sizeof first, second, sizeof second) == 0);
    mq_batch b;
    CHECK(mq_batch_check(room, c.size, 200, &b, NULL) == MQ_OK);
    CHECK(b.record_count == 2 && b.last_offset_delta == 1 && b.base_timestamp == 7 && b.max_timestamp == 7);
    CHECK(b.producer_id == -1 && b.producer_epoch == -1 && b.base_sequence == -1 && b.leader_epoch == -1);
    free(room);
}

static void test_null_and_empty_differ(void)
{
    uint8_t *room = malloc(200);
    mq_chunk c;
    mq_chunk_init(&c, room, 200, 200, 200);
    mq_record r = EMPTY;
    CHECK(mq_chunk_put(&c, &r) == MQ_OK);
    r.key_size = r.value_size = 0;
    CHECK(mq_chunk_put(&c, &r) == MQ_OK);
    mq_chunk_seal(&c);
    CHECK(room[61 + 4] == 1 && room[61 + 5] == 1);
    CHECK(room[61 + 7 + 4] == 0 && room[61 + 7 + 5] == 0);
    CHECK(walk_chunk(&c) == 2);
    free(room);
}

static void test_every_capacity_is_kept(void)
{
    /* ASan guards the exact size: no capacity lets a byte out, and what went in is whole. */
    for (size_t capacity = 1; capacity < 400; capacity++) {
        uint8_t *room = malloc(capacity);
        mq_chunk c;
        mq_chunk_init(&c, room, capacity, 150, 1000);
        int32_t put = 0;
        mq_status status;
        do {
            mq_record r = value_of("0123456789012345678901234567890123456789");
            r.value_size = put % 41;
            status = mq_chunk_put(&c, &r);
            put += status == MQ_OK;
        } while (status == MQ_OK);
        CHECK(status == MQ_EFULL);
        CHECK(mq_chunk_records(&c) == put);
        mq_chunk_seal(&c);
        CHECK(c.batch_start == c.size && c.size <= capacity);
        CHECK(walk_chunk(&c) == put);
        free(room);
    }
}

static void test_batches_keep_their_limits(void)
{
    uint8_t *room = malloc(4000), big[600] = {0};
    mq_chunk c;
    mq_chunk_init(&c, room, 4000, 200, 500);
    mq_record r = value_of("abc");
    CHECK(mq_chunk_put(&c, &r) == MQ_OK);
    r.value = big;
    r.value_size = 400; /* over batch_bytes: a batch of its own */
    CHECK(mq_chunk_put(&c, &r) == MQ_OK);
    CHECK(c.records == 1 && c.batch_records == 1);
    r.value_size = 440; /* header, record overhead and value pass 500 */
    CHECK(mq_chunk_put(&c, &r) == MQ_ETOOBIG);
    r = value_of("abc");
    CHECK(mq_chunk_put(&c, &r) == MQ_OK);
    mq_chunk_seal(&c);
    CHECK(walk_chunk(&c) == 3);
    r.value_size = -2;
    CHECK(mq_chunk_put(&c, &r) == MQ_EINVAL);
    r.value_size = 3;
    r.timestamp = -1;
    CHECK(mq_chunk_put(&c, &r) == MQ_EINVAL);
    r.timestamp = INT64_MAX;
    CHECK(mq_chunk_put(&c, &r) == MQ_OK);
    r.timestamp = 0;
    CHECK(mq_chunk_put(&c, &r) == MQ_OK);
    mq_chunk_seal(&c);
    CHECK(walk_chunk(&c) == 5);
    CHECK(mq_record_room(&r) == 61 + 1 + 6 + 3);
    free(room);
}

static void test_sequences_wrap_as_kafkas(void)
{
    uint8_t *room = malloc(1000);
    mq_chunk c;
    mq_chunk_init(&c, room, 1000, 70, 1000); /* one record a batch */
    c.producer_id = 9;
    c.producer_epoch = 2;
    c.base_sequence = INT32_MAX;
    mq_record r = value_of("x");
    for (int i = 0; i < 3; i++)
        CHECK(mq_chunk_put(&c, &r) == MQ_OK);
    mq_chunk_seal(&c);
    mq_batch b[3];
    size_t at = 0;
    for (int i = 0; i < 3; i++) {
        CHECK(mq_batch_check(room + at, c.size - at, 1000, &b[i], NULL) == MQ_OK);
        at += b[i].size;
    }
    CHECK(b[0].base_sequence == INT32_MAX && b[1].base_sequence == 0 && b[2].base_sequence == 1);
    CHECK(b[2].producer_id == 9 && b[2].producer_epoch == 2);
    free(room);
}

static void test_every_kind_of_column_writes_the_same(void)
{
    static const char text[] = "aabbccdd";
    const uint8_t *base = exact_copy(text, 8);
    const uint8_t *pointers[4] = {base, base + 2, base + 4, base + 6};
    const int32_t sizes[4] = {2, 2, 2, 2}, offsets32[5] = {0, 2, 4, 6, 8};
    const int64_t offsets64[5] = {0, 2, 4, 6, 8};
    const mq_column columns[5] = {
        {.kind = MQ_COLUMN_POINTERS, .pointers = pointers, .sizes = sizes},
        {.kind = MQ_COLUMN_OFFSETS32, .base = base, .offsets32 = offsets32},
        {.kind = MQ_COLUMN_OFFSETS64, .base = base, .offsets64 = offsets64},
        {.kind = MQ_COLUMN_ROWS, .base = base, .stride = 2, .width = 2},
        {.kind = MQ_COLUMN_RANGES, .base = base, .offsets64 = offsets64, .sizes = sizes},
    };
    uint8_t expected[200] = {0};
    for (int keyed = 0; keyed < 2; keyed++)
        for (int i = 0; i < 5; i++) {
            uint8_t room[200] = {0};
            mq_chunk c;
            mq_chunk_init(&c, room, sizeof room, 200, 200);
            mq_rows rows = {.values = columns[i], .timestamp = 5};
            if (keyed)
                rows.keys = columns[4 - i];
            mq_status status;
            CHECK(mq_chunk_put_rows(&c, &rows, 0, 4, &status) == 4 && status == MQ_OK);
            mq_chunk_seal(&c);
            CHECK(walk_chunk(&c) == 4);
            if (i == 0)
                memcpy(expected, room, sizeof room);
            CHECK(memcmp(expected, room, c.size) == 0);
        }
    free((void *)(uintptr_t)base);
}

static void test_a_run_of_rows_lies_there_as_if_put_one_by_one(void)
{
    enum { N = 9000, SIZES = 10 }; /* past the offset deltas of one, two and three bytes */
    static const int32_t sizes_of[SIZES] = {-1, 0, 1, 31, 32, 63, 64, 128, 129, 300};
    static const size_t batch_bytes[] = {1 << 20, 65536, 700, 61};
    static int32_t sizes[N];
    static const uint8_t *pointers[N];
    uint8_t *base = malloc(300);
    for (int i = 0; i < 300; i++)
        base[i] = (uint8_t)(i * 7);
    for (size_t turn = 0; turn < 40; turn++) {
        /* Of one size for a while, then of another; and, some turns, so small that all fit one batch. */
        for (int i = 0; i < N; i++) {
            sizes[i] = turn % 5 == 0 ? (int32_t)(turn % 2) : sizes_of[(size_t)(i / (int)(1 + turn)) % SIZES];
            pointers[i] = sizes[i] < 0 ? NULL : base + 300 - sizes[i]; /* an over-read shows */
        }
        const size_t room = turn % 3 == 0 ? 5000 + turn : 2 << 20;
        uint8_t *one = malloc(room), *all = malloc(room);
        mq_chunk a, b;
        mq_chunk_init(&a, one, room, batch_bytes[turn % 4], 1 << 20);
        mq_chunk_init(&b, all, room, batch_bytes[turn % 4], 1 << 20);
        const mq_record first = {base, base, NULL, 5000, 3, 4, 0}; /* later than the run: negative deltas */
        CHECK(mq_chunk_put(&a, &first) == MQ_OK && mq_chunk_put(&b, &first) == MQ_OK);
        size_t put = 0;
        for (; put < N; put++) {
            const mq_record r = {NULL, pointers[put], NULL, turn % 2 == 0 ? 4000 : 900000, -1, sizes[put], 0};
            if (mq_chunk_put(&a, &r) != MQ_OK)
                break;
        }
        const mq_rows rows = {.values = {.kind = MQ_COLUMN_POINTERS,
                                         .pointers = pointers,
                                         .sizes = sizes,
                                         .ahead = (const void *const *)pointers,
                                         .ahead_count = N / 2},
                              .timestamp = turn % 2 == 0 ? 4000 : 900000};
        mq_status status;
        CHECK(mq_chunk_put_rows(&b, &rows, 0, N, &status) == put && status == (put == N ? MQ_OK : MQ_EFULL));
        CHECK(a.size == b.size && a.max_timestamp == b.max_timestamp && mq_chunk_records(&a) == mq_chunk_records(&b));
        mq_chunk_seal(&a);
        mq_chunk_seal(&b);
        CHECK(memcmp(one, all, a.size) == 0);
        CHECK(walk_chunk(&b) == (int64_t)put + 1);
        free(one);
        free(all);
    }
    free(base);
}

static void test_bad_columns_stop_at_their_row(void)
{
    static const uint8_t base[8], valid[] = {0x0a}; /* bits 1 and 3 */
    const int32_t falling[5] = {0, 2, 1, 3, 4};
    uint8_t room[300];
    mq_chunk c;
    mq_chunk_init(&c, room, sizeof room, 300, 300);
    mq_rows rows = {.values = {.kind = MQ_COLUMN_OFFSETS32, .base = base, .offsets32 = falling}, .timestamp = 5};
    mq_status status;
    CHECK(mq_chunk_put_rows(&c, &rows, 0, 4, &status) == 1 && status == MQ_EINVAL);
    const int64_t times[4] = {1, 2, -3, 4};
    rows = (mq_rows){.values = {.kind = MQ_COLUMN_NULL}, .timestamps = times};
    CHECK(mq_chunk_put_rows(&c, &rows, 1, 4, &status) == 1 && status == MQ_EINVAL);
    rows = (mq_rows){.values = {.kind = MQ_COLUMN_ROWS, .base = base, .stride = -1, .width = 1, .valid = valid}};
    rows.values.base = base + 7; /* backwards, with nulls */
    CHECK(mq_chunk_put_rows(&c, &rows, 0, 4, &status) == 4 && status == MQ_OK);
    mq_chunk_seal(&c);
    CHECK(walk_chunk(&c) == 6);
}

static void test_keyed_rows_go_where_kafka_puts_them(void)
{
    enum { N = 300, PARTITIONS = 3 };
    static uint8_t room[PARTITIONS][4096], keys[N][2];
    mq_chunk chunk[PARTITIONS], *chunks[PARTITIONS];
    int32_t expected[PARTITIONS] = {0}, partition;
    for (int i = 0; i < N; i++) {
        keys[i][0] = (uint8_t)i;
        expected[mq_kafka_partition(keys[i], 2, PARTITIONS)]++;
    }
    for (int i = 0; i < PARTITIONS; i++) {
        mq_chunk_init(&chunk[i], room[i], sizeof room[i], 500, 1000);
        chunks[i] = &chunk[i];
    }
    mq_rows rows = {.keys = {.kind = MQ_COLUMN_ROWS, .base = keys[0], .stride = 2, .width = 2}, .timestamp = 1};
    mq_status status;
    CHECK(mq_chunks_put_keyed(chunks, PARTITIONS, false, &rows, 0, N, &partition, &status) == N && status == MQ_OK);
    for (int i = 0; i < PARTITIONS; i++) {
        mq_chunk_seal(&chunk[i]);
        CHECK(walk_chunk(&chunk[i]) == expected[i] && expected[i] > 0);
    }
    chunks[mq_kafka_partition(keys[0], 2, PARTITIONS)] = NULL;
    CHECK(mq_chunks_put_keyed(chunks, PARTITIONS, false, &rows, 0, N, &partition, &status) == 0);
    CHECK(status == MQ_EFULL && partition == mq_kafka_partition(keys[0], 2, PARTITIONS));
    rows.keys.kind = MQ_COLUMN_NULL;
    CHECK(mq_chunks_put_keyed(chunks, PARTITIONS, false, &rows, 0, N, &partition, &status) == 0);
    CHECK(status == MQ_ENOTFOUND);
}

static void test_repack_moves_down_and_keeps_what_does_not_shrink(void)
{
    uint8_t *room = malloc(1000), packed[] = "packed";
    mq_chunk c;
    mq_chunk_init(&c, room, 1000, 100, 1000);
    c.seal_later = true;
    mq_record r = value_of("12345678901234567890");
    for (int i = 0; i < 2; i++)
        CHECK(mq_chunk_put(&c, &r) == MQ_OK);
    mq_chunk_seal(&c);
    const size_t half = c.size / 2;
    const size_t first = mq_batch_repack(room, room, half, packed, 6, 3);
    CHECK(first == 61 + 6);
    const size_t second = mq_batch_repack(room + first, room + half, half, packed, half - 61, 3);
    CHECK(second == half);
    mq_batch b;
    CHECK(mq_batch_check(room, first, 1000, &b, NULL) == MQ_OK && (b.attributes & MQ_ATTR_CODEC) == 3);
    CHECK(b.record_count == 1 && memcmp(room + 61, packed, 6) == 0);
    CHECK(mq_batch_check(room + first, second, 1000, &b, NULL) == MQ_OK && b.attributes == 0 && b.base_offset == 1);
    CHECK(mq_batch_walk(room + first, &b, NULL) == MQ_OK);
    free(room);
}

int main(void)
{
    RUN(test_golden_record);
    RUN(test_null_and_empty_differ);
    RUN(test_every_capacity_is_kept);
    RUN(test_batches_keep_their_limits);
    RUN(test_sequences_wrap_as_kafkas);
    RUN(test_every_kind_of_column_writes_the_same);
    RUN(test_a_run_of_rows_lies_there_as_if_put_one_by_one);
    RUN(test_bad_columns_stop_at_their_row);
    RUN(test_keyed_rows_go_where_kafka_puts_them);
    RUN(test_repack_moves_down_and_keeps_what_does_not_shrink);
    FINISH();
}
