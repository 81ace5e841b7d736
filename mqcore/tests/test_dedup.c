/* The dedup window is a set of ids, whatever their shape, in whatever form they are kept, and it never passes its cap.
 */
#include "mqcore/dedup.h"

#include "mqcore/alloc.h"
#include "mqcore/dedup128.h"
#include "test.h"

enum { MODEL_BITS = 20 };

/* The model: open addressing over plain numbers, id + 1 stored. */
typedef struct model {
    uint64_t *places;
    size_t count;
} model;

static int model_add(model *m, uint64_t id)
{
    size_t at = (size_t)((id * 0x9E3779B97F4A7C15u) >> (64 - MODEL_BITS));
    while (m->places[at] != 0 && m->places[at] != id + 1)
        at = (at + 1) & ((1u << MODEL_BITS) - 1);
    const int seen = m->places[at] != 0;
    m->places[at] = id + 1;
    m->count += !seen;
    return seen;
}

static uint64_t state = 1;

static uint64_t chance(uint64_t below)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (state >> 11) % below;
}

static uint64_t snowflake(uint64_t ms, uint64_t worker, uint64_t sequence)
{
    return ms << MQ_ID_TIME_SHIFT | worker << MQ_ID_WORKER_SHIFT | sequence;
}

/* The shapes: dense sequences of few workers; one id a millisecond; scattered sequences; anything. */
static uint64_t shaped(int shape, uint64_t i)
{
    switch (shape) {
    case 0: return snowflake(1000 + i / 480, i % 8, i / 8 % 60);
    case 1: return snowflake(i, 3, 0);
    case 2: return snowflake(chance(40), chance(3), chance(4096));
    case 3: return snowflake(i / 4000, 5, i % 4000);
    case 4: return snowflake(chance(3000), chance(1024), chance(2));
    default: return chance(UINT64_MAX) >> chance(40);
    }
}

static mq_dedup *fresh(size_t max_bytes)
{
    const mq_dedup_config config = {.epoch_ms = 0, .bucket_ms = 256, .max_bytes = max_bytes};
    mq_error err;
    mq_dedup *d = mq_dedup_new(&config, &err);
    CHECK(d != NULL);
    return d;
}

static void equals_a_set(void)
{
    for (int shape = 0; shape <= 5; shape++) {
        model m = {calloc(1u << MODEL_BITS, sizeof(uint64_t)), 0};
        mq_dedup *d = fresh(64 << 20);
        mq_error err;
        int wrong = 0;
        uint64_t past[256] = {0};
        for (uint64_t i = 0; i < 200000; i++) {
            const uint64_t id = chance(20) == 0 ? past[chance(256)] : shaped(shape, i);
            past[i % 256] = chance(50) == 0 ? past[0] : id;
            mq_seen seen;
            CHECK(mq_dedup_test_and_set(d, id, -1, &seen, &err) == MQ_OK);
            wrong += (seen == MQ_SEEN_DUPLICATE) != model_add(&m, id);
            if (i % 40000 == 39999)
                CHECK(mq_dedup_pack(d, INT64_MAX, &err) == MQ_OK);
        }
        mq_dedup_stats stats;
        mq_dedup_get_stats(d, &stats);
        CHECK(wrong == 0 && stats.ids == m.count);
        for (size_t i = 0; i < 1u << MODEL_BITS; i++)
            wrong += m.places[i] != 0 && mq_dedup_find(d, m.places[i] - 1, NULL, NULL) != MQ_SEEN_DUPLICATE;
        for (uint64_t i = 0; i < 10000; i++) {
            const uint64_t id = shaped(4, i) ^ 1;
            const mq_seen was = mq_dedup_find(d, id, NULL, NULL);
            wrong += (was == MQ_SEEN_DUPLICATE) != model_add(&m, id);
            mq_seen seen;
            CHECK(mq_dedup_test_and_set(d, id, -1, &seen, &err) == MQ_OK && seen == was);
        }
        CHECK(wrong == 0);
        mq_dedup_free(d);
        free(m.places);
    }
}

