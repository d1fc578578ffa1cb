/* Process log: one line per event, "HH:MM:SS.mmm LEVEL role: text", to stderr and, once opened, a
 * file. Any thread may log. Progress bars live in infra/telemetry/progress.h, not here. */
#ifndef HONE_BASE_LOG_H
#define HONE_BASE_LOG_H

enum log_level { LOG_LEVEL_DEBUG, LOG_LEVEL_INFO, LOG_LEVEL_WARN, LOG_LEVEL_ERROR };

void log_set_role(const char *role);      /* copied; e.g. "actor-0" */
void log_set_level(enum log_level level); /* default info; HONE_LOG=debug|info|warn|error */
void log_set_stderr(int enabled);         /* default on; workers under `hone run` turn it off */
int log_open_file(const char *path);      /* appends; creates; 0 or negative */
void log_close_file(void);

void log_debug(const char *format, ...) __attribute__((format(printf, 1, 2)));
void log_info(const char *format, ...) __attribute__((format(printf, 1, 2)));
void log_warn(const char *format, ...) __attribute__((format(printf, 1, 2)));
void log_error(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
