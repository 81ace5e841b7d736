#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "journal_internal.h"
#include "mqcore/alloc.h"
#include "mqcore/crc32c.h"
#include "mqcore/wire.h"

size_t mq_journal_check(const uint8_t *bytes, size_t size, const uint8_t store_id[16], mq_journal_record *record)
{
    if (size < MQ_JOURNAL_HEADER || mq_load_be32(bytes) != MQ_JOURNAL_MAGIC ||
        mq_load_be16(bytes + 8) != MQ_JOURNAL_VERSION)
        return 0;
    const uint32_t used = mq_load_be32(bytes + 12);
    const uint32_t entries = mq_load_be32(bytes + 64);
    if (used < MQ_JOURNAL_HEADER || used > MQ_JOURNAL_RECORD_BYTES_MAX || mq_journal_padded(used) > size)
        return 0;
    if (entries > (used - MQ_JOURNAL_HEADER) / MQ_JOURNAL_ENTRY || memcmp(bytes + 16, store_id, 16) != 0)
        return 0;
    if (mq_crc32c(0, bytes + MQ_JOURNAL_CRC_START, used - MQ_JOURNAL_CRC_START) != mq_load_be32(bytes + 4))
        return 0;
    uint64_t need = MQ_JOURNAL_HEADER + (uint64_t)entries * MQ_JOURNAL_ENTRY;
    for (uint32_t i = 0; i < entries; i++)
        need += mq_load_be32(bytes + MQ_JOURNAL_HEADER + (size_t)i * MQ_JOURNAL_ENTRY + 56);
    record->salt = mq_load_be64(bytes + 32);
    record->sequence = mq_load_be64(bytes + 40);
    record->checkpointed = mq_load_be64(bytes + 48);
    record->lap = mq_load_be64(bytes + 56);
    record->next_salt = mq_load_be64(bytes + 72);
    record->used = used;
    record->entries = entries;
    if (need != used || record->sequence == 0 || record->lap == 0 || record->checkpointed >= record->sequence)
        return 0;
    return (size_t)mq_journal_padded(used);
}

/* The first valid record at or after *at with this salt and lap and a sequence above `after`; its padded size, or 0.
 * Where a chain breaks only damage can lie between (I1), so every block is tried; the salt keeps user bytes out. */
static size_t find_next(const mq_journal *j, const uint8_t *bytes, size_t size, uint64_t salt, uint64_t lap,
                        uint64_t after, size_t *at, mq_journal_record *record)
{
    for (; *at + MQ_JOURNAL_BLOCK <= size; *at += MQ_JOURNAL_BLOCK) {
        const uint8_t *p = bytes + *at;
        if (mq_load_be32(p) != MQ_JOURNAL_MAGIC || mq_load_be64(p + 32) != salt || mq_load_be64(p + 40) <= after)
            continue;
        const size_t length = mq_journal_check(p, size - *at, j->options.store_id, record);
        if (length > 0 && record->lap == lap)
            return length;
    }
    return 0;
}

/* Records between `last` and `next` are not there; those up to the checkpoint are nobody's loss. */
static void note_missing(mq_journal *j, uint64_t last, uint64_t next, const mq_ring_file *f, uint64_t position)
{
    const uint64_t after = last > j->replay_from ? last : j->replay_from;
    if (next <= after + 1)
        return;
    if (j->missing == 0) {
        j->missing_file = (uint32_t)(f - j->files);
        j->missing_position = position;
    }
    j->missing += next - after - 1;
}

/* Follow the chain that begins with record r before `at`: its first and last sequence, and whether it has gaps. */
static void follow_chain(mq_journal *j, mq_ring_file *f, const uint8_t *bytes, size_t size, size_t at,
                         mq_journal_record r)
{
    f->salt = r.salt;
    f->lap = r.lap;
    f->first = r.sequence;
    for (;;) {
        f->last = r.sequence;
        f->end = at;
        f->recorded = r.checkpointed;
        f->next_salt = r.next_salt;
        const size_t length = find_next(j, bytes, size, f->salt, f->lap, f->last, &at, &r);
        if (length == 0)
            return;
        f->gaps = f->gaps || r.sequence > f->last + 1;
        at += length;
    }
}

