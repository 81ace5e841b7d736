/* Any bytes, read as any sequence of fields: the cursor stays inside, and what it read writes back to the same value.
 */
#include <stdlib.h>

#include "mqcore/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    mq_wire w = mq_wire_of(data, size);
    for (size_t step = 0; step < size && !w.failed; step++) {
        const int64_t value = data[step] & 1 ? mq_wire_varlong(&w) : mq_wire_varint(&w);
        if (w.failed)
            break;
        uint8_t bytes[10];
        mq_wire again = mq_wire_of(bytes, (size_t)(mq_put_varint(bytes, value) - bytes));
        if (mq_wire_left(&again) != mq_varint_size(value) || mq_wire_varlong(&again) != value)
            abort();
        switch (data[step] % 7) {
        case 0: mq_wire_i64(&w); break;
        case 1: mq_wire_i32(&w); break;
        case 2: mq_wire_u8(&w); break;
        default: break;
        }
        if (w.at > w.end)
            abort();
    }
    return 0;
}
