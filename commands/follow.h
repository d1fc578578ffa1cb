/* Shows a worker's progress in this process by following the metrics file that it writes. */
#ifndef HONE_COMMANDS_FOLLOW_H
#define HONE_COMMANDS_FOLLOW_H

#include <stdint.h>

struct follow;

/* metrics_path NULL: only elapsed time. total 0: taken from the records' "total_steps" when they
 * have it. */
struct follow *follow_create(const char *label, const char *metrics_path, int64_t total);
/* Reads what is new; cheap when nothing is. */
void follow_tick(struct follow *follow);
void follow_destroy(struct follow *follow); /* NULL is fine */

#endif