typedef struct scratch {
    uint8_t *bytes;
    size_t capacity;
} scratch;

static mq_status load_file(mq_journal *j, uint32_t number, scratch *s, mq_error *err)
{
    const mq_ring_file *f = &j->files[number];
    char path[MQ_JOURNAL_PATH];
    mq_journal_path(j, number, path);
    if (f->size > s->capacity) {
        mq_free(s->bytes);
        s->capacity = 0;
        s->bytes = mq_alloc((size_t)f->size);
        if (s->bytes == NULL)
            return mq_fail(err, MQ_ENOMEM, path, 0, "no memory to read the journal");
        s->capacity = (size_t)f->size;
    }
    return mq_io_read_all(j->io, f->fd, s->bytes, (size_t)f->size, 0, path, err);
}

static mq_status open_file(mq_journal *j, uint32_t number, scratch *s, mq_error *err)
{
    mq_ring_file *f = &j->files[number];
    char path[MQ_JOURNAL_PATH];
    mq_journal_path(j, number, path);
    const int access = j->options.read_only ? O_RDONLY : O_RDWR;
    if (mq_io_open(j->io, path, access, 0, &f->fd, err) != MQ_OK)
        return err->sys_errno == ENOENT ? MQ_OK : err->status;
    uint64_t size = 0;
    if (mq_io_size(f->fd, &size, path, err) != MQ_OK)
        return err->status;
    if (size > MQ_JOURNAL_FILE_BYTES_MAX)
        size = MQ_JOURNAL_FILE_BYTES_MAX;
    f->size = size & ~(uint64_t)(MQ_JOURNAL_BLOCK - 1); /* a crash while the file was made leaves any length */
    if (f->size == 0)
        return MQ_OK;
    if (load_file(j, number, s, err) != MQ_OK)
        return err->status;
    mq_journal_record r;
    const size_t at = mq_journal_check(s->bytes, (size_t)f->size, j->options.store_id, &r);
    if (at > 0)
        follow_chain(j, f, s->bytes, (size_t)f->size, at, r);
    return MQ_OK;
}

/* Damage inside the chain of f, now that the checkpoint is known (in a lap before it a torn re-entry looks the same).
 */
static mq_status count_gaps(mq_journal *j, const mq_ring_file *f, scratch *s, mq_error *err)
{
    if (load_file(j, (uint32_t)(f - j->files), s, err) != MQ_OK)
        return err->status;
    mq_journal_record r;
    uint64_t last = f->first - 1;
    size_t at = 0, length;
    while ((length = find_next(j, s->bytes, (size_t)f->size, f->salt, f->lap, last, &at, &r)) > 0) {
        note_missing(j, last, r.sequence, f, at);
        last = r.sequence;
        at += length;
    }
    return MQ_OK;
}

static mq_ring_file *file_of_lap(const mq_journal *j, uint64_t lap)
{
    for (uint32_t i = 0; i < j->count; i++)
        if (j->files[i].first > 0 && j->files[i].lap == lap)
            return &j->files[i];
    return NULL;
}

/* A file whose first record is damaged hides its lap, but the lap before names its salt. *out: NULL if none has it. */
static mq_status find_hidden_lap(mq_journal *j, const mq_ring_file *before, scratch *s, mq_ring_file **out,
                                 mq_error *err)
{
    *out = NULL;
    for (uint32_t i = 0; i < j->count && *out == NULL; i++) {
        mq_ring_file *f = &j->files[i];
        if (f->fd < 0 || f->first > 0 || f->size == 0)
            continue;
        if (load_file(j, i, s, err) != MQ_OK)
            return err->status;
        mq_journal_record r;
        size_t at = 0;
        const size_t length =
            find_next(j, s->bytes, (size_t)f->size, before->next_salt, before->lap + 1, before->last, &at, &r);
        if (length > 0) {
            follow_chain(j, f, s->bytes, (size_t)f->size, at + length, r);
            *out = f;
        }
    }
    return MQ_OK;
}

