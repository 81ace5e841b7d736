/* A repetition gets its offsets, a gap or an old epoch is refused, and open transactions hold the stable end: batch by
 * batch against an independent maker, and through a snapshot and back. */
#include "mqcore/producer_state.h"

#include "batch_maker.h"
#include "mqcore/alloc.h"
#include "mqcore/control_marker.h"
#include "mqcore/producer_snapshot.h"
#include "scratch.h"

static maker m;

/* One batch of `count` records at the end of m. */
static void put(int64_t offset, int64_t id, int epoch, int32_t sequence, int32_t count, unsigned attributes)
{
    const size_t at = m.size;
    maker_batch(&m, offset, count, (uint16_t)attributes);
    mq_store_be64(m.bytes + at + 43, (uint64_t)id);
    mq_store_be16(m.bytes + at + 51, (uint16_t)epoch);
    mq_store_be32(m.bytes + at + 53, (uint32_t)sequence);
    mq_batch_seal(m.bytes + at, m.size - at);
}

static void put_marker(int64_t offset, int64_t id, int epoch, bool commit)
{
    mq_marker_build(m.bytes + m.size, id, (int16_t)epoch, commit, 3, 1234);
    mq_store_be64(m.bytes + m.size, (uint64_t)offset);
    m.size += MQ_MARKER_BYTES;
}

static mq_sequence_answer check_chunk(mq_producers *s)
{
    mq_sequence_answer answer;
    CHECK(mq_producers_check(s, m.bytes, m.size, &answer, NULL) == MQ_OK);
    return answer;
}

/* What the state says of the chunk in m; a new one is added. m is empty after it. */
static mq_sequence_verdict take(mq_producers *s)
{
    const mq_sequence_answer answer = check_chunk(s);
    if (answer.verdict <= MQ_SEQUENCE_NEW)
        CHECK(mq_producers_add(s, m.bytes, m.size, 5000, NULL) == MQ_OK);
    m.size = 0;
    return answer.verdict;
}

static mq_sequence_verdict send(mq_producers *s, int64_t offset, int64_t id, int epoch, int32_t sequence, int32_t count)
{
    m.size = 0;
    put(offset, id, epoch, sequence, count, 0);
    return take(s);
}

static void sequences_go_on_or_are_refused(void)
{
    mq_producers *s = mq_producers_new(100);
    CHECK(send(s, 0, -1, -1, -1, 5) == MQ_SEQUENCE_NONE && mq_producers_count(s) == 0);
    CHECK(send(s, 5, 7, 0, 0, 3) == MQ_SEQUENCE_NEW);
    CHECK(send(s, 8, 7, 0, 4, 1) == MQ_SEQUENCE_GAP);
    CHECK(send(s, 8, 7, 0, 3, 2) == MQ_SEQUENCE_NEW);  /* after a gap the right one is taken */
    CHECK(send(s, 10, 7, 1, 1, 1) == MQ_SEQUENCE_GAP); /* an epoch begins at 0 */
    CHECK(send(s, 10, 7, 1, 0, 1) == MQ_SEQUENCE_NEW);
    CHECK(send(s, 11, 7, 0, 5, 1) == MQ_SEQUENCE_STALE);
    CHECK(send(s, 11, 9, 4, 77, 1) == MQ_SEQUENCE_NEW); /* nothing is known of it: its state may have expired */
    CHECK(send(s, 12, 9, 4, 77, 2) == MQ_SEQUENCE_GAP); /* it ends past what is stored: no repetition */
    const mq_producer *p = mq_producers_find(s, 7);
    CHECK(p != NULL && p->epoch == 1 && p->batch_count == 1 && p->batches[0].last_sequence == 0);
    mq_producers_free(s);
}

