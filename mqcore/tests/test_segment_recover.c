/* Recovery finds exactly the batches before the first wrong byte, tells the torn end of a write from damage, and leaves
 * index files that agree with what it found. Every cut and every flipped byte of a small log is tried. */
#include <errno.h>

#include "batch_maker.h"
#include "mqcore/alloc.h"
#include "mqcore/io_fault.h"
#include "mqcore/offset_index.h"
#include "mqcore/segment_recover.h"
#include "mqcore/time_index.h"
#include "scratch.h"

enum { BATCHES = 12, BASE = 40 };

static maker log_bytes;
static size_t starts[BATCHES + 1];
static int64_t offsets[BATCHES + 1];

static const mq_recover_options plain = {
    .from_offset = -1,
    .max_batch_bytes = 1 << 20,
    .index_interval_bytes = 100,
    .index_max_bytes = 1 << 20,
    .write_indexes = true,
    .markers_from = INT64_MAX,
};

static void make_log(void)
{
    log_bytes.size = 0;
    int64_t next = BASE;
    for (int i = 0; i < BATCHES; i++) {
        starts[i] = log_bytes.size;
        offsets[i] = next;
        maker_batch(&log_bytes, next, i % 3 + 1, 0);
        mq_store_be64(log_bytes.bytes + starts[i] + 35, (uint64_t)(5000 + i));
        mq_store_be32(log_bytes.bytes + starts[i] + 12, (uint32_t)i / 4);
        mq_batch_seal(log_bytes.bytes + starts[i], log_bytes.size - starts[i]);
        next += i % 3 + 1;
    }
    starts[BATCHES] = log_bytes.size;
    offsets[BATCHES] = next;
}

static mq_recovered recover(const void *bytes, size_t size, const mq_recover_options *options)
{
    mq_recovered r;
    mq_error err;
    uint8_t *copy = exact_copy(bytes, size);
    CHECK(mq_recover_bytes(copy, size, BASE, options, &r, &err) == MQ_OK);
    free(copy);
    put_file("00000000000000000040.log", bytes, size);
    mq_recovered f;
    CHECK(mq_segment_recover(mq_io_posix(), scratch, BASE, options, &f, &err) == MQ_OK);
    CHECK(f.valid_bytes == r.valid_bytes && f.end == r.end && f.valid_after == r.valid_after);
    CHECK(f.next_offset == r.next_offset && strcmp(f.problem, r.problem) == 0 && f.batches == r.batches);
    size_t index_size, time_size;
    unsigned char *index = get_file("00000000000000000040.index", &index_size);
    unsigned char *times = get_file("00000000000000000040.timeindex", &time_size);
    CHECK(mq_offset_index_check(index, index_size, r.next_offset - BASE, r.valid_bytes, &err) == MQ_OK);
    CHECK(mq_time_index_check(times, time_size, r.next_offset - BASE, &err) == MQ_OK);
    CHECK(time_size >= 12 || r.valid_bytes == 0);
    if (time_size >= 12) /* the last entry is the segment's greatest timestamp */
        CHECK(mq_time_entry_get(times + time_size - 12).timestamp == r.max_timestamp);
    free(index);
    free(times);
    mq_recovered_free(&f);
    mq_recovered_free(&r);
    return r;
}

static int batches_before(size_t size)
{
    int i = 0;
    while (i < BATCHES && starts[i + 1] <= size)
        i++;
    return i;
}

static void whole_logs_are_clean(void)
{
    make_log();
    mq_recovered r = recover(log_bytes.bytes, log_bytes.size, &plain);
    CHECK(r.end == MQ_END_CLEAN && r.valid_bytes == log_bytes.size && r.next_offset == offsets[BATCHES]);
    CHECK(r.batches == BATCHES && r.records == (uint64_t)(offsets[BATCHES] - BASE) && r.last_leader_epoch == 2);
    CHECK(r.max_timestamp == 5000 + BATCHES - 1 && r.offset_of_max_timestamp == offsets[BATCHES] - 1);
    CHECK(r.problem_position == -1 && r.valid_after == -1 && r.problem[0] == '\0');
    r = recover("", 0, &plain);
    CHECK(r.end == MQ_END_CLEAN && r.next_offset == BASE && r.max_timestamp == -1);
    for (int from = 0; from <= BATCHES; from++) { /* from a recovery point on; the indexes still cover it all */
        mq_recover_options options = plain;
        mq_recovered f;
        options.from_position = starts[from];
        options.from_offset = offsets[from];
        put_file("00000000000000000040.log", log_bytes.bytes, log_bytes.size);
        CHECK(mq_segment_recover(mq_io_posix(), scratch, BASE, &options, &f, NULL) == MQ_OK);
        CHECK(f.end == MQ_END_CLEAN && f.batches == (uint64_t)(BATCHES - from) && f.next_offset == offsets[BATCHES]);
        CHECK(f.max_timestamp == 5000 + BATCHES - 1);
        mq_recovered_free(&f);
        options.from_offset = offsets[from] - 1; /* what the caller vouches for is not what lies there */
        CHECK(mq_segment_recover(mq_io_posix(), scratch, BASE, &options, &f, NULL) == MQ_OK);
        CHECK(from == 0 || f.end == MQ_END_BAD);
        mq_recovered_free(&f);
    }
}

