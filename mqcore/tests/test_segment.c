/* A segment is a list of batches: whatever is appended, failed, flushed, sealed, cut and reopened, lookups answer as a
 * plain walk over that list does, and a failed call leaves the list as it was. */
#include <errno.h>
#include <sys/mman.h>

#include "../src/segment_state.h"
#include "batch_maker.h"
#include "mqcore/alloc.h"
#include "mqcore/io_fault.h"
#include "mqcore/limits.h"
#include "mqcore/segment_read.h"
#include "scratch.h"

static const mq_segment_limits limits = {
    .index_interval_bytes = 300,
    .index_max_bytes = 1 << 20,
    .segment_bytes = 1 << 20,
};

typedef struct model {
    int64_t last[4000], base[4000], time[4000];
    uint64_t at[4001]; /* starts, and the end */
    int count;
    int64_t next;
} model;

static model m;

static void reset(int64_t base)
{
    scratch_clear();
    m.count = 0;
    m.at[0] = 0;
    m.next = base;
}

/* Append a chunk of `batches` batches of 1..5 records; the model follows only if the segment took it. */
static mq_status append(mq_segment *s, int batches, unsigned seed, mq_error *err)
{
    static maker b;
    model old = m;
    b.size = 0;
    for (int i = 0; i < batches; i++) {
        const int records = (int)(seed * 7u + (unsigned)i * 3u) % 5 + 1;
        const size_t start = b.size;
        maker_batch(&b, 12345, records, 0);
        m.base[m.count] = m.next;
        m.last[m.count] = m.next + records - 1;
        m.time[m.count] = 1000 + (int)(seed * 37u + (unsigned)i * 11u) % 500;
        mq_store_be64(b.bytes + start + 35, (uint64_t)m.time[m.count]);
        mq_batch_seal(b.bytes + start, b.size - start);
        m.next += records;
        m.at[m.count + 1] = m.at[m.count] + (b.size - start);
        m.count++;
    }
    uint8_t *chunk = exact_copy(b.bytes, b.size);
    uint64_t position = 0;
    int64_t next = 0;
    const mq_status status = mq_segment_append(s, chunk, b.size, old.next, 9, -1, &position, &next, err);
    free(chunk);
    if (status != MQ_OK)
        m = old;
    else
        CHECK(position == old.at[old.count] && next == m.next);
    return status;
}

static void compare(mq_segment *s)
{
    mq_error err;
    uint64_t position;
    int64_t offset;
    mq_segment_info info;
    const uint64_t size = m.at[m.count];
    CHECK(mq_segment_size(s) == size && mq_segment_next_offset(s) == m.next);
    int64_t most = -1;
    for (int i = 0; i < m.count; i++)
        most = m.time[i] > most ? m.time[i] : most;
    CHECK(mq_segment_get_info(s, &info, &err) == MQ_OK);
    CHECK(info.max_timestamp == most && info.first_timestamp == (m.count > 0 ? m.time[0] : -1));
    for (int i = 0; i < m.count; i += 3) {
        for (int64_t o = m.base[i]; o <= m.last[i]; o++)
            CHECK(mq_segment_lookup(s, o, &position, &err) == MQ_OK && position == m.at[i]);
        for (uint64_t most_bytes = 1; most_bytes < 1 << 19; most_bytes *= 5) {
            const int64_t limit = i % 2 == 0 ? m.next : m.base[i] + (int64_t)most_bytes % 50;
            uint64_t end = m.at[i], got;
            for (int j = i; j < m.count && m.last[j] < limit && (j == i || m.at[j + 1] - m.at[i] <= most_bytes); j++)
                end = m.at[j + 1];
            CHECK(mq_segment_lookup_ends(s, m.at[i], most_bytes, limit, &got, &err) == MQ_OK && got == end);
        }
    }
    CHECK(mq_segment_lookup(s, m.next, &position, &err) == MQ_OK && position == size);
    CHECK(mq_segment_lookup(s, -5, &position, &err) == MQ_OK && position == 0);
    for (int64_t time = 990; time < 1510; time += 13) {
        int j = 0;
        while (j < m.count && m.time[j] < time)
            j++;
        CHECK(mq_segment_lookup_time(s, time, &offset, &err) == MQ_OK && offset == (j < m.count ? m.base[j] : -1));
    }
}

