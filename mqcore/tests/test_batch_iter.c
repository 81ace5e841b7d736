/* Columns say of each record what was put in; damage is an error at its batch and never a skip; nothing is read past
 * the range, whatever its bytes are. */
#include "mqcore/batch_iter.h"

#include "batch_maker.h"

static maker m;
static mq_error err;

typedef struct result {
    mq_status status;
    size_t count, batches;
    uint64_t end;
    int64_t next_offset;
    bool compressed_next;
    int64_t offsets[64], timestamps[64], starts[64], key_starts[64];
    int32_t lengths[64], key_lengths[64];
} result;

static result r;

static mq_run_options all(void)
{
    return (mq_run_options){
        .end = m.size, .max_records = 1000, .first_offset = -1, .contiguous = true, .check_crc = true};
}

/* Both passes and the keys over an exact copy of the range, so that ASan sees a read past it. */
static void decode(mq_run_options o)
{
    unsigned char *exact = exact_copy(m.bytes, o.end);
    mq_run run;
    memset(&r, 0, sizeof r);
    r.status = mq_run_plan(exact, &o, &run, &err);
    if (r.status == MQ_OK && run.records <= 64) {
        const mq_columns columns = {r.offsets, r.timestamps, r.starts, r.lengths};
        r.status = mq_run_columns(exact, &run, true, &columns, &err);
        r.count = (size_t)run.records;
        r.batches = run.count;
        r.end = run.end;
        r.next_offset = run.next_offset;
        r.compressed_next = run.compressed_next;
        if (r.status == MQ_OK)
            CHECK(mq_run_keys(exact, &run, r.key_starts, r.key_lengths, &err) == MQ_OK);
    }
    mq_run_free(&run);
    free(exact);
}

static bool value_is(size_t i, const char *value)
{
    return value == NULL
               ? r.lengths[i] == -1
               : r.lengths[i] == (int32_t)strlen(value) && memcmp(m.bytes + r.starts[i], value, strlen(value)) == 0;
}

static void records_become_columns(void)
{
    char large[9000];
    memset(large, 'x', sizeof large - 1);
    large[sizeof large - 1] = '\0';
    m.size = 0;
    maker_open(&m, 100, 0);
    maker_record(&m, 0, 0, NULL, large, 0); /* three-byte lengths */
    maker_record(&m, 1, 1LL << 40, "key", "", 3);
    maker_record(&m, 2, -7, "", NULL, 0);
    maker_close(&m);
    maker_batch(&m, 103, 2, 0);
    mq_run_options from_100 = all();
    from_100.min_offset = 100;
    decode(from_100);
    CHECK(r.status == MQ_OK && r.count == 5 && r.batches == 2 && r.end == m.size && r.next_offset == 105);
    for (size_t i = 0; i < 5; i++)
        CHECK(r.offsets[i] == (int64_t)(100 + i));
    CHECK(r.timestamps[0] == 1000 && r.timestamps[1] == 1000 + (1LL << 40) && r.timestamps[2] == 993);
    CHECK(value_is(0, large) && value_is(1, "") && value_is(2, NULL) && value_is(3, "v0") && value_is(4, "v1"));
    CHECK(r.key_lengths[0] == -1 && r.key_lengths[1] == 3 && r.key_lengths[2] == 0);
    CHECK(memcmp(m.bytes + r.key_starts[1], "key", 3) == 0);
}

static void append_time_is_the_batchs(void)
{
    m.size = 0;
    maker_batch(&m, 0, 3, MQ_ATTR_LOG_APPEND_TIME);
    decode(all());
    CHECK(r.status == MQ_OK && r.timestamps[0] == 2000 && r.timestamps[2] == 2000);
}

static void runs_stop_where_they_should(void)
{
    m.size = 0;
    maker_batch(&m, 0, 3, 0);
    const uint64_t second = m.size;
    maker_batch(&m, 3, 3, 0);
    const uint64_t third = m.size;
    maker_batch(&m, 6, 3, 4); /* "compressed" */
    mq_run_options o = all();
    decode(o);
    CHECK(r.status == MQ_OK && r.count == 6 && r.end == third && r.next_offset == 6 && r.compressed_next);
    o.max_records = 5;
    decode(o);
    CHECK(r.count == 3 && r.end == second && r.next_offset == 3 && !r.compressed_next);
    o.max_records = 0; /* one batch is always taken */
    decode(o);
    CHECK(r.count == 3);
    o.min_offset = 4; /* the first batch ends below it: passed over */
    o.max_records = 100;
    decode(o);
    CHECK(r.status == MQ_OK && r.count == 3 && r.offsets[0] == 3 && r.next_offset == 6);
}

static void markers_and_aborted_data_are_passed_over(void)
{
    m.size = 0;
    for (int i = 0; i < 3; i++) { /* transactions of producers 5, 6, 5: two records and a marker each */
        const uint8_t producer = i == 1 ? 6 : 5;
        size_t at = m.size;
        maker_batch(&m, i * 3, 2, MQ_ATTR_TRANSACTIONAL);
        memset(m.bytes + at + 43, 0, 8);
        m.bytes[at + 50] = producer;
        mq_batch_seal(m.bytes + at, m.size - at);
        at = m.size;
        maker_batch(&m, i * 3 + 2, 1, MQ_ATTR_TRANSACTIONAL | MQ_ATTR_CONTROL);
        memset(m.bytes + at + 43, 0, 8);
        m.bytes[at + 50] = producer;
        mq_batch_seal(m.bytes + at, m.size - at);
    }
    mq_run_options o = all();
    decode(o);
    CHECK(r.status == MQ_OK && r.count == 6 && r.offsets[2] == 3 && r.offsets[5] == 7 && r.next_offset == 9);
    const mq_aborted aborted[] = {{5, 6, 8}, {6, 3, 5}, {9, 0, 100}};
    o.aborted = aborted;
    o.aborted_count = 3;
    decode(o);
    CHECK(r.status == MQ_OK && r.count == 2 && r.offsets[0] == 0 && r.next_offset == 9);
    o.aborted_count = 1;
    decode(o);
    CHECK(r.count == 4 && r.offsets[2] == 3);
}

