/* What the stage holds of one trajectory, and how it moves:
 *
 *   ScoreRequest -> QUEUED --scored--> DONE (sent, kept, sent again) --ScoreAck--> forgotten, one
 * credit back
 *
 * After a Welcome the hub knows nothing of our credit: everything DONE is sent again and the room
 * that is left is granted anew. */
#include "reward/scorer_stage.h"

#include <string.h>
#include <unistd.h>

#include "infra/base/assert.h"
#include "infra/base/error.h"
#include "infra/base/fault.h"
#include "infra/base/hash.h"
#include "infra/base/log.h"
#include "infra/base/memory.h"
#include "infra/wire/codec.h"
#include "infra/wire/envelope.h"

#define HEARTBEAT_MS 1000
#define HUB_SILENT_MS                                                                              \
    3000 /* something was sent and nothing came back for this long: say Hello again */
#define RESEND_MS 5000
#define IDLE_MS                                                                                    \
    10000           /* without work: credit may have been lost with a connection that came back    \
                     */
#define BATCH_MAX 8 /* scored between two looks at the wire */
#define OVERCOMMIT                                                                                 \
    4 /* requests accepted beyond the credit, as a factor: a restarted hub forgets                 \
       */

enum work_state { WORK_FREE, WORK_QUEUED, WORK_DONE };

struct work {
    enum work_state state;
    uint64_t trajectory_id, attempt, prompt_id, group_id;
    uint64_t arrival; /* orders the queue */
    int32_t *tokens;
    int32_t token_count, prompt_count;
    enum finish_reason finish;
    int64_t policy_version;
    struct reward reward;
    int64_t elapsed_ms;
    int64_t sent_ms; /* 0: not yet */
};

/* Where a scorer's time goes. */
enum scorer_activity { WAIT_HUB, WAIT_REQUESTS, SCORE, EXCHANGE };
static const char *const activity_names[] = {"wait_hub", "wait_requests", "score", "exchange",
                                             NULL};

struct scorer_stage {
    struct scorer_options options;
    struct reward_set *rewards;
    struct clock *clock;
    struct wire_client *client;
    uint64_t incarnation, arrivals;
    bool welcomed, stopping;
    int32_t credit_owed;       /* to be granted with the next send */
    int64_t hello_ms, beat_ms; /* when last sent; 0: not yet */
    int64_t work_ms;           /* when a request came last */
    int64_t asked_ms;          /* oldest send that nothing answered; 0: none */
    int64_t idle_since_ms;
    int64_t busy_ms; /* scoring since the last heartbeat */
    struct time_account time;
    struct work *works;
    int32_t capacity;
    struct text prompts[BATCH_MAX], completions[BATCH_MAX];
};

int scorer_stage_create(struct scorer_stage **stage, const struct scorer_options *options,
                        struct reward_set *rewards, struct wire_context *context,
                        struct clock *clock)
{
    *stage = NULL;
    if (options->credits < 1)
        return error_set(HONE_EINVAL, "a scorer needs at least one credit, not %d",
                         options->credits);
    struct scorer_stage *made = MEMORY_NEW(struct scorer_stage);
    made->options = *options;
    made->rewards = rewards;
    made->clock = clock;
    made->capacity = options->credits * OVERCOMMIT;
    made->works = MEMORY_ARRAY(struct work, made->capacity);
    made->idle_since_ms = clock_unix_ms(clock);
    time_account_start(&made->time, activity_names, clock_now_ns(clock));
    int64_t identity[3] = {getpid(), clock_unix_ms(clock), (int64_t)(uintptr_t)made};
    made->incarnation = hash_u64(identity, sizeof identity);
    for (int i = 0; i < BATCH_MAX; i++) {
        text_init(&made->prompts[i]);
        text_init(&made->completions[i]);
    }
    int rc = wire_client_create(&made->client, context, options->hub_endpoint, options->worker);
    if (rc < 0) {
        scorer_stage_destroy(made);
        return rc;
    }
    *stage = made;
    return 0;
}

void scorer_stage_destroy(struct scorer_stage *stage)
{
    if (stage == NULL)
        return;
    if (stage->client != NULL)
        wire_client_destroy(stage->client);
    for (int32_t i = 0; i < stage->capacity; i++)
        memory_free(stage->works[i].tokens);
    for (int i = 0; i < BATCH_MAX; i++) {
        text_release(&stage->prompts[i]);
        text_release(&stage->completions[i]);
    }
    memory_free(stage->works);
    memory_free(stage);
}

