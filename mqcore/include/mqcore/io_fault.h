/* io_fault.h -- a table that passes every call to another one, counts it, and spoils the chosen ones.
 * Invariants:
 *   I1  a call that is not chosen behaves as the base table's.
 *   I2  a chosen call that fails has not reached the base table, but for the `short_bytes` that it wrote or read first.
 *   I3  counters are atomic: several threads may use one table; arm and disarm are for a quiet moment.
 * The tests of storage loop n = 1, 2, 3 ... and fail the n-th call until the operation passes without a fault. */
#ifndef MQCORE_IO_FAULT_H
#define MQCORE_IO_FAULT_H

#include <stdatomic.h>

#include "mqcore/io.h"

/* Bits of mq_io_fault.only, in the order of mq_io_fault_name. close and plain reads of metadata are not counted. */
typedef enum mq_io_call {
    MQ_CALL_OPEN, /* for writing */
    MQ_CALL_OPEN_READ,
    MQ_CALL_PREAD,
    MQ_CALL_PWRITEV,
    MQ_CALL_FDATASYNC, /* and the sync in a pwritev to a descriptor with O_DSYNC, which is two calls */
    MQ_CALL_FSYNC,
    MQ_CALL_SYNCFS,
    MQ_CALL_FTRUNCATE,
    MQ_CALL_FALLOCATE,
    MQ_CALL_RENAME,
    MQ_CALL_LINK,
    MQ_CALL_UNLINK,
    MQ_CALL_MKDIR,
    MQ_CALL_RMDIR,
    MQ_CALL_COUNT
} mq_io_call;

typedef struct mq_io_fault {
    mq_io io; /* first: a pointer to this is a pointer to the table */
    mq_io *base;
    atomic_llong calls[MQ_CALL_COUNT];
    atomic_llong fired;
    atomic_llong countdown; /* chosen calls until the fault; 0: not armed; < 0: sticky and fired */
    int error;              /* errno to fail with; 0: only shorten or delay */
    long long short_bytes;  /* pwritev, pread: transfer that many first; -1: none */
    bool sticky;
    unsigned only; /* bit set of mq_io_call; 0: all */
    unsigned delay_us;
} mq_io_fault;

/* Set up an unarmed table over base, which must live longer. */
void mq_io_fault_init(mq_io_fault *fault, mq_io *base);

/* Spoil the at-th (1: the next) call among `only`. */
void mq_io_fault_arm(mq_io_fault *fault, long long at, int error, long long short_bytes, bool sticky, unsigned only,
                     unsigned delay_us);
void mq_io_fault_disarm(mq_io_fault *fault);

/* All calls so far; the name of a call ("open", "open_read", "pread", ...), NULL past the last. */
long long mq_io_fault_calls(const mq_io_fault *fault);
const char *mq_io_fault_name(int call);

#endif
