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

/* A checked batch of 500 records of 100 bytes on the heap; *size: its bytes. */
uint8_t *plain_batch(size_t *size);

extern const bench_case storage_cases[];

#endif
