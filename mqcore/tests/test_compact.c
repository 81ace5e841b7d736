/* Compaction keeps, of each key, the last record and nothing else, and moves no offset, timestamp or producer field. */
#include "mqcore/compact.h"

#include "batch_maker.h"
#include "mqcore/alloc.h"
#include "mqcore/record.h"

static mq_keymap *fresh_map(void)
{
    mq_error err;
    mq_keymap *m = mq_keymap_new(16 << 20, 42, &err);
    CHECK(m != NULL);
    return m;
}

static void a_map_is_a_dict(void)
{
    enum { KEYS = 50000 };
    mq_keymap *m = fresh_map();
    mq_error err;
    int wrong = 0;
    for (int64_t i = 0; i < 3 * KEYS; i++) {
        char key[64];
        const int size = snprintf(key, sizeof key, "%s%d", i % 2 ? "key-" : "a rather long key, past sixteen bytes ",
                                  (int)(i * 7919 % KEYS));
        CHECK(mq_keymap_put(m, (const uint8_t *)key, (size_t)size, i, &err) == MQ_OK);
        wrong += mq_keymap_get(m, (const uint8_t *)key, (size_t)size) != i;
    }
    CHECK(wrong == 0 && mq_keymap_count(m) <= 2 * KEYS && mq_keymap_bytes(m) <= 16 << 20);
    CHECK(mq_keymap_get(m, (const uint8_t *)"absent", 6) == -1);
    CHECK(mq_keymap_put(m, (const uint8_t *)"", 0, 5, &err) == MQ_OK && mq_keymap_get(m, NULL, 0) == 5);
    CHECK(mq_keymap_put(m, (const uint8_t *)"", 0, 3, &err) == MQ_OK && mq_keymap_get(m, NULL, 0) == 5);
    mq_keymap_free(m);
}

static void a_map_is_bounded(void)
{
    mq_error err;
    mq_keymap *m = mq_keymap_new(1 << 17, 1, &err);
    mq_status status = MQ_OK;
    uint32_t keys = 0;
    while (status == MQ_OK) {
        const uint32_t key[4] = {keys, 0, keys, 0};
        status = mq_keymap_put(m, (const uint8_t *)key, sizeof key, keys, &err);
        keys += status == MQ_OK;
    }
    CHECK(status == MQ_EFULL && keys > 1200 && mq_keymap_bytes(m) <= 1 << 17);
    for (uint32_t i = 0; i < keys; i++) {
        const uint32_t key[4] = {i, 0, i, 0};
        CHECK(mq_keymap_get(m, (const uint8_t *)key, sizeof key) == i);
    }
    mq_keymap_free(m);
    CHECK(mq_keymap_new(100, 1, &err) == NULL && err.status == MQ_EINVAL);
}

/* Records as text, "offset@timestamp key=value ", of every batch in [bytes, size). */
static char *tell(const uint8_t *bytes, size_t size, char *to)
{
    char *p = to;
    *p = '\0';
    for (size_t at = 0; at < size;) {
        mq_batch b;
        mq_error err;
        if (mq_batch_check(bytes + at, size - at, 1 << 20, &b, &err) != MQ_OK ||
            mq_batch_walk(bytes + at, &b, &err) != MQ_OK) {
            sprintf(p, "bad: %s", err.what);
            return to;
        }
        const uint8_t *from = bytes + at + MQ_BATCH_HEADER, *const end = bytes + at + b.size;
        while (from < end) {
            mq_record r;
            CHECK(mq_record_parse(from, end, &r));
            p += sprintf(p, "%d@%d %.*s=%.*s ", (int)(b.base_offset + r.offset_delta),
                         (int)(b.base_timestamp + r.timestamp_delta), r.key_length < 0 ? 0 : r.key_length,
                         (const char *)r.key, r.value_length < 0 ? 4 : r.value_length,
                         r.value_length < 0 ? "null" : (const char *)r.value);
            from = r.end;
        }
        p += sprintf(p, "| ");
        at += b.size;
    }
    return to;
}

static void three_batches(maker *m)
{
    m->size = 0;
    maker_open(m, 100, 0);
    maker_record(m, 0, 0, "a", "1", 0);
    maker_record(m, 1, 1, "b", "1", 2);
    maker_record(m, 2, 2, "c", "1", 0);
    maker_close(m);
    maker_open(m, 110, 0);
    maker_record(m, 0, 0, "a", "2", 0);
    maker_record(m, 1, -5, "b", NULL, 1);
    maker_record(m, 4, 7, NULL, "no key", 0);
    maker_close(m);
    maker_open(m, 120, 0);
    maker_record(m, 0, 0, "a", "3", 0);
    maker_close(m);
}