static mq_segment *reopen(mq_io *io, int64_t base, bool writable)
{
    mq_segment *s = NULL;
    CHECK(mq_segment_open(io, scratch, base, &limits, m.at[m.count], m.next, writable, &s, NULL) == MQ_OK);
    return s;
}

static void lookups_answer_as_a_walk(void)
{
    mq_segment *s;
    mq_error err;
    reset(1000);
    CHECK(mq_segment_create(mq_io_posix(), scratch, 1000, &limits, &s, &err) == MQ_OK);
    compare(s);
    for (unsigned i = 0; i < 200; i++)
        CHECK(append(s, (int)(i % 6) + 1, i, &err) == MQ_OK);
    compare(s);
    mq_segment *reader = reopen(mq_io_posix(), 1000, false); /* the index files are behind the log */
    compare(reader);
    CHECK(append(s, 3, 1, &err) == MQ_OK);
    CHECK(mq_segment_refresh(reader, m.at[m.count], m.next, &err) == MQ_OK);
    CHECK(mq_segment_refresh(reader, 5, m.next, &err) == MQ_EINVAL);
    compare(reader);
    CHECK(append(reader, 1, 1, &err) == MQ_ESTATE);
    CHECK(mq_segment_write_indexes(s, &err) == MQ_OK);
    compare(s);
    CHECK(mq_segment_release_fd(s, &err) == MQ_OK && mq_segment_flushed_size(s) == m.at[m.count]);
    compare(s);
    CHECK(append(s, 3, 2, &err) == MQ_OK);
    CHECK(mq_segment_close(s, &err) == MQ_OK && mq_segment_close(s, &err) == MQ_OK);
    uint64_t position;
    CHECK(mq_segment_lookup(s, 1000, &position, &err) == MQ_ESTATE && mq_segment_flush(s, &err) == MQ_ESTATE);
    mq_segment_free(s);
    mq_segment_free(reader);
    s = reopen(mq_io_posix(), 1000, true);
    compare(s);
    CHECK(append(s, 20, 3, &err) == MQ_OK);
    compare(s);
    mq_segment_free(s); /* a crash: no close */
    const char *const files[] = {"00000000000000001000.index", "00000000000000001000.timeindex"};
    for (int i = 0; i < 2; i++) { /* indexes that are missing, cut or wrong are redone */
        size_t size;
        unsigned char *bytes = get_file(files[i], &size);
        for (size_t at = 0; at < size; at += 1 + size / 23) {
            bytes[at] ^= 0x11;
            put_file(files[i], bytes, size);
            s = reopen(mq_io_posix(), 1000, at % 2 == 0);
            compare(s);
            mq_segment_free(s);
            bytes[at] ^= 0x11;
        }
        put_file(files[i], bytes, size - 5);
        s = reopen(mq_io_posix(), 1000, true);
        compare(s);
        CHECK(mq_segment_close(s, &err) == MQ_OK);
        mq_segment_free(s);
        CHECK(unlink(scratch_path(files[i])) == 0);
        s = reopen(mq_io_posix(), 1000, true);
        compare(s);
        CHECK(mq_segment_seal(s, &err) == MQ_OK && append(s, 1, 1, &err) == MQ_ESTATE);
        CHECK(mq_segment_close(s, &err) == MQ_OK);
        mq_segment_free(s);
        free(bytes);
    }
}

