/* The YAML that recipes may use, read into a tree of nodes that know where they stand.
 *
 * libyaml's event interface is used; its document loader builds aliases and has no limits. What is
 * refused, each with its place: aliases, anchors, tags, merge keys, duplicate keys, keys that are
 * not scalars, several documents, and more than the limits below. Scalars stay text: the field
 * tables decide what is a number.
 *
 * The caller owns the tree (yaml_tree_free); `source` is borrowed by every node's place. */
#ifndef HONE_CONFIG_YAML_H
#define HONE_CONFIG_YAML_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "infra/config/problem.h"

#define YAML_BYTES_MAX   (256 * 1024)
#define YAML_DEPTH_MAX   32
#define YAML_ENTRIES_MAX 4096 /* of one list or table */

enum yaml_kind { YAML_SCALAR, YAML_LIST, YAML_TABLE };

struct yaml_node {
    enum yaml_kind kind;
    bool ignored; /* a problem was reported for it: readers pass over it */
    struct source_place place;
    char *key; /* of an entry of a table; else NULL */
    struct source_place key_place;
    char *text;  /* YAML_SCALAR */
    bool quoted; /* YAML_SCALAR: in quotes or a block, so never a number */
    struct yaml_node **children;
    int32_t count, capacity;
};

/* The tree of a document; an empty document is an empty table. NULL when the problems leave no tree
 * worth reading: broken syntax or a limit passed. */
struct yaml_node *yaml_tree_read(const char *source, const char *data, size_t bytes,
                                 struct problems *problems);
void yaml_tree_free(struct yaml_node *node); /* NULL is fine */

struct yaml_node *yaml_node_create(enum yaml_kind kind, const struct source_place *place);
void yaml_node_append(struct yaml_node *parent, struct yaml_node *child); /* takes child */
/* The entry of a table, or NULL. */
struct yaml_node *yaml_node_get(const struct yaml_node *table, const char *key);

#endif
