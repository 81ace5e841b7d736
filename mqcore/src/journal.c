#include "mqcore/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "journal_internal.h"
#include "mqcore/alloc.h"
#include "mqcore/crc32c.h"
#include "mqcore/wire.h"

enum {
    PARTS = 512,           /* iovecs of one pwritev; the kernel takes 1024 */
    MAKE_STEP = 128 << 10, /* of a new file, beside a writer: what its next write may have to wait for */
    DIRECT_FIRST = 256 << 10,
    DIRECT_MAX = 4 << 20 /* a larger record would keep more memory than it saves time */
};

static const _Alignas(MQ_JOURNAL_BLOCK) uint8_t zeros[256 << 10];

void mq_journal_path(const mq_journal *j, uint32_t number, char path[MQ_JOURNAL_PATH])
{
    snprintf(path, MQ_JOURNAL_PATH, "%s/%05u.journal", j->directory, number);
}

void mq_journal_close(mq_journal *j)
{
    if (j == NULL)
        return;
    for (uint32_t i = 0; j->files != NULL && i < atomic_load(&j->count); i++)
        if (j->files[i].fd >= 0)
            j->io->close(j->io, j->files[i].fd);
    mq_io_close(j->io, j->direct_fd);
    mq_free(j->direct_memory);
    mq_free(j->files);
    mq_free(j->head);
    mq_free(j);
}

void mq_journal_stats(const mq_journal *j, mq_journal_stat *stat)
{
    memset(stat, 0, sizeof *stat);
    stat->sequence = j->sequence;
    stat->checkpointed = atomic_load(&j->checkpointed);
    stat->recorded = j->recorded;
    stat->missing = j->missing;
    stat->missing_file = j->missing_file;
    stat->missing_position = j->missing_position;
    stat->failed = j->failed;
    uint32_t free_files = 0;
    for (uint32_t i = 0; i < atomic_load(&j->count); i++) {
        const mq_ring_file *f = &j->files[i];
        if (f->fd < 0)
            continue;
        stat->files++;
        stat->capacity_bytes += f->size;
        if (f->last > stat->checkpointed)
            stat->live_bytes += f->end;
        else if ((int64_t)i != j->current)
            free_files++;
    }
    stat->wants_file = free_files == 0 && stat->files < j->options.file_limit && j->current >= 0 &&
                       j->files[j->current].end > j->files[j->current].size / 2;
}

void mq_journal_set_checkpointed(mq_journal *j, uint64_t sequence)
{
    uint64_t old = atomic_load(&j->checkpointed);
    while (old < sequence && !atomic_compare_exchange_weak(&j->checkpointed, &old, sequence)) {
    }
}

/* splitmix64's finish: the caller's random number stirs each lap's salt. */
static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* ---- files of the ring ---- */

/* Zeros up to `size`, for f->fd to sync. Past the page cache where that is possible, else synced step by step: pages that
 * pile up go to the disk in one burst, and a writer's flush waits behind all of it. */
static mq_status put_zeros(mq_journal *j, const mq_ring_file *f, size_t step, const char *path, mq_error *err)
{
    const uint64_t size = j->options.file_bytes;
    mq_status status = MQ_OK;
    int direct_fd;
    if (mq_io_open(j->io, path, O_WRONLY | O_DIRECT, 0, &direct_fd, err) != MQ_OK)
        direct_fd = -1;
    else
        (void)j->io->fallocate(j->io, direct_fd, 0, (off_t)size); /* one piece if it can be; writes need it not */
    for (uint64_t at = 0; status == MQ_OK && at < size; at += step) {
        const size_t length = size - at < step ? (size_t)(size - at) : step;
        if (direct_fd >= 0) {
            status = mq_io_write_all(j->io, direct_fd, zeros, length, at, path, err);
            if (status == MQ_OK || err->sys_errno != EINVAL)
                continue;
            mq_io_close(j->io, direct_fd);
            direct_fd = -1;
        }
        status = mq_io_write_all(j->io, f->fd, zeros, length, at, path, err);
        if (status == MQ_OK && j->io->fdatasync(j->io, f->fd) != 0)
            status = mq_fail(err, MQ_EIO, path, 0, "cannot sync a new journal file");
    }
    mq_io_close(j->io, direct_fd);
    return status;
}

/* Make the file of this number, or complete one that a crash left short, full of zeros: blocks that were written once
 * are overwritten later without a word to the file system's own journal. (Blocks that are only reserved cost a commit
 * of it at each fdatasync, and in ordered mode that commit waits for all the data that segments have unsynced.)
 * Its size says that it is whole. On an error the file is gone again. */
