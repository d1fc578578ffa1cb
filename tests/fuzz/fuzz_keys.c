/* Key files, allow-lists and endpoints: the first byte says which. What is accepted is whole, and a
 * list finds each of its own keys; an endpoint that is accepted has an address that fits. */
#include <stdint.h>
#include <string.h>

#include "infra/base/assert.h"
#include "infra/base/memory.h"
#include "infra/wire/endpoint.h"
#include "infra/wire/keys.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void try_pair(const char *text)
{
    struct key_pair pair;
    if (key_pair_parse(&pair, "x.key", text) < 0) {
        HONE_ASSERT(pair.secret_key[0] == '\0');
        return;
    }
    HONE_ASSERT(strlen(pair.secret_key) == KEY_SIZE - 1 && strlen(pair.public_key) == KEY_SIZE - 1);
    HONE_ASSERT(pair.names[0] != '\0' && strlen(pair.names) < KEY_NAMES_SIZE);
}

static void try_list(const char *text)
{
    struct allow_list list;
    if (allow_list_parse(&list, "allowed", text) < 0) {
        HONE_ASSERT(!list.items);
        return;
    }
    for (int i = 0; i < list.count; i++) {
        const struct allowed_key *item = &list.items[i];
        HONE_ASSERT(allow_list_find(&list, item->public_key) == item);
        HONE_ASSERT(strncmp(item->names, role_name(item->role), strlen(role_name(item->role))) ==
                    0);
    }
    allow_list_release(&list);
}

static void try_endpoint(const char *text)
{
    struct endpoint endpoint;
    for (int is_remote = 0; is_remote < 2; is_remote++) {
        if (endpoint_choose(&endpoint, text, is_remote) < 0)
            continue;
        HONE_ASSERT(strlen(endpoint.address) < ENDPOINT_MAX && strstr(endpoint.address, "://"));
        HONE_ASSERT(endpoint.key[0] == '\0' || strlen(endpoint.key) == ENDPOINT_KEY_CHARS);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    if (bytes == 0)
        return 0;
    char *text = memory_strndup((const char *)data + 1, bytes - 1);
    if (data[0] % 4 == 0)
        try_pair(text);
    else if (data[0] % 4 == 1)
        try_list(text);
    else
        try_endpoint(text);
    memory_free(text);
    return 0;
}
