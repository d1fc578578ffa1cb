#include "learner/publisher.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "infra/base/assert.h"
#include "infra/base/error.h"
#include "infra/base/hash.h"
#include "infra/base/log.h"
#include "infra/base/memory.h"
#include "infra/model/checkpoint.h"
#include "infra/train/adapter_snapshot.h"
#include "infra/wire/endpoint.h"

#define SLOTS        3 /* being written, newest, the one before */
#define SLOTS_MAX    6 /* with slow readers and a slow recorder */
#define HASHES_MAX   CHECKPOINT_HASHES_MAX
#define QUEUE_MAX    (SLOTS_MAX + 1)
#define POLL_MS      1000
#define PATIENT_NICE 19                  /* a 68th of the share of a thread that trains */
#define HURRIED_NICE 5                   /* above the process's own */
#define RECORD_BYTES ((size_t)256 << 10) /* hashed at once, by one recorder or the other */

/* What the recorders are to hash: a slot held for them. */
struct record {
    int64_t version;
    struct weight_slot *slot; /* NULL: none */
};

/* The version that is being hashed. The fields below `busy` are its holder's. */
struct recording {
    struct record record;
    bool busy; /* a recorder is at work on it */
    size_t at; /* bytes hashed */
    struct hash_state state;
};

struct publisher {
    struct model *model;
    struct clock *clock;
    struct publisher_options options;
    char endpoint[ENDPOINT_MAX];
    struct weight_publisher *channel;
    struct weight_slots *slots;         /* NULL: versions are copied */
    struct weight_slot *current, *next; /* where the model is and will be */
    size_t value_bytes;                 /* of a version */
    double held_ms;

    /* between threads, under the mutex */
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool stopping;
    struct snapshot queue[QUEUE_MAX];
    int queued;
    struct record records[QUEUE_MAX];
    int recorded; /* in the list */
    struct recording recording;
    int waiters; /* of publisher_wait */
    pthread_cond_t to_record;
    struct weight_publish_report report;
    int channel_error;
    char channel_message[256];
    struct {
        int64_t version; /* -1: none */
        char hex[HASH_HEX_SIZE];
    } hashes[HASHES_MAX];

    /* how the caller wakes the channel thread */
    struct wire_server *bell;
    struct wire_client *ringer;
    pthread_t channel_thread, record_threads[2]; /* patient, hurried */
    bool has_channel_thread, has_record_threads[2];
};

/* ---- snapshots ---- */

static void describe_tensors(const struct model *model, int64_t version, struct snapshot *snapshot)
{
    enum dtype dtype = model_dtype(model);
    int32_t count = model_tensor_count(model);
    *snapshot = (struct snapshot){.version = version, .tensor_count = count};
    snapshot->tensors = MEMORY_ARRAY(struct snapshot_tensor, count);
    for (int32_t i = 0; i < count; i++) {
        const struct model_tensor *tensor = model_tensor_at(model, i);
        struct snapshot_tensor *entry = &snapshot->tensors[i];
        snprintf(entry->name, sizeof entry->name, "%s", tensor->name);
        entry->dtype = dtype;
        entry->rows = tensor->rows;
        entry->columns = tensor->columns;
        entry->offset = snapshot->bytes;
        entry->bytes = (size_t)tensor->count * dtype_bytes(dtype);
        snapshot->bytes += entry->bytes;
    }
}

void snapshot_of_model(const struct model *model, int64_t version, struct snapshot *snapshot)
{
    describe_tensors(model, version, snapshot);
    snapshot->data = MEMORY_ARRAY(unsigned char, snapshot->bytes);
    for (int32_t i = 0; i < snapshot->tensor_count; i++)
        memcpy(snapshot->data + snapshot->tensors[i].offset, model_tensor_values(model, i),
               snapshot->tensors[i].bytes);
}

