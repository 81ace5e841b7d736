/* driver_storage.c -- cases that need files or tables: see driver.c. */
#include "driver.h"

const bench_case storage_cases[] = {
    {NULL, NULL},
};
