/* CRC-32C on 64-bit ARM: the crc32cx instruction of ARMv8 (optional in 8.0, so asked for at run time) in three
 * streams, as on x86: the instruction has a latency of two or three cycles and starts one a cycle. */
#include "crc32c_paths.h"

#if defined(__aarch64__)

#include <string.h>
#if defined(__linux__)
#include <sys/auxv.h>
#ifndef HWCAP_CRC32
#define HWCAP_CRC32 (1ul << 7)
#endif
#endif

#if defined(__clang__)
#define TARGET_CRC __attribute__((target("crc")))
#else
#define TARGET_CRC __attribute__((target("+crc")))
#endif

int mq_crc32c_armv8_usable(void)
{
#if defined(__linux__)
    return (getauxval(AT_HWCAP) & HWCAP_CRC32) != 0;
#elif defined(__APPLE__)
    return 1; /* every 64-bit Apple processor that runs macOS has it */
#else
    return 0;
#endif
}

/* Written as assembly and not with <arm_acle.h>: older compilers declare the intrinsics only under -march=+crc. */
TARGET_CRC static inline uint32_t step8(uint32_t crc, const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    __asm__(".arch_extension crc\n\tcrc32cx %w0, %w0, %x1" : "+r"(crc) : "r"(v));
    return crc;
}

TARGET_CRC static inline uint32_t step1(uint32_t crc, uint8_t v)
{
    __asm__(".arch_extension crc\n\tcrc32cb %w0, %w0, %w1" : "+r"(crc) : "r"((uint32_t)v));
    return crc;
}

TARGET_CRC uint32_t mq_crc32c_armv8(uint32_t crc, const void *bytes, size_t size)
{
    const uint8_t *p = bytes;
    uint32_t c0 = ~crc;
    while (size >= 3 * MQ_CRC32C_STREAM_BYTES) {
        uint32_t c1 = 0, c2 = 0;
        for (size_t i = 0; i < MQ_CRC32C_STREAM_BYTES; i += 8) {
            c0 = step8(c0, p + i);
            c1 = step8(c1, p + MQ_CRC32C_STREAM_BYTES + i);
            c2 = step8(c2, p + 2 * MQ_CRC32C_STREAM_BYTES + i);
        }
        c0 = mq_crc32c_multiply(c0, MQ_CRC32C_PAST_2_STREAMS) ^ mq_crc32c_multiply(c1, MQ_CRC32C_PAST_1_STREAM) ^ c2;
        p += 3 * MQ_CRC32C_STREAM_BYTES;
        size -= 3 * MQ_CRC32C_STREAM_BYTES;
    }
    for (; size >= 8; size -= 8, p += 8)
        c0 = step8(c0, p);
    for (; size > 0; size--, p++)
        c0 = step1(c0, *p);
    return ~c0;
}

#else
typedef int mq_crc32c_arm_is_empty; /* ISO C wants a declaration in every file */
#endif
