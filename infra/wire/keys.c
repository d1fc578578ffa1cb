#include "infra/wire/keys.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

#include "infra/base/assert.h"
#include "infra/base/error.h"
#include "infra/base/memory.h"

#define LINE_MAX_BYTES 256
#define KEY_BYTES      32

struct role_word {
    Hone__Role role;
    const char *word;
    bool is_many; /* its workers are WORD-SOMETHING */
};

static const struct role_word roles[] = {
    {HONE__ROLE__ROLE_CURRICULUM, "hub", false},
    {HONE__ROLE__ROLE_LEARNER, "learner", false},
    {HONE__ROLE__ROLE_ACTOR, "actor", true},
    {HONE__ROLE__ROLE_SCORER, "scorer", true},
};

#define ROLE_COUNT (sizeof roles / sizeof *roles)

const char *role_name(Hone__Role role)
{
    for (size_t i = 0; i < ROLE_COUNT; i++) {
        if (roles[i].role == role)
            return roles[i].word;
    }
    return "nothing";
}

/* ---- names and keys as text ---- */

static bool is_name_char(char c)
{
    return isalnum((unsigned char)c) || c == '-' || c == '_' || c == '.';
}

/* The role that names stand for; false when they are not names. */
static bool role_of_names(const char *names, Hone__Role *role)
{
    size_t length = strlen(names);
    if (length == 0 || length >= KEY_NAMES_SIZE)
        return false;
    size_t plain = names[length - 1] == '*' ? length - 1 : length;
    for (size_t i = 0; i < plain; i++) {
        if (!is_name_char(names[i]))
            return false;
    }
    for (size_t i = 0; i < ROLE_COUNT; i++) {
        size_t word = strlen(roles[i].word);
        if (strncmp(names, roles[i].word, word) != 0)
            continue;
        *role = roles[i].role;
        return roles[i].is_many ? names[word] == '-' && length > word + 1 : length == word;
    }
    return false;
}

bool key_names_match(const char *names, const char *worker)
{
    size_t length = strlen(names);
    if (length > 0 && names[length - 1] == '*')
        return strncmp(names, worker, length - 1) == 0;
    return strcmp(names, worker) == 0;
}

static bool is_key(const char *text)
{
    static const char alphabet[] = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                   ".-:+=^!/*?&<>()[]{}@%$#";
    uint8_t bytes[KEY_BYTES];
    /* libzmq decodes whatever it is given: the alphabet is checked here, overflow by it. */
    return strlen(text) == KEY_SIZE - 1 && strspn(text, alphabet) == KEY_SIZE - 1 &&
           zmq_z85_decode(bytes, text) != NULL;
}

/* Copies the next line, without its end; NULL after the last. A line that is too long is "\x01". */
static const char *next_line(const char *text, char line[LINE_MAX_BYTES])
{
    size_t length = strcspn(text, "\n");
    if (*text == '\0')
        return NULL;
    if (length < LINE_MAX_BYTES)
        snprintf(line, LINE_MAX_BYTES, "%.*s", (int)length, text);
    else
        snprintf(line, LINE_MAX_BYTES, "%s", "\x01");
    return text + length + (text[length] == '\n');
}

/* Splits at single spaces, in place; the number of words, or words_max + 1 when there are more. */
static int split(char *line, char **words, int words_max)
{
    int count = 0;
    for (char *at = line; at; count++) {
        char *space = strchr(at, ' ');
        if (count == words_max)
            return words_max + 1;
        words[count] = at;
        if (space)
            *space++ = '\0';
        at = space;
    }
    return count;
}