static void limits_hold(void)
{
    mq_segment *s;
    mq_error err;
    reset(0);
    mq_segment_limits small = limits;
    small.segment_bytes = 0;
    CHECK(mq_segment_create(mq_io_posix(), scratch, 0, &small, &s, &err) == MQ_EINVAL);
    small.segment_bytes = 1000;
    CHECK(mq_segment_create(mq_io_posix(), scratch, 0, &small, &s, &err) == MQ_OK);
    mq_segment *twice = NULL;
    CHECK(mq_segment_create(mq_io_posix(), scratch, 0, &small, &twice, &err) == MQ_EIO && err.sys_errno == EEXIST);
    CHECK(twice == NULL && file_exists("00000000000000000000.log"));
    CHECK(append(s, 40, 1, &err) == MQ_OK); /* larger than the segment, and the first: taken */
    CHECK(append(s, 1, 1, &err) == MQ_EFULL);
    uint64_t position;
    int64_t next;
    maker b = {.size = 0};
    maker_batch(&b, 0, 3, 0);
    CHECK(mq_segment_append(s, b.bytes, 0, 500, 0, -1, &position, &next, &err) == MQ_EINVAL);
    CHECK(mq_segment_append(s, b.bytes, b.size - 1, 500, 0, -1, &position, &next, &err) == MQ_EFULL);
    mq_segment_free(s);
    reset(0);
    CHECK(mq_segment_create(mq_io_posix(), scratch, 0, &limits, &s, &err) == MQ_OK);
    CHECK(mq_segment_append(s, b.bytes, b.size - 1, 0, 0, -1, &position, &next, &err) == MQ_ETRUNCATED);
    CHECK(mq_segment_append(s, b.bytes, b.size, INT32_MAX - 1, 0, -1, &position, &next, &err) == MQ_EFULL);
    CHECK(mq_segment_append(s, b.bytes, b.size, INT32_MAX - 2, 0, 777, &position, &next, &err) == MQ_OK);
    CHECK(next == (int64_t)INT32_MAX + 1 && mq_load_be64(b.bytes + 35) == 777); /* the last offset that fits */
    mq_batch batch;
    CHECK(mq_batch_check(b.bytes, b.size, 1 << 20, &batch, &err) == MQ_OK && batch.base_offset == INT32_MAX - 2);
    CHECK((batch.attributes & MQ_ATTR_LOG_APPEND_TIME) != 0);
    CHECK(mq_segment_append(s, b.bytes, b.size, INT32_MAX, 0, -1, &position, &next, &err) == MQ_EINVAL);
    CHECK(mq_segment_append(s, b.bytes, b.size, next, 0, -1, &position, &next, &err) == MQ_EFULL);
    mq_segment_free(s);
}

static void space_is_taken_and_given_back(void)
{
    mq_segment *s;
    mq_error err;
    struct stat st;
    reset(0);
    CHECK(mq_segment_create(mq_io_posix(), scratch, 0, &limits, &s, &err) == MQ_OK);
    for (unsigned i = 0; i < 90; i++)
        CHECK(append(s, 30, i, &err) == MQ_OK);
    CHECK(stat(mq_segment_path(s), &st) == 0 && (uint64_t)st.st_size == m.at[m.count]);
    CHECK((uint64_t)st.st_blocks * 512 > m.at[m.count] + 65536); /* KEEP_SIZE: blocks, not size */
    CHECK(mq_segment_close(s, &err) == MQ_OK && stat(mq_segment_path(s), &st) == 0);
    CHECK((uint64_t)st.st_size == m.at[m.count] && (uint64_t)st.st_blocks * 512 <= m.at[m.count] + 8192);
    mq_segment_free(s);
    const int errors[] = {ENOSPC, EOPNOTSUPP, EIO}; /* no space ahead is no error */
    for (int i = 0; i < 3; i++) {
        mq_io_fault fault;
        mq_io_fault_init(&fault, mq_io_posix());
        reset(0);
        CHECK(mq_segment_create(&fault.io, scratch, 0, &limits, &s, &err) == MQ_OK);
        mq_io_fault_arm(&fault, 1, errors[i], -1, true, 1u << MQ_CALL_FALLOCATE, 0);
        for (unsigned j = 0; j < 90; j++)
            CHECK(append(s, 30, j, &err) == MQ_OK);
        CHECK(atomic_load(&fault.fired) > 0 && atomic_load(&fault.fired) < 10);
        compare(s);
        mq_segment_free(s);
    }
}

