/* Where a process's time goes: at every moment it is in one of a few named activities ("train",
 * "wait_batch"). Names of waiting begin with "wait_". Owned by one thread; the caller brings the
 * clock.
 *
 *  T1  The activities' times add up to the time since the start, to the nanosecond. */
#ifndef HONE_TELEMETRY_TIME_ACCOUNT_H
#define HONE_TELEMETRY_TIME_ACCOUNT_H

#include <stdint.h>

#define TIME_ACTIVITIES_MAX 8

struct time_account {
    const char *const *names; /* [count]; outlive the account */
    int32_t count;
    int32_t activity;                      /* now */
    int64_t since_ns;                      /* up to here everything is accounted for */
    int64_t spent_ns[TIME_ACTIVITIES_MAX]; /* [count] */
};

/* names: ended by NULL, at most TIME_ACTIVITIES_MAX. The first activity begins at now_ns. */
void time_account_start(struct time_account *account, const char *const *names, int64_t now_ns);
/* What went on until now_ns is accounted for, and `activity` goes on from there. */
void time_account_enter(struct time_account *account, int32_t activity, int64_t now_ns);

#endif