static void spend(struct scorer_stage *stage, enum scorer_activity activity)
{
    time_account_enter(&stage->time, activity, clock_now_ns(stage->clock));
}

/* false: the queue is full or nobody listens yet; the caller tries again later. */
static bool send_envelope(struct scorer_stage *stage, Hone__Envelope *envelope)
{
    if (wire_client_send(stage->client, envelope, NULL, 0) < 0)
        return false;
    if (stage->asked_ms == 0)
        stage->asked_ms = clock_now_ms(stage->clock);
    return true;
}

static void send_hello(struct scorer_stage *stage)
{
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__Hello hello = HONE__HELLO__INIT;
    hello.protocol = WIRE_PROTOCOL;
    hello.role = HONE__ROLE__ROLE_SCORER;
    hello.worker = (char *)(uintptr_t)stage->options.worker;
    hello.recipe_hash = (char *)(uintptr_t)stage->options.recipe_hash;
    hello.pid = getpid();
    hello.incarnation = stage->incarnation;
    envelope.kind = HONE__KIND__KIND_HELLO;
    envelope.hello = &hello;
    stage->asked_ms = 0;
    /* Nobody may listen yet: then the next tick tries again. */
    stage->hello_ms = send_envelope(stage, &envelope) ? clock_now_ms(stage->clock) : 0;
}

static void send_heartbeat(struct scorer_stage *stage, int64_t now)
{
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__Heartbeat beat = HONE__HEARTBEAT__INIT;
    int64_t since = stage->beat_ms == 0 ? HEARTBEAT_MS : now - stage->beat_ms;
    char waiting[] = "score requests from the hub", busy[] = "";
    struct wire_time time;
    spend(stage, (enum scorer_activity)stage->time.activity);
    wire_time_build(&time, &stage->time, &beat);
    beat.waiting_for = stage->idle_since_ms != 0 ? waiting : busy;
    beat.has_waiting_since_ms = stage->idle_since_ms != 0;
    beat.waiting_since_ms = stage->idle_since_ms;
    beat.has_busy_fraction = 1;
    beat.busy_fraction = since > 0 ? (double)stage->busy_ms / (double)since : 0;
    envelope.kind = HONE__KIND__KIND_HEARTBEAT;
    envelope.heartbeat = &beat;
    stage->beat_ms = now;
    stage->busy_ms = 0;
    send_envelope(stage, &envelope);
}

static void send_credit(struct scorer_stage *stage)
{
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__ScoreCredit credit = HONE__SCORE_CREDIT__INIT;
    credit.count = stage->credit_owed;
    envelope.kind = HONE__KIND__KIND_SCORE_CREDIT;
    envelope.score_credit = &credit;
    if (send_envelope(stage, &envelope))
        stage->credit_owed = 0;
}

static void send_result(struct scorer_stage *stage, struct work *work)
{
    Hone__Envelope envelope = HONE__ENVELOPE__INIT;
    Hone__ScoreResult result = HONE__SCORE_RESULT__INIT;
    struct wire_reward reward;
    wire_reward_build(&reward, &work->reward);
    result.trajectory_id = work->trajectory_id;
    result.attempt = work->attempt;
    result.reward = &reward.message;
    result.has_elapsed_ms = 1;
    result.elapsed_ms = work->elapsed_ms;
    envelope.kind = HONE__KIND__KIND_SCORE_RESULT;
    envelope.score_result = &result;
    if (send_envelope(stage, &envelope))
        work->sent_ms = clock_now_ms(stage->clock);
    fault_point("score.sent");
}

static struct work *find_work(struct scorer_stage *stage, uint64_t trajectory_id)
{
    for (int32_t i = 0; i < stage->capacity; i++)
        if (stage->works[i].state != WORK_FREE && stage->works[i].trajectory_id == trajectory_id)
            return &stage->works[i];
    return NULL;
}

static struct work *free_work(struct scorer_stage *stage)
{
    for (int32_t i = 0; i < stage->capacity; i++)
        if (stage->works[i].state == WORK_FREE)
            return &stage->works[i];
    return NULL;
}

static void forget(struct work *work)
{
    memory_free(work->tokens);
    memset(work, 0, sizeof *work);
}

