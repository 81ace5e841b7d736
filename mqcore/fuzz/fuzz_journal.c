/* Any bytes as a journal record: mq_journal_check reads nothing outside them, and what it accepts adds up. The
 * checksum is repaired first, so that the fuzzer reaches what lies behind it. */
#include "mqcore/crc32c.h"
#include "mqcore/journal.h"
#include "mqcore/wire.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static const uint8_t store_id[16] = "0123456789abcdef";
    uint8_t *copy = malloc(size > 0 ? size : 1);
    if (copy == NULL)
        return 0;
    memcpy(copy, bytes, size);
    mq_journal_record r;
    if (mq_journal_check(copy, size, store_id, &r) > size)
        abort();
    if (size >= MQ_JOURNAL_HEADER) {
        const uint32_t used = mq_load_be32(copy + 12);
        mq_store_be32(copy, 0x4d514a52u);
        mq_store_be16(copy + 8, 1);
        memcpy(copy + 16, store_id, 16);
        if (used > 8 && used <= size)
            mq_store_be32(copy + 4, mq_crc32c(0, copy + 8, used - 8));
        const size_t length = mq_journal_check(copy, size, store_id, &r);
        if (length > size || (length > 0 && (r.used > length || r.checkpointed >= r.sequence)))
            abort();
    }
    free(copy);
    return 0;
}
