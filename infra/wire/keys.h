/* CURVE keys of a run and the list of who may connect.
 *
 *   DIR/NAMES.key     a pair and whom it is for: role, names, public and secret key; mode 0600
 *   DIR/hub.public    the hub's public key: what every worker needs besides its own pair
 *   DIR/allowed       the allow-list: "PUBLIC ROLE NAMES" a line; read by the hub and the learner
 *
 * NAMES is one worker's name ("learner", "actor-gpu7") or all that begin alike ("actor-*"), and
 * begins with the word of its role, so that a name tells its role. The file of "actor-*" is
 * actor.key.
 *  K1  A secret is never printed, logged, or put into an error message.
 *  K2  A file with a secret that others may read, or an allow-list or directory that others may
 *      write, is refused.
 * No state: any thread. */
#ifndef HONE_WIRE_KEYS_H
#define HONE_WIRE_KEYS_H

#include <stdbool.h>
#include <stddef.h>

#include "infra/base/file.h"
#include "infra/base/text.h"
#include "infra/wire/hone.pb-c.h"

#define KEY_SIZE         41 /* Z85 of 32 bytes and a NUL */
#define KEY_NAMES_SIZE   64
#define KEYS_ALLOWED_MAX 4096
#define KEYS_FILE_BYTES  ((size_t)1 << 20)

struct key_pair {
    Hone__Role role;
    char names[KEY_NAMES_SIZE];
    char public_key[KEY_SIZE], secret_key[KEY_SIZE];
};

/* What a process holds. Cleared with keys_clear. */
struct keys {
    struct key_pair own;
    char hub_public[KEY_SIZE];
    char allowed_path[HONE_PATH_MAX]; /* "": it may dial, but not listen */
};

struct allowed_key {
    char public_key[KEY_SIZE];
    Hone__Role role;
    char names[KEY_NAMES_SIZE];
};

struct allow_list {
    struct allowed_key *items; /* ordered by key */
    int count;
};

/* A directory of keys for hub, learner, actors and scorers. HONE_EBUSY when it has keys. */
int keys_create(const char *directory);
/* A pair for one more worker: written and allowed. */
int keys_add(const char *directory, const char *name);
/* Takes a pair off the list; hub and learner notice within seconds and drop who uses it. */
int keys_revoke(const char *directory, const char *name);
/* A line for each allowed key: role, names, public key. */
int keys_list(const char *directory, struct text *out);

/* What the worker needs: NAME.key, else its role's. */
int keys_load(struct keys *keys, const char *directory, const char *worker);
void keys_clear(struct keys *keys);

/* Reads the allow-list; *list is empty on error. */
int allow_list_read(struct allow_list *list, const char *path);
void allow_list_release(struct allow_list *list);
const struct allowed_key *allow_list_find(const struct allow_list *list, const char *public_key);

/* The files' contents; path is for messages. HONE_EFORMAT names the line. */
int key_pair_parse(struct key_pair *pair, const char *path, const char *text);
int allow_list_parse(struct allow_list *list, const char *path, const char *text);
bool key_names_match(const char *names, const char *worker);
const char *role_name(Hone__Role role); /* "actor" */

#endif
