/* journal.h -- a ring of files in which one round of appends to any number of partitions is one record, made durable
 * by one synced write.
 *
 * A record starts at a multiple of 4 KiB of one file and never leaves it (integers big-endian):
 *    0 magic "MQJR" | 4 crc32c of bytes 8 .. used | 8 version u16 | 10 zero u16 | 12 used u32 (without padding)
 *   16 store id [16] | 32 salt u64 | 40 sequence u64 | 48 checkpointed u64 | 56 lap u64 | 64 entries u32 | 68 zero u32
 *   72 next salt u64: of the lap that follows, so that it is found even if its first record is damaged
 *   80 entries, 64 bytes each:
 *        0 topic id [16] | 16 partition i32 | 20 leader epoch i32 | 24 segment base i64 | 32 position i64
 *       40 base offset i64 | 48 next offset i64 | 56 size u32 (0: a vouch, no bytes) | 60 zero u32
 *   then the bytes of the entries in their order, then zeros up to 4 KiB.
 *
 * Invariants:
 *   I1  record n is written only after record n-1 is durable: a valid record proves all earlier ones, and only the
 *       last one can be torn.
 *   I2  a file is entered at its first byte (a lap), only when a durable record says that all in it is checkpointed,
 *       and never while it holds the newest record. So every record past the checkpoint lies in an unbroken chain from
 *       byte 0 of a file; one that is not there is damage; and a torn record cannot take the newest sequence along.
 *   I3  store id, salt, sequence, checkpointed sequence and lap lie under the checksum. The salt is new for each lap
 *       and never older than what its file held before, so neither stale laps nor a journal record that a user stored
 *       as data can continue a chain.
 *   I4  checkpointed <= sequence, both never fall. What is checkpointed lies synced in its segment: replay omits it.
 *   I5  a failed write or fdatasync is final (io.h, I3): every later write is refused with MQ_ESTATE.
 *   I6  a record goes past the page cache and is synced by its own write (O_DIRECT, O_DSYNC), from one aligned buffer.
 *       Where that is not to be had (EINVAL, larger than that buffer may be) the same bytes go to the same place by
 *       pwritev and fdatasync: a refusal is no failure, and what part was written is overwritten.
 * Threads: one writer at a time, held by the caller; mq_journal_set_checkpointed, _grow and _stats may run beside it. */
#ifndef MQCORE_JOURNAL_H
#define MQCORE_JOURNAL_H

#include "mqcore/io.h"
#include "mqcore/limits.h"

enum {
    MQ_JOURNAL_BLOCK = 4096, /* records start here: what a device writes at once, or a multiple of it */
    MQ_JOURNAL_HEADER = 80,
    MQ_JOURNAL_ENTRY = 64,
    MQ_JOURNAL_FILES_MAX = 1024,
    MQ_JOURNAL_FILE_BYTES_MAX = 64 << 20 /* a larger file in the directory is not ours: only its start is read */
};

typedef struct mq_journal mq_journal;

typedef struct mq_journal_options {
    uint8_t store_id[16];
    uint64_t salt;          /* random and fresh for each open: what makes I3 unguessable */
    uint32_t file_bytes;    /* size of a new file; a multiple of MQ_JOURNAL_BLOCK */
    uint32_t file_limit;    /* files that the ring may grow to: 2 .. MQ_JOURNAL_FILES_MAX */
    uint32_t files_present; /* files with a number below this are looked for (a missing one is skipped) */
    bool read_only;         /* for replay beside nobody: files are opened for reading, writes give MQ_ESTATE */
} mq_journal_options;

/* What one round did to one partition. In replay, bytes points into the cursor and lives until its next step. */
typedef struct mq_journal_entry {
    uint8_t topic_id[16];
    int32_t partition;
    int32_t leader_epoch;
    int64_t segment_base;
    int64_t position; /* bytes */
    int64_t base_offset;
    int64_t next_offset;
    const uint8_t *bytes;
    uint32_t size; /* 0: a vouch: everything below next_offset was synced in the segment itself */
} mq_journal_entry;

typedef struct mq_journal_stat {
    uint64_t sequence;       /* newest durable record; 0: none */
    uint64_t checkpointed;   /* newest sequence that needs no replay */
    uint64_t recorded;       /* the same as the newest record says: what a crash now would leave */
    uint64_t live_bytes;     /* of files that cannot be entered yet */
    uint64_t capacity_bytes; /* of all files */
    uint64_t missing;        /* records that must be there (I1, I2) and are damaged: acknowledged data may be gone */
    uint32_t files;
    uint32_t missing_file; /* number of the file with the first of them */
    uint64_t missing_position;
    bool failed;
    bool wants_file; /* more than half of the current file is used and no other is free: grow or checkpoint soon */
} mq_journal_stat;

/* Open the ring in directory (which exists) and find the newest run; creates nothing. MQ_EIO, MQ_ENOMEM, MQ_EINVAL. */
mq_status mq_journal_open(mq_io *io, const char *directory, const mq_journal_options *options, mq_journal **out,
                          mq_error *err);
void mq_journal_close(mq_journal *journal); /* syncs nothing; NULL is allowed */
void mq_journal_stats(const mq_journal *journal, mq_journal_stat *stat);

/* Replay: step through the entries of every record after the checkpoint, oldest first. Before the first write. */
typedef struct mq_journal_cursor {
    uint64_t lap, sequence; /* of the record at hand; 0 before the first */
    uint64_t at;            /* position of the next record in the file of `lap` */
    uint8_t *record;        /* owned */
    size_t capacity, used;
    uint32_t entry, entries;
    size_t data_at;
} mq_journal_cursor;

/* The next entry; MQ_ENOTFOUND at the end; MQ_EIO; MQ_ECORRUPT if the file changed since open. Start from a cursor of
 * zeros and end with mq_journal_cursor_free. */
mq_status mq_journal_next(mq_journal *journal, mq_journal_cursor *cursor, mq_journal_entry *entry, mq_error *err);
void mq_journal_cursor_free(mq_journal_cursor *cursor);

/* Write one record and make it durable. count may be 0: a record that only carries the checkpointed sequence.
 * MQ_EFULL: no file may be entered: grow or checkpoint, then retry. MQ_ETOOBIG: larger than a file or the limit. Both
 * leave everything as before, and so does MQ_ENOMEM. Otherwise I5. */
mq_status mq_journal_write(mq_journal *journal, const mq_journal_entry *entries, size_t count, uint64_t *sequence,
                           mq_error *err);

/* Add a file to the ring (the first one, too), written through and synced. MQ_EFULL: there are file_limit. MQ_EIO: no
 * file was added, nothing has failed for good (ENOSPC). beside_writer: another thread may be in mq_journal_write; else
 * files that are missing or were cut short while they were made are made again first. One caller at a time. */
mq_status mq_journal_grow(mq_journal *journal, bool beside_writer, mq_error *err);

/* The caller synced the segments of all records up to sequence: their files may be entered again. */
void mq_journal_set_checkpointed(mq_journal *journal, uint64_t sequence);

/* Check one record of at most size bytes; what replay and the fuzzer run. The padded size, or 0 if it is not valid. */
typedef struct mq_journal_record {
    uint64_t salt, sequence, checkpointed, lap, next_salt;
    uint32_t used, entries;
} mq_journal_record;
size_t mq_journal_check(const uint8_t *bytes, size_t size, const uint8_t store_id[16], mq_journal_record *record);

#endif
