/* Assertions for bugs: checked in every build, never for operating errors or bad input. */
#ifndef HONE_BASE_ASSERT_H
#define HONE_BASE_ASSERT_H

#if defined(__cplusplus) /* a header of kernels, which nvcc compiles */
extern "C" [[noreturn]] void assert_fail(const char *file, int line, const char *condition);
#else
/* Ends the process with file, line and the failed condition on stderr. Never returns. */
_Noreturn void assert_fail(const char *file, int line, const char *condition);
#endif

#define HONE_ASSERT(condition) ((condition) ? (void)0 : assert_fail(__FILE__, __LINE__, #condition))

#endif
