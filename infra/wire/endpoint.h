/* Where a socket listens or dials, as text:
 *
 *   ipc://PATH                 PATH lies in a directory of mode 0700 that this user owns
 *   inproc://NAME
 *   tcp://HOST:PORT[#KEY]      KEY: the server's public CURVE key; without it the hub's
 *
 * To listen, HOST is a numeric address of this machine, localhost, or *; [..] around IPv6. To dial,
 * it may be a name. A server that listens in several places names them all, separated by spaces. */
#ifndef HONE_WIRE_ENDPOINT_H
#define HONE_WIRE_ENDPOINT_H

#include <stdbool.h>
#include <stddef.h>

#define ENDPOINT_MAX       256 /* with the key, and of a list of endpoints */
#define ENDPOINT_KEY_CHARS 40  /* Z85 of 32 bytes */

enum endpoint_kind { ENDPOINT_IPC, ENDPOINT_INPROC, ENDPOINT_TCP };

struct endpoint {
    enum endpoint_kind kind;
    char address[ENDPOINT_MAX];       /* as libzmq wants it: no key */
    char key[ENDPOINT_KEY_CHARS + 1]; /* "" none */
    bool is_ipv6;
    bool is_wildcard; /* all addresses of this machine: nobody can dial that */
};

/* HONE_EINVAL with what is wrong. */
int endpoint_parse(struct endpoint *endpoint, const char *text);
/* The one endpoint of a list that a client dials: tcp when it comes from another machine, the first
 * of the others when it does not. A list of one is that one. */
int endpoint_choose(struct endpoint *endpoint, const char *list, bool is_remote);
/* An ipc socket lives in a directory that this user owns and nobody else may enter. */
int endpoint_check_directory(const struct endpoint *endpoint);
/* Is somebody listening at this ipc path? libzmq would silently take it away from its owner. */
bool endpoint_is_served(const struct endpoint *endpoint);

#endif
