/* Final answers written in LaTeX: taking them out of \boxed{...} and comparing them.
 *
 *   M1  The answer is the content of the last \boxed{...} or \fbox{...}, braces counted (escaped
 *       braces aside); "\boxed 7" ends at the next $ or at the end.
 *   M2  Two answers are equal when they are the same after normalisation (spacing, \left \right,
 *       dfrac and tfrac, degrees, $, %, trailing units in \text, thousands separators, frac and
 *       sqrt without braces, "x =" in front), or when both are rational numbers of the same value.
 *   M3  Nothing is evaluated beyond rational numbers: 2\sqrt{8} and 4\sqrt{2} are different here.
 *
 * No state; any thread. */
#ifndef HONE_REWARD_MATH_ANSWER_H
#define HONE_REWARD_MATH_ANSWER_H

#include <stdbool.h>
#include <stddef.h>

#include "infra/base/text.h"

/* Appends the content of the last box (M1). false: there is none, or it never closes. */
bool math_answer_boxed(const char *text, struct text *out);
/* Appends the normal form (M2). */
void math_answer_normalise(const char *answer, struct text *out);
bool math_answer_equal(const char *a, const char *b);

#endif