int key_pair_parse(struct key_pair *pair, const char *path, const char *text)
{
    char line[LINE_MAX_BYTES], check[KEY_SIZE];
    char *words[2];
    int number = 0;
    memset(pair, 0, sizeof *pair);
    while ((text = next_line(text, line)) != NULL) {
        number++;
        if (line[0] == '#' || line[0] == '\0')
            continue;
        bool known = split(line, words, 2) == 2;
        if (known && strcmp(words[0], "names") == 0 && role_of_names(words[1], &pair->role))
            snprintf(pair->names, sizeof pair->names, "%s", words[1]);
        else if (known && strcmp(words[0], "public") == 0 && is_key(words[1]))
            memcpy(pair->public_key, words[1], KEY_SIZE);
        else if (known && strcmp(words[0], "secret") == 0 && is_key(words[1]))
            memcpy(pair->secret_key, words[1], KEY_SIZE);
        else
            goto bad;
    }
    if (pair->names[0] == '\0' || pair->public_key[0] == '\0' || pair->secret_key[0] == '\0')
        goto bad;
    explicit_bzero(line, sizeof line);
    if (zmq_curve_public(check, pair->secret_key) == 0 && strcmp(check, pair->public_key) == 0)
        return 0;
    explicit_bzero(pair, sizeof *pair);
    return error_set(HONE_EFORMAT, "%s: its public key is not the secret's", path);
bad: /* K1: no part of the line is shown */
    explicit_bzero(line, sizeof line);
    explicit_bzero(pair, sizeof *pair);
    return error_set(HONE_EFORMAT,
                     "%s:%d: a key file has the lines `names NAMES`, `public KEY` and `secret "
                     "KEY`",
                     path, number);
}

static int compare_allowed(const void *a, const void *b)
{
    return strcmp(((const struct allowed_key *)a)->public_key,
                  ((const struct allowed_key *)b)->public_key);
}

static int allow_line(struct allow_list *list, char *line)
{
    char *words[3];
    Hone__Role role;
    if (list->count == KEYS_ALLOWED_MAX)
        return error_set(HONE_EFORMAT, "more than %d keys", KEYS_ALLOWED_MAX);
    if (split(line, words, 3) != 3 || !is_key(words[0]))
        return error_set(HONE_EFORMAT, "a line is `PUBLIC-KEY ROLE NAMES`");
    if (!role_of_names(words[2], &role) || strcmp(role_name(role), words[1]) != 0)
        return error_set(
            HONE_EFORMAT,
            "'%.64s' are not names of a %.32s: a hub is hub, a learner learner, others "
            "begin with actor- or scorer-",
            words[2], words[1]);
    struct allowed_key *item = &list->items[list->count++];
    memcpy(item->public_key, words[0], KEY_SIZE);
    snprintf(item->names, sizeof item->names, "%s", words[2]);
    item->role = role;
    return 0;
}

int allow_list_parse(struct allow_list *list, const char *path, const char *text)
{
    char line[LINE_MAX_BYTES];
    int number = 0, rc = 0;
    list->items = MEMORY_ARRAY(struct allowed_key, KEYS_ALLOWED_MAX);
    list->count = 0;
    while (rc == 0 && (text = next_line(text, line)) != NULL) {
        number++;
        if (line[0] != '#' && line[0] != '\0')
            rc = allow_line(list, line);
    }
    if (rc < 0) {
        allow_list_release(list);
        return error_prefix("%s:%d", path, number);
    }
    qsort(list->items, (size_t)list->count, sizeof *list->items, compare_allowed);
    for (int i = 1; i < list->count; i++) {
        if (compare_allowed(&list->items[i - 1], &list->items[i]) == 0) {
            allow_list_release(list);
            return error_set(HONE_EFORMAT, "%s: a key is listed twice", path);
        }
    }
    return 0;
}

void allow_list_release(struct allow_list *list)
{
    memory_free(list->items);
    list->items = NULL;
    list->count = 0;
}

const struct allowed_key *allow_list_find(const struct allow_list *list, const char *public_key)
{
    struct allowed_key wanted;
    if (strlen(public_key) != KEY_SIZE - 1 || list->count == 0)
        return NULL;
    memcpy(wanted.public_key, public_key, KEY_SIZE);
    return bsearch(&wanted, list->items, (size_t)list->count, sizeof wanted, compare_allowed);
}

/* ---- files ---- */