static void nothing_follows_what_could_not_be_cut(void)
{
    mq_segment *s;
    mq_error err;
    mq_io_fault fault;
    mq_io_fault_init(&fault, mq_io_posix());
    reset(0);
    CHECK(mq_segment_create(&fault.io, scratch, 0, &limits, &s, &err) == MQ_OK);
    CHECK(append(s, 3, 1, &err) == MQ_OK && mq_segment_trim(s, &err) == MQ_OK);
    const unsigned both = 1u << MQ_CALL_PWRITEV | 1u << MQ_CALL_FTRUNCATE;
    mq_io_fault_arm(&fault, 1, EIO, 300, true, both, 0); /* whole batches stay behind the end */
    CHECK(append(s, 6, 2, &err) == MQ_EIO);
    mq_io_fault_arm(&fault, 1, EIO, -1, true, 1u << MQ_CALL_FTRUNCATE, 0);
    CHECK(append(s, 2, 3, &err) == MQ_EIO && mq_segment_trim(s, &err) == MQ_EIO && err.sys_errno == EIO);
    size_t size;
    free(get_file("00000000000000000000.log", &size));
    CHECK(size == m.at[m.count] + 300);
    mq_io_fault_disarm(&fault);
    CHECK(mq_segment_trim(s, &err) == MQ_OK);
    free(get_file("00000000000000000000.log", &size));
    CHECK(size == m.at[m.count]);
    CHECK(append(s, 2, 3, &err) == MQ_OK && mq_segment_flush(s, &err) == MQ_OK);
    compare(s);
    const long long syncs = atomic_load(&fault.calls[MQ_CALL_FDATASYNC]);
    CHECK(mq_segment_seal(s, &err) == MQ_OK && atomic_load(&fault.calls[MQ_CALL_FDATASYNC]) == syncs + 1);
    CHECK(mq_segment_close(s, &err) == MQ_OK && mq_segment_trim(s, &err) == MQ_ESTATE);
    mq_segment_free(s);
}

/* Compaction gives the name of a closed segment to another file. A reader that passed the check of `closed` just before
 * the close is where this begins. */
static void a_closed_segment_opens_no_file(void)
{
    mq_error err;
    int fd;
    reset(0);
    mq_segment *s;
    CHECK(mq_segment_create(mq_io_posix(), scratch, 0, &limits, &s, &err) == MQ_OK && append(s, 9, 1, &err) == MQ_OK);
    CHECK(mq_seg_get_fd(s, &fd, &err) == MQ_OK); /* a running call keeps its descriptor */
    CHECK(mq_segment_close(s, &err) == MQ_OK);
    put_file("00000000000000000000.log", "another", 7);
    CHECK(mq_seg_get_fd(s, &fd, &err) == MQ_ESTATE);
    mq_seg_put_fd(s);
    CHECK(mq_seg_get_fd(s, &fd, &err) == MQ_ESTATE);
    CHECK(mq_segment_release_fd(s, &err) ==
          MQ_OK); /* its last bytes are not synced: through another file least of all */
    mq_segment_free(s);
}

static void a_failed_fsync_is_final(void)
{
    mq_segment *s;
    mq_error err;
    mq_io_fault fault;
    mq_io_fault_init(&fault, mq_io_posix());
    reset(0);
    CHECK(mq_segment_create(&fault.io, scratch, 0, &limits, &s, &err) == MQ_OK);
    CHECK(append(s, 3, 1, &err) == MQ_OK && mq_segment_flush(s, &err) == MQ_OK && append(s, 3, 1, &err) == MQ_OK);
    const uint64_t flushed = mq_segment_flushed_size(s);
    mq_io_fault_arm(&fault, 1, ENOSPC, -1, false, 1u << MQ_CALL_FDATASYNC, 0);
    CHECK(mq_segment_flush(s, &err) == MQ_EIO && err.sys_errno == ENOSPC && mq_segment_failed(s));
    const long long calls = mq_io_fault_calls(&fault);
    CHECK(mq_segment_flush(s, &err) == MQ_EIO && err.sys_errno == ENOSPC); /* never asked again */
    CHECK(mq_segment_seal(s, &err) == MQ_EIO && append(s, 1, 1, &err) == MQ_EIO);
    CHECK(mq_io_fault_calls(&fault) == calls && mq_segment_flushed_size(s) == flushed);
    compare(s); /* readers go on */
    CHECK(mq_segment_close(s, &err) == MQ_OK);
    mq_segment_free(s);
}

