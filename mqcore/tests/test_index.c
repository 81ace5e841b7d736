/* An index finds the newest entry that is not after what is asked, wherever the border between memory and file lies;
 * preallocated zeros and garbage behind it are no entries; a failed spill loses nothing. */
#include <errno.h>

#include "mqcore/io_fault.h"
#include "mqcore/offset_index.h"
#include "mqcore/segment_index.h"
#include "mqcore/time_index.h"
#include "mqcore/txn_index.h"
#include "scratch.h"

enum { ENTRIES = 1500 };

static void push(mq_index *index, int i)
{
    CHECK(mq_index_reserve(index, 1, NULL) == MQ_OK);
    const mq_offset_entry entry = {i * 10 + 9, i * 100};
    mq_offset_entry_put(mq_index_push(index), entry);
    mq_index_commit(index);
}

static bool find(const mq_index *index, int64_t offset, int64_t position, mq_offset_entry *entry)
{
    uint8_t bytes[MQ_INDEX_ENTRY_MAX];
    const mq_offset_target target = {offset, position};
    bool found = mq_index_floor_tail(index, mq_offset_index_after, &target, bytes);
    if (!found)
        found = mq_index_floor_file(mq_io_posix(), scratch_path("i"), MQ_OFFSET_ENTRY, index->spilled,
                                    mq_offset_index_after, &target, bytes, NULL);
    if (found)
        *entry = mq_offset_entry_get(bytes);
    return found;
}

static void entries_are_found(void)
{
    const int spills[] = {0, 1, 2, 511, 512, 513, 1024, ENTRIES};
    for (size_t s = 0; s < sizeof spills / sizeof *spills; s++) {
        mq_index index;
        mq_index_init(&index, MQ_OFFSET_ENTRY);
        put_file("i", "", 0);
        for (int i = 0; i < ENTRIES; i++) {
            push(&index, i);
            if (i + 1 == spills[s]) {
                CHECK(mq_index_write_tail(&index, mq_io_posix(), scratch_path("i"), false, NULL) == MQ_OK);
                mq_index_spilled(&index);
            }
        }
        mq_offset_entry entry;
        CHECK(mq_index_count(&index) == ENTRIES);
        CHECK(!find(&index, 8, INT32_MAX, &entry) && !find(&index, INT32_MAX, -1, &entry));
        for (int i = 0; i < ENTRIES; i += 7) {
            CHECK(find(&index, i * 10 + 9, INT32_MAX, &entry) && entry.position == i * 100);
            CHECK(find(&index, i * 10 + 18, INT32_MAX, &entry) && entry.position == i * 100);
            CHECK(find(&index, INT32_MAX, i * 100 + 99, &entry) && entry.position == i * 100);
        }
        mq_index_free(&index);
    }
}

static bool floor_of(const char *name, uint32_t entry_size, mq_index_after after, const void *target, uint8_t *bytes,
                     uint32_t *slots)
{
    return mq_index_floor_file(mq_io_posix(), scratch_path(name), entry_size, UINT32_MAX, after, target, bytes, slots);
}