static void repetitions_get_their_offsets(void)
{
    mq_producers *s = mq_producers_new(100);
    for (int i = 0; i < 7; i++)
        CHECK(send(s, 10 * i, 7, 0, 4 * i, 4) == MQ_SEQUENCE_NEW);
    for (int i = 0; i < 7; i++) {
        m.size = 0;
        put(0, 7, 0, 4 * i, 4, 0);
        const mq_sequence_answer answer = check_chunk(s);
        CHECK(answer.verdict == (i < 2 ? MQ_SEQUENCE_OLD : MQ_SEQUENCE_DUPLICATE));
        if (i >= 2)
            CHECK(answer.base_offset == 10 * i && answer.next_offset == 10 * i + 4 && answer.timestamp == 2000);
    }
    m.size = 0; /* a chunk of eight batches, known by its last one */
    for (int i = 0; i < 8; i++)
        put(100 + i, 8, 0, i, 1, 0);
    CHECK(take(s) == MQ_SEQUENCE_NEW);
    for (int i = 0; i < 8; i++)
        put(0, 8, 0, i, 1, 0);
    mq_sequence_answer answer = check_chunk(s);
    CHECK(answer.verdict == MQ_SEQUENCE_DUPLICATE && answer.base_offset == 100 && answer.next_offset == 108);
    put(0, 8, 0, 8, 1, 0); /* half of it new: nothing that we ever send */
    answer = check_chunk(s);
    CHECK(answer.verdict == MQ_SEQUENCE_OLD && answer.expected == 8);
    mq_producers_free(s);
}

static void sequences_wrap(void)
{
    mq_producers *s = mq_producers_new(100);
    CHECK(send(s, 0, 7, 0, INT32_MAX - 1, 4) == MQ_SEQUENCE_NEW); /* ends with sequence 1 */
    CHECK(send(s, 4, 7, 0, 3, 1) == MQ_SEQUENCE_GAP);
    CHECK(send(s, 4, 7, 0, 2, 1) == MQ_SEQUENCE_NEW);
    CHECK(send(s, 5, 7, 0, INT32_MAX - 1, 4) == MQ_SEQUENCE_DUPLICATE);
    CHECK(send(s, 5, 7, 0, INT32_MAX - 3, 1) == MQ_SEQUENCE_OLD);
    mq_producers_free(s);
}

static void many_producers_in_one_chunk(void)
{
    mq_producers *s = mq_producers_new(1000);
    m.size = 0;
    for (int i = 0; i < MQ_PRODUCERS_PER_CHUNK; i++)
        put(i, i, 0, 0, 1, 0);
    CHECK(take(s) == MQ_SEQUENCE_NEW && mq_producers_count(s) == MQ_PRODUCERS_PER_CHUNK);
    for (int i = 0; i <= MQ_PRODUCERS_PER_CHUNK; i++)
        put(i, 100 + i, 0, 0, 1, 0);
    CHECK(take(s) == MQ_SEQUENCE_TOO_MANY_IDS);
    put(100, 1, 0, 1, 1, 0);
    put(101, 2, 0, 2, 1, 0); /* the second one has a gap: neither is new */
    CHECK(take(s) == MQ_SEQUENCE_GAP && mq_producers_find(s, 1)->batch_count == 1);
    mq_producers_free(s);
}

static void transactions_hold_the_stable_end(void)
{
    mq_producers *s = mq_producers_new(100);
    m.size = 0;
    put(0, 1, 0, 0, 2, MQ_ATTR_TRANSACTIONAL);
    put(2, 2, 0, 0, 2, MQ_ATTR_TRANSACTIONAL);
    CHECK(take(s) == MQ_SEQUENCE_NEW && mq_producers_open_count(s) == 2);
    CHECK(mq_producers_stable_end(s, 4) == 0);
    CHECK(send(s, 4, 1, 0, 2, 1) == MQ_SEQUENCE_IN_TXN);
    mq_txn_entry ended;
    CHECK(!mq_producers_end_of(s, 3, 4, &ended));
    CHECK(mq_producers_end_of(s, 2, 4, &ended) && ended.first_offset == 2 && ended.last_stable_offset == 0);
    put_marker(4, 2, 1, false);
    CHECK(take(s) == MQ_SEQUENCE_NEW);
    put_marker(5, 1, 1, true);
    CHECK(take(s) == MQ_SEQUENCE_NEW && mq_producers_open_count(s) == 0);
    CHECK(mq_producers_stable_end(s, 4) == 0 && mq_producers_stable_end(s, 5) == 0); /* the marker at 5 is not seen */
    CHECK(mq_producers_unstable(s));
    CHECK(mq_producers_stable_end(s, 6) == 6 && !mq_producers_unstable(s));
    CHECK(send(s, 6, 1, 0, 2, 1) == MQ_SEQUENCE_STALE); /* a marker of a newer epoch fences */
    CHECK(send(s, 6, 1, 1, 1, 1) == MQ_SEQUENCE_GAP);
    CHECK(send(s, 6, 1, 1, 0, 1) == MQ_SEQUENCE_NEW);
    CHECK(mq_producers_find(s, 1)->coordinator_epoch == 3);
    CHECK(mq_producers_fence(s, 1, 5, 4, 0, NULL) == MQ_OK && send(s, 7, 1, 4, 0, 1) == MQ_SEQUENCE_STALE);
    mq_producers_free(s);
}