/* One life of a segment. Returns the first error; the model holds what was taken. */
static mq_status life(mq_io *io, mq_segment **s, mq_error *err)
{
    mq_status status = mq_segment_create(io, scratch, 50, &limits, s, err);
    for (unsigned i = 0; i < 4 && status == MQ_OK; i++)
        status = append(*s, 40, i, err);
    if (status == MQ_OK)
        status = mq_segment_append_txn(*s, &(mq_txn_entry){1, 50, 60, 61}, err);
    if (status == MQ_OK)
        status = mq_segment_flush(*s, err);
    if (status == MQ_OK)
        status = append(*s, 700, 9, err);
    if (status == MQ_OK)
        status = mq_segment_seal(*s, err);
    if (status == MQ_OK)
        status = mq_segment_close(*s, err);
    return status;
}

static void every_call_may_fail(void)
{
    int n = 1;
    for (bool clean = false; !clean && n < 200; n++) {
        for (long long torn = -1; torn < 4000; torn = torn * 3 + 70) {
            mq_io_fault fault;
            mq_error err;
            mq_segment *s = NULL;
            mq_io_fault_init(&fault, mq_io_posix());
            reset(50);
            mq_io_fault_arm(&fault, n, EIO, torn, false, 0, 0);
            const mq_status status = life(&fault.io, &s, &err);
            clean = atomic_load(&fault.fired) == 0;
            CHECK(status == MQ_OK || (status == MQ_EIO && !clean && err.sys_errno == EIO));
            mq_io_fault_disarm(&fault);
            if (s == NULL) {
                CHECK(!file_exists("00000000000000000050.log"));
                continue;
            }
            if (status != MQ_OK && !mq_segment_failed(s) && m.count < 800) { /* as before, and usable: try again */
                compare(s);
                CHECK(append(s, 5, 77, &err) == MQ_OK);
                compare(s);
                CHECK(mq_segment_seal(s, &err) == MQ_OK);
            }
            (void)mq_segment_close(s, &err);
            mq_segment_free(s);
            s = reopen(mq_io_posix(), 50, false);
            compare(s);
            mq_segment_free(s);
        }
    }
    CHECK(n > 15 && n < 200);
}

static void every_allocation_may_fail(void)
{
    for (int64_t n = 1;; n++) {
        mq_error err;
        mq_segment *s = NULL;
        reset(50);
        mq_alloc_countdown = n;
        const mq_status status = life(mq_io_posix(), &s, &err);
        const bool clean = mq_alloc_countdown > 0;
        mq_alloc_countdown = 0;
        CHECK(clean ? status == MQ_OK : status == MQ_ENOMEM || status == MQ_OK);
        if (s != NULL)
            compare(mq_segment_closed(s) ? (mq_segment_free(s), s = reopen(mq_io_posix(), 50, true)) : s);
        mq_segment_free(s);
        if (clean)
            break;
        CHECK(n < 100);
    }
}

static void cut(mq_segment *s, int64_t offset)
{
    mq_error err;
    while (m.count > 0 && m.last[m.count - 1] >= offset)
        m.next = m.base[--m.count];
    CHECK(mq_segment_truncate(s, offset, &err) == MQ_OK);
    compare(s);
}

