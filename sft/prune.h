/* Which training rows are left out before SFT: light SFT leaves what the model can do already to
 * the RL that follows (the recipe published for Llama 4 drops more than half, 95 % for its largest
 * model). A pure choice from scores; and the manifest that says what was chosen and why.
 *
 *   loss     the easiest go first: the lowest mean negative log-likelihood per trained token
 *            under a judge, the base checkpoint unless another one is named
 *   progress the least learnable go first: the fall of that number from the judge to a checkpoint
 *            that has learned such rows (reducible loss, Mindermann et al. 2022, arXiv 2206.07137);
 *            little is left to learn of a row that both find easy, or neither
 *   votes    what the judge says of each row when asked, the mean of its votes
 *   random   the control: a draw of (seed, row)
 *
 *  P1  Of each capability the same share goes, rounded down, and at least min_rows stay (all, where
 *      there are fewer): none vanishes.
 *  P2  The same scores give the same choice; ties go by row.
 *  P3  Nothing is deleted: the manifest names every row with its file and line, and taking the
 *      method away trains all of them. */
#ifndef HONE_SFT_PRUNE_H
#define HONE_SFT_PRUNE_H

#include <stdbool.h>
#include <stdint.h>

#include "infra/base/hash.h"

enum prune_method { PRUNE_NONE, PRUNE_LOSS, PRUNE_RANDOM, PRUNE_PROGRESS, PRUNE_VOTES };
enum prune_tag { PRUNE_EASY, PRUNE_MEDIUM, PRUNE_HARD }; /* thirds of all rows by score */

struct prune_options {
    enum prune_method method;
    const char *judge;   /* checkpoint directory; NULL: the base */
    const char *learned; /* progress: the checkpoint after */
    const char *votes;   /* votes: the file (sft/votes.h) */
    double drop_share;   /* 0 .. 1 */
    int64_t min_rows;    /* of a capability, that stay */
    uint64_t seed;
};

struct prune_row {
    const char *file, *capability; /* "" unknown */
    int64_t line;
    double score; /* low: easy */
    enum prune_tag tag;
    bool kept;
};

struct prune_summary {
    int64_t rows, kept, capabilities;
};

/* score[count] of the method random. */
void prune_draw(uint64_t seed, struct prune_row *rows, int64_t count);
/* The draw decides between rows whose scores are equal, rather than where they stand. scores are
 * multiples of `step` or differ by at least it. */
void prune_break_ties(uint64_t seed, double step, struct prune_row *rows, int64_t count);
/* Fills tag and kept from the scores. */
void prune_choose(const struct prune_options *options, struct prune_row *rows, int64_t count,
                  struct prune_summary *summary);

/* What a manifest is of. */
struct prune_identity {
    struct hash data;  /* the rows' tokens and masks */
    struct hash judge; /* its weights, of both with progress, or the votes; zero without one */
};
/* A line with method, share and identity, then a line a row, all JSON; written atomically. */
int prune_manifest_write(const char *path, const struct prune_options *options,
                         const struct prune_identity *identity, const struct prune_row *rows,
                         int64_t count);
/* 1: score, tag and kept of every row are read; 0: there is no such file, or it is of other rows,
 * another judge or other options, which a line of the log says; negative: it cannot be read. */
int prune_manifest_read(const char *path, const struct prune_options *options,
                        const struct prune_identity *identity, struct prune_row *rows,
                        int64_t count);

#endif