/* Against the plain rule: min over transactions that are open or whose marker is at or past the mark. */
static void stable_end_is_the_least(void)
{
    enum { IDS = 5 };
    mq_producers *s = mq_producers_new(100);
    int64_t open[IDS], first[4000], marker_at[4000], mark = 0;
    int32_t sequence[IDS] = {0};
    int ended = 0;
    unsigned seed = 1;
    memset(open, 0xff, sizeof open);
    for (int64_t offset = 0; offset < 4000; offset++) {
        seed = seed * 1103515245u + 12345u;
        const int id = (int)(seed >> 16) % IDS;
        m.size = 0;
        if (open[id] >= 0 && (seed >> 24) % 3 == 0) {
            put_marker(offset, id, 0, true);
            first[ended] = open[id];
            marker_at[ended++] = offset;
            open[id] = -1;
        } else {
            put(offset, id, 0, sequence[id]++, 1, MQ_ATTR_TRANSACTIONAL);
            if (open[id] < 0)
                open[id] = offset;
        }
        CHECK(take(s) == MQ_SEQUENCE_NEW);
        if ((seed >> 20) % 4 == 0)
            mark = mark + (offset + 1 - mark) / 2;
        int64_t expected = mark;
        for (int i = 0; i < IDS; i++)
            expected = open[i] >= 0 && open[i] < expected ? open[i] : expected;
        for (int i = 0; i < ended; i++)
            expected = marker_at[i] >= mark && first[i] < expected ? first[i] : expected;
        CHECK(mq_producers_stable_end(s, mark) == expected);
    }
    mq_producers_free(s);
}

static void an_add_can_be_repeated(void)
{
    mq_producers *s = mq_producers_new(100);
    m.size = 0;
    put(0, 1, 0, 0, 2, MQ_ATTR_TRANSACTIONAL);
    put_marker(2, 1, 0, true);
    for (int i = 0; i < 3; i++)
        CHECK(mq_producers_add(s, m.bytes, m.size, 0, NULL) == MQ_OK);
    CHECK(mq_producers_find(s, 1)->batch_count == 1 && mq_producers_next_offset(s) == 3);
    CHECK(mq_producers_stable_end(s, 2) == 0);
    mq_producers_free(s);
}

static void memory_is_bounded(void)
{
    enum { LIMIT = 1000 };
    mq_producers *s = mq_producers_new(LIMIT);
    CHECK(send(s, 0, 1 << 20, 0, 0, 1) == MQ_SEQUENCE_NEW);
    m.size = 0;
    put(1, 1 << 21, 0, 0, 1, MQ_ATTR_TRANSACTIONAL);
    CHECK(take(s) == MQ_SEQUENCE_NEW);
    for (int64_t i = 0, offset = 2; i < 3 * LIMIT; i++) {
        CHECK(send(s, offset++, i * 64 + 1, 0, 0, 1) == MQ_SEQUENCE_NEW);
        if (i % 500 == 0) /* writes now and then: it stays, and so does the open transaction */
            CHECK(send(s, offset++, 1 << 20, 0, (int32_t)(i / 500) + 1, 1) == MQ_SEQUENCE_NEW);
        CHECK(mq_producers_count(s) <= LIMIT);
        CHECK(mq_producers_bytes(s) <= 1024 + (size_t)mq_producers_count(s) * MQ_PRODUCER_BYTES_MAX);
    }
    CHECK(mq_producers_count(s) == LIMIT);
    CHECK(mq_producers_find(s, 1 << 20) != NULL && mq_producers_find(s, 1 << 21) != NULL);
    CHECK(mq_producers_find(s, 1) == NULL && mq_producers_find(s, (3 * LIMIT - 1) * 64 + 1) != NULL);
    CHECK(mq_producers_expire(s, 5000) == 0);
    CHECK(mq_producers_expire(s, 5001) == LIMIT - 1 && mq_producers_count(s) == 1);
    CHECK(mq_producers_bytes(s) < 1024 && mq_producers_find(s, 1 << 21) != NULL);
    mq_producers_free(s);

    s = mq_producers_new(2); /* both have transactions open: a third must wait */
    m.size = 0;
    put(0, 1, 0, 0, 1, MQ_ATTR_TRANSACTIONAL);
    put(1, 2, 0, 0, 1, MQ_ATTR_TRANSACTIONAL);
    CHECK(take(s) == MQ_SEQUENCE_NEW);
    mq_sequence_answer answer;
    put(2, 3, 0, 0, 1, 0);
    CHECK(mq_producers_check(s, m.bytes, m.size, &answer, NULL) == MQ_EFULL && mq_producers_count(s) == 2);
    mq_producers_free(s);
}