/* The values are at the start of the image, in canonical order. */
static void snapshot_of_slot(const struct model *model, struct weight_slot *slot, int64_t version,
                             struct snapshot *snapshot)
{
    describe_tensors(model, version, snapshot);
    snapshot->slot = slot;
    snapshot->data = weight_slot_memory(slot);
    snapshot->image = snapshot->data;
    snapshot->image_bytes = model_image_bytes(model_config_of(model), model_dtype(model));
    snapshot->part_count = model_image_part_count(model);
    snapshot->parts = MEMORY_ARRAY(struct snapshot_part, snapshot->part_count);
    snapshot->part_sums = MEMORY_ARRAY(struct checksum, snapshot->part_count);
    for (int32_t i = 0; i < snapshot->part_count; i++) {
        struct model_image_part part = model_image_part_at(model, i);
        snapshot->parts[i] = (struct snapshot_part){(int64_t)part.offset, (int64_t)part.bytes};
    }
}

/* ---- what the log keeps of a version ---- */

static void keep_hash(struct publisher *p, int64_t version, const struct hash *hash)
{
    int at = (int)(version % HASHES_MAX);
    hash_hex(hash, p->hashes[at].hex);
    p->hashes[at].version = version;
}

/* Somebody waits for the hashes, or a newer version does: then idle time may not come by itself. */
static bool is_hurried(const struct publisher *p)
{
    return p->waiters > 0 || p->stopping || p->recorded > (p->recording.record.slot ? 0 : 1);
}

/* The next piece of the version in hand, or of the next one. Called and left with the mutex held.
 */
static void record_piece(struct publisher *p)
{
    struct recording *now = &p->recording;
    if (!now->record.slot) {
        now->record = p->records[0];
        memmove(p->records, p->records + 1, (size_t)--p->recorded * sizeof *p->records);
        now->at = 0;
        hash_begin(&now->state);
    }
    now->busy = true;
    pthread_mutex_unlock(&p->mutex);
    size_t left = p->value_bytes - now->at;
    size_t bytes = left < RECORD_BYTES ? left : RECORD_BYTES;
    struct hash hash;
    hash_update(&now->state, (const char *)weight_slot_memory(now->record.slot) + now->at, bytes);
    now->at += bytes;
    bool whole = now->at == p->value_bytes;
    if (whole) {
        hash_end(&now->state, &hash);
        weight_slot_release(now->record.slot);
    }
    pthread_mutex_lock(&p->mutex);
    now->busy = false;
    if (whole) {
        keep_hash(p, now->record.version, &hash);
        now->record.slot = NULL;
        pthread_cond_broadcast(&p->changed);
    }
    pthread_cond_broadcast(&p->to_record);
}

static void record_while(struct publisher *p, bool patient)
{
    pthread_mutex_lock(&p->mutex);
    while (!p->stopping || p->recorded > 0 || p->recording.record.slot) {
        bool any = p->recorded > 0 || p->recording.record.slot;
        if (any && !p->recording.busy && patient != is_hurried(p))
            record_piece(p);
        else
            pthread_cond_wait(&p->to_record, &p->mutex);
    }
    pthread_cond_broadcast(&p->to_record);
    pthread_mutex_unlock(&p->mutex);
}

/* In time that hardly anybody else wants. A version in three slots can wait for that: until the
 * next one is there, or until a checkpoint needs its hash. A thread may lower its priority and not
 * raise it, so there are two. */
static void *record_patiently(void *context)
{
    (void)setpriority(PRIO_PROCESS, 0, PATIENT_NICE);
    record_while(context, true);
    return NULL;
}

static void *record_hurriedly(void *context)
{
    (void)setpriority(PRIO_PROCESS, 0, getpriority(PRIO_PROCESS, 0) + HURRIED_NICE);
    record_while(context, false);
    return NULL;
}

/* ---- the channel thread ---- */

