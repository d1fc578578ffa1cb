#include "infra/base/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define MESSAGE_BYTES 2048

struct error_record {
    int code;
    char message[MESSAGE_BYTES];
};

static _Thread_local struct error_record record;

/* Formats through a second buffer: the arguments may include the recorded message itself. */
static void record_message(const char *format, va_list args, const char *suffix)
{
    char text[MESSAGE_BYTES];
    int written = vsnprintf(text, sizeof text, format, args);
    size_t length = written < 0 ? 0 : (size_t)written;
    if (length >= sizeof text)
        length = sizeof text - 1;
    size_t rest = strnlen(suffix, sizeof text - 1 - length);
    memcpy(text + length, suffix, rest);
    text[length + rest] = '\0';
    memcpy(record.message, text, length + rest + 1);
}

int error_set(int code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    record_message(format, args, "");
    va_end(args);
    record.code = code;
    return code;
}

int error_prefix(const char *format, ...)
{
    char suffix[MESSAGE_BYTES];
    snprintf(suffix, sizeof suffix, ": %.*s", MESSAGE_BYTES - 4, record.message);
    va_list args;
    va_start(args, format);
    record_message(format, args, suffix);
    va_end(args);
    return record.code;
}

static int code_from_errno(int number)
{
    switch (number) {
    case ENOSPC:
    case EDQUOT:
        return HONE_ENOSPC;
    case ENOENT:
    case ENOTDIR:
        return HONE_ENOENT;
    case ENOMEM:
        return HONE_ENOMEM;
    case EINVAL:
    case ENAMETOOLONG:
        return HONE_EINVAL;
    case ETIMEDOUT:
        return HONE_ETIMEOUT;
    case EPIPE:
    case ECONNRESET:
    case ECONNREFUSED:
    case EHOSTUNREACH:
        return HONE_EPEER;
    case EADDRINUSE:
    case EBUSY:
        return HONE_EBUSY;
    case EINTR:
        return HONE_EINTERRUPTED;
    case ENOSYS:
    case EOPNOTSUPP:
        return HONE_EUNSUPPORTED;
    default:
        return HONE_EIO;
    }
}

int error_errno(const char *format, ...)
{
    int number = errno;
    char reason[128];
    char suffix[160];
    snprintf(suffix, sizeof suffix, ": %s", strerror_r(number, reason, sizeof reason));
    va_list args;
    va_start(args, format);
    record_message(format, args, suffix);
    va_end(args);
    record.code = code_from_errno(number);
    return record.code;
}

int error_last(void)
{
    return record.code;
}

const char *error_message(void)
{
    return record.message;
}

void error_clear(void)
{
    record.code = HONE_OK;
    record.message[0] = '\0';
}

int error_exit_status(int code)
{
    if (code >= 0)
        return 0;
    switch ((enum error_code)code) {
    case HONE_EINVAL:
        return 2;
    case HONE_EFORMAT:
    case HONE_ENOENT:
    case HONE_ECORRUPT:
    case HONE_EUNSUPPORTED:
        return 3;
    case HONE_EIO:
    case HONE_ENOSPC:
        return 4;
    case HONE_EPEER:
    case HONE_ETIMEOUT:
        return 5;
    case HONE_ENOMEM:
        return 6;
    case HONE_EBUSY:
        return 7;
    case HONE_EGUARD:
        return 8;
    case HONE_EINTERRUPTED:
        return 130;
    case HONE_OK:
        return 0;
    }
    return 1;
}

const char *error_exit_subject(int status)
{
    static const char *const subjects[] = {
        "success",          "failure", "usage or recipe",  "input",  "disk",
        "peer or deadline", "memory",  "something in use", "a guard"};
    if (status >= 0 && status < (int)(sizeof subjects / sizeof *subjects))
        return subjects[status];
    return status == 130 ? "interrupted" : "failure";
}
