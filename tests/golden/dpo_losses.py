"""Makes dpo_losses.json: three preference pairs, and for each loss its value and the gradient's norm, of the tiny Llama of
llama_gradients.json in float64, each loss written out from its paper.
Usage: python dpo_losses.py > dpo_losses.json"""
import json
import os

import torch
from torch.nn.functional import logsigmoid
from transformers import LlamaConfig, LlamaForCausalLM

HERE = os.path.dirname(os.path.abspath(__file__))
REFERENCE_SCALE = 0.96875  # the reference model is the model with every value times this
BETA = 0.3


def load(golden, scale):
    model = LlamaForCausalLM(LlamaConfig(**golden["config"], attn_implementation="eager")).double()
    for name, parameter in model.named_parameters():
        value = torch.tensor(golden["tensors"][name]["value"], dtype=torch.float32)
        parameter.data = (value * scale).reshape(parameter.shape).double()
    return model


def answer_logprob(model, tokens, prompt):
    ids = torch.tensor(tokens)
    log_p = torch.log_softmax(model(ids[None]).logits[0, :-1], -1)
    return log_p[torch.arange(len(ids) - 1), ids[1:]][prompt - 1:].sum()


def main():
    with open(os.path.join(HERE, "llama_gradients.json"), encoding="utf-8") as file:
        golden = json.load(file)
    torch.manual_seed(23)
    policy, reference = load(golden, 1.0), load(golden, REFERENCE_SCALE)
    pairs = []
    for _ in range(3):
        prompt = torch.randint(0, 13, (4,)).tolist()
        pairs.append({"prompt_tokens": 4, "chosen": prompt + torch.randint(0, 13, (7,)).tolist(),
                      "rejected": prompt + torch.randint(0, 13, (5,)).tolist()})
    for pair, other in zip(pairs, pairs[1:] + pairs[:1]):
        pair["mismatch"] = pair["chosen"][:4] + other["chosen"][4:]
    new = {side: torch.stack([answer_logprob(policy, p[side], 4) for p in pairs]) for side in ("chosen", "rejected", "mismatch")}
    old = {side: torch.stack([answer_logprob(reference, p[side], 4) for p in pairs]).detach() for side in new}
    chosen, rejected = new["chosen"] - old["chosen"], new["rejected"] - old["rejected"]
    h = BETA * (chosen - rejected)
    z = (new["mismatch"] - old["mismatch"]).mean().clamp(min=0).detach()
    losses = {
        "sigmoid": -logsigmoid(h),
        "sigmoid smoothed": -0.9 * logsigmoid(h) - 0.1 * logsigmoid(-h),
        "sigmoid with nll": -logsigmoid(h) - 0.2 * new["chosen"] / 7,
        "robust": (-0.9 * logsigmoid(h) + 0.1 * logsigmoid(-h)) / 0.8,
        "hinge": torch.relu(1 - h),
        "ipo mean": (chosen / 7 - rejected / 5 - 1 / (2 * BETA)) ** 2,
        "ipo sum": (chosen - rejected - 1 / (2 * BETA)) ** 2,
        "simpo": -logsigmoid(BETA * (new["chosen"] / 7 - new["rejected"] / 5) - 0.5),
        "kto": 0.5 * 1.2 * (1 - torch.sigmoid(BETA * (chosen - z))) + 0.5 * 0.8 * (1 - torch.sigmoid(BETA * (z - rejected))),
    }
    cases = []
    for name, loss in losses.items():
        gradients = torch.autograd.grad(loss.mean(), list(policy.parameters()), retain_graph=True)
        norm = torch.sqrt(sum((g * g).sum() for g in gradients)).item()
        cases.append({"name": name, "loss": float("%.12g" % loss.mean().item()), "gradient_norm": float("%.12g" % norm)})
    print(json.dumps({"beta": BETA, "reference_scale": REFERENCE_SCALE, "kl": z.item(), "pairs": pairs, "cases": cases}, separators=(",", ":")))


main()