/* The newest of what was handed over; older ones that nobody has seen are left out. */
static bool take_queued(struct publisher *p, struct snapshot *snapshot, bool *stopping)
{
    pthread_mutex_lock(&p->mutex);
    *stopping = p->stopping;
    bool any = p->queued > 0;
    for (int i = 0; i + 1 < p->queued; i++)
        snapshot_release(&p->queue[i]);
    if (any)
        *snapshot = p->queue[p->queued - 1];
    p->queued = 0;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->mutex);
    return any;
}

static void note_channel(struct publisher *p, int rc)
{
    pthread_mutex_lock(&p->mutex);
    p->report = *weight_publisher_report(p->channel);
    if (rc < 0 && p->channel_error == 0) {
        p->channel_error = rc;
        snprintf(p->channel_message, sizeof p->channel_message, "%s", error_message());
    }
    pthread_mutex_unlock(&p->mutex);
}

static void drain_bell(struct publisher *p)
{
    struct wire_peer from;
    struct wire_message message;
    while (wire_server_receive(p->bell, &from, &message) > 0)
        wire_message_release(&message);
}

static void *channel_main(void *context)
{
    struct publisher *p = context;
    bool stopping = false;
    int rc = 0;
    while (!stopping && rc >= 0) {
        struct snapshot snapshot;
        drain_bell(p);
        bool published = take_queued(p, &snapshot, &stopping);
        if (published)
            weight_publisher_publish(p->channel, &snapshot);
        rc = weight_publisher_tick(p->channel);
        if (published || rc < 0)
            note_channel(p, rc);
        struct wire_server *servers[] = {weight_publisher_socket(p->channel), p->bell};
        if (rc == 0 && !stopping)
            rc = wire_poll(servers, 2, NULL, 0, POLL_MS);
    }
    return NULL;
}

static void ring(struct publisher *p)
{
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__Heartbeat beat = HONE__HEARTBEAT__INIT;
    envelope.kind = HONE__KIND__KIND_HEARTBEAT;
    envelope.heartbeat = &beat;
    if (p->ringer && wire_client_send(p->ringer, &envelope, NULL, 0) < 0)
        log_debug("publisher: %s", error_message()); /* it looks by itself every POLL_MS */
}

/* ---- life cycle ---- */

static int open_bell(struct publisher *p, struct wire_context *context)
{
    char endpoint[64];
    snprintf(endpoint, sizeof endpoint, "inproc://publisher-bell-%p", (void *)p);
    int rc = wire_server_create(&p->bell, context, endpoint);
    return rc < 0 ? rc : wire_client_create(&p->ringer, context, endpoint, "learner");
}

static int start_threads(struct publisher *p, struct wire_context *context)
{
    int rc = open_bell(p, context);
    if (rc < 0)
        return rc;
    p->has_channel_thread = pthread_create(&p->channel_thread, NULL, channel_main, p) == 0;
    void *(*const mains[])(void *) = {record_patiently, record_hurriedly};
    bool all = p->has_channel_thread;
    for (int i = 0; i < 2 && p->slots && all; i++)
        all = p->has_record_threads[i] =
            pthread_create(&p->record_threads[i], NULL, mains[i], p) == 0;
    return all ? 0 : error_set(HONE_ENOMEM, "no thread for publishing weights");
}

static void open_slots(struct publisher *p)
{
    size_t bytes = model_image_bytes(model_config_of(p->model), model_dtype(p->model));
    if (weight_slots_create(&p->slots, bytes, SLOTS, SLOTS_MAX) == 0) {
        log_info("weights: %d slots of %.1f MB of shared memory", SLOTS, (double)bytes * 1e-6);
        return;
    }
    log_warn("weights are copied instead of shared: %s", error_message());
    error_clear();
}

