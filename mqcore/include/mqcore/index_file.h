/* index_file.h -- an index file of fixed-size entries in rising order: the newest entries in memory, the rest on disk.
 * Invariants:
 *   I1  the index is file[0, spilled) followed by tail[0, tail_count); tail[tail_count, +pending) is not yet part of it.
 *   I2  entries rise by key; a file may be longer than spilled entries (Kafka preallocates; a crash leaves more): what
 *       lies past is no entry and is cut by mq_index_trim.
 *   I3  an index is a hint: whoever uses an entry checks it against the log. So errors of a search mean "no entry".
 *   I4  no descriptor stays open: files are opened for a search or a spill and closed again.
 * Threads: one writer; readers of the tail hold the owner's lock, under which the writer changes tail pointers and
 * counts. The writer alone may read the tail without it. */
#ifndef MQCORE_INDEX_FILE_H
#define MQCORE_INDEX_FILE_H

#include "mqcore/io.h"

enum {
    MQ_INDEX_ENTRY_MAX = 12,     /* the longest entry: a time index's */
    MQ_INDEX_SPILL_BYTES = 4096, /* a tail of this size is written out */
};

typedef struct mq_index {
    uint8_t *tail; /* entries as the file has them (big-endian) */
    uint32_t tail_count;
    uint32_t pending;
    uint32_t capacity; /* entries that fit in tail */
    uint32_t spilled;
    uint32_t entry_size;
    bool overlong; /* the file may be longer than `spilled` entries (I2) */
} mq_index;

/* Whether an entry lies after what is searched. slot: its number in the index. */
typedef bool (*mq_index_after)(const uint8_t *entry, uint32_t slot, const void *target);

void mq_index_init(mq_index *index, uint32_t entry_size);
void mq_index_free(mq_index *index);

static inline uint32_t mq_index_count(const mq_index *index)
{
    return index->spilled + index->tail_count;
}

/* Room for `extra` pending entries (under the owner's lock). MQ_ENOMEM: as before. */
mq_status mq_index_reserve(mq_index *index, uint32_t extra, mq_error *err);
/* Where the next pending entry goes; it counts at once as pending. Room was reserved. */
uint8_t *mq_index_push(mq_index *index);
/* Pending entries become part of the index (under the owner's lock), or are forgotten. */
void mq_index_commit(mq_index *index);
void mq_index_forget(mq_index *index);

/* Newest entry of the tail that is not after target; false: none. (Under the owner's lock.) */
bool mq_index_floor_tail(const mq_index *index, mq_index_after after, const void *target, uint8_t *entry);
/* The same in the first `limit` entries of a file (UINT32_MAX: all). slots: out, may be NULL, how many entries are not
 * after target. A missing or unreadable file has none (I3). */
bool mq_index_floor_file(mq_io *io, const char *path, uint32_t entry_size, uint32_t limit, mq_index_after after,
                         const void *target, uint8_t *entry, uint32_t *slots);

/* Write the tail behind the spilled entries. The tail itself is unchanged: on MQ_OK the owner calls mq_index_spilled
 * under its lock. durable: fsync too; then an overlong file is cut first. */
mq_status mq_index_write_tail(mq_index *index, mq_io *io, const char *path, bool durable, mq_error *err);
void mq_index_spilled(mq_index *index);

/* The index shrinks to `count` entries, all of them in the file (the tail was spilled or is dropped). */
void mq_index_cut(mq_index *index, uint32_t count);

#endif
