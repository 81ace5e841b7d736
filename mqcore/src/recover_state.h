/* recover_state.h -- what the files of segment_recover*.c share; no other file includes it. */
#ifndef MQCORE_RECOVER_STATE_H
#define MQCORE_RECOVER_STATE_H

#include "mqcore/segment_index.h"
#include "mqcore/segment_recover.h"

/* A window on the file, or on all of the bytes in memory. */
typedef struct source {
    mq_io *io; /* NULL: memory */
    int fd;
    const char *path;
    uint64_t size;
    const uint8_t *bytes; /* of the window */
    uint64_t at;
    size_t have;
    uint8_t *buffer;
    size_t capacity;
} source;

typedef struct scan {
    source src;
    const mq_recover_options *options;
    int64_t base_offset;
    int64_t expected; /* next base offset; -1: any from base_offset on */
    mq_segment_index index;
    mq_index_progress progress;
    mq_producers *producers;
    mq_producers *own_producers; /* where the caller gave none */
    mq_recovered *out;
} scan;

/* Write the index files of the valid part: stem.index, stem.timeindex, stem.txnindex. */
mq_status mq_recover_write_indexes(scan *s, const char *stem, mq_error *err);

#endif