static size_t run(const maker *m, mq_compact_rules *rules, int64_t start, mq_compact_out *out)
{
    mq_error err;
    mq_keymap *map = fresh_map();
    mq_compact_stats stats = {0};
    size_t position = 0;
    int64_t next = -1;
    unsigned char *exact = exact_copy(m->bytes, m->size);
    CHECK(mq_compact_index_run(map, exact, m->size, &position, start, &next, &err) == MQ_OK && position == m->size);
    rules->map = map;
    if (rules->end_offset < 0)
        rules->end_offset = next;
    position = 0;
    out->size = 0;
    CHECK(mq_compact_run(rules, exact, m->size, &position, SIZE_MAX, out, &stats, &err) == MQ_OK);
    CHECK(position == m->size && stats.batches_read >= stats.batches_written);
    free(exact);
    mq_keymap_free(map);
    return out->size;
}

static void the_last_of_each_key_stays(void)
{
    static maker m;
    char text[4096];
    three_batches(&m);
    mq_compact_out out = {0};
    mq_compact_rules rules = {.end_offset = -1, .round_end = -1, .now_ms = 5000, .delete_retention_ms = 100};
    run(&m, &rules, 0, &out);
    CHECK(strcmp(tell(out.bytes, out.size, text), "102@1002 c=1 | 111@995 b=null | 120@1000 a=3 | ") == 0);
    mq_batch b;
    mq_error err;
    const size_t second = MQ_BATCH_HEADER + 9; /* the first batch has one record of 9 bytes left */
    CHECK(mq_batch_check(out.bytes + second, out.size - second, 1 << 20, &b, &err) == MQ_OK);
    CHECK(b.base_offset == 110 && b.last_offset_delta == 4 && b.record_count == 1 && b.max_timestamp == 995);
    CHECK((b.attributes & MQ_ATTR_DELETE_HORIZON) && b.base_timestamp == 5100);
    /* the next round before the horizon keeps the tombstone as it is, the one after it drops it */
    static maker again;
    again.size = out.size;
    memcpy(again.bytes, out.bytes, out.size);
    for (int late = 0; late < 2; late++) {
        rules = (mq_compact_rules){.end_offset = -1, .round_end = -1, .now_ms = 5099 + late, .delete_retention_ms = 1};
        run(&again, &rules, 0, &out);
        CHECK(late || (out.size == again.size && memcmp(out.bytes, again.bytes, out.size) == 0));
        CHECK(!late || strcmp(tell(out.bytes, out.size, text), "102@1002 c=1 | 120@1000 a=3 | ") == 0);
    }
    mq_compact_out_free(&out);
}

static void past_the_end_all_stays(void)
{
    static maker m;
    char text[4096];
    three_batches(&m);
    mq_compact_out out = {0};
    mq_compact_rules rules = {.end_offset = 110, .round_end = -1, .now_ms = 5000, .delete_retention_ms = 100};
    run(&m, &rules, 0, &out);
    CHECK(strcmp(tell(out.bytes, out.size, text),
                 "102@1002 c=1 | 110@1000 a=2 111@995 b=null 114@1007 =no key | 120@1000 a=3 | ") == 0);
    mq_compact_out_free(&out);
}

static void emptied_batches_stay_where_they_must(void)
{
    static maker m;
    char text[4096];
    mq_batch b;
    mq_error err;
    m.size = 0;
    for (int i = 0; i < 4; i++) {
        maker_open(&m, 10 * i, 0);
        maker_record(&m, 0, 0, i < 3 ? "same" : NULL, "1", 0);
        maker_close(&m);
    }
    const int64_t stay[] = {0, 77};
    mq_compact_out out = {0};
    mq_compact_rules rules = {.end_offset = -1, .round_end = 31, .last_offsets = stay, .last_count = 2};
    run(&m, &rules, 0, &out);
    CHECK(strcmp(tell(out.bytes, out.size, text), "| 20@1000 same=1 | | ") == 0);
    CHECK(mq_batch_check(out.bytes, out.size, 1 << 20, &b, &err) == MQ_OK);
    CHECK(b.base_offset == 0 && b.record_count == 0 && b.base_timestamp == -1 && b.max_timestamp == 2000);
    mq_compact_out_free(&out);
}

