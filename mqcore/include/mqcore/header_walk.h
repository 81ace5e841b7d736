/* header_walk.h -- from batch header to batch header through a .log file, with pread, records untouched.
 * Invariants:
 *   I1  at <= position <= end; each step moves position by at least a batch header, so a walk ends.
 *   I2  the batch of a step lies wholly below `end`, and its base offset is above the last one's last offset.
 *   I3  no CRC is computed: a walk finds its way in data that was checked before. */
#ifndef MQCORE_HEADER_WALK_H
#define MQCORE_HEADER_WALK_H

#include "mqcore/batch.h"
#include "mqcore/io.h"

enum { MQ_WALK_BUFFER = 4096 };

typedef struct mq_walk {
    mq_io *io;
    int fd;
    const char *path;
    uint64_t end;
    uint64_t position; /* of the next header */
    uint64_t at;       /* of the batch below */
    mq_batch batch;
    int64_t last_offset; /* of that batch; -1 before the first step */
    uint64_t buffer_at;
    size_t buffer_size;
    uint8_t buffer[MQ_WALK_BUFFER];
} mq_walk;

/* Begin at `position`, a batch's first byte, in data that ends at `end`. fd and path are borrowed. */
void mq_walk_start(mq_walk *walk, mq_io *io, int fd, const char *path, uint64_t position, uint64_t end);

/* Step to the next batch: `batch` and `at` are its. MQ_ENOTFOUND at the end (err is not filled); MQ_EIO; MQ_ETRUNCATED:
 * the file is shorter than end; MQ_ECORRUPT and others: no v2 batch there. err has path and position. */
mq_status mq_walk_next(mq_walk *walk, mq_error *err);

#endif
