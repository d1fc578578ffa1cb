/* How hard a judge says each row of a dataset is: a file of votes, written by whoever asked the
 * judge (commands/measure/critique.h), read where rows are pruned.
 *
 * The first line says who judged what, the others have a row each: {"row": 0, "easy": 3, "medium":
 * 1, "hard": 0, "unread": 1}. */
#ifndef HONE_SFT_VOTES_H
#define HONE_SFT_VOTES_H

#include <stdbool.h>
#include <stdint.h>

#include "infra/base/hash.h"

enum vote { VOTE_EASY, VOTE_MEDIUM, VOTE_HARD, VOTE_KINDS };

struct row_votes {
    int32_t counts[VOTE_KINDS];
    int32_t unread; /* answers that say none of it */
};

/* The first of the words easy, medium and hard in an answer, in any case, standing alone; -1: none.
 */
int vote_parse(const char *answer);
/* Mean of the votes as 0, 1, 2; 1 when there is none. */
double votes_score(const struct row_votes *votes);

/* about: a JSON object in one line. */
int votes_write(const char *path, const char *about, const struct row_votes *rows, int64_t count);
/* Whether the file is there, whole, and about just that. */
bool votes_are_about(const char *path, const char *about, int64_t count);
/* content: of the whole file. An error names the line. */
int votes_read(const char *path, struct row_votes *rows, int64_t count, struct hash *content);

#endif
