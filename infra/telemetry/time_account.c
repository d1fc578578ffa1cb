#include "infra/telemetry/time_account.h"

#include <string.h>

#include "infra/base/assert.h"

void time_account_start(struct time_account *account, const char *const *names, int64_t now_ns)
{
    memset(account, 0, sizeof *account);
    account->names = names;
    account->since_ns = now_ns;
    while (names[account->count] != NULL)
        account->count++;
    HONE_ASSERT(account->count > 0 && account->count <= TIME_ACTIVITIES_MAX);
}

void time_account_enter(struct time_account *account, int32_t activity, int64_t now_ns)
{
    HONE_ASSERT(activity >= 0 && activity < account->count && now_ns >= account->since_ns);
    account->spent_ns[account->activity] += now_ns - account->since_ns;
    account->since_ns = now_ns;
    account->activity = activity;
}
