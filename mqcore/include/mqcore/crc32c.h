/* crc32c.h -- CRC-32C (Castagnoli), the checksum of record batches (KIP-98) and of the journal.
 * The fastest implementation that the processor offers is chosen at the first call; every path gives the same
 * value for the same bytes (test_crc32c compares them). No mutable state but that constant choice. */
#ifndef MQCORE_CRC32C_H
#define MQCORE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* CRC of `size` bytes; `crc` is the value of the bytes before them (0 at the start), so calls chain. */
uint32_t mq_crc32c(uint32_t crc, const void *bytes, size_t size);

/* The implementations compiled in, by number from 0 (the portable table); NULL past the last. */
const char *mq_crc32c_name(int implementation);
/* Whether this processor can run it. */
int mq_crc32c_usable(int implementation);
/* The number of the one that mq_crc32c runs (environment MQCORE_CRC32C=<name> overrides it, for tests). */
int mq_crc32c_active(void);
/* One chosen implementation; the caller made sure that it is usable. */
uint32_t mq_crc32c_with(int implementation, uint32_t crc, const void *bytes, size_t size);

#endif