static void snapshot_equals_the_set(void)
{
    for (int shape = 0; shape <= 5; shape++) {
        mq_dedup *d = fresh(64 << 20);
        mq_error err;
        mq_seen seen;
        for (uint64_t i = 0; i < 30000; i++)
            CHECK(mq_dedup_test_and_set(d, shaped(shape, i), (int64_t)i, &seen, &err) == MQ_OK);
        CHECK(mq_dedup_add_pending(d, 7, snowflake(9999999, 1, 1), 5, &seen, &err) == MQ_OK && seen == MQ_SEEN_NEW);
        CHECK(mq_dedup_add_pending(d, 9, snowflake(9999999, 1, 2), 6, &seen, &err) == MQ_OK);
        uint8_t *bytes, *again;
        size_t size, size_again;
        CHECK(mq_dedup_serialize(d, &bytes, &size, &err) == MQ_OK);
        unsigned char *exact = exact_copy(bytes, size);
        mq_dedup *copy = mq_dedup_deserialize(exact, size, 64 << 20, &err);
        CHECK(copy != NULL);
        CHECK(mq_dedup_serialize(copy, &again, &size_again, &err) == MQ_OK);
        CHECK(size == size_again && memcmp(bytes, again, size) == 0);
        CHECK(mq_dedup_find(copy, snowflake(9999999, 1, 2), NULL, NULL) == MQ_SEEN_PENDING);
        for (size_t cut = 0; cut < size; cut += 1 + size / 97)
            CHECK(mq_dedup_deserialize(exact, cut, 64 << 20, &err) == NULL);
        exact[size / 2] ^= 1;
        CHECK(mq_dedup_deserialize(exact, size, 64 << 20, &err) == NULL && err.status == MQ_ECRC);
        free(exact);
        free(bytes);
        free(again);
        mq_dedup_free(copy);
        mq_dedup_free(d);
    }
}

static void offsets_bound_each_bucket(void)
{
    mq_dedup *d = fresh(1 << 20);
    mq_error err;
    mq_seen seen;
    int64_t low, high;
    const uint64_t ids[] = {snowflake(0, 1, 0), snowflake(255, 1, 0), snowflake(256, 1, 0), snowflake(1, 1, 0)};
    uint8_t answers[4];
    size_t done, duplicates;
    CHECK(mq_dedup_test_and_set_many(d, ids, 4, 100, answers, &done, &duplicates, &err) == MQ_OK);
    CHECK(done == 4 && duplicates == 0);
    CHECK(mq_dedup_find(d, ids[1], &low, &high) == MQ_SEEN_DUPLICATE && low == 100 && high == 103);
    CHECK(mq_dedup_find(d, ids[2], &low, &high) == MQ_SEEN_DUPLICATE && low == 102 && high == 102);
    CHECK(mq_dedup_test_and_set(d, ids[2], 500, &seen, &err) == MQ_OK && seen == MQ_SEEN_DUPLICATE);
    CHECK(mq_dedup_find(d, ids[2], &low, &high) == MQ_SEEN_DUPLICATE && high == 102); /* the first stays */
    CHECK(mq_dedup_find(d, 5, &low, &high) == MQ_SEEN_NEW && low == -1 && high == -1);
    CHECK(mq_dedup_expire(d, 255) == 0 && mq_dedup_expire(d, 256) == 3);
    CHECK(mq_dedup_find(d, ids[1], NULL, NULL) == MQ_SEEN_NEW);
    CHECK(mq_dedup_find(d, ids[2], NULL, NULL) == MQ_SEEN_DUPLICATE);
    CHECK(mq_dedup_expire(d, INT64_MAX) == 1);
    mq_dedup_free(d);
}

static void transactions(void)
{
    mq_dedup *d = fresh(8 << 20);
    mq_error err;
    mq_seen seen;
    size_t confirmed;
    for (uint64_t tag = 1; tag <= 50; tag++)
        for (uint64_t i = 0; i < tag; i++)
            CHECK(mq_dedup_add_pending(d, 51 - tag, snowflake(i, tag, 0), 1, &seen, &err) == MQ_OK && !seen);
    CHECK(mq_dedup_add_pending(d, 99, snowflake(0, 1, 0), 1, &seen, &err) == MQ_OK && seen == MQ_SEEN_PENDING);
    CHECK(mq_dedup_test_and_set(d, snowflake(0, 1, 0), 1, &seen, &err) == MQ_OK && seen == MQ_SEEN_PENDING);
    for (uint64_t tag = 1; tag <= 50; tag++) {
        if (tag % 2 == 0) {
            CHECK(mq_dedup_confirm(d, 51 - tag, &confirmed, &err) == MQ_OK && confirmed == tag);
            CHECK(mq_dedup_find(d, snowflake(tag - 1, tag, 0), NULL, NULL) == MQ_SEEN_DUPLICATE);
        } else {
            CHECK(mq_dedup_abort(d, 51 - tag) == tag);
            CHECK(mq_dedup_find(d, snowflake(tag - 1, tag, 0), NULL, NULL) == MQ_SEEN_NEW);
        }
    }
    CHECK(mq_dedup_confirm(d, 12345, &confirmed, &err) == MQ_OK && confirmed == 0 && mq_dedup_abort(d, 12345) == 0);
    mq_dedup_stats stats;
    mq_dedup_get_stats(d, &stats);
    CHECK(stats.pending == 0 && stats.ids == 650);
    mq_dedup_free(d);
}

