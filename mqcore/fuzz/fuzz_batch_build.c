/* Any sequence of records into any room: nothing is written outside it, and what was accepted is a valid chunk that
 * holds exactly those records. */
#include <stdlib.h>

#include "mqcore/batch_build.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    mq_wire w = mq_wire_of(data, size);
    const size_t capacity = (size_t)mq_wire_u8(&w) * 16 + mq_wire_u8(&w) + 1;
    uint8_t *room = malloc(capacity);
    if (room == NULL)
        return 0;
    mq_chunk c;
    mq_chunk_init(&c, room, capacity, (size_t)mq_wire_u8(&w) * 8, (size_t)mq_wire_u8(&w) * 16);
    int64_t accepted = 0, walked = 0;
    while (!w.failed && mq_wire_left(&w) > 0) {
        mq_record r = {data, data, NULL, mq_wire_varlong(&w), mq_wire_varint(&w), mq_wire_varint(&w), 0};
        /* The core checks sizes against the room, not against the input: keep them inside it. */
        if (r.key_size > (int64_t)size || r.value_size > (int64_t)size)
            break;
        accepted += mq_chunk_put(&c, &r) == MQ_OK;
    }
    mq_chunk_seal(&c);
    for (size_t at = 0; at < c.batch_start;) {
        mq_batch b;
        if (mq_batch_check(room + at, c.batch_start - at, MQ_BATCH_BYTES_MAX, &b, NULL) != MQ_OK ||
            mq_batch_walk(room + at, &b, NULL) != MQ_OK || b.base_offset != walked || b.size > c.batch_max)
            abort();
        walked += b.record_count;
        at += b.size;
    }
    if (accepted != walked || c.batch_start != c.size)
        abort();
    free(room);
    return 0;
}
