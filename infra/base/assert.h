/* Assertions for bugs: checked in every build, never for operating errors or bad input. */
#ifndef HONE_BASE_ASSERT_H
#define HONE_BASE_ASSERT_H

/* Ends the process with file, line and the failed condition on stderr. Never returns. */
_Noreturn void assert_fail(const char *file, int line, const char *condition);

#define HONE_ASSERT(condition) ((condition) ? (void)0 : assert_fail(__FILE__, __LINE__, #condition))

#endif
