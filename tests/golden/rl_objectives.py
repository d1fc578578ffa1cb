"""Makes rl_objectives.json: two groups of three answers to prompts, and for each published objective the loss and the
gradient's norm, of the tiny Llama of llama_gradients.json in float64. Every objective is written out here from its
paper; where TRL is installed its GRPOTrainer is asked too and must agree.
Usage: python rl_objectives.py > rl_objectives.json"""
import json
import os
import sys

import torch
from transformers import LlamaConfig, LlamaForCausalLM

HERE = os.path.dirname(os.path.abspath(__file__))
TEMPERATURE = 0.75
LONGEST = 9  # max_completion_tokens: the divisor of the aggregation `constant`
REFERENCE_SCALE = 0.96875  # the reference model is the model with every value times this


def load(golden, scale):
    model = LlamaForCausalLM(LlamaConfig(**golden["config"], attn_implementation="eager")).double()
    for name, parameter in model.named_parameters():
        value = torch.tensor(golden["tensors"][name]["value"], dtype=torch.float32)
        parameter.data = (value * scale).reshape(parameter.shape).double()
    return model


def logprobs(model, row):
    """Of the completion's tokens, at the temperature they were sampled at."""
    ids = torch.tensor(row["tokens"])
    log_p = torch.log_softmax(model(ids[None]).logits[0, :-1] / TEMPERATURE, -1)
    return log_p[torch.arange(len(ids) - 1), ids[1:]][row["prompt_tokens"] - 1:]


def make_rows(model):
    rows = []
    rewards = [[1.0, 0.0, 0.5], [0.25, 1.0, 0.0]]
    for group in range(2):
        prompt = torch.randint(0, 13, (4,)).tolist()
        for sample in range(3):
            completion = torch.randint(0, 13, (LONGEST - 2 * sample - group,)).tolist()
            row = {"group": group, "tokens": prompt + completion, "prompt_tokens": 4, "reward": rewards[group][sample]}
            own = logprobs(model, row).detach()
            # Stale by up to a factor of about two a token, so that every clip has something to do.
            noise = 0.7 * torch.randn(len(completion), dtype=torch.float64) * (0.02 if sample == 2 else 1.0)
            row["behavior_logprob"] = (own + noise).float().double().tolist()
            rows.append(row)
    return rows


def whiten(values):
    tokens = torch.cat(values)
    return [(v - tokens.mean()) / (tokens.std() + 1e-8) for v in values]


class Batch:
    def __init__(self, model, reference, rows):
        self.rows = rows
        self.new = [logprobs(model, row) for row in rows]
        self.behavior = [torch.tensor(row["behavior_logprob"], dtype=torch.float64) for row in rows]
        self.reference = [logprobs(reference, row).detach() for row in rows]
        self.head = [torch.zeros(model.config.hidden_size + 1, dtype=torch.float64, requires_grad=True)]
        self.value = [self.values(model, row) for row in rows]
        self.reward = torch.tensor([row["reward"] for row in rows], dtype=torch.float64)

    def values(self, model, row):
        """Of a value head that starts from zeros, before each completion token."""
        ids = torch.tensor(row["tokens"])
        hidden = model.model(ids[None]).last_hidden_state[0, row["prompt_tokens"] - 1:-1]
        return hidden @ self.head[0][:-1] + self.head[0][-1]

    def grouped(self, function, reward=None):
        reward = self.reward if reward is None else reward
        return torch.cat([function(reward[0:3]), function(reward[3:6])])

    def spread(self, advantage):
        return [a.expand(len(row)) for a, row in zip(advantage, self.new)]

    def k1_cost(self, coef):
        return [coef * (b - r) for b, r in zip(self.behavior, self.reference)]

    def kl(self, kind):
        out = []
        for new, reference in zip(self.new, self.reference):
            x = new - reference
            out.append(torch.exp(-x) - 1 + x if kind == "k3" else 0.5 * x * x)
        return out


def group_centred(r):
    return r - r.mean()


def grpo_scaled(r):
    return (r - r.mean()) / (r.std() + 1e-6)


def leave_one_out(r):
    return r - (r.sum() - r) / (len(r) - 1)


def token_mean(losses):
    return torch.cat(losses).mean()


def sequence_mean(losses):
    return torch.stack([loss.mean() for loss in losses]).mean()


def constant(losses):
    return torch.stack([loss.sum() / LONGEST for loss in losses]).mean()


def ppo(ratio, advantage, low=0.2, high=0.2):
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)


def token_ppo(batch, advantages, low=0.2, high=0.2):
    return [ppo(torch.exp(n - b), a, low, high) for n, b, a in zip(batch.new, batch.behavior, advantages)]