static void on_welcome(struct scorer_stage *stage)
{
    int32_t held = 0;
    stage->welcomed = true;
    for (int32_t i = 0; i < stage->capacity; i++) {
        held += stage->works[i].state != WORK_FREE;
        stage->works[i].sent_ms = 0;
    }
    stage->credit_owed = held < stage->options.credits ? stage->options.credits - held : 0;
}

static void on_request(struct scorer_stage *stage, const Hone__ScoreRequest *request)
{
    size_t tokens = request->tokens.len / sizeof(int32_t);
    struct work *work = find_work(stage, request->trajectory_id);
    if (work != NULL && work->attempt >= request->attempt) {
        work->sent_ms = 0; /* asked again: the answer was lost, or comes */
        return;
    }
    if (request->tokens.len % sizeof(int32_t) != 0 || request->prompt_token_count < 0 ||
        (size_t)request->prompt_token_count > tokens) {
        log_warn("a score request for trajectory %llx is malformed and is left out",
                 (unsigned long long)request->trajectory_id);
        return;
    }
    if (work == NULL)
        work = free_work(stage);
    if (work == NULL) /* the hub counts on its deadline and asks again */
        return;
    forget(work);
    stage->work_ms = clock_now_ms(stage->clock);
    work->state = WORK_QUEUED;
    work->trajectory_id = request->trajectory_id;
    work->attempt = request->attempt;
    work->prompt_id = request->prompt_id;
    work->group_id = request->group_id;
    work->arrival = stage->arrivals++;
    work->tokens = memory_dup(request->tokens.data, request->tokens.len);
    work->token_count = (int32_t)tokens;
    work->prompt_count = request->prompt_token_count;
    work->finish = (enum finish_reason)request->finish;
    work->policy_version = request->has_policy_version ? request->policy_version : -1;
    stage->idle_since_ms = 0;
}

static int on_message(struct scorer_stage *stage, const Hone__Envelope *envelope)
{
    struct work *work;
    switch ((int)envelope->kind) {
    case HONE__KIND__KIND_WELCOME:
        on_welcome(stage);
        break;
    case HONE__KIND__KIND_REFUSED:
        return error_set(HONE_EPEER, "the hub at %s refuses %s: %s", stage->options.hub_endpoint,
                         stage->options.worker, envelope->refused->reason);
    case HONE__KIND__KIND_SCORE_REQUEST:
        on_request(stage, envelope->score_request);
        break;
    case HONE__KIND__KIND_SCORE_ACK:
        work = find_work(stage, envelope->score_ack->trajectory_id);
        if (work != NULL && work->state == WORK_DONE) {
            forget(work);
            stage->credit_owed++;
        }
        break;
    case HONE__KIND__KIND_STOP:
        stage->stopping = true;
        break;
    case HONE__KIND__KIND_HEARTBEAT:
        if (envelope_asks_for_hello(envelope))
            stage->hello_ms = 0;
        break;
    default: /* notices for other roles */
        break;
    }
    return 0;
}