static void states_are_alike(const mq_producers *a, const mq_producers *b)
{
    const mq_producer *p = NULL, *q = NULL;
    CHECK(mq_producers_count(a) == mq_producers_count(b) && mq_producers_open_count(a) == mq_producers_open_count(b));
    while ((p = mq_producers_each(a, p)) != NULL) {
        q = mq_producers_each(b, q);
        CHECK(q != NULL && p->producer_id == q->producer_id && p->epoch == q->epoch);
        CHECK(q != NULL && p->txn_first_offset == q->txn_first_offset && p->batch_count == q->batch_count);
        CHECK(q != NULL && p->coordinator_epoch == q->coordinator_epoch && p->last_timestamp == q->last_timestamp);
        for (int i = 0; q != NULL && i < p->batch_count; i++)
            CHECK(memcmp(&p->batches[i], &q->batches[i], sizeof p->batches[i]) == 0);
    }
}

static mq_producers *some(void)
{
    mq_producers *s = mq_producers_new(100);
    for (int i = 0; i < 40; i++)
        CHECK(send(s, i * 3, i % 9, 0, i / 9 * 3, 3) == MQ_SEQUENCE_NEW);
    put(120, 50, 2, 0, 1, MQ_ATTR_TRANSACTIONAL);
    put(121, 51, 2, 0, 1, MQ_ATTR_TRANSACTIONAL);
    put(122, 52, 2, 0, 1, MQ_ATTR_TRANSACTIONAL);
    put_marker(123, 52, 3, false);
    CHECK(take(s) == MQ_SEQUENCE_NEW);
    return s;
}

