/* Proves: after any crash the journal replays exactly the durable rounds past the checkpoint; a torn last record is
 * dropped, a damaged one is reported, and nothing that an older lap or a user wrote is ever replayed. */
#include "mqcore/journal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mqcore/crc32c.h"
#include "mqcore/io_fault.h"
#include "mqcore/wire.h"
#include "test.h"

enum { FILE_BYTES = 32 << 10, FILES = 3, MODEL = 4096 };

static char directory[256];
static uint32_t seed = 1;
static mq_io *posix;

/* What each sequence holds: `count` entries of `size` bytes made from the sequence and the entry's number. */
static struct {
    uint32_t count, size;
} model[MODEL];

static uint32_t next_random(void)
{
    seed = seed * 1664525u + 1013904223u;
    return seed >> 8;
}

static void new_directory(void)
{
    const char *base = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(directory, sizeof directory, "%s/mqcore-journal-XXXXXX", base);
    if (mkdtemp(directory) == NULL)
        abort();
    memset(model, 0, sizeof model);
}

static void path_of(uint32_t number, char path[300])
{
    snprintf(path, 300, "%s/%05u.journal", directory, number);
}

static void remove_directory(void)
{
    for (uint32_t i = 0; i < 8; i++) {
        char path[300];
        path_of(i, path);
        unlink(path);
    }
    rmdir(directory);
}

static mq_journal *open_with(mq_io *io, uint32_t file_bytes)
{
    mq_journal_options o = {.file_bytes = file_bytes, .file_limit = FILES};
    char path[300];
    for (path_of(0, path); access(path, F_OK) == 0 && o.files_present < FILES; path_of(o.files_present, path))
        o.files_present++;
    memcpy(o.store_id, "0123456789abcdef", 16);
    o.salt = ((uint64_t)next_random() << 32) | next_random();
    mq_journal *j = NULL;
    mq_error err;
    if (mq_journal_open(io, directory, &o, &j, &err) != MQ_OK) {
        fprintf(stderr, "open: %s\n", err.what);
        abort();
    }
    return j;
}

static mq_journal *open_ring(void)
{
    return open_with(posix, FILE_BYTES);
}

static uint64_t newest(const mq_journal *j)
{
    mq_journal_stat s;
    mq_journal_stats(j, &s);
    return s.sequence;
}

static void fill(uint8_t *bytes, uint32_t size, uint64_t sequence, uint32_t entry)
{
    for (uint32_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)(sequence * 31 + entry * 7 + i);
}

static mq_status write_round(mq_journal *j, uint32_t count, uint32_t size)
{
    mq_journal_entry entries[8];
    uint8_t *bytes[8];
    const uint64_t sequence = newest(j) + 1;
    for (uint32_t i = 0; i < count; i++) {
        /* a forced checkpoint record may take this sequence: the content says which one it was made for */
        bytes[i] = malloc(size > 0 ? size : 1);
        fill(bytes[i], size, sequence, i);
        entries[i] = (mq_journal_entry){.partition = (int32_t)i,
                                        .leader_epoch = 3,
                                        .segment_base = 1000,
                                        .position = (int64_t)sequence,
                                        .base_offset = (int64_t)sequence * 10,
                                        .next_offset = (int64_t)sequence * 10 + 10,
                                        .bytes = bytes[i],
                                        .size = size};
        memcpy(entries[i].topic_id, "topic-id-0123456", 16);
    }
    uint64_t got = 0;
    mq_error err;
    mq_status grown = MQ_OK;
    mq_status status = mq_journal_write(j, entries, count, &got, &err);
    if (status == MQ_EFULL && (grown = mq_journal_grow(j, sequence % 2 == 0, &err)) != MQ_EFULL)
        status = grown == MQ_OK ? mq_journal_write(j, entries, count, &got, &err) : grown;
    for (uint32_t i = 0; i < count; i++)
        free(bytes[i]);
    if (status == MQ_OK && got < MODEL && sequence == got) {
        model[got].count = count;
        model[got].size = size;
    } else if (status == MQ_OK) {
        CHECK(got == sequence + 1 && count == 0); /* only the tests that expect a forced record get here */
    }
    return status;
}

