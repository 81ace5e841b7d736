/* driver.h -- what the files of the callgrind driver share. */
#ifndef MQCORE_CALLGRIND_DRIVER_H
#define MQCORE_CALLGRIND_DRIVER_H

#include "mqcore/batch.h"
#include "mqcore/crc32c.h"
#include "mqcore/hash.h"
#include "mqcore/wire.h"

typedef struct bench_case {
    const char *name;
    void (*run)(long n);
} bench_case;

/* Use a result, so that the compiler cannot leave the call out. */
void keep(uint64_t value);

/* Bytes that look random and are the same in every run, on the heap. */
uint8_t *noise(size_t size);

/* A sealed batch of so many records of 100 bytes, without keys and headers, on the heap; *size: its bytes. */
uint8_t *plain_batch(int records, size_t *size);

extern const bench_case storage_cases[];
extern const bench_case table_cases[];

#endif
