/* Any bytes as a log to compact: no crash, and what comes out is whole batches with rising offsets. */
#include <stdlib.h>

#include "mqcore/compact.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    mq_error err;
    mq_batch b;
    mq_compact_out out = {0};
    mq_compact_stats stats = {0};
    mq_compact_outcome outcome;
    int32_t type;
    mq_keymap *map = mq_keymap_new(1 << 20, 3, &err);
    mq_compact_rules rules = {.map = map, .end_offset = 1000, .now_ms = 5, .delete_retention_ms = 7, .round_end = 9};
    if (size > 61 && mq_batch_parse(data, size, 1 << 20, &b, &err) == MQ_OK) { /* without the CRC, one at a time */
        mq_compact_index_batch(map, data, b.size, 0, &err);
        mq_compact_control_type(data, b.size, &type, &err);
        for (unsigned flags = 0; flags < 16; flags++)
            if (mq_compact_batch(&rules, data, b.size, flags, &out, &stats, &outcome, &err) != MQ_OK)
                break;
    }
    size_t at = 0;
    while (at < out.size) {
        if (mq_batch_parse(out.bytes + at, out.size - at, 1 << 28, &b, &err) != MQ_OK)
            abort();
        at += b.size;
    }
    mq_compact_out_free(&out);
    mq_keymap_free(map);
    return 0;
}