static mq_status make_file(mq_journal *j, uint32_t number, mq_ring_file *f, size_t step, mq_error *err)
{
    char path[MQ_JOURNAL_PATH];
    mq_journal_path(j, number, path);
    mq_status status = MQ_OK;
    if (f->fd < 0 && (status = mq_io_open(j->io, path, O_RDWR | O_CREAT, 0600, &f->fd, err)) != MQ_OK)
        return status;
    status = put_zeros(j, f, step, path, err);
    if (status == MQ_OK && j->io->fsync(j->io, f->fd) != 0)
        status = mq_fail(err, MQ_EIO, path, 0, "cannot sync a new journal file");
    if (status == MQ_OK)
        status = mq_io_sync_dir(j->io, j->directory, err);
    if (status != MQ_OK) {
        j->io->close(j->io, f->fd);
        j->io->unlink(j->io, path);
        f->fd = -1;
    }
    f->size = status == MQ_OK ? j->options.file_bytes : 0;
    return status;
}

mq_status mq_journal_grow(mq_journal *j, bool beside_writer, mq_error *err)
{
    mq_error own;
    err = err != NULL ? err : &own;
    if (j->options.read_only)
        return mq_fail(err, MQ_ESTATE, j->directory, 0, "the journal is open for reading");
    const uint32_t count = atomic_load(&j->count);
    for (uint32_t i = 0; i < count && !beside_writer; i++) {
        mq_ring_file *f = &j->files[i];
        if (f->fd < 0 || (f->size < j->options.file_bytes && f->last <= j->recorded && (int64_t)i != j->current)) {
            f->first = f->last = f->end = 0;
            return make_file(j, i, f, sizeof zeros, err);
        }
    }
    if (count >= j->options.file_limit)
        return mq_fail(err, MQ_EFULL, j->directory, 0, "the journal has all its files");
    mq_ring_file made = {.fd = -1};
    const mq_status status = make_file(j, count, &made, beside_writer ? MAKE_STEP : sizeof zeros, err);
    if (status == MQ_OK) {
        j->files[count] = made; /* whole before the writer can see it */
        atomic_store(&j->count, count + 1);
    }
    return status;
}

static mq_status write_record(mq_journal *j, const mq_journal_entry *entries, size_t count, uint32_t used,
                              mq_error *err);

/* Among the files that hold nothing past `upto`, the one that was left longest ago; -1: none. */
static int64_t free_file(const mq_journal *j, uint64_t need, uint64_t upto)
{
    int64_t best = -1;
    for (uint32_t i = 0; i < atomic_load(&j->count); i++) {
        const mq_ring_file *f = &j->files[i];
        if (f->fd >= 0 && (int64_t)i != j->current && f->last <= upto && f->size >= need &&
            (best < 0 || f->lap < j->files[best].lap))
            best = i;
    }
    return best;
}

/* A second descriptor of the current file for I6. Its failure costs speed, nothing else. */
static void open_direct(mq_journal *j)
{
    char path[MQ_JOURNAL_PATH];
    mq_error ignored;
    mq_io_close(j->io, j->direct_fd);
    mq_journal_path(j, (uint32_t)j->current, path);
    if (mq_io_open(j->io, path, O_WRONLY | O_DIRECT | O_DSYNC, 0, &j->direct_fd, &ignored) != MQ_OK)
        j->direct_fd = -1;
}

/* Begin a lap (I2): in a file that is free by the record, else in one that is free by now, which is recorded first (each
 * file keeps a block for that). MQ_EFULL: there is none. */
static mq_status enter_file(mq_journal *j, uint64_t need, mq_error *err)
{
    int64_t number = free_file(j, need, j->recorded);
    if (number < 0 && j->current >= 0 && (number = free_file(j, need, atomic_load(&j->checkpointed))) >= 0 &&
        write_record(j, NULL, 0, MQ_JOURNAL_HEADER, err) != MQ_OK)
        return MQ_EIO;
    if (number < 0)
        return mq_fail(err, MQ_EFULL, j->directory, 0, "the journal is full");
    mq_ring_file *f = &j->files[number];
    f->first = f->last = f->end = 0;
    f->lap = ++j->lap;
    f->salt = j->next_salt;
    j->next_salt = mix(j->next_salt ^ mix(j->options.salt + f->lap));
    j->current = number;
    open_direct(j);
    return MQ_OK;
}

/* ---- one record ---- */