static void every_cut_is_a_torn_tail(void)
{
    for (size_t size = 0; size < log_bytes.size; size++) {
        const mq_recovered r = recover(log_bytes.bytes, size, &plain);
        const int whole = batches_before(size);
        CHECK(r.valid_bytes == starts[whole] && r.next_offset == offsets[whole] && r.file_bytes == size);
        if (size == starts[whole])
            CHECK(r.end == MQ_END_CLEAN);
        else /* an offset begins with zero bytes */
            CHECK(r.end == MQ_END_TORN || (r.end == MQ_END_ZEROS && size - starts[whole] < 8));
        CHECK(r.valid_after == -1 && r.problem_position == (r.end == MQ_END_CLEAN ? -1 : (int64_t)starts[whole]));
    }
}

static void every_flip_is_found(void)
{
    for (size_t at = 0; at < log_bytes.size; at++) {
        static uint8_t bytes[sizeof log_bytes.bytes];
        memcpy(bytes, log_bytes.bytes, log_bytes.size);
        bytes[at] ^= (uint8_t)(1u << (at % 8));
        const mq_recovered r = recover(bytes, log_bytes.size, &plain);
        const int batch = batches_before(at);
        const size_t inside = at - starts[batch];
        if (inside >= 12 && inside < 16) { /* the leader epoch lies outside the CRC */
            CHECK(r.valid_bytes == log_bytes.size);
            continue;
        }
        CHECK(r.valid_bytes == starts[batch] && r.next_offset == offsets[batch] && r.end != MQ_END_CLEAN);
        if (batch < BATCHES - 1) /* a good batch follows: damage; the bad one itself may pass with another offset */
            CHECK(r.end == MQ_END_BAD && r.valid_after >= (int64_t)starts[batch + 1]);
        else
            CHECK(r.valid_after == -1);
    }
}

static void zeros_and_garbage(void)
{
    static uint8_t bytes[sizeof log_bytes.bytes];
    memset(bytes, 0, sizeof bytes);
    memcpy(bytes, log_bytes.bytes, starts[5]);
    mq_recovered r = recover(bytes, starts[5] + 4096, &plain);
    CHECK(r.end == MQ_END_ZEROS && r.valid_bytes == starts[5] && r.valid_after == -1);
    memcpy(bytes + starts[5] + 512, log_bytes.bytes + starts[6], starts[9] - starts[6]); /* a hole of zeros */
    r = recover(bytes, starts[5] + 4096, &plain);
    CHECK(r.end == MQ_END_BAD && r.valid_bytes == starts[5] && r.valid_after == (int64_t)starts[5] + 512);
    memset(bytes + starts[5], 2, 4096); /* every byte could be a magic */
    r = recover(bytes, starts[5] + 4096, &plain);
    CHECK(r.end == MQ_END_BAD && r.valid_after == -1);
    memcpy(bytes + starts[5], log_bytes.bytes + starts[2], starts[3] - starts[2]); /* an old batch again */
    r = recover(bytes, starts[5] + starts[3] - starts[2], &plain);
    CHECK(r.end == MQ_END_BAD && r.valid_after == -1 && r.valid_bytes == starts[5]);
    bytes[starts[5] + 16] = 1;
    r = recover(bytes, starts[5] + starts[3] - starts[2], &plain);
    CHECK(r.end == MQ_END_BAD && strstr(r.problem, "magic") != NULL);
}

