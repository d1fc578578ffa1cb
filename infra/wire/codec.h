/* Conversion between hone's data vocabulary and its messages. Decoding checks every length and rule
 * (trajectory_validate); a malformed message is HONE_EFORMAT. */
#ifndef HONE_WIRE_CODEC_H
#define HONE_WIRE_CODEC_H

#include "infra/base/text.h"
#include "infra/data/trajectory.h"
#include "infra/telemetry/time_account.h"
#include "infra/wire/hone.pb-c.h"

/* A message built from C structs: owns every array the protobuf struct points to. */
struct wire_trajectory {
    Hone__Trajectory message;
    void *storage; /* released by wire_trajectory_release */
};
void wire_trajectory_build(struct wire_trajectory *wire, const struct trajectory *trajectory);
void wire_trajectory_release(struct wire_trajectory *wire);
int wire_trajectory_read(const Hone__Trajectory *message, struct trajectory *trajectory);

void wire_sampling_build(Hone__Sampling *message, const struct sampling *sampling);
int wire_sampling_read(const Hone__Sampling *message, struct sampling *sampling);

struct wire_reward {
    Hone__Reward message;
    Hone__RewardPart parts[REWARD_PARTS_MAX];
    Hone__RewardPart *pointers[REWARD_PARTS_MAX];
};
void wire_reward_build(struct wire_reward *wire, const struct reward *reward);
int wire_reward_read(const Hone__Reward *message, struct reward *reward);

/* Where a process's time went, as its heartbeat tells it. */
struct wire_time {
    Hone__TimeSpent items[TIME_ACTIVITIES_MAX];
    Hone__TimeSpent *pointers[TIME_ACTIVITIES_MAX];
};
/* wire outlives the message. */
void wire_time_build(struct wire_time *wire, const struct time_account *account,
                     Hone__Heartbeat *beat);

/* Serialised bytes of any message, for the log. */
void wire_pack(const ProtobufCMessage *message, struct text *out);

#endif