/* The newest lap, and from it back to the lap that holds the first record after the checkpoint. */
static mq_status find_run(mq_journal *j, scratch *s, mq_error *err)
{
    mq_ring_file *newest = NULL, *hidden = NULL;
    for (uint32_t i = 0; i < j->count; i++)
        if (j->files[i].first > 0 && (newest == NULL || j->files[i].lap > newest->lap))
            newest = &j->files[i];
    if (newest == NULL)
        return MQ_OK;
    do { /* a torn first record has no successor (I1): a hidden lap is always damage */
        if (find_hidden_lap(j, newest, s, &hidden, err) != MQ_OK)
            return err->status;
        if (hidden != NULL)
            newest = hidden;
    } while (hidden != NULL);
    j->current = newest - j->files;
    j->lap = j->replay_lap = newest->lap;
    j->sequence = newest->last;
    j->next_salt = newest->next_salt;
    j->recorded = j->replay_from = newest->recorded;
    atomic_store(&j->checkpointed, j->recorded);
    for (const mq_ring_file *newer = newest; newer->first > j->recorded + 1 && j->replay_lap > 1;) {
        const mq_ring_file *older = file_of_lap(j, --j->replay_lap);
        if (older == NULL) { /* all of it damaged, or its start: look with the salt of the lap before */
            const mq_ring_file *before = file_of_lap(j, j->replay_lap - 1);
            if (before != NULL && find_hidden_lap(j, before, s, &hidden, err) != MQ_OK)
                return err->status;
            older = before != NULL ? hidden : NULL;
        }
        if (older == NULL && file_of_lap(j, j->replay_lap - 1) == NULL) {
            note_missing(j, j->recorded, newer->first, newer, 0);
            break;
        }
        if (older == NULL)
            continue;
        note_missing(j, older->last, newer->first, older, older->end);
        newer = older;
    }
    for (uint32_t i = 0; i < j->count; i++)
        if (j->files[i].gaps && j->files[i].lap >= j->replay_lap && count_gaps(j, &j->files[i], s, err) != MQ_OK)
            return err->status;
    return MQ_OK;
}

static mq_status check_options(const mq_journal_options *o, const char *directory, mq_error *err)
{
    if (o->file_bytes % MQ_JOURNAL_BLOCK != 0 || o->file_bytes < 2 * MQ_JOURNAL_BLOCK ||
        o->file_bytes > MQ_JOURNAL_FILE_BYTES_MAX || o->file_limit < 2 || o->file_limit > MQ_JOURNAL_FILES_MAX ||
        o->files_present > MQ_JOURNAL_FILES_MAX || strlen(directory) >= MQ_PATH_MAX)
        return mq_fail(err, MQ_EINVAL, directory, 0, "journal options are out of range");
    return MQ_OK;
}

mq_status mq_journal_open(mq_io *io, const char *directory, const mq_journal_options *options, mq_journal **out,
                          mq_error *err)
{
    mq_error own; /* the steps below read the status back from it */
    err = err != NULL ? err : &own;
    *out = NULL;
    if (check_options(options, directory, err) != MQ_OK)
        return MQ_EINVAL;
    mq_journal *j = mq_alloc_zeroed(sizeof *j);
    if (j == NULL)
        return mq_fail(err, MQ_ENOMEM, directory, 0, "no memory for the journal");
    j->io = io;
    j->options = *options;
    j->current = j->direct_fd = -1;
    j->next_salt = options->salt;
    memcpy(j->directory, directory, strlen(directory) + 1);
    j->capacity = options->file_limit > options->files_present ? options->file_limit : options->files_present;
    j->files = mq_alloc_zeroed(j->capacity * sizeof *j->files);
    scratch s = {NULL, 0};
    mq_status status = j->files != NULL ? MQ_OK : mq_fail(err, MQ_ENOMEM, directory, 0, "no memory for the journal");
    for (uint32_t i = 0; status == MQ_OK && i < options->files_present; i++) {
        j->files[i].fd = -1;
        j->count = i + 1;
        status = open_file(j, i, &s, err);
    }
    if (status == MQ_OK)
        status = find_run(j, &s, err);
    mq_free(s.bytes);
    if (status != MQ_OK) {
        mq_journal_close(j);
        return status;
    }
    *out = j;
    return MQ_OK;
}

/* ---- replay ---- */

