/* The hub's tables back from the log, after a restart. */
#ifndef HONE_CURRICULUM_RECOVERY_H
#define HONE_CURRICULUM_RECOVERY_H

#include "curriculum/hub.h"

/* Fills the tables from the log; an empty log leaves them empty. HONE_ECORRUPT names the record
 * that contradicts the others. */
int hub_recover(struct curriculum_stage *hub);

#endif