int publisher_create(struct publisher **publisher, struct model *model,
                     struct wire_context *context, struct clock *clock,
                     const struct publisher_options *options)
{
    struct publisher *p = MEMORY_NEW(struct publisher);
    *publisher = NULL;
    p->model = model;
    p->clock = clock;
    p->options = *options;
    p->report.version = -1;
    p->value_bytes = (size_t)model_parameter_count(model) * dtype_bytes(model_dtype(model));
    pthread_mutex_init(&p->mutex, NULL);
    pthread_cond_init(&p->changed, NULL);
    pthread_cond_init(&p->to_record, NULL);
    for (int i = 0; i < HASHES_MAX; i++)
        p->hashes[i].version = -1;
    int rc =
        weight_publisher_create(&p->channel, context, options->endpoint, clock, &options->weights);
    if (rc == 0) {
        snprintf(p->endpoint, sizeof p->endpoint, "%s",
                 wire_server_endpoint(weight_publisher_socket(p->channel)));
        open_slots(p);
    }
    if (rc == 0 && options->threaded)
        rc = start_threads(p, context);
    if (rc < 0)
        publisher_destroy(p);
    else
        *publisher = p;
    return rc;
}

static void stop_threads(struct publisher *p)
{
    pthread_mutex_lock(&p->mutex);
    p->stopping = true;
    pthread_cond_broadcast(&p->changed);
    pthread_cond_broadcast(&p->to_record);
    pthread_mutex_unlock(&p->mutex);
    ring(p);
    if (p->has_channel_thread)
        pthread_join(p->channel_thread, NULL);
    for (int i = 0; i < 2; i++)
        if (p->has_record_threads[i])
            pthread_join(p->record_threads[i], NULL);
}

void publisher_destroy(struct publisher *publisher)
{
    struct publisher *p = publisher;
    if (!p)
        return;
    stop_threads(p);
    for (int i = 0; i < p->queued; i++)
        snapshot_release(&p->queue[i]);
    wire_client_destroy(p->ringer);
    wire_server_destroy(p->bell);
    weight_publisher_destroy(p->channel);
    weight_slot_release(p->current);
    weight_slot_release(p->next);
    weight_slots_destroy(p->slots);
    pthread_cond_destroy(&p->changed);
    pthread_cond_destroy(&p->to_record);
    pthread_mutex_destroy(&p->mutex);
    memory_free(p);
}

/* ---- publishing ---- */

/* The slot that holds the model's version. Only a version that was not written into a slot (the
 * first) is copied. */
static int finish_slot(struct publisher *p)
{
    const void *image = model_image(p->model);
    if (p->next && image == weight_slot_memory(p->next)) {
        weight_slot_release(p->current);
        p->current = p->next;
        p->next = NULL;
        weight_slot_publish(p->current);
    } else if (!p->current || image != weight_slot_memory(p->current)) {
        struct weight_slot *slot = weight_slots_take(p->slots);
        if (!slot)
            return error_prefix("publishing weights");
        memcpy(weight_slot_memory(slot), image,
               model_image_bytes(model_config_of(p->model), model_dtype(p->model)));
        weight_slot_publish(slot);
        weight_slot_release(p->current);
        p->current = slot;
    }
    return 0;
}

static int prepare_next(struct publisher *p)
{
    if (p->next)
        return 0; /* a step that was not applied has left it unused */
    p->next = weight_slots_take(p->slots);
    if (!p->next)
        return error_prefix("publishing weights");
    model_move(p->model, weight_slot_memory(p->next));
    return 0;
}

/* Hands a version to the recorder and the channel, or does their work. */
static void hand_over(struct publisher *p, struct snapshot *snapshot)
{
    struct hash hash;
    bool recorders = p->has_record_threads[0];
    if (!recorders) {
        model_hash(p->model, &hash);
        pthread_mutex_lock(&p->mutex);
        keep_hash(p, snapshot->version, &hash);
        pthread_mutex_unlock(&p->mutex);
    }
    if (!p->has_channel_thread) {
        weight_publisher_publish(p->channel, snapshot);
        p->report = *weight_publisher_report(p->channel);
        return;
    }
    if (recorders)
        weight_slot_hold(snapshot->slot);
    pthread_mutex_lock(&p->mutex);
    while (p->queued == QUEUE_MAX || p->recorded == QUEUE_MAX)
        pthread_cond_wait(&p->changed, &p->mutex);
    if (recorders)
        p->records[p->recorded++] =
            (struct record){.version = snapshot->version, .slot = snapshot->slot};
    pthread_cond_broadcast(&p->to_record);
    p->queue[p->queued++] = *snapshot;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->mutex);
    ring(p);
}

