/* test.h -- the smallest runner that says which check failed: one program a module, main() returns failures. */
#ifndef MQCORE_TEST_H
#define MQCORE_TEST_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int mq_test_failures;

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: %s: failed: %s\n", __FILE__, __LINE__, __func__, #condition);                      \
            mq_test_failures++;                                                                                        \
        }                                                                                                              \
    } while (0)

#define RUN(test)                                                                                                      \
    do {                                                                                                               \
        const int before = mq_test_failures;                                                                           \
        test();                                                                                                        \
        printf("%s %s\n", mq_test_failures == before ? "ok  " : "FAIL", #test);                                        \
    } while (0)

#define FINISH() return mq_test_failures == 0 ? 0 : 1

/* A copy whose size is exact, so that ASan sees a read of one byte past the end (bytes objects hide a NUL there). */
static inline unsigned char *exact_copy(const void *bytes, size_t size)
{
    unsigned char *copy = malloc(size > 0 ? size : 1);
    if (copy == NULL)
        abort();
    if (size > 0)
        memcpy(copy, bytes, size);
    return copy;
}

#endif
