#include "mqcore/txn_index.h"

#include <errno.h>
#include <fcntl.h>

#include "mqcore/alloc.h"
#include "mqcore/wire.h"

void mq_txn_entry_put(uint8_t *bytes, const mq_txn_entry *entry)
{
    mq_store_be16(bytes, 0);
    mq_store_be64(bytes + 2, (uint64_t)entry->producer_id);
    mq_store_be64(bytes + 10, (uint64_t)entry->first_offset);
    mq_store_be64(bytes + 18, (uint64_t)entry->last_offset);
    mq_store_be64(bytes + 26, (uint64_t)entry->last_stable_offset);
}

mq_status mq_txn_entry_get(const uint8_t *bytes, mq_txn_entry *entry, mq_error *err)
{
    if (mq_load_be16(bytes) != 0)
        return mq_fail(err, MQ_EUNSUPPORTED, NULL, 0, "a transaction index entry of an unknown version");
    entry->producer_id = (int64_t)mq_load_be64(bytes + 2);
    entry->first_offset = (int64_t)mq_load_be64(bytes + 10);
    entry->last_offset = (int64_t)mq_load_be64(bytes + 18);
    entry->last_stable_offset = (int64_t)mq_load_be64(bytes + 26);
    if (entry->producer_id < 0 || entry->first_offset < 0 || entry->last_offset < entry->first_offset)
        return mq_fail(err, MQ_ECORRUPT, NULL, 0, "a transaction index entry has offsets out of order");
    return MQ_OK;
}

/* Open and say how many bytes of whole entries there are. MQ_ENOTFOUND: no file (err is not filled). */
static mq_status open_entries(mq_io *io, const char *path, int flags, int *fd, uint64_t *size, mq_error *err)
{
    mq_error local;
    *size = 0;
    err = err != NULL ? err : &local;
    mq_status status = mq_io_open(io, path, flags, 0600, fd, err);
    if (status != MQ_OK)
        return status == MQ_EIO && err->sys_errno == ENOENT ? MQ_ENOTFOUND : status;
    status = mq_io_size(*fd, size, path, err);
    if (status == MQ_OK && *size > MQ_TXN_INDEX_BYTES_MAX)
        status = mq_fail(err, MQ_ETOOBIG, path, *size, "the transaction index is over its limit");
    *size -= *size % MQ_TXN_ENTRY;
    if (status != MQ_OK)
        mq_io_close(io, *fd);
    return status;
}

mq_status mq_txn_index_append(mq_io *io, const char *path, const mq_txn_entry *entry, mq_error *err)
{
    int fd;
    uint64_t size;
    uint8_t bytes[MQ_TXN_ENTRY];
    mq_txn_entry last = {0};
    mq_status status = open_entries(io, path, O_RDWR | O_CREAT, &fd, &size, err);
    if (status != MQ_OK)
        return status;
    if (size > 0) {
        status = mq_io_read_all(io, fd, bytes, sizeof bytes, size - sizeof bytes, path, err);
        if (status == MQ_OK)
            status = mq_txn_entry_get(bytes, &last, err);
        if (status == MQ_OK && entry->last_offset <= last.last_offset)
            status = mq_fail(err, MQ_EINVAL, path, size, "last offsets of aborted transactions must rise");
    }
    if (status == MQ_OK) {
        mq_txn_entry_put(bytes, entry);
        status = mq_io_write_all(io, fd, bytes, sizeof bytes, size, path, err);
    }
    mq_io_close(io, fd);
    return status;
}

mq_status mq_txn_index_load(mq_io *io, const char *path, mq_txn_entry **entries, size_t *count, mq_error *err)
{
    int fd;
    uint64_t size;
    *entries = NULL;
    *count = 0;
    mq_status status = open_entries(io, path, O_RDONLY, &fd, &size, err);
    if (status != MQ_OK)
        return status == MQ_ENOTFOUND ? MQ_OK : status;
    const size_t number = (size_t)size / MQ_TXN_ENTRY;
    uint8_t *bytes = mq_alloc((size_t)size);
    mq_txn_entry *list = mq_alloc(number * sizeof *list);
    if (bytes == NULL || list == NULL)
        status = mq_fail(err, MQ_ENOMEM, path, 0, "no memory for the transaction index");
    else
        status = mq_io_read_all(io, fd, bytes, (size_t)size, 0, path, err);
    mq_io_close(io, fd);
    for (size_t i = 0; i < number && status == MQ_OK; i++) {
        status = mq_txn_entry_get(bytes + i * MQ_TXN_ENTRY, &list[i], err);
        if (status == MQ_OK && i > 0 && list[i].last_offset <= list[i - 1].last_offset)
            status = mq_fail(err, MQ_ECORRUPT, path, i * MQ_TXN_ENTRY, "aborted transactions out of order");
    }
    mq_free(bytes);
    if (status != MQ_OK) {
        mq_free(list);
        return status;
    }
    *entries = list;
    *count = number;
    return MQ_OK;
}

mq_status mq_txn_index_truncate(mq_io *io, const char *path, int64_t offset, mq_error *err)
{
    mq_txn_entry *entries;
    size_t count;
    mq_status status = mq_txn_index_load(io, path, &entries, &count, err);
    if (status != MQ_OK)
        return status;
    size_t kept = count;
    while (kept > 0 && entries[kept - 1].last_offset >= offset)
        kept--;
    mq_free(entries);
    if (kept == count)
        return MQ_OK;
    int fd;
    status = mq_io_open(io, path, O_RDWR, 0, &fd, err);
    if (status != MQ_OK)
        return status;
    status = mq_io_resize(io, fd, (uint64_t)kept * MQ_TXN_ENTRY, path, err);
    mq_io_close(io, fd);
    return status;
}

mq_status mq_txn_index_sync(mq_io *io, const char *path, mq_error *err)
{
    int fd;
    uint64_t size;
    mq_status status = open_entries(io, path, O_RDWR, &fd, &size, err);
    if (status != MQ_OK)
        return status == MQ_ENOTFOUND ? MQ_OK : status;
    if (io->fsync(io, fd) != 0)
        status = mq_fail(err, MQ_EIO, path, 0, "fsync of a transaction index");
    mq_io_close(io, fd);
    return status;
}