/* Replay everything; every entry must be what the model says. Counts records in `seen` (may be NULL). */
static uint64_t replay(mq_journal *j, uint8_t *seen)
{
    mq_journal_cursor c = {0};
    mq_journal_entry e;
    mq_error err;
    mq_status status;
    uint64_t entries = 0, last = 0;
    uint8_t expected[FILE_BYTES];
    while ((status = mq_journal_next(j, &c, &e, &err)) == MQ_OK) {
        const uint64_t s = c.sequence;
        CHECK(s >= last && s < MODEL && e.position == (int64_t)s && e.size == model[s].size);
        CHECK(e.base_offset == (int64_t)s * 10 && e.next_offset == (int64_t)s * 10 + 10 && e.leader_epoch == 3);
        CHECK((uint32_t)e.partition < model[s].count && memcmp(e.topic_id, "topic-id-0123456", 16) == 0);
        fill(expected, e.size, s, (uint32_t)e.partition);
        CHECK(memcmp(expected, e.bytes, e.size) == 0);
        if (seen != NULL && s < MODEL)
            seen[s]++;
        last = s;
        entries++;
    }
    CHECK(status == MQ_ENOTFOUND);
    mq_journal_cursor_free(&c);
    return entries;
}

static uint64_t expected_entries(uint64_t after, uint64_t upto)
{
    uint64_t n = 0;
    for (uint64_t s = after + 1; s <= upto; s++)
        n += model[s].count;
    return n;
}

static void test_round_trip(void)
{
    new_directory();
    mq_journal *j = open_ring();
    CHECK(newest(j) == 0 && replay(j, NULL) == 0);
    CHECK(write_round(j, 3, 1000) == MQ_OK && write_round(j, 1, 0) == MQ_OK && write_round(j, 0, 0) == MQ_OK);
    mq_journal_close(j);
    j = open_ring();
    CHECK(newest(j) == 3 && replay(j, NULL) == 4);
    mq_journal_set_checkpointed(j, 2);
    CHECK(replay(j, NULL) == 4); /* as the disk has it; the next record changes that */
    CHECK(write_round(j, 2, 77) == MQ_OK);
    mq_journal_close(j);
    j = open_ring();
    CHECK(newest(j) == 4 && replay(j, NULL) == 2);
    mq_journal_close(j);
    remove_directory();
}

/* Laps and laps, a crash (reopen) after every record: what replays is what the model holds past the checkpoint. */
static void test_wrap_around(void)
{
    new_directory();
    mq_journal *j = open_ring();
    uint64_t full = 0;
    for (int i = 0; i < 1500; i++) {
        const uint32_t count = next_random() % 5, size = next_random() % 2500;
        mq_status status = count == 0 ? write_round(j, 1, 10) : write_round(j, count, size);
        if (status == MQ_EFULL) {
            full++;
            const uint64_t upto = newest(j);
            mq_journal_set_checkpointed(j, upto - next_random() % (i % 3 == 0 ? 3 : 1));
            status = write_round(j, 0, 0); /* may be MQ_EFULL again if a live record holds each file */
            if (status == MQ_EFULL)
                mq_journal_set_checkpointed(j, upto);
        }
        CHECK(status == MQ_OK || status == MQ_EFULL);
        mq_journal_stat s;
        mq_journal_stats(j, &s);
        const uint64_t checkpointed = s.recorded, last = s.sequence;
        mq_journal *again = open_ring();
        mq_journal_stats(again, &s);
        CHECK(s.sequence == last && s.missing == 0 && s.checkpointed == checkpointed);
        CHECK(replay(again, NULL) == expected_entries(checkpointed, last));
        if (next_random() % 4 == 0) {
            mq_journal_close(j);
            j = again;
        } else {
            mq_journal_close(again);
        }
    }
    CHECK(full > 20);
    mq_journal_close(j);
    remove_directory();
}

