#include "commands/measure/critique.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "commands/measure/prompt_sampler.h"
#include "infra/base/error.h"
#include "infra/base/log.h"
#include "infra/base/memory.h"
#include "infra/text/chat.h"
#include "sft/votes.h"

#define SLOTS 64

struct critique {
    const struct prune_settings *settings;
    struct prompt_sampler sampler;
    struct dataset *dataset;
    enum chat_layout layout;
    int64_t *rows;           /* [prompts] of the dataset */
    struct row_votes *votes; /* [rows of the dataset] */
    int64_t unasked;
    struct text answer;
};

void critique_question(const char *question, const char *prompt, const char *completion,
                       struct text *out)
{
    const struct {
        const char *name, *value;
    } parts[] = {{"{prompt}", prompt}, {"{completion}", completion}};
    text_clear(out);
    while (*question != '\0') {
        bool replaced = false;
        for (int i = 0; i < 2 && !replaced; i++) {
            size_t length = strlen(parts[i].name);
            if (strncmp(question, parts[i].name, length) != 0)
                continue;
            text_append(out, parts[i].value);
            question += length;
            replaced = true;
        }
        if (!replaced)
            text_append_char(out, *question++);
    }
}

/* As the judge reads it: a base completes the text, a chat model is asked it. */
static int encode_question(const struct critique *c, const char *text, struct token_list *ids)
{
    if (c->layout == CHAT_PLAIN)
        return tokenizer_encode(c->sampler.tokenizer, text, strlen(text), TOKENIZE_SPECIAL, ids);
    const struct chat_turn turn = {.role = "user", .content = text};
    struct chat_rendering rendering;
    chat_rendering_init(&rendering);
    int rc = chat_render(c->layout, &turn, 1, true, &rendering);
    if (rc == 0)
        rc = chat_encode(&rendering, c->sampler.tokenizer, ids, NULL);
    chat_rendering_release(&rendering);
    return rc;
}

static void add_prompt(struct critique *c, int64_t row, const struct text *text,
                       const struct token_list *ids)
{
    struct prompt_set *set = &c->sampler.set;
    struct prompt *prompt = &set->prompts[set->count];
    *prompt = (struct prompt){.id = (uint64_t)row,
                              .text = memory_strdup(text->data),
                              .tokens = memory_dup(ids->ids, (size_t)ids->count * sizeof *ids->ids),
                              .token_count = ids->count,
                              .ground_truth = memory_strdup(""),
                              .capability = memory_strdup(""),
                              .data_source = memory_strdup(""),
                              .extra_json = memory_strdup("{}")};
    c->rows[set->count++] = row;
}

static int ask_all(struct critique *c, int64_t longest)
{
    int64_t rows = dataset_count(c->dataset);
    struct text text;
    struct token_list ids;
    int rc = 0;
    c->sampler.set.prompts = MEMORY_ARRAY(struct prompt, rows);
    c->rows = MEMORY_ARRAY(int64_t, rows);
    text_init(&text);
    token_list_init(&ids);
    for (int64_t i = 0; i < rows && rc == 0; i++) {
        const struct dataset_row *row = dataset_get(c->dataset, i);
        const char *answer = row->completion != NULL ? row->completion : row->text;
        critique_question(c->settings->question, row->prompt != NULL ? row->prompt : "",
                          answer != NULL ? answer : "", &text);
        ids.count = 0;
        rc = encode_question(c, text.data, &ids);
        if (rc == 0 && ids.count > longest)
            c->unasked++;
        else if (rc == 0)
            add_prompt(c, i, &text, &ids);
    }
    token_list_release(&ids);
    text_release(&text);
    return rc;
}

static int count_vote(void *context, int64_t prompt, struct trajectory *trajectory)
{
    struct critique *c = context;
    struct row_votes *votes = &c->votes[c->rows[prompt]];
    text_clear(&c->answer);
    int rc =
        tokenizer_decode(c->sampler.tokenizer, trajectory->tokens + trajectory->prompt_tokens,
                         trajectory->token_count - trajectory->prompt_tokens, true, &c->answer);
    trajectory_release(trajectory);
    int vote = rc == 0 ? vote_parse(c->answer.data) : -1;
    if (vote >= 0)
        votes->counts[vote]++;
    else
        votes->unread++;
    return rc;
}