static void zeros_end_an_index(void)
{
    uint8_t file[4000] = {0}; /* 500 slots, two used: as Kafka preallocates */
    uint8_t bytes[MQ_INDEX_ENTRY_MAX];
    uint32_t slots;
    mq_offset_entry_put(file, (mq_offset_entry){0, 0});
    mq_offset_entry_put(file + 8, (mq_offset_entry){5, 90});
    put_file("z", file, sizeof file);
    const mq_offset_target all = {INT32_MAX, INT32_MAX};
    CHECK(floor_of("z", 8, mq_offset_index_after, &all, bytes, &slots));
    CHECK(slots == 2 && mq_offset_entry_get(bytes).position == 90);
    CHECK(mq_offset_index_check(file, 16, 6, 100, NULL) == MQ_OK);
    CHECK(mq_offset_index_check(file, 15, 6, 100, NULL) == MQ_ECORRUPT);
    CHECK(mq_offset_index_check(file, 24, 6, 100, NULL) == MQ_ECORRUPT); /* does not rise */
    CHECK(mq_offset_index_check(file, 16, 5, 100, NULL) == MQ_ECORRUPT); /* ahead of the log */
    CHECK(mq_offset_index_check(file, 16, 6, 90, NULL) == MQ_ECORRUPT);
    uint8_t times[36] = {0};
    mq_time_entry_put(times, (mq_time_entry){1000, 0});
    mq_time_entry_put(times + 12, (mq_time_entry){2000, 7});
    put_file("t", times, sizeof times);
    const int64_t when = 2000, later = 2001, offset = 6;
    CHECK(floor_of("t", 12, mq_time_index_after_time, &when, bytes, &slots));
    CHECK(slots == 1 && mq_time_entry_get(bytes).timestamp == 1000);
    CHECK(floor_of("t", 12, mq_time_index_after_time, &later, bytes, &slots));
    CHECK(slots == 2);
    CHECK(floor_of("t", 12, mq_time_index_after_offset, &offset, bytes, &slots));
    CHECK(slots == 1);
    CHECK(mq_time_index_check(times, 24, 8, NULL) == MQ_OK);
    CHECK(mq_time_index_check(times, 36, 8, NULL) == MQ_ECORRUPT);
    CHECK(mq_time_index_check(times, 23, 8, NULL) == MQ_ECORRUPT);
    CHECK(mq_time_index_check(times, 24, 7, NULL) == MQ_ECORRUPT);
    CHECK(!floor_of("none", 8, mq_offset_index_after, &all, bytes, &slots));
}

static void failed_spills_lose_nothing(void)
{
    for (int n = 1; n <= 2; n++) {
        for (long long torn = -1; torn < 20; torn += 7) {
            mq_io_fault fault;
            mq_index index;
            mq_offset_entry entry;
            mq_io_fault_init(&fault, mq_io_posix());
            mq_index_init(&index, MQ_OFFSET_ENTRY);
            put_file("i", "", 0);
            for (int i = 0; i < 10; i++)
                push(&index, i);
            mq_io_fault_arm(&fault, n, ENOSPC, torn, false, 0, 0);
            CHECK(mq_index_write_tail(&index, &fault.io, scratch_path("i"), false, NULL) == MQ_EIO);
            CHECK(find(&index, 59, INT32_MAX, &entry) && entry.position == 500);
            push(&index, 10);
            CHECK(mq_index_write_tail(&index, &fault.io, scratch_path("i"), true, NULL) == MQ_OK);
            mq_index_spilled(&index);
            size_t size;
            unsigned char *bytes = get_file("i", &size);
            CHECK(size == 88 && mq_offset_index_check(bytes, size, 110, 1001, NULL) == MQ_OK);
            free(bytes);
            mq_index_cut(&index, 4); /* a truncated log: the file follows at the next spill */
            CHECK(mq_index_write_tail(&index, &fault.io, scratch_path("i"), false, NULL) == MQ_OK);
            bytes = get_file("i", &size);
            CHECK(size == 32);
            free(bytes);
            mq_index_free(&index);
        }
    }
}

static void the_rule_is_kafkas(void)
{
    mq_segment_index index;
    mq_segment_index_init(&index, 100, 200, 1 << 20);
    mq_index_progress progress = index.progress;
    CHECK(mq_segment_index_reserve(&index, 10000, NULL) == MQ_OK);
    const int64_t times[] = {50, 40, 60, 60, 55, 70};
    for (int i = 0; i < 6; i++) { /* 150 bytes each: an entry before the 3rd and 5th, once more than 200 went by */
        mq_batch batch = {.base_offset = 100 + i * 2,
                          .last_offset_delta = 1,
                          .record_count = 2,
                          .size = 150,
                          .max_timestamp = times[i]};
        mq_segment_index_add(&index, &progress, &batch, (uint64_t)i * 150);
    }
    CHECK(mq_segment_index_add_last(&index, &progress, NULL) == MQ_OK);
    mq_segment_index_commit(&index, &progress);
    CHECK(mq_index_count(&index.offsets) == 2 && mq_index_count(&index.times) == 2);
    CHECK(mq_offset_entry_get(index.offsets.tail).relative_offset == 5);
    CHECK(mq_offset_entry_get(index.offsets.tail).position == 300);
    CHECK(mq_offset_entry_get(index.offsets.tail + 8).position == 600);
    CHECK(mq_time_entry_get(index.times.tail).timestamp == 60);
    CHECK(mq_time_entry_get(index.times.tail).relative_offset == 5);
    CHECK(mq_time_entry_get(index.times.tail + 12).timestamp == 70); /* the last one; 60 was not repeated */
    CHECK(progress.first_timestamp == 50 && progress.max_timestamp == 70 && progress.offset_of_max_timestamp == 111);
    mq_segment_index_free(&index);
}

