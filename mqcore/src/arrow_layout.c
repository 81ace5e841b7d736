#include "mqcore/arrow_layout.h"

#include <string.h>

void mq_arrow_gather(const uint8_t *bytes, const int64_t *starts, const int32_t *lengths, size_t count, uint8_t *data,
                     int64_t *positions)
{
    int64_t at = 0;
    for (size_t i = 0; i < count; i++) {
        positions[i] = at;
        if (lengths[i] > 0) {
            memcpy(data + at, bytes + starts[i], (size_t)lengths[i]);
            at += lengths[i];
        }
    }
    positions[count] = at;
}

int64_t mq_arrow_size(const int32_t *lengths, size_t count)
{
    int64_t size = 0;
    for (size_t i = 0; i < count; i++)
        size += lengths[i] > 0 ? lengths[i] : 0;
    return size;
}

void mq_arrow_views(const uint8_t *bytes, const int64_t *starts, const int32_t *lengths, size_t count, int64_t origin,
                    uint8_t *views)
{
    memset(views, 0, count * MQ_ARROW_VIEW);
    for (size_t i = 0; i < count; i++, views += MQ_ARROW_VIEW) {
        const int32_t length = lengths[i] > 0 ? lengths[i] : 0;
        memcpy(views, &length, 4);
        if (length <= MQ_ARROW_INLINE) {
            memcpy(views + 4, bytes + starts[i], (size_t)length);
        } else {
            const int32_t position = (int32_t)(starts[i] - origin);
            memcpy(views + 4, bytes + starts[i], 4);
            memcpy(views + 12, &position, 4); /* bytes 8 .. 12: buffer number 0 */
        }
    }
}

size_t mq_arrow_validity(const int32_t *lengths, size_t count, uint8_t *bits)
{
    size_t nulls = 0;
    memset(bits, 0, (count + 7) / 8);
    for (size_t i = 0; i < count; i++) {
        const bool valid = lengths[i] >= 0;
        bits[i / 8] = (uint8_t)(bits[i / 8] | ((unsigned)valid << (i % 8)));
        nulls += !valid;
    }
    return nulls;
}
