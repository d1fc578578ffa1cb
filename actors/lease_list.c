#include "actors/lease_list.h"

#include "infra/base/assert.h"
#include "infra/base/memory.h"

void lease_free(struct lease *lease)
{
    for (int32_t i = 0; lease->progress && i < lease->sample_count; i++)
        trajectory_release(&lease->progress[i].prefix);
    memory_free(lease->progress);
    memory_free(lease->prompt_tokens);
    memory_free(lease);
}

void lease_list_init(struct lease_list *list)
{
    *list = (struct lease_list){0};
    list->last = &list->first;
}

void lease_list_release(struct lease_list *list)
{
    while (list->first)
        lease_list_remove(list, list->first);
}

void lease_list_append(struct lease_list *list, struct lease *lease)
{
    lease->next = NULL;
    *list->last = lease;
    list->last = &lease->next;
    list->samples += lease->sample_count;
}

struct lease *lease_list_find(const struct lease_list *list, uint64_t user)
{
    struct lease *lease = list->first;
    while (lease && lease->user != user)
        lease = lease->next;
    return lease;
}

struct lease *lease_list_find_id(const struct lease_list *list, uint64_t lease_id, uint64_t fence)
{
    struct lease *lease = list->first;
    while (lease && (lease->lease_id != lease_id || lease->fence != fence))
        lease = lease->next;
    return lease;
}

bool lease_list_holds(const struct lease_list *list, uint64_t lease_id, uint64_t fence)
{
    return lease_list_find_id(list, lease_id, fence) != NULL;
}

void lease_list_remove(struct lease_list *list, struct lease *lease)
{
    struct lease **link = &list->first;
    while (*link != lease) {
        HONE_ASSERT(*link);
        link = &(*link)->next;
    }
    *link = lease->next;
    if (list->last == &lease->next)
        list->last = link;
    list->samples -= lease->sample_count - lease->finished;
    lease_free(lease);
}

void parcel_list_init(struct parcel_list *list)
{
    *list = (struct parcel_list){0};
    list->last = &list->first;
}

void parcel_list_release(struct parcel_list *list)
{
    while (list->first)
        parcel_list_remove(list, list->first->trajectory.id);
}

void parcel_list_append(struct parcel_list *list, const struct trajectory *trajectory)
{
    struct parcel *parcel = MEMORY_NEW(struct parcel);
    parcel->trajectory = *trajectory;
    parcel->sent_ms = -1;
    *list->last = parcel;
    list->last = &parcel->next;
    list->count++;
}

bool parcel_list_remove(struct parcel_list *list, uint64_t id)
{
    struct parcel **link = &list->first;
    while (*link && (*link)->trajectory.id != id)
        link = &(*link)->next;
    struct parcel *parcel = *link;
    if (!parcel)
        return false;
    *link = parcel->next;
    if (list->last == &parcel->next)
        list->last = link;
    list->count--;
    trajectory_release(&parcel->trajectory);
    memory_free(parcel);
    return true;
}

void parcel_list_resend(struct parcel_list *list)
{
    for (struct parcel *parcel = list->first; parcel; parcel = parcel->next)
        parcel->sent_ms = -1;
}

bool parcel_list_holds(const struct parcel_list *list, uint64_t lease_id, uint64_t fence)
{
    for (const struct parcel *parcel = list->first; parcel; parcel = parcel->next) {
        if (parcel->trajectory.lease_id == lease_id && parcel->trajectory.fence == fence)
            return true;
    }
    return false;
}
