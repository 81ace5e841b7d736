/* crc32c_paths.h -- the processor-specific implementations that crc32c.c chooses from (internal).
 * Each takes and returns the finished value (inverted at start and end, as mq_crc32c does), so paths mix freely.
 * A caller runs one only after its *_usable said so: the code holds instructions that others trap on. */
#ifndef MQCORE_CRC32C_PATHS_H
#define MQCORE_CRC32C_PATHS_H

#include <stddef.h>
#include <stdint.h>

#define MQ_CRC32C_POLYNOMIAL 0x82F63B78u /* Castagnoli, bits reversed */

typedef uint32_t (*mq_crc32c_function)(uint32_t crc, const void *bytes, size_t size);

/* a * b mod P over GF(2), operands bit-reversed (bit 31 is x^0): moves a CRC past bytes when b = x^(8 * bytes). */
static inline uint32_t mq_crc32c_multiply(uint32_t a, uint32_t b)
{
    uint32_t product = 0;
    for (; a != 0; a <<= 1) {
        product ^= b & (0u - (a >> 31));
        b = (b >> 1) ^ (MQ_CRC32C_POLYNOMIAL & (0u - (b & 1u)));
    }
    return product;
}

/* x^(8 * 2048) and its square mod P, bit-reversed: the three streams of the hardware-instruction paths are merged
 * by multiplying the first two past the 2,048-byte blocks that follow them. */
enum { MQ_CRC32C_STREAM_BYTES = 2048 };
#define MQ_CRC32C_PAST_1_STREAM 0x0D65762Au
#define MQ_CRC32C_PAST_2_STREAMS 0x35D73A62u

#if defined(__x86_64__)
int mq_crc32c_sse42_usable(void);
int mq_crc32c_pclmul_usable(void);
int mq_crc32c_vpclmul512_usable(void);
uint32_t mq_crc32c_sse42(uint32_t crc, const void *bytes, size_t size);
uint32_t mq_crc32c_pclmul(uint32_t crc, const void *bytes, size_t size);
uint32_t mq_crc32c_vpclmul512(uint32_t crc, const void *bytes, size_t size);
#elif defined(__aarch64__)
int mq_crc32c_armv8_usable(void);
uint32_t mq_crc32c_armv8(uint32_t crc, const void *bytes, size_t size);
#endif

#endif