def objectives(batch):
    out = {}
    scaled = batch.spread(batch.grouped(grpo_scaled))
    centred = batch.spread(batch.grouped(group_centred))
    kl = batch.kl("k3")
    out["grpo"] = sequence_mean([p + 0.001 * k for p, k in zip(token_ppo(batch, scaled), kl)])
    out["dr_grpo"] = constant(token_ppo(batch, centred))
    out["dapo"] = token_mean(token_ppo(batch, scaled, 0.2, 0.28))
    cost = batch.k1_cost(0.001)
    less = batch.reward - torch.stack([c.sum() for c in cost])
    out["rloo"] = token_mean(token_ppo(batch, batch.spread(batch.grouped(leave_one_out, less))))
    returns = []
    for c, r in zip(cost, batch.reward):
        token_reward = -c.clone()
        token_reward[-1] += r
        returns.append(token_reward.flip(0).cumsum(0).flip(0))
    out["reinforce++"] = token_mean(token_ppo(batch, whiten(returns)))
    critic = [0.5 * (v - r) ** 2 for v, r in zip(batch.value, returns)]  # no value has moved: nothing is clipped
    out["ppo"] = token_mean(token_ppo(batch, whiten(returns))) + 0.5 * token_mean(critic)
    k2 = batch.kl("k2")
    out["reinforce++-baseline"] = token_mean(
        [p + 0.001 * k for p, k in zip(token_ppo(batch, whiten(centred)), k2)])
    sequence = []
    for n, b, a in zip(batch.new, batch.behavior, scaled):
        s = torch.exp((n - b).mean())
        sequence.append(ppo(s.detach() * torch.exp(n - n.detach()), a, 3e-4, 4e-4))
    out["gspo"] = sequence_mean(sequence)
    weighted = [(torch.exp(n - b).detach().clamp(0, 5), a, n) for n, b, a in zip(batch.new, batch.behavior, scaled)]
    out["cispo"] = token_mean([-w * a * n for w, a, n in weighted])
    weighted = [(torch.exp(n - b).detach().clamp(max=2), a, n) for n, b, a in zip(batch.new, batch.behavior, centred)]
    out["aipo"] = token_mean([-w * a * n for w, a, n in weighted])
    decoupled = []
    for n, b, a in zip(batch.new, batch.behavior, scaled):
        proximal = n.detach()  # the policy before the batch
        decoupled.append(torch.exp(proximal - b).clamp(max=5) * ppo(torch.exp(n - proximal), a))
    out["decoupled_ppo"] = token_mean(decoupled)
    return out


def norm_of(loss, parameters):
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return torch.sqrt(sum((g * g).sum() for g in gradients if g is not None)).item()


def trl_losses(batch):
    """What TRL's GRPOTrainer makes of the same tokens; {} when it is not installed."""
    try:
        from trl import GRPOConfig
        from trl.trainer.grpo_trainer import GRPOTrainer
    except ImportError:
        print("TRL is not installed: not asked", file=sys.stderr)
        return {}
    import collections
    from types import SimpleNamespace

    width = max(len(n) for n in batch.new)

    def padded(rows, fill=0.0):
        return torch.stack([torch.nn.functional.pad(r, (0, width - len(r)), value=fill) for r in rows])

    mask = padded([torch.ones(len(n), dtype=torch.float64) for n in batch.new])
    new = padded(batch.new)
    settings = {
        "grpo": ("grpo", "token", 0.2, 0.2, 0.001, grpo_scaled),
        "dr_grpo": ("dr_grpo", "token", 0.2, 0.2, 0.0, group_centred),
        "dapo": ("dapo", "token", 0.2, 0.28, 0.0, grpo_scaled),
        "gspo": ("grpo", "sequence", 3e-4, 4e-4, 0.0, grpo_scaled),
        "cispo": ("cispo", "token", 0.2, 5.0, 0.0, grpo_scaled),
    }
    out = {}
    for name, (loss_type, level, low, high, beta, scale) in settings.items():
        metrics = {"train": collections.defaultdict(list)}
        args = GRPOConfig(output_dir="/nonexistent", bf16=False, use_cpu=True, report_to=[], steps_per_generation=1,
                          use_bias_correction_kl=False)
        accelerator = SimpleNamespace(
            gather=lambda t: t, reduce=lambda t, reduction: t, num_processes=1, sync_gradients=True)
        fake = SimpleNamespace(
            args=args, beta=beta, loss_type=loss_type, importance_sampling_level=level, epsilon_low=low,
            epsilon_high=high, model=SimpleNamespace(training=True), current_gradient_accumulation_steps=1,
            max_completion_length=LONGEST, accelerator=accelerator, top_entropy_quantile=1.0, _metrics=metrics,
            use_vllm=False, vllm_importance_sampling_correction=False, off_policy_mask_threshold=None,
            aux_loss_enabled=False, _entropy_bonus_enabled=False, entropy_coef=0.0,
            _get_per_token_logps_and_entropies=lambda *_, **__: (new, torch.zeros_like(new), None))
        inputs = {
            "prompt_ids": torch.zeros(6, 4, dtype=torch.long), "prompt_mask": torch.ones(6, 4),
            "completion_ids": torch.zeros(6, width, dtype=torch.long), "completion_mask": mask,
            "advantages": batch.grouped(scale), "old_per_token_logps": padded(batch.behavior),
            "ref_per_token_logps": padded(batch.reference), "num_items_in_batch": mask.sum()}
        out[name] = GRPOTrainer._compute_loss(fake, None, inputs)
    return out


def main():
    with open(os.path.join(HERE, "llama_gradients.json"), encoding="utf-8") as file:
        golden = json.load(file)
    torch.manual_seed(11)
    model, reference = load(golden, 1.0), load(golden, REFERENCE_SCALE)
    rows = make_rows(model)
    batch = Batch(model, reference, rows)
    cases = []
    others = trl_losses(batch)
    parameters = list(model.parameters()) + batch.head
    for name, loss in objectives(batch).items():
        value, norm = loss.item(), norm_of(loss, parameters)
        if name in others:
            other, other_norm = others[name].item(), norm_of(others[name], parameters)
            if abs(other - value) > 1e-6 * abs(value) + 1e-9 or abs(other_norm - norm) > 1e-5 * norm:
                sys.exit("%s: %.9g and %.9g here, TRL has %.9g and %.9g" % (name, value, norm, other, other_norm))
            print("%s: TRL agrees" % name, file=sys.stderr)
        cases.append({"preset": name, "loss": float("%.12g" % value), "gradient_norm": float("%.12g" % norm)})
    print(json.dumps({"temperature": TEMPERATURE, "longest": LONGEST, "reference_scale": REFERENCE_SCALE, "rows": rows,
                      "cases": cases}, separators=(",", ":")))


main()