typedef struct image {
    uint8_t *bytes[FILES];
    size_t size[FILES];
} image;

static void take_image(image *im)
{
    for (uint32_t i = 0; i < FILES; i++) {
        char path[300];
        path_of(i, path);
        const int fd = open(path, O_RDONLY);
        struct stat st;
        im->bytes[i] = NULL;
        im->size[i] = 0;
        if (fd < 0)
            continue;
        if (fstat(fd, &st) != 0)
            abort();
        im->size[i] = (size_t)st.st_size;
        im->bytes[i] = malloc(im->size[i] + 1);
        if (pread(fd, im->bytes[i], im->size[i], 0) != (ssize_t)im->size[i])
            abort();
        close(fd);
    }
}

static void drop_image(image *im)
{
    for (int i = 0; i < FILES; i++)
        free(im->bytes[i]);
}

static void put_file(uint32_t number, const uint8_t *bytes, size_t size)
{
    char path[300];
    path_of(number, path);
    const int fd = open(path, O_WRONLY | O_TRUNC | O_CREAT, 0600);
    if (fd < 0 || write(fd, bytes, size) != (ssize_t)size)
        abort();
    close(fd);
}

/* The last record torn at every 512 B: a prefix, a suffix and a random set of its sectors reached the disk. */
static void torn_states(const image *before, const image *after, uint64_t last, uint64_t recorded)
{
    for (uint32_t f = 0; f < FILES; f++) {
        if (before->size[f] == 0 || memcmp(before->bytes[f], after->bytes[f], after->size[f]) == 0)
            continue;
        size_t start = 0;
        while (before->bytes[f][start] == after->bytes[f][start])
            start++;
        start -= start % MQ_JOURNAL_BLOCK;
        const uint32_t used = mq_load_be32(after->bytes[f] + start + 12); /* the padding may be torn */
        for (size_t at = 0; at <= after->size[f]; at += 512) {
            for (int kind = 0; kind < 3; kind++) {
                uint8_t *mixed = malloc(after->size[f]);
                for (size_t s = 0; s < after->size[f]; s += 512) {
                    const bool new_sector = kind == 0 ? s < at : kind == 1 ? s >= at : next_random() % 2 == 0;
                    memcpy(mixed + s, (new_sector ? after : before)->bytes[f] + s, 512);
                }
                const bool whole = memcmp(mixed + start, after->bytes[f] + start, used) == 0;
                put_file(f, mixed, after->size[f]);
                mq_journal *j = open_ring();
                mq_journal_stat s;
                mq_journal_stats(j, &s);
                CHECK(s.sequence == (whole ? last : last - 1) && s.missing == 0);
                if (!whole)
                    CHECK(replay(j, NULL) == expected_entries(recorded, last - 1));
                mq_journal_close(j);
                free(mixed);
            }
        }
        put_file(f, after->bytes[f], after->size[f]);
    }
}

static void test_torn_record(void)
{
    new_directory();
    mq_journal *j = open_ring();
    int tested = 0;
    for (int i = 0; i < 60; i++) {
        image before, after;
        mq_journal_stat old, now;
        take_image(&before);
        mq_journal_stats(j, &old);
        mq_status status = write_round(j, 1 + next_random() % 3, 500 + next_random() % 2500);
        if (status == MQ_EFULL) {
            mq_journal_set_checkpointed(j, newest(j));
            CHECK(write_round(j, 0, 0) == MQ_OK);
            drop_image(&before);
            continue;
        }
        CHECK(status == MQ_OK);
        mq_journal_stats(j, &now);
        take_image(&after);
        if (now.sequence == old.sequence + 1 && now.files == old.files) {
            torn_states(&before, &after, now.sequence, old.recorded);
            tested++;
        }
        drop_image(&before);
        drop_image(&after);
    }
    CHECK(tested > 30);
    mq_journal_close(j);
    remove_directory();
}