static void memory_is_bounded_and_comes_back(void)
{
    mq_dedup *d = fresh(1 << 20);
    mq_error err;
    mq_seen seen;
    mq_status status = MQ_OK;
    mq_dedup_stats stats;
    uint64_t i = 0;
    for (; status == MQ_OK; i++)
        status = mq_dedup_test_and_set(d, snowflake(i / 3, chance(1024), chance(4096)), -1, &seen, &err);
    CHECK(status == MQ_EFULL && err.status == MQ_EFULL);
    mq_dedup_get_stats(d, &stats);
    CHECK(stats.bytes_used <= 1 << 20 && stats.bytes_used > 900 << 10 && i > 50000);
    CHECK(mq_dedup_expire(d, INT64_MAX) == stats.ids);
    mq_dedup_get_stats(d, &stats);
    CHECK(stats.ids == 0 && stats.buckets == 0 && stats.bytes_used < 1024);
    CHECK(mq_dedup_test_and_set(d, 1, -1, &seen, &err) == MQ_OK && seen == MQ_SEEN_NEW);
    mq_dedup_free(d);
    const mq_dedup_config bad = {.bucket_ms = 3, .max_bytes = 1 << 20}, small = {.bucket_ms = 1, .max_bytes = 100};
    CHECK(mq_dedup_new(&bad, &err) == NULL && err.status == MQ_EINVAL);
    CHECK(mq_dedup_new(&small, &err) == NULL && err.status == MQ_EINVAL);
}

/* The n-th allocation of a run of calls fails, n = 1, 2, … until none does: each call answers or changes nothing. */
static void no_memory_is_an_answer(void)
{
    int64_t n = 1;
    for (int failed = 1; failed; n += 1 + n / 50) {
        mq_dedup *d = fresh(8 << 20);
        mq_error err;
        mq_seen seen;
        failed = 0;
        mq_alloc_countdown = n;
        for (uint64_t i = 0; i < 4000; i++) {
            const uint64_t id = shaped(i < 2000 ? 0 : 2, i);
            const mq_seen before = mq_dedup_find(d, id, NULL, NULL);
            mq_status status = mq_dedup_test_and_set(d, id, -1, &seen, &err);
            if (status != MQ_OK) {
                CHECK(status == MQ_ENOMEM && mq_dedup_find(d, id, NULL, NULL) == before);
                failed = 1;
                status = mq_dedup_test_and_set(d, id, -1, &seen, &err);
            }
            CHECK(status == MQ_OK && seen == before);
            if (i % 500 == 0) {
                const mq_status added = mq_dedup_add_pending(d, 1, i << 40, -1, &seen, &err);
                failed |= added != MQ_OK;
                CHECK(added == MQ_OK || mq_dedup_find(d, i << 40, NULL, NULL) != MQ_SEEN_PENDING);
            }
        }
        failed |= mq_dedup_pack(d, INT64_MAX, &err) != MQ_OK;
        uint8_t *bytes = NULL;
        size_t size;
        failed |= mq_dedup_serialize(d, &bytes, &size, &err) != MQ_OK;
        mq_dedup *copy = bytes != NULL ? mq_dedup_deserialize(bytes, size, 8 << 20, &err) : NULL;
        failed |= copy == NULL;
        failed |= mq_alloc_countdown == 0; /* a refused rebuild or pack is no error of its call */
        mq_alloc_countdown = 0;
        mq_dedup_free(copy);
        mq_free(bytes);
        mq_dedup_free(d);
    }
    CHECK(n > 100);
}

static double bytes_per_id(int shape, uint64_t count, int pack)
{
    mq_dedup *d = fresh(64 << 20);
    mq_error err;
    mq_seen seen;
    for (uint64_t i = 0; i < count; i++)
        mq_dedup_test_and_set(d, shaped(shape, i), -1, &seen, &err);
    if (pack)
        mq_dedup_pack(d, INT64_MAX, &err);
    mq_dedup_stats stats;
    mq_dedup_get_stats(d, &stats);
    mq_dedup_free(d);
    return (double)stats.bytes_used / (double)stats.ids;
}

