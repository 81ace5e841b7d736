/* Any bytes as index files beside a good log: lookups by offset, by size and by time answer as without any index, and
 * a transaction index is loaded or refused. Nothing is read outside a buffer. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../tests/batch_maker.h"
#include "mqcore/alloc.h"
#include "mqcore/segment_read.h"
#include "mqcore/txn_index.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { BATCHES = 40 };
static char directory[64];
static maker log_bytes;
static size_t starts[BATCHES + 1];

static void put(const char *suffix, const void *bytes, size_t size)
{
    char path[128];
    (void)snprintf(path, sizeof path, "%s/00000000000000000000%s", directory, suffix);
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || write(fd, bytes, size) != (ssize_t)size)
        abort();
    close(fd);
}

static void set_up(void)
{
    (void)snprintf(directory, sizeof directory, "/dev/shm/mqcore-fuzz-XXXXXX");
    if (mkdtemp(directory) == NULL)
        abort();
    for (int i = 0; i < BATCHES; i++) {
        starts[i] = log_bytes.size;
        maker_batch(&log_bytes, i * 2, 2, 0);
        mq_store_be64(log_bytes.bytes + starts[i] + 35, (uint64_t)(1000 + i));
        mq_batch_seal(log_bytes.bytes + starts[i], log_bytes.size - starts[i]);
    }
    starts[BATCHES] = log_bytes.size;
    put(".log", log_bytes.bytes, log_bytes.size);
}

static void look_up(mq_segment *segment)
{
    uint64_t position;
    int64_t offset;
    for (int i = 0; i < BATCHES; i += 7) {
        if (mq_segment_lookup(segment, i * 2 + 1, &position, NULL) != MQ_OK || position != starts[i])
            abort();
        if (mq_segment_lookup_ends(segment, starts[i], 70000, i * 2 + 8, &position, NULL) != MQ_OK ||
            position != starts[i + 4 < BATCHES ? i + 4 : BATCHES])
            abort();
    }
    mq_segment_info info;
    if (mq_segment_get_info(segment, &info, NULL) != MQ_OK || info.max_timestamp != 1000 + BATCHES - 1)
        abort();
    if (mq_segment_lookup_time(segment, 1000 + BATCHES - 1, &offset, NULL) != MQ_OK || offset != BATCHES * 2 - 2)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const mq_segment_limits limits = {100, 1 << 16, 1 << 20, false};
    if (directory[0] == '\0')
        set_up();
    const size_t split = size > 0 ? data[0] % size : 0;
    put(".index", data, split);
    put(".timeindex", data + split, size - split);
    put(".txnindex", data, size);
    for (int writable = 0; writable < 2; writable++) {
        mq_segment *segment;
        if (mq_segment_open(mq_io_posix(), directory, 0, &limits, log_bytes.size, BATCHES * 2, writable, &segment,
                            NULL) != MQ_OK)
            abort();
        look_up(segment);
        mq_txn_entry *entries;
        size_t count;
        (void)mq_segment_txns(segment, &entries, &count, NULL);
        mq_free(entries);
        if (mq_segment_close(segment, NULL) != MQ_OK)
            abort();
        mq_segment_free(segment);
    }
    return 0;
}