/* The permission bits in `refused` are for the owner alone (K2). */
static int check_private(const char *path, mode_t refused, const char *danger)
{
    struct stat status;
    if (stat(path, &status) < 0)
        return error_errno("%s", path);
    if (status.st_uid != geteuid())
        return error_set(HONE_EINVAL, "%s belongs to another user (%u)", path,
                         (unsigned)status.st_uid);
    if (status.st_mode & refused)
        return error_set(HONE_EINVAL, "%s %s (mode %03o): chmod %s %s", path, danger,
                         (unsigned)status.st_mode & 0777, refused == 022 ? "go-w" : "600", path);
    return 0;
}

static int read_file(const char *path, mode_t refused, const char *danger, char **text)
{
    size_t bytes;
    int rc = check_private(path, refused, danger);
    if (rc == 0)
        rc = file_read(path, KEYS_FILE_BYTES, text, &bytes);
    if (rc == 0 && strlen(*text) != bytes) {
        explicit_bzero(*text, bytes);
        memory_free(*text);
        rc = error_set(HONE_EFORMAT, "%s has a NUL byte", path);
    }
    return rc;
}

/* A new file, complete or absent. HONE_EBUSY when it is there. */
static int write_new(const char *path, mode_t mode, const char *text)
{
    size_t bytes = strlen(text);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    if (fd < 0 && errno == EEXIST)
        return error_set(HONE_EBUSY, "%s is there already", path);
    if (fd < 0)
        return error_errno("create %s", path);
    int rc = 0;
    if (write(fd, text, bytes) != (ssize_t)bytes || fsync(fd) < 0)
        rc = error_errno("write %s", path);
    close(fd);
    if (rc < 0)
        unlink(path);
    return rc;
}

static const char *in_directory(char buffer[HONE_PATH_MAX], const char *directory, const char *file)
{
    return path_join(buffer, HONE_PATH_MAX, directory, file);
}

static int check_directory(const char *directory)
{
    if (strlen(directory) > HONE_PATH_MAX / 2)
        return error_set(HONE_EINVAL, "key directory %.60s...: path too long", directory);
    if (!file_is_directory(directory))
        return error_set(HONE_ENOENT, "there is no key directory %s: `hone keys %s` makes one",
                         directory, directory);
    return check_private(directory, 022, "may be written by others");
}

/* "actor-*" is in actor.key, "actor-7" in actor-7.key. */
static const char *pair_path(char buffer[HONE_PATH_MAX], const char *directory, const char *names)
{
    char file[KEY_NAMES_SIZE + 8];
    size_t length = strlen(names);
    if (text_ends_with(names, "-*"))
        length -= 2;
    snprintf(file, sizeof file, "%.*s.key", (int)length, names);
    return in_directory(buffer, directory, file);
}

/* Makes a pair and writes its file. */
static int make_pair(struct key_pair *pair, const char *directory, const char *names)
{
    char path[HONE_PATH_MAX];
    char text[4 * LINE_MAX_BYTES];
    HONE_ASSERT(role_of_names(names, &pair->role));
    snprintf(pair->names, sizeof pair->names, "%s", names);
    if (zmq_curve_keypair(pair->public_key, pair->secret_key) != 0)
        return error_set(HONE_EUNSUPPORTED, "this libzmq has no CURVE: install one that has");
    snprintf(text, sizeof text,
             "# A secret of hone's wire: keep it to its worker.\nnames %s\npublic %s\nsecret %s\n",
             pair->names, pair->public_key, pair->secret_key);
    int rc = write_new(pair_path(path, directory, names), 0600, text);
    explicit_bzero(text, sizeof text);
    return rc;
}

static void allow_list_print(const struct allow_list *list, struct text *out)
{
    text_append(out, "# Who may connect: public key, role, names. hone keys --add and --revoke "
                     "write it.\n");
    for (int i = 0; i < list->count; i++)
        text_printf(out, "%s %s %s\n", list->items[i].public_key, role_name(list->items[i].role),
                    list->items[i].names);
}