/* Every byte of a ring with live records in several laps, one bit at a time. */
static void test_flipped_bits(void)
{
    new_directory();
    mq_journal *j = open_ring();
    mq_journal_stat s;
    uint64_t dropped = 0, reported = 0;
    for (int i = 0; i < 40; i++) {
        if (write_round(j, 1 + (uint32_t)i % 3, 100 + next_random() % 2000) == MQ_EFULL) {
            mq_journal_set_checkpointed(j, newest(j) - 2);
            i--;
            mq_journal_stats(j, &s);
            if (write_round(j, 0, 0) == MQ_EFULL)
                mq_journal_set_checkpointed(j, newest(j));
        }
    }
    mq_journal_stats(j, &s);
    const uint64_t last = s.sequence, recorded = s.recorded;
    CHECK(last - recorded > 8);
    mq_journal_close(j);
    for (uint32_t f = 0; f < FILES; f++) {
        char path[300];
        path_of(f, path);
        const int fd = open(path, O_RDWR);
        CHECK(fd >= 0);
        for (off_t at = 0; at < FILE_BYTES; at++) {
            uint8_t byte, flipped;
            if (pread(fd, &byte, 1, at) != 1)
                abort();
            flipped = byte ^ (uint8_t)(1u << (at % 8));
            if (pwrite(fd, &flipped, 1, at) != 1)
                abort();
            uint8_t seen[MODEL] = {0};
            j = open_ring();
            mq_journal_stats(j, &s);
            replay(j, seen);
            /* of a damaged newest record nobody can say that it was not torn: it, and what it checkpointed */
            CHECK(s.sequence == last || s.sequence == last - 1);
            dropped += s.sequence == last - 1;
            uint64_t absent = 0;
            for (uint64_t q = recorded + 1; q <= s.sequence; q++)
                absent += seen[q] < model[q].count;
            CHECK(absent == 0 || s.missing > 0);
            CHECK(s.missing <= absent + 1); /* a record without entries counts, too */
            reported += s.missing;
            mq_journal_close(j);
            if (pwrite(fd, &byte, 1, at) != 1)
                abort();
        }
        close(fd);
    }
    CHECK(dropped > 100 && reported > 1000);
    remove_directory();
}

/* A user's record that looks like the next journal record, at the very place where replay looks for it. */
static void test_forged_record(void)
{
    new_directory();
    mq_journal *j = open_ring();
    CHECK(write_round(j, 1, 3000) == MQ_OK);
    mq_journal_close(j);
    char path[300];
    path_of(0, path);
    const int fd = open(path, O_RDWR);
    uint8_t block[MQ_JOURNAL_BLOCK];
    CHECK(pread(fd, block, sizeof block, 0) == (ssize_t)sizeof block);
    mq_store_be64(block + 40, 2);
    mq_store_be64(block + 32, mq_load_be64(block + 32) ^ 1); /* all but the salt, which no user can know */
    const uint32_t used = mq_load_be32(block + 12);
    mq_store_be32(block + 4, mq_crc32c(0, block + 8, used - 8));
    CHECK(pwrite(fd, block, sizeof block, MQ_JOURNAL_BLOCK) == (ssize_t)sizeof block);
    j = open_ring();
    CHECK(newest(j) == 1 && replay(j, NULL) == 1);
    mq_journal_close(j);
    close(fd);
    remove_directory();
}

