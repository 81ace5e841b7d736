/* Any bytes as a .log file: recovery reads none outside them, its valid part is a sound run of batches (a second scan of
 * it alone is clean and finds the same), and a later batch that it names is one. The batches are sealed first where
 * their headers allow it, so that the fuzzer gets past the CRC. */
#include <stdlib.h>
#include <string.h>

#include "mqcore/segment_recover.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    const mq_recover_options options = {
        .from_offset = -1,
        .max_batch_bytes = 1 << 20,
        .allow_gaps = (data[0] & 1) != 0,
        .index_interval_bytes = data[0] & 64,
        .index_max_bytes = data[1] + 24u,
        .markers_from = (data[0] & 8) != 0 ? data[1] : INT64_MAX,
    };
    const bool seal = (data[0] & 2) != 0;
    size -= 2;
    uint8_t *bytes = malloc(size + 1);
    if (bytes == NULL)
        abort();
    memcpy(bytes, data + 2, size);
    mq_batch batch;
    for (size_t at = 0; seal && mq_batch_parse(bytes + at, size - at, 1 << 20, &batch, NULL) == MQ_OK; at += batch.size)
        mq_batch_seal(bytes + at, batch.size);
    mq_recovered all;
    mq_recovered part;
    if (mq_recover_bytes(bytes, size, 0, &options, &all, NULL) != MQ_OK || all.valid_bytes > size)
        abort();
    if (all.end == MQ_END_CLEAN ? all.valid_bytes != size : all.problem_position != (int64_t)all.valid_bytes)
        abort();
    if (mq_recover_bytes(bytes, all.valid_bytes, 0, &options, &part, NULL) != MQ_OK || part.end != MQ_END_CLEAN)
        abort();
    if (part.next_offset != all.next_offset || part.records != all.records || part.max_timestamp != all.max_timestamp)
        abort();
    if (all.valid_after >= 0 &&
        (all.valid_after <= all.problem_position ||
         mq_batch_check(bytes + all.valid_after, size - (size_t)all.valid_after, 1 << 20, &batch, NULL) != MQ_OK))
        abort();
    mq_recovered_free(&all);
    mq_recovered_free(&part);
    free(bytes);
    return 0;
}
