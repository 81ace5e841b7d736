/* status.h -- how every function of the core says what went wrong, and where.
 * Invariants:
 *   I1  MQ_OK is 0; every other status is an error, and then err (if given) is filled by mq_fail.
 *   I2  an error never carries a pointer: it can outlive the call and the handle that made it.
 * A function that returns anything but MQ_OK has changed nothing, unless its contract says otherwise. */
#ifndef MQCORE_STATUS_H
#define MQCORE_STATUS_H

#include <stddef.h>
#include <stdint.h>

typedef enum mq_status {
    MQ_OK = 0,
    MQ_EINVAL,       /* a caller's argument is outside its contract */
    MQ_ENOMEM,       /* an allocation failed */
    MQ_EIO,          /* a system call failed: sys_errno says how */
    MQ_EFULL,        /* no room in this file or buffer: roll or flush, then retry */
    MQ_ETOOBIG,      /* a length is over its limit (limits.h) */
    MQ_ETRUNCATED,   /* the bytes end before the thing they announce */
    MQ_ECRC,         /* a checksum does not match */
    MQ_ECORRUPT,     /* the bytes break the format in another way */
    MQ_EUNSUPPORTED, /* a known thing that is not handled here: magic 0/1, a codec */
    MQ_ENOTFOUND,    /* nothing there: an offset, a record, a file */
    MQ_ESTATE        /* the handle is closed, failed or read-only */
} mq_status;

typedef struct mq_error {
    mq_status status;
    int sys_errno;     /* errno of a failed system call, else 0 */
    uint64_t position; /* byte position in the file or buffer */
    int64_t offset;    /* record offset, or -1 where unknown */
    char what[120];    /* one clause, without a full stop */
    char path[400];    /* file, or "" */
} mq_error;

/* Fill err (may be NULL) and return status; path may be NULL. sys_errno is taken from errno for MQ_EIO. */
mq_status mq_fail(mq_error *err, mq_status status, const char *path, uint64_t position, const char *what);

/* The name of a status as in this header, for logs and tests. */
const char *mq_status_name(mq_status status);

#endif
