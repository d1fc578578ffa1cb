#include "infra/store/acked.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "infra/base/error.h"
#include "infra/base/log.h"

#define ACKED_BYTES (CHAIN_HEAD_BYTES + 4)

int acked_read(const char *path, struct chain *acked)
{
    unsigned char bytes[ACKED_BYTES];
    uint32_t checksum;
    memset(acked, 0, sizeof *acked);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT)
        return 0;
    if (fd < 0)
        return error_errno("open %s", path);
    ssize_t got = pread(fd, bytes, sizeof bytes, 0);
    close(fd);
    if (got < 0)
        return error_errno("read %s", path);
    memcpy(&checksum, bytes + CHAIN_HEAD_BYTES, sizeof checksum);
    if (got != ACKED_BYTES || checksum != hash_crc32c(0, bytes, CHAIN_HEAD_BYTES)) {
        log_warn("%s is torn, as after a power cut: the end of the log is not checked against it",
                 path);
        return 0;
    }
    return chain_head_decode(acked, bytes, CHAIN_HEAD_BYTES);
}

int acked_write(int fd, const struct chain *chain)
{
    unsigned char bytes[ACKED_BYTES];
    chain_head_encode(chain, bytes);
    uint32_t checksum = hash_crc32c(0, bytes, CHAIN_HEAD_BYTES);
    memcpy(bytes + CHAIN_HEAD_BYTES, &checksum, sizeof checksum);
    ssize_t written;
    do
        written = pwrite(fd, bytes, sizeof bytes, 0);
    while (written < 0 && errno == EINTR);
    if (written != (ssize_t)sizeof bytes)
        return error_errno("write the acknowledged head");
    return 0;
}

int acked_open(const char *path, const struct chain *chain)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0)
        return error_errno("open %s", path);
    int rc = acked_write(fd, chain);
    if (rc < 0) {
        close(fd);
        return rc;
    }
    return fd;
}
