/* A producer snapshot of any bytes is refused, or is a state that can be used and that writes itself back unchanged; and
 * batches of any bytes are judged, added and walked without harm. (The snapshot's checksum is not looked at in this build:
 * FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION.) */
#include <stdlib.h>
#include <string.h>

#include "mqcore/alloc.h"
#include "mqcore/producer_snapshot.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const int64_t AT = (int64_t)1 << 40;

static void back_and_forth(const mq_producers *s)
{
    uint8_t *bytes, *again;
    size_t length, length_again;
    int32_t epoch;
    mq_producers *copy;
    if (mq_producers_encode(s, 3, &bytes, &length, NULL) != MQ_OK)
        abort();
    if (mq_producers_decode(bytes, length, AT, 1000, &copy, &epoch, NULL) != MQ_OK || epoch != 3)
        abort();
    if (mq_producers_encode(copy, 3, &again, &length_again, NULL) != MQ_OK)
        abort();
    if (length != length_again || memcmp(bytes, again, length) != 0)
        abort();
    mq_producers_free(copy);
    mq_free(bytes);
    mq_free(again);
}

static void use(mq_producers *s, const uint8_t *batches, size_t size)
{
    mq_sequence_answer answer;
    if (mq_producers_check(s, batches, size, &answer, NULL) == MQ_OK && answer.verdict <= MQ_SEQUENCE_NEW)
        (void)mq_producers_add(s, batches, size, 1, NULL);
    if (mq_producers_stable_end(s, 1000) > 1000)
        abort();
    (void)mq_producers_expire(s, 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    mq_producers *s;
    int32_t epoch;
    if (mq_producers_decode(data, size, AT, 1000, &s, &epoch, NULL) == MQ_OK) {
        back_and_forth(s);
        use(s, data, size);
        mq_producers_free(s);
    }
    s = mq_producers_new(8);
    if (s == NULL)
        abort();
    use(s, data, size);
    mq_producers_free(s);
    return 0;
}