static void offsets_must_follow(void)
{
    m.size = 0;
    maker_batch(&m, 10, 2, 0);
    const size_t second = m.size;
    maker_batch(&m, 12, 2, 0);
    mq_run_options o = all();
    o.min_offset = 11;
    decode(o);
    CHECK(r.status == MQ_OK && r.count == 4);
    o.first_offset = 10;
    decode(o);
    CHECK(r.status == MQ_OK && r.count == 4);
    o.first_offset = 9;
    decode(o);
    CHECK(r.status == MQ_ECORRUPT && err.position == 0);
    o.first_offset = -1;
    o.min_offset = 9; /* an uncompacted log has 9 in a batch that starts at 9 or below */
    decode(o);
    CHECK(r.status == MQ_ECORRUPT);
    o.min_offset = 11;
    mq_batch_assign(m.bytes + second, 13, 0); /* a gap */
    decode(o);
    CHECK(r.status == MQ_ECORRUPT); /* after a seek nobody knows which of the two is wrong */
    o.first_offset = 10;
    decode(o);
    CHECK(r.status == MQ_OK && r.count == 2 && r.end == second && r.next_offset == 12);
    o.contiguous = false;
    decode(o);
    CHECK(r.status == MQ_OK && r.count == 4 && r.next_offset == 15);
    mq_batch_assign(m.bytes + second, 11, 0); /* an overlap is damage in every log */
    decode(o);
    CHECK(r.status == MQ_OK && r.count == 2 && r.end == second);
    o.start = second;
    o.first_offset = 12;
    decode(o);
    CHECK(r.status == MQ_ECORRUPT && err.position == second && err.offset == 12);
}

static void damage_ends_a_run_before_it(void)
{
    m.size = 0;
    maker_batch(&m, 0, 3, 0);
    const size_t second = m.size;
    maker_batch(&m, 3, 3, 0);
    maker_batch(&m, 6, 3, 0);
    for (size_t bit = 8 * second; bit < 8 * m.size; bit++) {
        const size_t at = bit / 8;
        m.bytes[at] ^= (uint8_t)(1u << (bit % 8));
        decode(all());
        const size_t field = (at - second) % second; /* three batches of one size */
        const bool leader_epoch = field >= 12 && field < 16;
        if (r.status == MQ_OK && !leader_epoch) {
            CHECK(r.count % 3 == 0 && r.count < 9 && r.end == r.batches * second && r.next_offset == (int64_t)r.count);
            mq_run_options o = all();
            o.start = r.end;
            o.min_offset = o.first_offset = r.next_offset;
            decode(o);
            CHECK(r.status == MQ_ECORRUPT || r.status == MQ_ECRC || r.compressed_next); /* its inflater checks it */
            CHECK(r.compressed_next || (err.position >= o.start && err.offset == o.first_offset));
        }
        m.bytes[at] ^= (uint8_t)(1u << (bit % 8));
    }
}

static void what_is_passed_over_is_checked(void)
{
    m.size = 0;
    maker_batch(&m, 0, 3, 0);
    m.bytes[22] ^= MQ_ATTR_CONTROL; /* a data batch that a flipped bit makes a marker must not vanish */
    decode(all());
    CHECK(r.status == MQ_ECRC && err.position == 0);
}

static void scan_lists_batches(void)
{
    mq_scan_row rows[4];
    size_t count;
    uint64_t at = 0;
    m.size = 0;
    for (int i = 0; i < 5; i++)
        maker_batch(&m, i * 2, 2, 0);
    CHECK(mq_scan(m.bytes, &at, m.size, MQ_BATCH_BYTES_MAX, true, rows, 4, &count, &err) == MQ_OK);
    CHECK(count == 4 && rows[3].base_offset == 6 && rows[3].last_offset == 7 && rows[3].record_count == 2);
    CHECK(rows[1].position == rows[0].size && at == (uint64_t)(rows[3].position + rows[3].size));
    m.bytes[m.size - 1] ^= 1;
    CHECK(mq_scan(m.bytes, &at, m.size, MQ_BATCH_BYTES_MAX, true, rows, 4, &count, &err) == MQ_ECRC);
    CHECK(count == 0 && err.position == at);
    CHECK(mq_scan(m.bytes, &at, m.size, MQ_BATCH_BYTES_MAX, false, rows, 4, &count, &err) == MQ_OK && count == 1);
}

int main(void)
{
    RUN(records_become_columns);
    RUN(append_time_is_the_batchs);
    RUN(runs_stop_where_they_should);
    RUN(markers_and_aborted_data_are_passed_over);
    RUN(offsets_must_follow);
    RUN(damage_ends_a_run_before_it);
    RUN(what_is_passed_over_is_checked);
    RUN(scan_lists_batches);
    FINISH();
}