static void full_indexes_stop_together(void)
{
    mq_segment_index index;
    mq_segment_index_init(&index, 0, 0, 60); /* 7 offsets, 5 times, one of them for the roll */
    CHECK(mq_segment_index_reserve(&index, 100 * 61, NULL) == MQ_OK);
    mq_index_progress progress = index.progress;
    for (int i = 0; i < 100; i++) {
        mq_batch batch = {.base_offset = i, .record_count = 1, .size = 61, .max_timestamp = i};
        mq_segment_index_add(&index, &progress, &batch, (uint64_t)i * 61);
    }
    CHECK(index.offsets.pending == 4 && index.times.pending == 4);
    CHECK(mq_segment_index_add_last(&index, &progress, NULL) == MQ_OK);
    mq_segment_index_commit(&index, &progress);
    CHECK(mq_index_count(&index.times) == 5 && mq_segment_index_full(&index));
    mq_segment_index_free(&index);
}

static void aborted_transactions(void)
{
    mq_txn_entry *entries;
    size_t count;
    const char *path = scratch_path("x.txnindex");
    mq_io *io = mq_io_posix();
    CHECK(mq_txn_index_load(io, path, &entries, &count, NULL) == MQ_OK && count == 0);
    CHECK(mq_txn_index_truncate(io, path, 0, NULL) == MQ_OK && mq_txn_index_sync(io, path, NULL) == MQ_OK);
    CHECK(!file_exists("x.txnindex"));
    for (int64_t i = 0; i < 5; i++)
        CHECK(mq_txn_index_append(io, path, &(mq_txn_entry){7 + i, i * 10, i * 10 + 5, i * 10 + 6}, NULL) == MQ_OK);
    CHECK(mq_txn_index_append(io, path, &(mq_txn_entry){7, 40, 45, 46}, NULL) == MQ_EINVAL);
    size_t size;
    unsigned char *bytes = get_file("x.txnindex", &size);
    CHECK(size == 5 * 34 && bytes[0] == 0 && bytes[1] == 0 && bytes[9] == 7 && bytes[34 + 17] == 10);
    put_file("x.txnindex", bytes, size - 3); /* a torn last entry is none, and is overwritten */
    CHECK(mq_txn_index_load(io, path, &entries, &count, NULL) == MQ_OK && count == 4);
    CHECK(entries[3].producer_id == 10 && entries[3].first_offset == 30 && entries[3].last_stable_offset == 36);
    free(entries);
    CHECK(mq_txn_index_append(io, path, &(mq_txn_entry){9, 50, 55, 56}, NULL) == MQ_OK);
    CHECK(mq_txn_index_truncate(io, path, 55, NULL) == MQ_OK);
    CHECK(mq_txn_index_truncate(io, path, 20, NULL) == MQ_OK && mq_txn_index_sync(io, path, NULL) == MQ_OK);
    CHECK(mq_txn_index_load(io, path, &entries, &count, NULL) == MQ_OK && count == 2);
    free(entries);
    bytes[1] = 1; /* a version that is not known */
    put_file("x.txnindex", bytes, size);
    CHECK(mq_txn_index_load(io, path, &entries, &count, NULL) == MQ_EUNSUPPORTED && entries == NULL);
    bytes[1] = 0;
    memcpy(bytes + 34, bytes, 34); /* twice the same */
    put_file("x.txnindex", bytes, size);
    CHECK(mq_txn_index_load(io, path, &entries, &count, NULL) == MQ_ECORRUPT);
    free(bytes);
}

int main(void)
{
    scratch_begin();
    RUN(entries_are_found);
    RUN(zeros_end_an_index);
    RUN(failed_spills_lose_nothing);
    RUN(the_rule_is_kafkas);
    RUN(full_indexes_stop_together);
    RUN(aborted_transactions);
    scratch_end();
    FINISH();
}
