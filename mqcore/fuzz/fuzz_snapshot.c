/* A dedup snapshot of any bytes is refused, or is a set that can be used and writes itself back unchanged in content.
 * (The checksum is not looked at in this build: FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION.) */
#include <stdlib.h>

#include "mqcore/dedup128.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void again(mq_dedup *d)
{
    uint8_t *bytes;
    size_t length;
    mq_error err;
    mq_dedup_stats before, after;
    mq_dedup_get_stats(d, &before);
    if (mq_dedup_serialize(d, &bytes, &length, &err) != MQ_OK)
        abort();
    mq_dedup *copy = mq_dedup_deserialize(bytes, length, 64 << 20, &err);
    if (copy == NULL)
        abort();
    mq_dedup_get_stats(copy, &after);
    if (before.ids != after.ids || before.pending != after.pending || before.buckets != after.buckets)
        abort();
    mq_dedup_free(copy);
    free(bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    mq_error err;
    mq_seen seen;
    mq_dedup *d = mq_dedup_deserialize(data, size, 1 << 20, &err);
    if (d != NULL) {
        for (uint64_t id = 1; id != 0; id *= 2)
            if (mq_dedup_test_and_set(d, id, 3, &seen, &err) != MQ_OK && err.status != MQ_EFULL)
                abort();
        again(d);
        mq_dedup_pack(d, INT64_MAX, &err);
        again(d);
        mq_dedup_expire(d, INT64_MAX);
        mq_dedup_free(d);
    }
    mq_dedup128 *wide = mq_dedup128_deserialize(data, size, 1 << 20, 7, &err);
    if (wide != NULL)
        mq_dedup128_expire(wide, 1000);
    mq_dedup128_free(wide);
    return 0;
}