static int receive(struct scorer_stage *stage)
{
    struct wire_message message;
    int got = 0, rc = 0;
    for (int i = 0; i < stage->capacity + 16 && !stage->stopping; i++) {
        if ((got = wire_client_receive(stage->client, &message)) <= 0)
            return got;
        stage->asked_ms = 0;
        rc = on_message(stage, message.envelope);
        wire_message_release(&message);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static const char *or_empty(const char *text)
{
    return text != NULL ? text : "";
}

/* false: the prompt or the text of this work cannot be had. */
static bool fill_input(struct scorer_stage *stage, const struct work *work, int slot,
                       struct reward_input *input)
{
    struct text *completion = &stage->completions[slot];
    if (work->prompt_id >= (uint64_t)stage->options.prompt_count) {
        log_error("a score request names prompt %llu of %lld", (unsigned long long)work->prompt_id,
                  (long long)stage->options.prompt_count);
        return false;
    }
    const struct prompt *prompt = &stage->options.prompts[work->prompt_id];
    text_clear(completion);
    if (tokenizer_decode(stage->options.tokenizer, work->tokens + work->prompt_count,
                         work->token_count - work->prompt_count, true, completion) < 0) {
        log_error("decoding trajectory %llx: %s", (unsigned long long)work->trajectory_id,
                  error_message());
        return false;
    }
    *input = (struct reward_input){
        .id = work->trajectory_id,
        .prompt = or_empty(prompt->text),
        .completion = completion->data,
        .ground_truth = or_empty(prompt->ground_truth),
        .data_source = or_empty(prompt->data_source),
        .capability = or_empty(prompt->capability),
        .extra_json = or_empty(prompt->extra_json),
        .prompt_ids = work->tokens,
        .completion_ids = work->tokens + work->prompt_count,
        .prompt_id_count = work->prompt_count,
        .completion_id_count = work->token_count - work->prompt_count,
        .finish = work->finish,
        .policy_version = work->policy_version,
        .group_id = work->group_id,
        .longest_tokens = stage->options.longest_tokens,
        .overlong_buffer_tokens = stage->options.overlong_buffer_tokens,
    };
    return true;
}

static struct work *oldest_queued(struct scorer_stage *stage)
{
    struct work *oldest = NULL;
    for (int32_t i = 0; i < stage->capacity; i++) {
        struct work *work = &stage->works[i];
        if (work->state == WORK_QUEUED && (oldest == NULL || work->arrival < oldest->arrival))
            oldest = work;
    }
    return oldest;
}

static void finish_work(struct work *work, const struct reward *reward, int64_t elapsed_ms)
{
    work->state = WORK_DONE;
    work->reward = *reward;
    work->elapsed_ms = elapsed_ms;
    work->sent_ms = 0;
}

static bool score_batch(struct scorer_stage *stage)
{
    static const struct reward broken = {.status = REWARD_ERROR};
    struct reward_input inputs[BATCH_MAX];
    struct reward rewards[BATCH_MAX];
    struct work *batch[BATCH_MAX], *work;
    int count = 0;
    while (count < BATCH_MAX && (work = oldest_queued(stage)) != NULL) {
        work->state = WORK_DONE; /* taken: its reward is filled in below */
        if (fill_input(stage, work, count, &inputs[count]))
            batch[count++] = work;
        else
            finish_work(work, &broken, 0);
    }
    if (count == 0)
        return false;
    int64_t start = clock_now_ms(stage->clock);
    spend(stage, SCORE);
    reward_set_score(stage->rewards, inputs, count, rewards);
    int64_t elapsed = clock_now_ms(stage->clock) - start;
    spend(stage, EXCHANGE);
    stage->busy_ms += elapsed;
    for (int i = 0; i < count; i++)
        finish_work(batch[i], &rewards[i], elapsed);
    return true;
}

static void send_due(struct scorer_stage *stage)
{
    int64_t now = clock_now_ms(stage->clock);
    bool silent = stage->asked_ms != 0 && now - stage->asked_ms > HUB_SILENT_MS;
    bool idle =
        stage->welcomed && now - stage->work_ms > IDLE_MS && now - stage->hello_ms > IDLE_MS;
    if (stage->hello_ms == 0 || silent || idle) {
        if (silent)
            log_warn("nothing heard from the hub for %lld ms: saying hello again",
                     (long long)(now - stage->asked_ms));
        stage->welcomed = false;
        send_hello(stage);
    }
    if (!stage->welcomed)
        return;
    if (stage->beat_ms == 0 || now - stage->beat_ms >= HEARTBEAT_MS)
        send_heartbeat(stage, now);
    for (int32_t i = 0; i < stage->capacity; i++) {
        struct work *work = &stage->works[i];
        if (work->state == WORK_DONE && (work->sent_ms == 0 || now - work->sent_ms > RESEND_MS))
            send_result(stage, work);
    }
    if (stage->credit_owed > 0)
        send_credit(stage);
}

int scorer_stage_tick(void *opaque, struct stage_wait *wait)
{
    struct scorer_stage *stage = opaque;
    memset(wait, 0, sizeof *wait);
    spend(stage, EXCHANGE);
    int rc = receive(stage);
    if (rc < 0)
        return rc;
    if (stage->stopping) {
        send_heartbeat(stage, clock_now_ms(stage->clock)); /* the last of its time */
        wait->finished = true;
        return 0;
    }
    send_due(stage);
    if (score_batch(stage)) {
        send_due(stage); /* answers leave before the next batch */
        wait->busy = oldest_queued(stage) != NULL;
    }
    if (!wait->busy && stage->idle_since_ms == 0)
        stage->idle_since_ms = clock_unix_ms(stage->clock);
    if (!wait->busy)
        spend(stage, stage->welcomed ? WAIT_REQUESTS : WAIT_HUB);
    wait->clients[wait->client_count++] = stage->client;
    wait->timeout_ms = HEARTBEAT_MS / 4;
    return 0;
}
