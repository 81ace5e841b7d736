#include "mqcore/status.h"

#include <errno.h>
#include <string.h>

static void copy_text(char *to, size_t size, const char *from)
{
    const size_t length = from != NULL ? strnlen(from, size - 1) : 0;
    if (length > 0)
        memcpy(to, from, length);
    to[length] = '\0';
}

mq_status mq_fail(mq_error *err, mq_status status, const char *path, uint64_t position, const char *what)
{
    const int sys_errno = status == MQ_EIO ? errno : 0; /* first: nothing below may change it */
    if (err != NULL) {
        err->status = status;
        err->sys_errno = sys_errno;
        err->position = position;
        err->offset = -1;
        copy_text(err->what, sizeof err->what, what);
        copy_text(err->path, sizeof err->path, path);
    }
    return status;
}

const char *mq_status_name(mq_status status)
{
    switch (status) {
    case MQ_OK: return "MQ_OK";
    case MQ_EINVAL: return "MQ_EINVAL";
    case MQ_ENOMEM: return "MQ_ENOMEM";
    case MQ_EIO: return "MQ_EIO";
    case MQ_EFULL: return "MQ_EFULL";
    case MQ_ETOOBIG: return "MQ_ETOOBIG";
    case MQ_ETRUNCATED: return "MQ_ETRUNCATED";
    case MQ_ECRC: return "MQ_ECRC";
    case MQ_ECORRUPT: return "MQ_ECORRUPT";
    case MQ_EUNSUPPORTED: return "MQ_EUNSUPPORTED";
    case MQ_ENOTFOUND: return "MQ_ENOTFOUND";
    case MQ_ESTATE: return "MQ_ESTATE";
    }
    return "MQ_?";
}
