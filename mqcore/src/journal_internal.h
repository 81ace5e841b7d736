/* journal_internal.h -- what journal.c (write) and journal_replay.c (open, replay) share. */
#ifndef MQCORE_JOURNAL_INTERNAL_H
#define MQCORE_JOURNAL_INTERNAL_H

#include <stdatomic.h>

#include "mqcore/journal.h"

#define MQ_JOURNAL_MAGIC 0x4d514a52u /* "MQJR" */
enum { MQ_JOURNAL_VERSION = 1, MQ_JOURNAL_CRC_START = 8, MQ_JOURNAL_PATH = MQ_PATH_MAX + 32 };

typedef struct mq_ring_file {
    int fd; /* -1: not there */
    uint64_t size;
    uint64_t first, last; /* sequences of its chain; 0, 0: none */
    uint64_t lap, salt, next_salt, recorded;
    uint64_t end; /* byte after the chain */
    bool gaps;    /* found at open: records between first and last are damaged */
} mq_ring_file;

struct mq_journal {
    mq_io *io;
    mq_journal_options options;
    char directory[MQ_PATH_MAX];
    mq_ring_file *files;    /* a file's number is its place */
    _Atomic uint32_t count; /* rises when the file of that number is whole */
    uint32_t capacity;
    int64_t current; /* number of the file that is written, or -1 */
    uint64_t sequence, recorded, lap, next_salt;
    _Atomic uint64_t checkpointed;
    uint64_t missing, missing_position;
    uint32_t missing_file;
    uint64_t replay_from, replay_lap; /* as open found them: `recorded`, and the oldest lap that is replayed */
    bool failed;
    uint8_t *head; /* header and entries of the record being written */
    size_t head_capacity;
    int direct_fd;   /* the current file again, past the page cache and synced by each write; -1: not to be had */
    uint8_t *direct; /* a whole record, at a multiple of MQ_JOURNAL_BLOCK in direct_memory */
    uint8_t *direct_memory;
    size_t direct_capacity;
};

static inline uint64_t mq_journal_padded(uint64_t size)
{
    return (size + MQ_JOURNAL_BLOCK - 1) & ~(uint64_t)(MQ_JOURNAL_BLOCK - 1);
}

/* The path of the file with this number. */
void mq_journal_path(const mq_journal *j, uint32_t number, char path[MQ_JOURNAL_PATH]);

#endif