static void snapshots_bring_everything_back(void)
{
    mq_producers *s = some(), *again = NULL;
    uint8_t *bytes;
    size_t size;
    int32_t epoch;
    CHECK(mq_producers_encode(s, 4, &bytes, &size, NULL) == MQ_OK);
    CHECK(mq_producers_decode(bytes, size, 124, 100, &again, &epoch, NULL) == MQ_OK && epoch == 4);
    states_are_alike(s, again);
    CHECK(mq_producers_next_offset(again) == 124 && mq_producers_stable_end(again, 124) == 120);
    mq_producers_free(again);
    CHECK(mq_producers_decode(bytes, size, 121, 100, &again, &epoch, NULL) == MQ_ECORRUPT); /* of a later offset */
    for (size_t cut = 0; cut < size; cut++) {
        uint8_t *part = exact_copy(bytes, cut);
        CHECK(mq_producers_decode(part, cut, 124, 100, &again, &epoch, NULL) != MQ_OK);
        free(part);
    }
    for (size_t bit = 0; bit < size * 8; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        CHECK(mq_producers_decode(bytes, size, 124, 100, &again, &epoch, NULL) != MQ_OK);
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    mq_free(bytes);
    mq_producers_free(s);
}

static void a_walk_through_the_file_gives_the_same(void)
{
    mq_producers *s = mq_producers_new(100), *walked = mq_producers_new(100);
    m.size = 0;
    for (int i = 0; i < 40; i++)
        put(i * 3, i % 9, 0, i / 9 * 3, 3, i % 9 == 4 ? MQ_ATTR_TRANSACTIONAL : 0);
    put_marker(120, 4, 1, true);
    put(121, 4, 1, 0, 1, MQ_ATTR_TRANSACTIONAL);
    put_file("00000000000000000000.log", m.bytes, m.size);
    CHECK(mq_producers_add(s, m.bytes, m.size, -1, NULL) == MQ_OK);
    const char *path = scratch_path("00000000000000000000.log");
    CHECK(mq_producers_walk(walked, mq_io_posix(), path, 0, m.size, NULL) == MQ_OK);
    states_are_alike(s, walked);
    CHECK(mq_producers_walk(walked, mq_io_posix(), path, 0, m.size, NULL) == MQ_OK); /* I1 */
    states_are_alike(s, walked);
    CHECK(mq_producers_walk(walked, mq_io_posix(), path, 0, m.size + 1, NULL) != MQ_OK);
    mq_producers_free(s);
    mq_producers_free(walked);
}

static void every_allocation_may_fail(void)
{
    for (int64_t n = 1; n < 200; n++) {
        mq_producers *s = mq_producers_new(100), *again = NULL;
        mq_sequence_answer answer;
        m.size = 0;
        for (int i = 0; i < 20; i++)
            put(i, i, 0, 0, 1, i % 2 == 0 ? MQ_ATTR_TRANSACTIONAL : 0);
        put_marker(20, 0, 0, true);
        mq_alloc_countdown = n;
        const mq_status checked = mq_producers_check(s, m.bytes, m.size, &answer, NULL);
        CHECK(mq_producers_count(s) == 0);
        if (checked == MQ_OK) { /* I3 */
            mq_alloc_countdown = 1;
            CHECK(mq_producers_add(s, m.bytes, m.size, 0, NULL) == MQ_OK && mq_alloc_countdown == 1);
        }
        mq_alloc_countdown = 0;
        uint8_t *bytes;
        size_t size;
        int32_t epoch;
        CHECK(mq_producers_encode(s, 0, &bytes, &size, NULL) == MQ_OK);
        mq_alloc_countdown = n;
        if (mq_producers_decode(bytes, size, 21, 100, &again, &epoch, NULL) == MQ_OK)
            mq_producers_free(again);
        mq_alloc_countdown = 0;
        mq_free(bytes);
        mq_producers_free(s);
    }
}

static void markers_say_what_was_put_in(void)
{
    for (int commit = 0; commit < 2; commit++) {
        uint8_t bytes[MQ_MARKER_BYTES];
        mq_batch b;
        mq_marker_build(bytes, 77, 5, commit, 9, 123456);
        CHECK(mq_batch_check(bytes, sizeof bytes, 1000, &b, NULL) == MQ_OK && mq_batch_walk(bytes, &b, NULL) == MQ_OK);
        CHECK(b.producer_id == 77 && b.producer_epoch == 5 && b.base_sequence == -1 && b.max_timestamp == 123456);
        const mq_marker_content marker = mq_marker_read(&b, bytes + MQ_BATCH_HEADER, sizeof bytes - MQ_BATCH_HEADER);
        CHECK(marker.type == commit && marker.coordinator_epoch == 9);
        for (size_t cut = 0; cut < sizeof bytes - MQ_BATCH_HEADER - 1; cut++) {
            uint8_t *part = exact_copy(bytes + MQ_BATCH_HEADER, cut);
            CHECK(mq_marker_read(&b, part, cut).coordinator_epoch == -1);
            free(part);
        }
    }
}

int main(void)
{
    scratch_begin();
    RUN(sequences_go_on_or_are_refused);
    RUN(repetitions_get_their_offsets);
    RUN(sequences_wrap);
    RUN(many_producers_in_one_chunk);
    RUN(transactions_hold_the_stable_end);
    RUN(stable_end_is_the_least);
    RUN(an_add_can_be_repeated);
    RUN(memory_is_bounded);
    RUN(snapshots_bring_everything_back);
    RUN(a_walk_through_the_file_gives_the_same);
    RUN(every_allocation_may_fail);
    RUN(markers_say_what_was_put_in);
    scratch_end();
    FINISH();
}
