#include "mqcore/crc32c.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "crc32c_paths.h"
#include "crc32c_table.h"

/* Slicing by 8: eight table look-ups take eight bytes at a time (Kounavis and Berry, Intel, 2005). Byte by byte it
 * would be a quarter of the speed. Loads are little-endian by construction, so any byte order works. */
static uint32_t crc32c_table(uint32_t crc, const void *bytes, size_t size)
{
    const uint8_t *p = bytes;
    uint32_t c = ~crc;
    for (; size >= 8; size -= 8, p += 8) {
        const uint32_t low = c ^ ((uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24);
        c = TABLE[7][low & 255] ^ TABLE[6][(low >> 8) & 255] ^ TABLE[5][(low >> 16) & 255] ^ TABLE[4][low >> 24] ^
            TABLE[3][p[4]] ^ TABLE[2][p[5]] ^ TABLE[1][p[6]] ^ TABLE[0][p[7]];
    }
    for (; size > 0; size--, p++)
        c = (c >> 8) ^ TABLE[0][(c ^ *p) & 255];
    return ~c;
}

static int always(void)
{
    return 1;
}

/* Slowest first at 64 KiB; the last usable one is the default. (Folding by pclmul beats the three streams of sse42 up
 * to some 6 KiB, and loses above: a log's batches are mostly above.) */
static const struct {
    const char *name;
    int (*usable)(void);
    mq_crc32c_function run;
} PATHS[] = {
    {"table", always, crc32c_table},
#if defined(__x86_64__)
    {"pclmul", mq_crc32c_pclmul_usable, mq_crc32c_pclmul},
    {"sse42", mq_crc32c_sse42_usable, mq_crc32c_sse42},
    {"vpclmul512", mq_crc32c_vpclmul512_usable, mq_crc32c_vpclmul512},
#elif defined(__aarch64__)
    {"armv8", mq_crc32c_armv8_usable, mq_crc32c_armv8},
#endif
};
enum { PATH_COUNT = sizeof PATHS / sizeof PATHS[0] };

const char *mq_crc32c_name(int implementation)
{
    return implementation >= 0 && implementation < PATH_COUNT ? PATHS[implementation].name : NULL;
}

int mq_crc32c_usable(int implementation)
{
    return implementation >= 0 && implementation < PATH_COUNT && PATHS[implementation].usable();
}

static int choose(void)
{
    const char *wanted = getenv("MQCORE_CRC32C");
    if (wanted != NULL)
        for (int i = 0; i < PATH_COUNT; i++)
            if (strcmp(PATHS[i].name, wanted) == 0 && PATHS[i].usable())
                return i;
    for (int i = PATH_COUNT - 1; i > 0; i--)
        if (PATHS[i].usable())
            return i;
    return 0;
}

static uint32_t resolve(uint32_t crc, const void *bytes, size_t size);

/* A constant that is computed by the first call: every thread that races there stores the same value. */
static _Atomic(mq_crc32c_function) active = resolve;

static uint32_t resolve(uint32_t crc, const void *bytes, size_t size)
{
    const mq_crc32c_function chosen = PATHS[choose()].run;
    atomic_store_explicit(&active, chosen, memory_order_relaxed);
    return chosen(crc, bytes, size);
}

uint32_t mq_crc32c(uint32_t crc, const void *bytes, size_t size)
{
    return atomic_load_explicit(&active, memory_order_relaxed)(crc, bytes, size);
}

int mq_crc32c_active(void)
{
    return choose();
}

uint32_t mq_crc32c_with(int implementation, uint32_t crc, const void *bytes, size_t size)
{
    return PATHS[implementation].run(crc, bytes, size);
}