/* The image of every weight stays for those who map it; the adapters go to everybody else. */
static void replace_tensors(const struct publisher *p, struct snapshot *snapshot)
{
    struct snapshot adapters;
    adapter_snapshot_fill(p->options.adapters, p->model, &p->options.base, snapshot->version,
                          &adapters);
    memory_free(snapshot->tensors);
    snapshot->tensors = adapters.tensors;
    snapshot->tensor_count = adapters.tensor_count;
    snapshot->data = adapters.data;
    snapshot->bytes = adapters.bytes;
    snapshot->own_data = true;
}

int publisher_publish(struct publisher *publisher, int64_t version)
{
    struct publisher *p = publisher;
    struct snapshot snapshot;
    int64_t start_ns = clock_now_ns(p->clock);
    int rc = p->slots ? finish_slot(p) : 0;
    if (rc < 0)
        return rc;
    if (p->slots) {
        weight_slot_hold(p->current);
        snapshot_of_slot(p->model, p->current, version, &snapshot);
        if (p->options.adapters)
            replace_tensors(p, &snapshot);
    } else if (p->options.adapters) {
        adapter_snapshot_fill(p->options.adapters, p->model, &p->options.base, version, &snapshot);
    } else {
        snapshot_of_model(p->model, version, &snapshot);
    }
    hand_over(p, &snapshot);
    rc = p->slots ? prepare_next(p) : 0;
    p->held_ms = (double)(clock_now_ns(p->clock) - start_ns) * 1e-6;
    return rc;
}

int publisher_tick(struct publisher *publisher)
{
    struct publisher *p = publisher;
    if (!p->has_channel_thread)
        return weight_publisher_tick(p->channel);
    pthread_mutex_lock(&p->mutex);
    int rc = p->channel_error;
    if (rc < 0)
        error_set(rc, "weight channel: %s", p->channel_message);
    pthread_mutex_unlock(&p->mutex);
    return rc;
}

struct wire_server *publisher_socket(struct publisher *publisher)
{
    return publisher->has_channel_thread ? NULL : weight_publisher_socket(publisher->channel);
}

const char *publisher_endpoint(const struct publisher *publisher)
{
    return publisher->endpoint;
}

bool publisher_hash(struct publisher *publisher, int64_t version, char hex[HASH_HEX_SIZE])
{
    int at = (int)(version % HASHES_MAX);
    pthread_mutex_lock(&publisher->mutex);
    bool known = version >= 0 && publisher->hashes[at].version == version;
    if (known)
        memcpy(hex, publisher->hashes[at].hex, HASH_HEX_SIZE);
    pthread_mutex_unlock(&publisher->mutex);
    return known;
}

void publisher_wait(struct publisher *publisher)
{
    pthread_mutex_lock(&publisher->mutex);
    publisher->waiters++;
    pthread_cond_broadcast(&publisher->to_record);
    while (publisher->recorded > 0 || publisher->recording.record.slot)
        pthread_cond_wait(&publisher->changed, &publisher->mutex);
    publisher->waiters--;
    pthread_mutex_unlock(&publisher->mutex);
}

void publisher_report(struct publisher *publisher, struct publisher_report *report)
{
    pthread_mutex_lock(&publisher->mutex);
    report->channel = publisher->report;
    pthread_mutex_unlock(&publisher->mutex);
    report->held_ms = publisher->held_ms;
}