/* Who judged what, how. */
static void describe(const struct critique *c, const char *judge, const struct recipe *recipe,
                     struct text *about)
{
    const struct prune_settings *settings = c->settings;
    struct hash hash;
    char weights[HASH_HEX_SIZE];
    model_hash(c->sampler.model, &hash);
    hash_hex(&hash, weights);
    text_append(about, "{\"hone_votes\": 1, \"judge\": ");
    text_append_json_string(about, judge, strlen(judge));
    text_printf(about,
                ", \"weights\": \"%s\", \"votes\": %" PRId64 ", \"seed\": %" PRId64
                ", \"rows\": %" PRId64 ", \"question\": ",
                weights, settings->votes, recipe->seed, dataset_count(c->dataset));
    text_append_json_string(about, settings->question, strlen(settings->question));
    text_append(about, ", \"temperature\": ");
    text_append_number(about, settings->temperature);
    text_append(about, "}");
}

static void report(const struct critique *c)
{
    int64_t counts[VOTE_KINDS] = {0}, unread = 0;
    for (int64_t i = 0; i < dataset_count(c->dataset); i++) {
        for (int vote = 0; vote < VOTE_KINDS; vote++)
            counts[vote] += c->votes[i].counts[vote];
        unread += c->votes[i].unread;
    }
    log_info("critique: of %" PRId64 " rows: %" PRId64 " votes easy, %" PRId64 " medium, %" PRId64
             " hard; %" PRId64 " answers say none of it",
             dataset_count(c->dataset), counts[VOTE_EASY], counts[VOTE_MEDIUM], counts[VOTE_HARD],
             unread);
    if (c->unasked > 0)
        log_warn("critique: %" PRId64 " rows are too long for the judge and have no votes",
                 c->unasked);
}

static int run(struct critique *c, const char *judge, const struct recipe *recipe, const char *path)
{
    struct text about;
    struct dataset_options data;
    struct model_config config;
    dataset_options_from(&recipe->sft.data, &data);
    int rc = dataset_load(&c->dataset, &data);
    if (rc < 0)
        return error_prefix("sft.data");
    text_init(&about);
    describe(c, judge, recipe, &about);
    if (votes_are_about(path, about.data, dataset_count(c->dataset))) {
        log_info("critique: %s has the votes already", path);
        text_release(&about);
        return 0;
    }
    c->votes = MEMORY_ARRAY(struct row_votes, dataset_count(c->dataset));
    rc = model_config_read(&config, judge);
    int64_t longest = recipe->sft.max_length + (int64_t)strlen(c->settings->question);
    int64_t room = config.max_positions - c->settings->answer_tokens;
    if (rc == 0)
        rc = ask_all(c, longest < room ? longest : room);
    if (rc == 0 && c->sampler.set.count > 0) {
        const struct prompt_sampling what = {.prompt_count = c->sampler.set.count,
                                             .count = (int32_t)c->settings->votes,
                                             .label = "critique",
                                             .finished = count_vote,
                                             .context = c};
        int64_t tokens = prompt_sampler_run(&c->sampler, &what);
        rc = tokens < 0 ? (int)tokens : 0;
    }
    if (rc == 0)
        rc = votes_write(path, about.data, c->votes, dataset_count(c->dataset));
    if (rc == 0)
        report(c);
    text_release(&about);
    return rc;
}

int critique_rows(const struct recipe *recipe, const char *base, const char *path, int threads)
{
    const struct prune_settings *settings = &recipe->sft.prune;
    const char *judge = settings->judge[0] != '\0' ? settings->judge : base;
    const struct sampling_settings sampling = {.temperature = settings->temperature,
                                               .top_p = 1.0,
                                               .max_completion_tokens = settings->answer_tokens};
    const struct prompt_sampler_options options = {
        .sampling = &sampling,
        .max_prompt_tokens = recipe->sft.max_length + (int64_t)strlen(settings->question),
        .slots = SLOTS,
        .sampling_key = "sft.prune",
    };
    struct critique c = {.settings = settings, .layout = chat_layout_from(recipe)};
    text_init(&c.answer);
    int rc = prompt_sampler_open(&c.sampler, recipe, &options, judge, threads);
    if (rc == 0)
        rc = run(&c, judge, recipe, path);
    memory_free(c.rows);
    memory_free(c.votes);
    dataset_free(c.dataset);
    text_release(&c.answer);
    prompt_sampler_close(&c.sampler);
    return rc;
}