static void put_entry(uint8_t *p, const mq_journal_entry *e)
{
    memcpy(p, e->topic_id, 16);
    mq_store_be32(p + 16, (uint32_t)e->partition);
    mq_store_be32(p + 20, (uint32_t)e->leader_epoch);
    mq_store_be64(p + 24, (uint64_t)e->segment_base);
    mq_store_be64(p + 32, (uint64_t)e->position);
    mq_store_be64(p + 40, (uint64_t)e->base_offset);
    mq_store_be64(p + 48, (uint64_t)e->next_offset);
    mq_store_be32(p + 56, e->size);
    mq_store_be32(p + 60, 0);
}

static mq_status reserve_head(mq_journal *j, size_t count, mq_error *err)
{
    const size_t size = MQ_JOURNAL_HEADER + count * MQ_JOURNAL_ENTRY;
    if (size <= j->head_capacity)
        return MQ_OK;
    uint8_t *grown = mq_realloc(j->head, size);
    if (grown == NULL)
        return mq_fail(err, MQ_ENOMEM, j->directory, 0, "no memory for a journal record");
    j->head = grown;
    j->head_capacity = size;
    return MQ_OK;
}

/* Header and entries, and the checksum over them and the payloads. */
static void build_head(mq_journal *j, const mq_journal_entry *entries, size_t count, uint32_t used,
                       uint64_t checkpointed)
{
    uint8_t *p = j->head;
    memset(p, 0, MQ_JOURNAL_HEADER);
    mq_store_be32(p, MQ_JOURNAL_MAGIC);
    mq_store_be16(p + 8, MQ_JOURNAL_VERSION);
    mq_store_be32(p + 12, used);
    memcpy(p + 16, j->options.store_id, 16);
    mq_store_be64(p + 32, j->files[j->current].salt);
    mq_store_be64(p + 40, j->sequence + 1);
    mq_store_be64(p + 48, checkpointed);
    mq_store_be64(p + 56, j->lap);
    mq_store_be32(p + 64, (uint32_t)count);
    mq_store_be64(p + 72, j->next_salt);
    for (size_t i = 0; i < count; i++)
        put_entry(p + MQ_JOURNAL_HEADER + i * MQ_JOURNAL_ENTRY, &entries[i]);
    uint32_t crc =
        mq_crc32c(0, p + MQ_JOURNAL_CRC_START, MQ_JOURNAL_HEADER - MQ_JOURNAL_CRC_START + count * MQ_JOURNAL_ENTRY);
    for (size_t i = 0; i < count; i++)
        if (entries[i].size > 0)
            crc = mq_crc32c(crc, entries[i].bytes, entries[i].size);
    mq_store_be32(p + 4, crc);
}

/* pwritev until all is written; parts is changed. */
static mq_status write_parts(mq_journal *j, int fd, struct iovec *parts, int count, uint64_t position)
{
    while (count > 0) {
        const ssize_t n = j->io->pwritev(j->io, fd, parts, count, (off_t)position);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            errno = n == 0 ? EIO : errno;
            return MQ_EIO;
        }
        position += (uint64_t)n;
        size_t left = (size_t)n;
        while (count > 0 && left >= parts->iov_len) {
            left -= parts->iov_len;
            parts++;
            count--;
        }
        if (count > 0) {
            parts->iov_base = (uint8_t *)parts->iov_base + left;
            parts->iov_len -= left;
        }
    }
    return MQ_OK;
}

/* Head, payloads, padding: one pwritev up to PARTS parts, more calls past that (still one record). */
static mq_status put_parts(mq_journal *j, const mq_journal_entry *entries, size_t count, uint32_t used)
{
    const mq_ring_file *f = &j->files[j->current];
    struct iovec parts[PARTS + 1];
    uint64_t position = f->end, pending = MQ_JOURNAL_HEADER + count * MQ_JOURNAL_ENTRY;
    int n = 1;
    parts[0] = (struct iovec){j->head, (size_t)pending};
    for (size_t i = 0; i < count; i++) {
        if (entries[i].size == 0)
            continue;
        if (n == PARTS) {
            if (write_parts(j, f->fd, parts, n, position) != MQ_OK)
                return MQ_EIO;
            position += pending;
            pending = 0;
            n = 0;
        }
        parts[n++] = (struct iovec){(void *)(uintptr_t)entries[i].bytes, entries[i].size};
        pending += entries[i].size;
    }
    const uint64_t padding = mq_journal_padded(used) - used;
    if (padding > 0)
        parts[n++] = (struct iovec){(void *)(uintptr_t)zeros, (size_t)padding};
    return write_parts(j, f->fd, parts, n, position);
}

