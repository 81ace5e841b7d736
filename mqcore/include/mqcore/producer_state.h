/* producer_state.h -- what one partition knows of its producers: whether a batch is new, a repetition or comes after a
 * gap, and which transactions hold back the last stable offset (KIP-98; KIP-360, KIP-890 for epochs).
 *
 * Rules, as Kafka's ProducerAppendInfo and ProducerStateEntry have them:
 *   an epoch below the known one is refused, a higher one begins at sequence 0, the same one goes on behind the last
 *   sequence (INT32_MAX is followed by 0; sequences count offsets); a producer without state may begin anywhere, for its
 *   state may have expired. A repetition is one of the last MQ_PRODUCER_BATCHES batches, first and last sequence alike.
 * Invariants:
 *   I1  a check changes nothing that another call sees; only what was appended is added, and each offset once: a batch
 *       below `next_offset` was added before (an add may be repeated after an interrupt).
 *   I2  a producer has at most one open transaction: from its first transactional batch after a marker.
 *   I3  what mq_producers_check said was new is added without allocating.
 *   I4  a producer takes at most MQ_PRODUCER_BYTES_MAX bytes. Past `limit` producers the one that wrote longest ago goes;
 *       one with an open transaction never does.
 *   I5  the last stable offset never passes a transaction that is open, nor one whose marker is not below the mark.
 * Threads: one at a time. */
#ifndef MQCORE_PRODUCER_STATE_H
#define MQCORE_PRODUCER_STATE_H

#include "mqcore/batch.h"
#include "mqcore/io.h"
#include "mqcore/txn_index.h"

enum { MQ_PRODUCER_BATCHES = 5, MQ_PRODUCER_BYTES_MAX = 256, MQ_PRODUCERS_PER_CHUNK = 64 };

typedef struct mq_producers mq_producers;

typedef struct mq_producer_batch {
    int64_t last_offset;
    int64_t timestamp; /* the batch's maximum; ms */
    int32_t last_sequence;
    int32_t offset_delta; /* last offset - first offset; of the sequences too */
} mq_producer_batch;

typedef struct mq_producer {
    int64_t producer_id;
    int64_t last_timestamp;   /* of its last batch or marker; ms, -1: none */
    int64_t active_ms;        /* when it was heard of last, at least last_timestamp */
    int64_t txn_first_offset; /* of its open transaction, -1: none */
    int32_t coordinator_epoch;
    int16_t epoch;
    uint8_t batch_count;
    mq_producer_batch batches[MQ_PRODUCER_BATCHES]; /* of this epoch, oldest first */
} mq_producer;

typedef enum mq_sequence_verdict {
    MQ_SEQUENCE_NONE,        /* no batch has a producer id */
    MQ_SEQUENCE_NEW,         /* append, then add */
    MQ_SEQUENCE_DUPLICATE,   /* stored: base_offset .. next_offset - 1, timestamp */
    MQ_SEQUENCE_OLD,         /* stored, but longer ago than is remembered */
    MQ_SEQUENCE_GAP,         /* `expected` should have come */
    MQ_SEQUENCE_STALE,       /* of an epoch before known_epoch */
    MQ_SEQUENCE_IN_TXN,      /* not transactional, while its producer has a transaction open */
    MQ_SEQUENCE_TOO_MANY_IDS /* more producers in one chunk than MQ_PRODUCERS_PER_CHUNK */
} mq_sequence_verdict;

typedef struct mq_sequence_answer {
    mq_sequence_verdict verdict;
    bool transactional; /* some batch of the chunk is */
    int16_t epoch, known_epoch;
    int32_t sequence, expected;
    int64_t producer_id; /* the producer that the verdict is about; -1: NONE */
    int64_t base_offset, next_offset, timestamp;
} mq_sequence_answer;

/* limit: of producers (I4). NULL: no memory. */
mq_producers *mq_producers_new(uint32_t limit);
void mq_producers_free(mq_producers *s);
void mq_producers_set_limit(mq_producers *s, uint32_t limit);

/* Judge a chunk of whole batches that is to be appended (surveyed before: headers are right). A batch without a sequence
 * (-1: the store's own) is judged by its epoch alone, a control batch too. A repetition is told for a chunk of one
 * producer whose batches follow each other, by its last batch. MQ_ENOMEM; MQ_EFULL: more producers, and all have open
 * transactions; MQ_ECORRUPT: no whole batches. */
mq_status mq_producers_check(mq_producers *s, const uint8_t *bytes, size_t size, mq_sequence_answer *answer,
                             mq_error *err);

/* Take in a chunk as it lies in the log. now_ms: for expiry. MQ_ENOMEM: never after a check of the same chunk (I3). */
mq_status mq_producers_add(mq_producers *s, const uint8_t *bytes, size_t size, int64_t now_ms, mq_error *err);

/* Take in one batch, without judging it (what is in the log is so). body: its first bytes after the header, needed for
 * control batches alone (MQ_MARKER_BODY_MAX are enough). aborted: out, may be NULL: what the .txnindex notes, if the
 * batch is an abort marker (first_offset -1: the transaction began before all that was added), else producer_id -1. */
mq_status mq_producers_add_batch(mq_producers *s, const mq_batch *batch, const uint8_t *body, size_t body_size,
                                 int64_t now_ms, mq_txn_entry *aborted, mq_error *err);

/* What an abort marker of this producer at `offset` will add to the .txnindex; false: it has no open transaction. */
bool mq_producers_end_of(const mq_producers *s, int64_t producer_id, int64_t offset, mq_txn_entry *ended);

/* Note an epoch for which there is no batch: late batches of the one before are refused from now on. MQ_ENOMEM. */
mq_status mq_producers_fence(mq_producers *s, int64_t producer_id, int16_t epoch, int32_t coordinator_epoch,
                             int64_t now_ms, mq_error *err);

/* Add the batches at [position, end) of a .log file by their headers (checked data; CRCs are not computed). */
mq_status mq_producers_walk(mq_producers *s, mq_io *io, const char *path, uint64_t position, uint64_t end,
                            mq_error *err);

/* min(mark, first offset of the oldest transaction that is open or whose marker is not below mark). Transactions that
 * ended below mark are forgotten with it: marks do not fall. */
int64_t mq_producers_stable_end(mq_producers *s, int64_t mark);
/* Whether stable_end can be below its mark. */
bool mq_producers_unstable(const mq_producers *s);

/* Forget producers without open transaction that were last heard of before `before_ms`. How many. */
size_t mq_producers_expire(mq_producers *s, int64_t before_ms);

/* The offset after the last batch added, or as mq_producers_moved said. */
int64_t mq_producers_next_offset(const mq_producers *s);
/* Batches below next_offset count as added. */
void mq_producers_moved(mq_producers *s, int64_t next_offset);

uint32_t mq_producers_count(const mq_producers *s);
uint32_t mq_producers_open_count(const mq_producers *s);
/* Bytes of memory, as malloc counts them. */
size_t mq_producers_bytes(const mq_producers *s);
const mq_producer *mq_producers_find(const mq_producers *s, int64_t producer_id);
/* All of them: first those with open transactions by first offset, then the others, longest idle first.
 * NULL: the first. NULL: no more. Nothing may change meanwhile. */
const mq_producer *mq_producers_each(const mq_producers *s, const mq_producer *last);

#endif
