#include "infra/wire/endpoint.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "infra/base/error.h"
#include "infra/base/text.h"

#define IPC    "ipc://"
#define INPROC "inproc://"
#define TCP    "tcp://"

static bool is_host_char(char c)
{
    return isalnum((unsigned char)c) || c == '.' || c == '-' || c == '_';
}

/* The characters of HOST: a name or a numeric address; in brackets also colons and a %zone. */
static bool is_host(const char *host, size_t length, bool *is_ipv6)
{
    *is_ipv6 = length > 2 && host[0] == '[' && host[length - 1] == ']';
    if (length == 0)
        return false;
    if (length == 1 && host[0] == '*')
        return true;
    for (size_t i = *is_ipv6; i < length - *is_ipv6; i++) {
        if (!is_host_char(host[i]) && !(*is_ipv6 && (host[i] == ':' || host[i] == '%')))
            return false;
    }
    return true;
}

/* A number up to 65535, or *: the system chooses. */
static bool is_port(const char *port)
{
    size_t digits = strspn(port, "0123456789");
    if (strcmp(port, "*") == 0)
        return true;
    return digits > 0 && digits <= 5 && port[digits] == '\0' && atoi(port) <= 65535;
}

static int parse_tcp(struct endpoint *endpoint, const char *text)
{
    const char *hash = strchr(text, '#');
    size_t length = hash ? (size_t)(hash - text) : strlen(text);
    if (hash && strlen(hash + 1) != ENDPOINT_KEY_CHARS)
        return error_set(HONE_EINVAL, "endpoint %.*s has a key of %zu characters, not %d",
                         (int)length, text, strlen(hash + 1), ENDPOINT_KEY_CHARS);
    if (hash)
        snprintf(endpoint->key, sizeof endpoint->key, "%s", hash + 1);
    endpoint->address[length] = '\0';
    char *host = endpoint->address + strlen(TCP);
    char *colon = strrchr(host, ':');
    if (!colon || !is_port(colon + 1))
        return error_set(HONE_EINVAL, "endpoint %s has no port: write tcp://HOST:PORT",
                         endpoint->address);
    if (!is_host(host, (size_t)(colon - host), &endpoint->is_ipv6))
        return error_set(HONE_EINVAL, "endpoint %s has no host: write tcp://HOST:PORT",
                         endpoint->address);
    *colon = '\0';
    endpoint->is_wildcard =
        strcmp(host, "*") == 0 || strcmp(host, "0.0.0.0") == 0 || strcmp(host, "[::]") == 0;
    *colon = ':';
    /* libzmq takes no names to listen at, and this one is asked for often. */
    if (text_starts_with(host, "localhost:")) {
        char port[8];
        snprintf(port, sizeof port, "%s", colon + 1);
        snprintf(endpoint->address, sizeof endpoint->address, TCP "127.0.0.1:%s", port);
    }
    return 0;
}

int endpoint_parse(struct endpoint *endpoint, const char *text)
{
    struct sockaddr_un address;
    memset(endpoint, 0, sizeof *endpoint);
    if (strlen(text) >= ENDPOINT_MAX)
        return error_set(HONE_EINVAL, "endpoint longer than %d bytes: %.60s...", ENDPOINT_MAX - 1,
                         text);
    snprintf(endpoint->address, sizeof endpoint->address, "%s", text);
    if (text_starts_with(text, TCP)) {
        endpoint->kind = ENDPOINT_TCP;
        return parse_tcp(endpoint, text);
    }
    if (text_starts_with(text, IPC)) {
        const char *path = text + strlen(IPC);
        endpoint->kind = ENDPOINT_IPC;
        if (path[0] == '\0' || path[0] == '@' || strlen(path) >= sizeof address.sun_path)
            return error_set(HONE_EINVAL, "endpoint %s: a socket path has 1 to %zu bytes", text,
                             sizeof address.sun_path - 1);
        return 0;
    }
    endpoint->kind = ENDPOINT_INPROC;
    if (text_starts_with(text, INPROC) && text[strlen(INPROC)] != '\0')
        return 0;
    return error_set(HONE_EINVAL, "endpoint %s is not ipc://PATH, inproc://NAME or tcp://HOST:PORT",
                     text);
}

int endpoint_choose(struct endpoint *endpoint, const char *list, bool is_remote)
{
    if (!strchr(list, ' '))
        return endpoint_parse(endpoint, list);
    for (const char *at = list; *at; at += strspn(at, " ")) {
        char one[ENDPOINT_MAX];
        size_t length = strcspn(at, " ");
        snprintf(one, sizeof one, "%.*s", (int)length, at);
        int rc = length < sizeof one ? endpoint_parse(endpoint, one)
                                     : error_set(HONE_EINVAL, "endpoint too long: %.60s...", at);
        if (rc < 0)
            return rc;
        if ((endpoint->kind == ENDPOINT_TCP) == is_remote)
            return 0;
        at += length;
    }
    return error_set(HONE_EINVAL, "none of the endpoints %s can be reached from %s", list,
                     is_remote ? "another machine: it must also listen on tcp" : "this machine");
}

int endpoint_check_directory(const struct endpoint *endpoint)
{
    char directory[ENDPOINT_MAX];
    struct stat status;
    if (endpoint->kind != ENDPOINT_IPC)
        return 0;
    snprintf(directory, sizeof directory, "%s", endpoint->address + strlen(IPC));
    char *slash = strrchr(directory, '/');
    if (slash == directory)
        slash++;
    if (slash)
        *slash = '\0';
    if (stat(slash ? directory : ".", &status) < 0)
        return error_errno("the directory of %s", endpoint->address);
    if (status.st_uid != geteuid())
        return error_set(HONE_EINVAL, "the directory of %s belongs to another user (%u)",
                         endpoint->address, (unsigned)status.st_uid);
    if (status.st_mode & 077)
        return error_set(
            HONE_EINVAL,
            "the directory of %s may be entered by others (mode %03o): whoever reaches "
            "the socket is a worker; chmod 700 it",
            endpoint->address, (unsigned)status.st_mode & 0777);
    return 0;
}

bool endpoint_is_served(const struct endpoint *endpoint)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (endpoint->kind != ENDPOINT_IPC)
        return false;
    snprintf(address.sun_path, sizeof address.sun_path, "%s", endpoint->address + strlen(IPC));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return false;
    int rc = connect(fd, (struct sockaddr *)&address, sizeof address);
    bool served = rc == 0 || errno == EAGAIN || errno == EINPROGRESS;
    close(fd);
    return served;
}