static void gaps(void)
{
    static uint8_t bytes[sizeof log_bytes.bytes];
    memcpy(bytes, log_bytes.bytes, starts[3]);
    memcpy(bytes + starts[3], log_bytes.bytes + starts[4], starts[6] - starts[4]);
    const size_t size = starts[3] + starts[6] - starts[4];
    mq_recovered r = recover(bytes, size, &plain);
    CHECK(r.end == MQ_END_BAD && strcmp(r.problem, "a gap in the offsets") == 0 && r.valid_bytes == starts[3]);
    mq_recover_options compacted = plain;
    compacted.allow_gaps = true;
    r = recover(bytes, size, &compacted);
    CHECK(r.end == MQ_END_CLEAN && r.next_offset == offsets[6] && r.batches == 5);
    r = recover(log_bytes.bytes + starts[4], starts[6] - starts[4], &plain); /* the first batch is not at the base */
    CHECK(r.end == MQ_END_BAD && r.valid_bytes == 0);
    compacted.end_offset = offsets[6]; /* all that is there lies below the next segment */
    r = recover(bytes, size, &compacted);
    CHECK(r.end == MQ_END_CLEAN);
    compacted.end_offset = offsets[6] - 1;
    r = recover(bytes, size, &compacted);
    CHECK(r.end == MQ_END_BAD && strcmp(r.problem, "an offset of the next segment") == 0 && r.batches == 4);
    CHECK(r.next_offset == offsets[5]);
    compacted.max_batch_bytes = 61;
    r = recover(bytes, size, &compacted);
    CHECK(r.end == MQ_END_BAD && r.valid_bytes == 0 && r.valid_after == -1);
}

static void transaction(maker *m, int64_t *next, int64_t producer, int marker)
{
    const size_t start = m->size;
    if (marker < 0) {
        maker_batch(m, *next, 2, MQ_ATTR_TRANSACTIONAL);
        *next += 2;
    } else {
        const uint8_t key[4] = {0, 0, 0, (uint8_t)marker};
        maker_open(m, *next, MQ_ATTR_TRANSACTIONAL | MQ_ATTR_CONTROL);
        uint8_t record[16];
        uint8_t *p = record;
        *p++ = 0;
        p = mq_put_varint(p, 0);
        p = mq_put_varint(p, 0);
        p = mq_put_varint(p, 4);
        memcpy(p, key, 4);
        p = mq_put_varint(p + 4, -1);
        p = mq_put_varint(p, 0);
        maker_blob(m, record, p - record);
        m->count = 1;
        m->last_delta = 0;
        maker_close(m);
        *next += 1;
    }
    mq_store_be64(m->bytes + start + 43, (uint64_t)producer);
    mq_batch_seal(m->bytes + start, m->size - start);
}

static void aborted_transactions_are_found(void)
{
    maker m = {.size = 0};
    int64_t next = BASE;
    transaction(&m, &next, 7, -1); /* 40 */
    transaction(&m, &next, 8, -1); /* 42 */
    transaction(&m, &next, 8, 0);  /* 44 abort of 42, 7 still open at 40 */
    transaction(&m, &next, 7, 1);  /* 45 commit */
    const size_t middle = m.size;
    transaction(&m, &next, 9, 0);  /* 46 abort of what began in an earlier segment */
    transaction(&m, &next, 8, -1); /* 47 */
    transaction(&m, &next, 8, 0);  /* 49 */
    transaction(&m, &next, 5, -1); /* 50 stays open */
    put_file("00000000000000000040.log", m.bytes, m.size);
    maker before = {.size = 0};
    int64_t earlier = 33;
    transaction(&before, &earlier, 9, -1);
    for (int from = 0; from < 2; from++) {
        mq_recover_options options = plain;
        options.from_position = from == 0 ? 0 : middle; /* headers only before it: markers count all the same */
        mq_recovered r;
        mq_txn_entry *entries;
        size_t count;
        for (int again = 0; again < 2; again++) { /* without knowing, the old file's entry is kept */
            mq_producers *known = mq_producers_new(100);
            CHECK(mq_producers_add(known, before.bytes, before.size, 0, NULL) == MQ_OK);
            options.producers = again == 0 ? known : NULL;
            CHECK(mq_segment_recover(mq_io_posix(), scratch, BASE, &options, &r, NULL) == MQ_OK);
            CHECK(r.end == MQ_END_CLEAN && r.aborted_count == 3);
            mq_recovered_free(&r);
            const mq_producer *open = mq_producers_each(known, NULL);
            if (again == 0)
                CHECK(mq_producers_open_count(known) == 1 && open->producer_id == 5 && open->txn_first_offset == 50);
            mq_producers_free(known);
            const char *path = scratch_path("00000000000000000040.txnindex");
            CHECK(mq_txn_index_load(mq_io_posix(), path, &entries, &count, NULL) == MQ_OK);
            CHECK(count == 3 && entries[0].producer_id == 8 && entries[0].first_offset == 42);
            CHECK(entries[0].last_offset == 44 && entries[0].last_stable_offset == (again == 0 ? 33 : 40));
            CHECK(entries[1].producer_id == 9 && entries[1].first_offset == 33 && entries[1].last_stable_offset == 47);
            CHECK(entries[2].first_offset == 47 && entries[2].last_offset == 49 && entries[2].last_stable_offset == 50);
            free(entries);
        }
    }
    put_file("00000000000000000040.log", m.bytes, middle - 100); /* no marker left: the file goes */
    mq_recovered r;
    CHECK(mq_segment_recover(mq_io_posix(), scratch, BASE, &plain, &r, NULL) == MQ_OK);
    CHECK(r.aborted_count == 0 && !file_exists("00000000000000000040.txnindex"));
    mq_recovered_free(&r);
}