static void special_batches_are_the_callers(void)
{
    static maker m;
    static const uint16_t attributes[] = {1, MQ_ATTR_TRANSACTIONAL, MQ_ATTR_CONTROL};
    for (int i = 0; i < 3; i++) {
        m.size = 0;
        maker_open(&m, 0, 0);
        maker_record(&m, 0, 0, "a", "1", 0);
        maker_close(&m);
        const size_t first = m.size;
        maker_open(&m, 1, attributes[i]);
        maker_record(&m, 0, 0, "\x01\x01\x01\x01", "1", 0);
        maker_close(&m);
        mq_keymap *map = fresh_map();
        mq_error err;
        size_t position = 0;
        int64_t next = -1;
        int32_t type;
        CHECK(mq_compact_index_run(map, m.bytes, m.size, &position, 0, &next, &err) == MQ_OK);
        CHECK(position == first && next == 1);
        mq_compact_out out = {0};
        mq_compact_stats stats = {0};
        mq_compact_outcome outcome;
        const mq_compact_rules rules = {.map = map, .end_offset = 2};
        position = 0;
        CHECK(mq_compact_run(&rules, m.bytes, m.size, &position, SIZE_MAX, &out, &stats, &err) == MQ_OK);
        CHECK(position == first && out.size == first);
        const mq_status status = mq_compact_batch(&rules, m.bytes + first, m.size - first,
                                                  MQ_COMPACT_KEEP | MQ_COMPACT_HORIZON, &out, &stats, &outcome, &err);
        CHECK(i == 0 ? status == MQ_EUNSUPPORTED : status == MQ_OK && outcome == MQ_COMPACT_REWRITTEN);
        CHECK(i == 0 ||
              (mq_compact_control_type(m.bytes + first, m.size - first, &type, &err) == MQ_OK && type == 257));
        CHECK(mq_compact_batch(&rules, m.bytes, first, MQ_COMPACT_DISCARD, &out, &stats, &outcome, &err) == MQ_OK);
        CHECK(outcome == MQ_COMPACT_DROPPED);
        mq_compact_out_free(&out);
        mq_keymap_free(map);
    }
}

/* Base offset and leader epoch: bytes 0-7 and 12-15 of a batch. */
static bool is_outside_crc(const uint8_t *bytes, size_t i)
{
    size_t at = 0;
    while (i >= at + mq_load_be32(bytes + at + 8) + MQ_BATCH_LOG_OVERHEAD)
        at += mq_load_be32(bytes + at + 8) + MQ_BATCH_LOG_OVERHEAD;
    return i - at < 8 || (i - at >= 12 && i - at < 16);
}

static void damage_stops_a_round(void)
{
    static maker m;
    three_batches(&m);
    for (size_t i = MQ_BATCH_CRC_START; i < m.size; i += 3) {
        mq_keymap *map = fresh_map();
        mq_error err;
        size_t position = 0;
        int64_t next;
        unsigned char *exact = exact_copy(m.bytes, m.size);
        exact[i] ^= 0x10;
        const mq_status status = mq_compact_index_run(map, exact, m.size, &position, 0, &next, &err);
        CHECK((status != MQ_OK || is_outside_crc(m.bytes, i)) && position <= m.size);
        free(exact);
        mq_keymap_free(map);
    }
}

static void no_memory_is_an_answer(void)
{
    static maker m;
    three_batches(&m);
    int64_t n = 1;
    for (int failed = 1; failed; n++) {
        mq_error err;
        mq_compact_out out = {0};
        mq_compact_stats stats = {0};
        size_t position = 0;
        int64_t next = -1;
        mq_alloc_countdown = n;
        mq_keymap *map = mq_keymap_new(1 << 20, 1, &err);
        failed = map == NULL;
        if (!failed) {
            const mq_compact_rules rules = {.map = map, .end_offset = 200};
            mq_status status = mq_compact_index_run(map, m.bytes, m.size, &position, 0, &next, &err);
            position = 0;
            if (status == MQ_OK)
                status = mq_compact_run(&rules, m.bytes, m.size, &position, SIZE_MAX, &out, &stats, &err);
            failed = status != MQ_OK;
            CHECK(!failed || (status == MQ_ENOMEM && position < m.size));
        }
        mq_alloc_countdown = 0;
        mq_compact_out_free(&out);
        mq_keymap_free(map);
    }
    CHECK(n > 3);
}

int main(void)
{
    RUN(a_map_is_a_dict);
    RUN(a_map_is_bounded);
    RUN(the_last_of_each_key_stays);
    RUN(past_the_end_all_stays);
    RUN(emptied_batches_stay_where_they_must);
    RUN(special_batches_are_the_callers);
    RUN(damage_stops_a_round);
    RUN(no_memory_is_an_answer);
    FINISH();
}