/* Room for a record of size bytes (padded); false: there is no memory, and what was there is gone. */
static bool reserve_direct(mq_journal *j, size_t size)
{
    if (size <= j->direct_capacity)
        return true;
    size_t capacity = DIRECT_FIRST;
    while (capacity < size)
        capacity *= 2;
    mq_free(j->direct_memory);
    j->direct_memory = mq_alloc(capacity + MQ_JOURNAL_BLOCK);
    j->direct_capacity = j->direct_memory != NULL ? capacity : 0;
    if (j->direct_memory == NULL)
        return false;
    const size_t past = (uintptr_t)j->direct_memory % MQ_JOURNAL_BLOCK;
    j->direct = j->direct_memory + (past > 0 ? MQ_JOURNAL_BLOCK - past : 0);
    return true;
}

/* I6. MQ_ESTATE: not to be had, and nothing is lost by writing the same bytes through the page cache. */
static mq_status put_direct(mq_journal *j, const mq_journal_entry *entries, size_t count, uint32_t used)
{
    const size_t size = (size_t)mq_journal_padded(used);
    if (j->direct_fd < 0 || size > DIRECT_MAX || !reserve_direct(j, size))
        return MQ_ESTATE;
    const size_t head = MQ_JOURNAL_HEADER + count * MQ_JOURNAL_ENTRY;
    uint8_t *p = j->direct;
    memcpy(p, j->head, head);
    p += head;
    for (size_t i = 0; i < count; i++) {
        if (entries[i].size > 0)
            memcpy(p, entries[i].bytes, entries[i].size);
        p += entries[i].size;
    }
    memset(p, 0, size - used);
    struct iovec whole = {j->direct, size};
    const mq_status status = write_parts(j, j->direct_fd, &whole, 1, j->files[j->current].end);
    if (status == MQ_OK || errno != EINVAL)
        return status;
    mq_io_close(j->io, j->direct_fd); /* a device with larger blocks, or a short write that ended inside one */
    j->direct_fd = -1;
    return MQ_ESTATE;
}

static mq_status put_record(mq_journal *j, const mq_journal_entry *entries, size_t count, uint32_t used)
{
    const mq_status status = put_direct(j, entries, count, used);
    if (status != MQ_ESTATE)
        return status;
    if (put_parts(j, entries, count, used) != MQ_OK)
        return MQ_EIO;
    return j->io->fdatasync(j->io, j->files[j->current].fd) == 0 ? MQ_OK : MQ_EIO;
}

/* One record at the end of the current file, which has room for it, made durable. */
static mq_status write_record(mq_journal *j, const mq_journal_entry *entries, size_t count, uint32_t used,
                              mq_error *err)
{
    mq_ring_file *f = &j->files[j->current];
    const uint64_t checkpointed = atomic_load(&j->checkpointed);
    build_head(j, entries, count, used, checkpointed);
    if (put_record(j, entries, count, used) != MQ_OK) {
        const int saved = errno;
        char path[MQ_JOURNAL_PATH];
        j->failed = true; /* I5: what lies on the disk is unknown from here on */
        mq_journal_path(j, (uint32_t)j->current, path);
        errno = saved;
        return mq_fail(err, MQ_EIO, path, f->end, "cannot write the journal");
    }
    f->last = ++j->sequence;
    if (f->first == 0)
        f->first = f->last;
    f->end += mq_journal_padded(used);
    j->recorded = checkpointed;
    return MQ_OK;
}

mq_status mq_journal_write(mq_journal *j, const mq_journal_entry *entries, size_t count, uint64_t *sequence,
                           mq_error *err)
{
    if (j->failed || j->options.read_only)
        return mq_fail(err, MQ_ESTATE, j->directory, 0,
                       j->failed ? "the journal failed before" : "the journal is open for reading");
    uint64_t used = MQ_JOURNAL_HEADER;
    for (size_t i = 0; i < count; i++)
        used += MQ_JOURNAL_ENTRY + (uint64_t)entries[i].size;
    /* A block stays free at the end of each file, for the record that frees another one. */
    const uint64_t need = mq_journal_padded(used) + MQ_JOURNAL_BLOCK;
    if (used > MQ_JOURNAL_RECORD_BYTES_MAX || need > j->options.file_bytes)
        return mq_fail(err, MQ_ETOOBIG, j->directory, 0, "a round is larger than a journal file");
    if (reserve_head(j, count, err) != MQ_OK)
        return MQ_ENOMEM;
    if (j->current < 0 || j->files[j->current].end + need > j->files[j->current].size) {
        const mq_status status = enter_file(j, need, err);
        if (status != MQ_OK)
            return status;
    }
    const mq_status status = write_record(j, entries, count, (uint32_t)used, err);
    if (status == MQ_OK)
        *sequence = j->sequence;
    return status;
}
