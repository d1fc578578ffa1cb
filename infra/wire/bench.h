/* What authentication costs: one stream of messages, DEALER to ROUTER, over ipc, plain tcp and tcp
 * with CURVE on this machine. Bare libzmq with hone's options for its sockets: encoding is the same
 * whatever the transport. */
#ifndef HONE_WIRE_BENCH_H
#define HONE_WIRE_BENCH_H

#include <stdio.h>

/* Rounds are taken in turns, so that a busy machine is busy for all; medians of `rounds`. */
int wire_bench(FILE *out, int rounds);

#endif
