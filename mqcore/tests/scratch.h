/* scratch.h -- a temporary directory for tests of files, emptied and removed at the end; file helpers that abort. */
#ifndef MQCORE_TESTS_SCRATCH_H
#define MQCORE_TESTS_SCRATCH_H

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "test.h"

static char scratch[64];

static inline void scratch_clear(void)
{
    DIR *directory = opendir(scratch);
    if (directory == NULL)
        abort();
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;)
        if (entry->d_name[0] != '.')
            (void)unlinkat(dirfd(directory), entry->d_name, 0);
    closedir(directory);
}

static inline void scratch_begin(void)
{
    (void)snprintf(scratch, sizeof scratch, "/dev/shm/mqcore-test-XXXXXX"); /* thousands of renames: no disk for them */
    if (mkdtemp(scratch) != NULL)
        return;
    (void)snprintf(scratch, sizeof scratch, "/tmp/mqcore-test-XXXXXX");
    if (mkdtemp(scratch) == NULL)
        abort();
}

static inline void scratch_end(void)
{
    scratch_clear();
    (void)rmdir(scratch);
}

static inline const char *scratch_path(const char *name)
{
    static char paths[4][160];
    static unsigned next;
    char *path = paths[next++ % 4];
    (void)snprintf(path, sizeof paths[0], "%s/%s", scratch, name);
    return path;
}

static inline void put_file(const char *name, const void *bytes, size_t size)
{
    const int fd = open(scratch_path(name), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || write(fd, bytes, size) != (ssize_t)size)
        abort();
    close(fd);
}

static inline unsigned char *get_file(const char *name, size_t *size)
{
    struct stat st;
    const int fd = open(scratch_path(name), O_RDONLY);
    if (fd < 0 || fstat(fd, &st) != 0)
        abort();
    *size = (size_t)st.st_size;
    unsigned char *bytes = malloc(*size > 0 ? *size : 1);
    if (bytes == NULL || read(fd, bytes, *size) != (ssize_t)*size)
        abort();
    close(fd);
    return bytes;
}

static inline int file_exists(const char *name)
{
    return access(scratch_path(name), F_OK) == 0;
}

#endif