static void ids_take_little(void)
{
    CHECK(bytes_per_id(0, 100000, 0) < 0.5); /* as uint16 arrays: 2.0 */
    CHECK(bytes_per_id(0, 100000, 1) < 0.12);
    CHECK(bytes_per_id(1, 100000, 0) < 6.0); /* one a millisecond */
    CHECK(bytes_per_id(1, 100000, 1) < 5.0);
    CHECK(bytes_per_id(2, 300000, 1) < 1.5);
    CHECK(bytes_per_id(3, 400000, 1) < 0.01);
}

static void ids_of_128_bits(void)
{
    mq_error err;
    mq_dedup128 *d = mq_dedup128_new(32 << 20, 99, &err);
    uint8_t ids[100][16], seen[100];
    size_t done, duplicates;
    mq_seen answer;
    int64_t offset;
    int wrong = 0;
    for (uint32_t round = 0; round < 500; round++) {
        for (uint32_t i = 0; i < 100; i++) {
            memset(ids[i], 0, 16);
            const uint32_t n = round * 100 + i;
            memcpy(ids[i] + (n % 2 ? 0 : 12), &n, 4);
        }
        CHECK(mq_dedup128_test_and_set_many(d, ids[0], 100, round, round * 100, seen, &done, &duplicates, &err) ==
              MQ_OK);
        wrong += (round > 0 && duplicates != 0) || done != 100;
        CHECK(mq_dedup128_test_and_set_many(d, ids[0], 100, round, 0, seen, &done, &duplicates, &err) == MQ_OK);
        wrong += duplicates != 100;
        if (round >= 50)
            wrong += mq_dedup128_expire(d, round - 49) != 100;
        wrong += mq_dedup128_find(d, ids[7], &offset) != MQ_SEEN_DUPLICATE || offset != round * 100 + 7;
    }
    CHECK(wrong == 0 && mq_dedup128_ids(d) == 5000 && mq_dedup128_bytes_used(d) <= 64 * 8192 + 1024);
    const uint8_t mine[16] = "pending-pending", other[16] = "other-pending-1";
    CHECK(mq_dedup128_add_pending(d, 4, mine, 8, &answer, &err) == MQ_OK && answer == MQ_SEEN_NEW);
    CHECK(mq_dedup128_add_pending(d, 5, mine, 8, &answer, &err) == MQ_OK && answer == MQ_SEEN_PENDING);
    CHECK(mq_dedup128_add_pending(d, 5, other, 9, &answer, &err) == MQ_OK && answer == MQ_SEEN_NEW);
    uint8_t *bytes;
    size_t size, confirmed;
    CHECK(mq_dedup128_serialize(d, &bytes, &size, &err) == MQ_OK);
    unsigned char *exact = exact_copy(bytes, size);
    mq_dedup128 *copy = mq_dedup128_deserialize(exact, size, 32 << 20, 1, &err);
    CHECK(copy != NULL && mq_dedup128_ids(copy) == 5000 && mq_dedup128_pending(copy) == 2);
    for (size_t cut = 0; cut < size; cut += 1 + size / 97)
        CHECK(mq_dedup128_deserialize(exact, cut, 32 << 20, 1, &err) == NULL);
    CHECK(mq_dedup128_deserialize(exact, size, 64 << 10, 1, &err) == NULL && err.status == MQ_EFULL);
    CHECK(mq_dedup128_confirm(copy, 4, 1000, &confirmed, &err) == MQ_OK && confirmed == 1);
    CHECK(mq_dedup128_find(copy, mine, &offset) == MQ_SEEN_DUPLICATE && offset == 8);
    CHECK(mq_dedup128_abort(copy, 5) == 1 && mq_dedup128_find(copy, other, NULL) == MQ_SEEN_NEW);
    free(exact);
    free(bytes);
    mq_dedup128_free(copy);
    mq_dedup128_free(d);
}

int main(void)
{
    RUN(equals_a_set);
    RUN(snapshot_equals_the_set);
    RUN(offsets_bound_each_bucket);
    RUN(transactions);
    RUN(memory_is_bounded_and_comes_back);
    RUN(no_memory_is_an_answer);
    RUN(ids_take_little);
    RUN(ids_of_128_bits);
    FINISH();
}