static mq_status read_record(mq_journal *j, const mq_ring_file *f, uint64_t length, mq_journal_cursor *c,
                             const char *path, mq_error *err)
{
    if (length > c->capacity) {
        uint8_t *grown = mq_realloc(c->record, (size_t)length);
        if (grown == NULL)
            return mq_fail(err, MQ_ENOMEM, path, c->at, "no memory to replay the journal");
        c->record = grown;
        c->capacity = (size_t)length;
    }
    return mq_io_read_all(j->io, f->fd, c->record, (size_t)length, c->at, path, err);
}

/* The next record of file f into the cursor; MQ_ENOTFOUND at the end of its chain. */
static mq_status load_record(mq_journal *j, const mq_ring_file *f, mq_journal_cursor *c, mq_error *err)
{
    char path[MQ_JOURNAL_PATH];
    mq_journal_path(j, (uint32_t)(f - j->files), path);
    for (; c->at < f->end; c->at += MQ_JOURNAL_BLOCK) {
        uint8_t head[MQ_JOURNAL_HEADER];
        if (mq_io_read_all(j->io, f->fd, head, sizeof head, c->at, path, err) != MQ_OK)
            return err->status;
        const uint64_t length = mq_journal_padded(mq_load_be32(head + 12));
        if (mq_load_be32(head) != MQ_JOURNAL_MAGIC || mq_load_be64(head + 32) != f->salt || length > f->size - c->at ||
            mq_load_be32(head + 12) > MQ_JOURNAL_RECORD_BYTES_MAX || mq_load_be64(head + 40) <= c->sequence)
            continue; /* the damaged stretch that open counted */
        if (read_record(j, f, length, c, path, err) != MQ_OK)
            return err->status;
        mq_journal_record r;
        if (mq_journal_check(c->record, (size_t)length, j->options.store_id, &r) == 0 || r.lap != f->lap)
            continue;
        c->sequence = r.sequence;
        c->entry = 0;
        c->entries = r.sequence > j->replay_from ? r.entries : 0;
        c->data_at = MQ_JOURNAL_HEADER + (size_t)r.entries * MQ_JOURNAL_ENTRY;
        c->at += length;
        return MQ_OK;
    }
    return MQ_ENOTFOUND;
}

static mq_status next_record(mq_journal *j, mq_journal_cursor *c, mq_error *err)
{
    if (c->lap == 0)
        c->lap = j->replay_lap;
    for (; c->lap != 0 && c->lap <= j->lap; c->lap++, c->at = 0) {
        const mq_ring_file *f = file_of_lap(j, c->lap);
        if (f == NULL)
            continue; /* counted as missing */
        const mq_status status = load_record(j, f, c, err);
        if (status != MQ_ENOTFOUND)
            return status;
        if (c->sequence != f->last)
            return mq_fail(err, MQ_ECORRUPT, j->directory, c->at, "a journal file changed during replay");
    }
    return mq_fail(err, MQ_ENOTFOUND, j->directory, 0, "end of the journal");
}

mq_status mq_journal_next(mq_journal *j, mq_journal_cursor *c, mq_journal_entry *entry, mq_error *err)
{
    mq_error own;
    err = err != NULL ? err : &own;
    while (c->entry == c->entries) {
        const mq_status status = next_record(j, c, err);
        if (status != MQ_OK)
            return status;
    }
    const uint8_t *p = c->record + MQ_JOURNAL_HEADER + (size_t)c->entry * MQ_JOURNAL_ENTRY;
    memcpy(entry->topic_id, p, 16);
    entry->partition = (int32_t)mq_load_be32(p + 16);
    entry->leader_epoch = (int32_t)mq_load_be32(p + 20);
    entry->segment_base = (int64_t)mq_load_be64(p + 24);
    entry->position = (int64_t)mq_load_be64(p + 32);
    entry->base_offset = (int64_t)mq_load_be64(p + 40);
    entry->next_offset = (int64_t)mq_load_be64(p + 48);
    entry->size = mq_load_be32(p + 56);
    entry->bytes = c->record + c->data_at;
    c->data_at += entry->size; /* mq_journal_check: the sizes add up to `used` */
    c->entry++;
    return MQ_OK;
}

void mq_journal_cursor_free(mq_journal_cursor *c)
{
    mq_free(c->record);
    memset(c, 0, sizeof *c);
}
