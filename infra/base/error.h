/* Operating errors: a negative code is returned and one thread-local record says what happened.
 *
 *     return error_set(HONE_EIO, "open %s: %s", path, strerror(errno));
 *
 * A caller that can say more prefixes the record and passes the code on:
 *
 *     if ((rc = safetensors_open(&file, path)) < 0)
 *         return error_prefix("model %s", dir);
 *
 * Success is 0 (or a count). Codes double as process exit statuses through error_exit_status(). */
#ifndef HONE_BASE_ERROR_H
#define HONE_BASE_ERROR_H

enum error_code {
    HONE_OK = 0,
    HONE_EINVAL = -1,        /* a bad argument, recipe value or command line */
    HONE_EIO = -2,           /* a file, socket or pipe failed */
    HONE_EFORMAT = -3,       /* input that breaks its format: truncated, corrupt, not parsable */
    HONE_ENOENT = -4,        /* something named does not exist */
    HONE_ENOSPC = -5,        /* disk full */
    HONE_ENOMEM = -6,        /* does not fit in memory */
    HONE_ETIMEOUT = -7,      /* a deadline passed */
    HONE_EPEER = -8,         /* a peer misbehaved or went away */
    HONE_EBUSY = -9,         /* taken: a port, a run directory in use */
    HONE_ECORRUPT = -10,     /* stored data fails its checksum */
    HONE_EUNSUPPORTED = -11, /* valid, but not something hone can do */
    HONE_EINTERRUPTED = -12, /* asked to stop */
    HONE_EGUARD = -13        /* a guard decided that the run must not go on */
};

/* Records code and a printf-style message for this thread; returns code. */
int error_set(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Puts "text: " before the recorded message; returns the recorded code. */
int error_prefix(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Like error_set, with ": " and strerror(errno) appended; maps ENOSPC, ENOENT and the like. */
int error_errno(const char *format, ...) __attribute__((format(printf, 1, 2)));

int error_last(void);            /* code recorded last on this thread */
const char *error_message(void); /* message recorded last on this thread, "" when none */
void error_clear(void);
/* 0 success, 1 general, 2 bad usage or recipe, 3 bad, missing or unsupported input, 4 disk, 5 peer
 * or timeout, 6 memory, 7 busy, 8 a guard stopped the run, 130 interrupted. */
int error_exit_status(int code);
/* What such a status is about, in a word or two. */
const char *error_exit_subject(int status);

#endif