static void truncation(void)
{
    mq_segment *s;
    mq_error err;
    reset(0);
    CHECK(mq_segment_create(mq_io_posix(), scratch, 0, &limits, &s, &err) == MQ_OK);
    for (unsigned i = 0; i < 40; i++)
        CHECK(append(s, 9, i, &err) == MQ_OK);
    CHECK(mq_segment_append_txn(s, &(mq_txn_entry){1, 5, 10, 11}, &err) == MQ_OK);
    CHECK(mq_segment_append_txn(s, &(mq_txn_entry){1, 500, 900, 901}, &err) == MQ_OK);
    cut(s, m.next + 10);
    cut(s, m.next - 1);
    CHECK(append(s, 4, 3, &err) == MQ_OK);
    cut(s, 850);
    mq_txn_entry *entries;
    size_t count;
    CHECK(mq_segment_txns(s, &entries, &count, &err) == MQ_OK && count == 1 && entries[0].last_offset == 10);
    free(entries);
    CHECK(append(s, 4, 3, &err) == MQ_OK && mq_segment_seal(s, &err) == MQ_OK);
    void *address;
    size_t length;
    const uint64_t end = m.at[m.count];
    CHECK(mq_segment_map(s, end, &address, &length, &err) == MQ_OK);
    CHECK(mq_map_populate(mq_io_posix(), address, length, 0, end, mq_segment_path(s), &err) == MQ_OK);
    cut(s, 400); /* bytes that were mapped go: by a copy, so that they stay readable */
    unsigned sum = 0;
    for (uint64_t i = 0; i < end; i++)
        sum += ((uint8_t *)address)[i];
    CHECK(sum > 0);
    mq_unmap(address, length);
    CHECK(append(s, 4, 3, &err) == MQ_OK); /* no longer sealed */
    compare(s);
    CHECK(mq_segment_map(s, m.at[m.count], &address, &length, &err) == MQ_OK);
    CHECK(truncate(mq_segment_path(s), 0) == 0); /* by someone else: an error, no signal */
    CHECK(mq_map_populate(mq_io_posix(), address, length, 100, 9000, mq_segment_path(s), &err) == MQ_EIO);
    CHECK(err.sys_errno == EFAULT && err.position == 0);
    mq_unmap(address, length);
    CHECK(mq_segment_map(s, m.at[m.count] + 1, &address, &length, &err) == MQ_EINVAL);
    mq_segment_free(s);
    reset(0);
    CHECK(mq_segment_create(mq_io_posix(), scratch, 0, &limits, &s, &err) == MQ_OK);
    CHECK(append(s, 9, 1, &err) == MQ_OK);
    cut(s, 0);
    CHECK(append(s, 9, 1, &err) == MQ_OK);
    compare(s);
    mq_segment_free(s);
}

static void chunks_from_outside(void)
{
    maker b = {.size = 0};
    mq_error err;
    int64_t offsets;
    maker_batch(&b, 0, 3, 0);
    const size_t first = b.size;
    maker_batch(&b, 99, 4, 0);
    CHECK(mq_batches_check(b.bytes, b.size, 1 << 20, true, &offsets, &err) == MQ_OK && offsets == 7);
    CHECK(mq_batches_check(b.bytes, b.size - 1, 1 << 20, true, &offsets, &err) == MQ_ETRUNCATED);
    CHECK(err.position == first);
    CHECK(mq_batches_check(b.bytes, b.size, 70, true, &offsets, &err) == MQ_ETOOBIG);
    b.bytes[b.size - 2] ^= 1;
    CHECK(mq_batches_check(b.bytes, b.size, 1 << 20, false, &offsets, &err) == MQ_ECRC && err.position == first);
    b.bytes[first + MQ_BATCH_HEADER] = 1; /* a record length that does not fit, under a good CRC */
    mq_batch_seal(b.bytes + first, b.size - first);
    CHECK(mq_batches_check(b.bytes, b.size, 1 << 20, false, &offsets, &err) == MQ_OK);
    CHECK(mq_batches_check(b.bytes, b.size, 1 << 20, true, &offsets, &err) == MQ_ECORRUPT && err.position > first);
    b.size = 0;
    maker_batch(&b, 0, 1, MQ_ATTR_CONTROL);
    CHECK(mq_batches_check(b.bytes, b.size, 1 << 20, false, &offsets, &err) == MQ_ECORRUPT);
    b.size = 0;
    maker_open(&b, 0, 0);
    maker_record(&b, 1, 0, NULL, "x", 0); /* offset 0 is missing */
    maker_close(&b);
    CHECK(mq_batches_check(b.bytes, b.size, 1 << 20, false, &offsets, &err) == MQ_ECORRUPT);
}

int main(void)
{
    scratch_begin();
    RUN(lookups_answer_as_a_walk);
    RUN(limits_hold);
    RUN(space_is_taken_and_given_back);
    RUN(nothing_follows_what_could_not_be_cut);
    RUN(a_closed_segment_opens_no_file);
    RUN(a_failed_fsync_is_final);
    RUN(every_call_may_fail);
    RUN(every_allocation_may_fail);
    RUN(truncation);
    RUN(chunks_from_outside);
    scratch_end();
    FINISH();
}