static void test_failed_calls(void)
{
    mq_error err;
    for (long long at = 1; at < 40; at++) {
        mq_io_fault fault;
        new_directory();
        mq_io_fault_init(&fault, posix);
        mq_journal *j = open_with(&fault.io, FILE_BYTES);
        mq_io_fault_arm(&fault, at, at % 2 == 0 ? EIO : ENOSPC, -1, false, 0, 0);
        uint64_t durable = 0, sequence;
        mq_status status = MQ_OK;
        mq_journal_stat s;
        for (int i = 0; i < 4 && status == MQ_OK; i++) {
            status = write_round(j, 2, 1500);
            durable += status == MQ_OK;
        }
        mq_journal_stats(j, &s);
        CHECK(status == MQ_OK || status == MQ_EIO);
        if (s.failed) /* for good, even though the disk works again (I5) */
            CHECK(mq_journal_write(j, NULL, 0, &sequence, &err) == MQ_ESTATE);
        else if (status == MQ_EIO) /* while a file was made: nothing happened */
            CHECK(write_round(j, 1, 10) == MQ_OK && ++durable > 0);
        mq_journal_close(j);
        j = open_ring();
        CHECK(newest(j) == durable || (s.failed && newest(j) == durable + 1));
        mq_journal_close(j);
        remove_directory();
    }
}

/* The n-th call of a kind is refused with EINVAL, as a device with larger blocks or a file system without direct writes
 * does it, or a write ends short inside a block: every round is durable all the same, and nothing has failed. */
static void test_refused_direct_writes(void)
{
    const struct {
        int call, error, short_bytes;
    } refusals[] = {{MQ_CALL_OPEN, EINVAL, -1}, {MQ_CALL_PWRITEV, EINVAL, -1}, {MQ_CALL_PWRITEV, 0, 700}};
    for (size_t kind = 0; kind < sizeof refusals / sizeof refusals[0]; kind++)
        for (long long at = kind == 0 ? 2 : 1; at < 9; at++) {
            mq_io_fault fault;
            new_directory();
            mq_io_fault_init(&fault, posix);
            mq_journal *j = open_with(&fault.io, FILE_BYTES);
            mq_io_fault_arm(&fault, at, refusals[kind].error, refusals[kind].short_bytes, false,
                            1u << refusals[kind].call, 0);
            CHECK(mq_journal_grow(j, at % 2 == 0, NULL) == MQ_OK); /* the first open makes the file: it may not fail */
            for (int i = 0; i < 6; i++)                            /* in one file */
                CHECK(write_round(j, 2, 1500) == MQ_OK);
            mq_journal_close(j);
            j = open_ring();
            CHECK(newest(j) == 6 && replay(j, NULL) == 12);
            mq_journal_close(j);
            remove_directory();
        }
}

static void test_foreign_and_short_files(void)
{
    new_directory();
    mq_journal *j = open_ring();
    CHECK(write_round(j, 1, 100) == MQ_OK);
    mq_journal_close(j);
    put_file(1, (const uint8_t *)"short", 5); /* a crash while the second file was made */
    mq_journal_options o = {.file_bytes = FILE_BYTES, .file_limit = FILES, .files_present = FILES};
    memcpy(o.store_id, "another store 16", 16);
    mq_error err;
    CHECK(mq_journal_open(posix, directory, &o, &j, &err) == MQ_OK && newest(j) == 0 && replay(j, NULL) == 0);
    mq_journal_close(j);
    j = open_ring();
    CHECK(newest(j) == 1 && replay(j, NULL) == 1);
    for (int i = 0; i < 7; i++)
        CHECK(write_round(j, 1, 5000) == MQ_OK); /* fills the first file, completes the second */
    CHECK(write_round(j, 8, FILE_BYTES / 8) == MQ_ETOOBIG);
    mq_journal_close(j);
    j = open_ring();
    CHECK(newest(j) == 8 && replay(j, NULL) == 8);
    mq_journal_close(j);
    o.file_limit = 1;
    CHECK(mq_journal_open(posix, directory, &o, &j, &err) == MQ_EINVAL && j == NULL);
    remove_directory();
}

int main(void)
{
    posix = (mq_io *)(uintptr_t)mq_io_posix();
    RUN(test_round_trip);
    RUN(test_wrap_around);
    RUN(test_torn_record);
    RUN(test_flipped_bits);
    RUN(test_forged_record);
    RUN(test_failed_calls);
    RUN(test_refused_direct_writes);
    RUN(test_foreign_and_short_files);
    FINISH();
}