/* Replaces the list as a whole; two writers at once: the second is refused. */
static int write_allowed(const char *directory, const struct allow_list *list)
{
    char path[HONE_PATH_MAX], temporary[HONE_PATH_MAX];
    struct text text;
    text_init(&text);
    allow_list_print(list, &text);
    in_directory(path, directory, "allowed");
    in_directory(temporary, directory, "allowed.new");
    int rc = write_new(temporary, 0600, text.data);
    if (rc == 0)
        rc = file_rename_synced(temporary, path);
    text_release(&text);
    return rc;
}

static void allow(struct allow_list *list, const struct key_pair *pair)
{
    struct allowed_key *item = &list->items[list->count++];
    memcpy(item->public_key, pair->public_key, KEY_SIZE);
    memcpy(item->names, pair->names, KEY_NAMES_SIZE);
    item->role = pair->role;
}

int keys_create(const char *directory)
{
    static const char *const names[] = {"hub", "learner", "actor-*", "scorer-*"};
    struct allowed_key items[sizeof names / sizeof *names];
    struct allow_list list = {.items = items};
    struct key_pair pair = {0};
    char path[HONE_PATH_MAX], line[KEY_SIZE + 2];
    if (strlen(directory) > HONE_PATH_MAX / 2)
        return error_set(HONE_EINVAL, "key directory %.60s...: path too long", directory);
    bool is_new = !file_is_directory(directory);
    int rc = file_make_directories(directory);
    if (rc == 0 && is_new && chmod(directory, 0700) < 0)
        rc = error_errno("chmod %s", directory);
    if (rc == 0)
        rc = check_directory(directory);
    if (rc == 0 && file_exists(in_directory(path, directory, "allowed")))
        rc = error_set(HONE_EBUSY, "%s has keys already: --list shows them, --add NAME makes more",
                       directory);
    for (size_t i = 0; rc == 0 && i < sizeof names / sizeof *names; i++) {
        rc = make_pair(&pair, directory, names[i]);
        if (rc == 0 && pair.role == HONE__ROLE__ROLE_CURRICULUM) {
            snprintf(line, sizeof line, "%s\n", pair.public_key);
            rc = write_new(in_directory(path, directory, "hub.public"), 0644, line);
        } else if (rc == 0) {
            allow(&list, &pair);
        }
        explicit_bzero(&pair, sizeof pair);
    }
    return rc == 0 ? write_allowed(directory, &list) : rc;
}

/* Opens the list of a directory for a change; room for one more. */
static int open_allowed(struct allow_list *list, const char *directory)
{
    char path[HONE_PATH_MAX];
    int rc = check_directory(directory);
    if (rc == 0)
        rc = allow_list_read(list, in_directory(path, directory, "allowed"));
    return rc;
}

int keys_add(const char *directory, const char *name)
{
    struct allow_list list = {0};
    struct key_pair pair = {0};
    Hone__Role role;
    if (!role_of_names(name, &role) || role == HONE__ROLE__ROLE_CURRICULUM)
        return error_set(HONE_EINVAL,
                         "'%.80s' is not a worker's name: learner, actor-NAME, scorer-NAME, or a "
                         "beginning with a star, as in actor-gpu*",
                         name);
    int rc = open_allowed(&list, directory);
    if (rc == 0 && list.count == KEYS_ALLOWED_MAX)
        rc = error_set(HONE_EINVAL, "%s has %d keys: that is the most", directory, list.count);
    if (rc == 0)
        rc = make_pair(&pair, directory, name);
    if (rc == 0) {
        allow(&list, &pair);
        rc = write_allowed(directory, &list);
    }
    explicit_bzero(&pair, sizeof pair);
    allow_list_release(&list);
    return rc;
}