static void markers_are_listed(void)
{
    static maker m;
    int64_t next = BASE;
    for (int i = 0; i < 200; i++) {
        transaction(&m, &next, 7, -1);
        transaction(&m, &next, 7, i % 2);
    }
    put_file("00000000000000000040.log", m.bytes, m.size);
    mq_recover_options options = plain;
    options.markers_from = BASE + 32; /* the marker of the 11th transaction */
    mq_recovered r;
    CHECK(mq_segment_recover(mq_io_posix(), scratch, BASE, &options, &r, NULL) == MQ_OK);
    CHECK(r.marker_count == 190 && r.markers[0].offset == BASE + 32);
    for (size_t i = 0; i < r.marker_count; i++)
        CHECK(r.markers[i].producer_id == 7 && r.markers[i].kind == (int16_t)(i % 2));
    mq_recovered_free(&r);
}

static void every_call_and_allocation_may_fail(void)
{
    put_file("00000000000000000040.log", log_bytes.bytes, log_bytes.size - 3);
    for (int n = 1, clean = 0; !clean; n++) {
        mq_io_fault fault;
        mq_recovered r;
        mq_error err;
        mq_io_fault_init(&fault, mq_io_posix());
        mq_io_fault_arm(&fault, n, EIO, -1, false, 0, 0);
        mq_recover_options options = plain;
        options.sync_indexes = true;
        options.from_position = starts[4];
        const mq_status status = mq_segment_recover(&fault.io, scratch, BASE, &options, &r, &err);
        clean = atomic_load(&fault.fired) == 0;
        CHECK(clean ? status == MQ_OK : status == MQ_EIO && err.sys_errno == EIO && err.path[0] == '/');
        mq_recovered_free(&r);
        CHECK(n < 60);
    }
    for (int n = 1, clean = 0; !clean; n++) {
        mq_recovered r;
        mq_error err;
        mq_alloc_countdown = n;
        const mq_status status = mq_segment_recover(mq_io_posix(), scratch, BASE, &plain, &r, &err);
        clean = mq_alloc_countdown > 0;
        mq_alloc_countdown = 0;
        CHECK(status == (clean ? MQ_OK : MQ_ENOMEM));
        mq_recovered_free(&r);
        CHECK(n < 60);
    }
    mq_recovered r;
    mq_error err;
    CHECK(mq_segment_recover(mq_io_posix(), scratch, 41, &plain, &r, &err) == MQ_EIO && err.sys_errno == ENOENT);
    mq_recover_options past = plain;
    past.from_position = log_bytes.size;
    CHECK(mq_segment_recover(mq_io_posix(), scratch, BASE, &past, &r, &err) == MQ_EINVAL);
    mq_recovered_free(&r);
}

int main(void)
{
    scratch_begin();
    RUN(whole_logs_are_clean);
    RUN(every_cut_is_a_torn_tail);
    RUN(every_flip_is_found);
    RUN(zeros_and_garbage);
    RUN(gaps);
    RUN(aborted_transactions_are_found);
    RUN(markers_are_listed);
    RUN(every_call_and_allocation_may_fail);
    scratch_end();
    FINISH();
}
