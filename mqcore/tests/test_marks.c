/* Proves: a reader of the marks page never sees a torn slot and never sleeps through a publish. */
#include "mqcore/marks.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#include "test.h"

enum { SLOTS = 8, ROUNDS = 20000 };
static const uint8_t store[16] = "store-id-0123456", topic[16] = "topic-id-0123456";
static mq_marks marks;
static void *page;
static int torn, backwards;
static _Atomic int done;

static void make_page(void)
{
    mq_error err;
    page = mmap(NULL, mq_marks_bytes(SLOTS), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED || mq_marks_attach(&marks, page, mq_marks_bytes(SLOTS), true, &err) != MQ_OK)
        abort();
    mq_marks_format(&marks, store, 42, 1);
}

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void test_slots(void)
{
    make_page();
    mq_error err;
    int64_t v[4];
    CHECK(mq_marks_matches(&marks, store) && !mq_marks_matches(&marks, topic));
    CHECK(mq_marks_find(&marks, topic, 0) == -1 && mq_marks_read(&marks, 0, v, &err) == MQ_EINVAL);
    for (int32_t i = 0; i < SLOTS; i++)
        CHECK(mq_marks_add(&marks, topic, i) == i);
    CHECK(mq_marks_add(&marks, topic, 3) == 3 && mq_marks_add(&marks, topic, SLOTS) == -1);
    CHECK(mq_marks_find(&marks, topic, 7) == 7 && mq_marks_find(&marks, store, 7) == -1);
    const int64_t values[4] = {1, -2, INT64_MAX, INT64_MIN};
    const uint32_t global = mq_marks_word(&marks, -1), own = mq_marks_word(&marks, 3), other = mq_marks_word(&marks, 4);
    mq_marks_publish(&marks, 3, values);
    CHECK(mq_marks_read(&marks, 3, v, &err) == MQ_OK && memcmp(v, values, sizeof v) == 0);
    CHECK(mq_marks_word(&marks, -1) != global && mq_marks_word(&marks, 3) != own && mq_marks_word(&marks, 4) == other);
    CHECK(mq_marks_sleep(&marks, 3, own, -1) == 0); /* the word moved on: no sleep */
    CHECK(mq_marks_sleep(&marks, 4, other, now_ns() + 1000000) == ETIMEDOUT);
    mq_marks_end(&marks, MQ_MARKS_CLOSED);
    CHECK(marks.header->state == MQ_MARKS_CLOSED && mq_marks_sleep(&marks, 4, other, -1) == 0);
    marks.header->used = UINT32_MAX; /* a page that lies */
    CHECK(mq_marks_find(&marks, topic, -5) == -1 && mq_marks_read(&marks, SLOTS, v, &err) == MQ_EINVAL);
    marks.slots[0].sequence++; /* a writer that died inside */
    CHECK(mq_marks_read(&marks, 0, v, &err) == MQ_ESTATE);
    CHECK(mq_marks_attach(&marks, page, 100, true, &err) == MQ_EINVAL);
    munmap(page, mq_marks_bytes(SLOTS));
}

static void *follow(void *unused)
{
    (void)unused;
    int64_t last = -1, v[4];
    mq_error err;
    for (;;) {
        const uint32_t seen = mq_marks_word(&marks, 0);
        if (mq_marks_read(&marks, 0, v, &err) != MQ_OK)
            abort();
        torn += v[1] != v[0] + 1 || v[2] != v[0] * 3 || v[3] != ~v[0];
        backwards += v[0] < last;
        last = v[0];
        if (last == ROUNDS)
            return NULL;
        mq_marks_sleep(&marks, 0, seen, -1); /* a lost wake-up would hang here: the test's time limit catches it */
    }
}

static void *spin(void *unused)
{
    (void)unused;
    int64_t v[4];
    mq_error err;
    while (!done) {
        if (mq_marks_read(&marks, 0, v, &err) != MQ_OK)
            abort();
        torn += v[1] != v[0] + 1 || v[2] != v[0] * 3 || v[3] != ~v[0];
    }
    return NULL;
}

static void test_torture(void)
{
    make_page();
    mq_marks_add(&marks, topic, 0);
    const int64_t first[4] = {0, 1, 0, ~0};
    mq_marks_publish(&marks, 0, first);
    pthread_t follower, spinner;
    if (pthread_create(&follower, NULL, follow, NULL) != 0 || pthread_create(&spinner, NULL, spin, NULL) != 0)
        abort();
    for (int64_t i = 1; i <= ROUNDS; i++) {
        const int64_t v[4] = {i, i + 1, i * 3, ~i};
        mq_marks_publish(&marks, 0, v);
    }
    pthread_join(follower, NULL);
    done = 1;
    pthread_join(spinner, NULL);
    CHECK(torn == 0 && backwards == 0);
    munmap(page, mq_marks_bytes(SLOTS));
}

int main(void)
{
    RUN(test_slots);
    RUN(test_torture);
    FINISH();
}