int keys_revoke(const char *directory, const char *name)
{
    struct allow_list list = {0};
    char path[HONE_PATH_MAX];
    int rc = open_allowed(&list, directory), kept = 0;
    for (int i = 0; i < list.count; i++) {
        if (strcmp(list.items[i].names, name) != 0)
            list.items[kept++] = list.items[i];
    }
    if (rc == 0 && kept == list.count)
        rc = error_set(HONE_ENOENT, "no key of %s is for '%.80s': --list shows whom they are for",
                       directory, name);
    list.count = kept;
    if (rc == 0)
        rc = write_allowed(directory, &list);
    /* The pair is worthless now; its file may have been on the worker's machine alone. */
    if (rc == 0 && unlink(pair_path(path, directory, name)) < 0 && errno != ENOENT)
        rc = error_errno("remove %s", path);
    allow_list_release(&list);
    return rc;
}

int keys_list(const char *directory, struct text *out)
{
    struct allow_list list = {0};
    int rc = open_allowed(&list, directory);
    for (int i = 0; i < list.count; i++)
        text_printf(out, "%-8s %-24s %s\n", role_name(list.items[i].role), list.items[i].names,
                    list.items[i].public_key);
    allow_list_release(&list);
    return rc;
}

int allow_list_read(struct allow_list *list, const char *path)
{
    char *text;
    list->items = NULL;
    list->count = 0;
    int rc = read_file(path, 022, "may be written by others", &text);
    if (rc < 0)
        return rc;
    rc = allow_list_parse(list, path, text);
    memory_free(text);
    return rc;
}

static int read_hub_public(struct keys *keys, const char *directory)
{
    char path[HONE_PATH_MAX];
    char *text;
    in_directory(path, directory, "hub.public");
    int rc = read_file(path, 022, "may be written by others", &text);
    if (rc < 0)
        return rc;
    text[strcspn(text, "\n")] = '\0';
    if (is_key(text))
        memcpy(keys->hub_public, text, KEY_SIZE);
    else
        rc = error_set(HONE_EFORMAT, "%s is not a public key", path);
    memory_free(text);
    return rc;
}

/* The worker's own file, else its role's. */
static int read_pair(struct keys *keys, const char *directory, const char *worker)
{
    char path[HONE_PATH_MAX], shared[HONE_PATH_MAX], role[KEY_NAMES_SIZE];
    char *text;
    pair_path(path, directory, worker);
    snprintf(role, sizeof role, "%.*s-*", (int)strcspn(worker, "-"), worker);
    pair_path(shared, directory, role);
    if (!file_exists(path) && !file_exists(shared))
        return error_set(HONE_ENOENT,
                         "%s has neither %s nor %s: `hone keys DIR --add %s` makes one", directory,
                         path, shared, worker);
    if (!file_exists(path))
        snprintf(path, sizeof path, "%s", shared);
    int rc = read_file(path, 077, "may be read by others", &text);
    if (rc < 0)
        return rc;
    rc = key_pair_parse(&keys->own, path, text);
    explicit_bzero(text, strlen(text));
    memory_free(text);
    if (rc == 0 && !key_names_match(keys->own.names, worker))
        rc = error_set(HONE_EINVAL, "%s is for %s, not for %s", path, keys->own.names, worker);
    return rc;
}

int keys_load(struct keys *keys, const char *directory, const char *worker)
{
    Hone__Role role;
    memset(keys, 0, sizeof *keys);
    if (!role_of_names(worker, &role) || strchr(worker, '*'))
        return error_set(HONE_EINVAL,
                         "'%.80s' cannot be the name of a worker with keys: learner, actor-NAME or "
                         "scorer-NAME",
                         worker);
    int rc = check_directory(directory);
    if (rc == 0)
        rc = read_pair(keys, directory, worker);
    if (rc == 0)
        rc = read_hub_public(keys, directory);
    if (rc == 0 && file_exists(in_directory(keys->allowed_path, directory, "allowed")))
        return 0;
    keys->allowed_path[0] = '\0';
    if (rc < 0)
        keys_clear(keys);
    return rc;
}

void keys_clear(struct keys *keys)
{
    explicit_bzero(keys, sizeof *keys);
}
