"""How exactly can float32 know the gradient entries of a reference?

usage: python gradient_entries.py MODEL REFERENCE      e.g. stories260k/hf stories260k/reference_f64.json

REFERENCE holds, under grad_check, token ids and gradient entries of their mean negative log-likelihood. For each entry:
what transformers' LlamaForCausalLM gets by back-propagation in float64 (throughout: its rotary angles and its norms,
which it leaves in float32, are replaced) and in float32, and for entries of a linear layer the condition number of the sum over tokens that the entry is,
sum |d_output[t, i] * input[t, j]| / |sum of the same|: a relative error of e in the terms is one of up to
condition * e in the entry, so no float32 arithmetic (e >= 6e-8) promises a smaller one than condition * 6e-8.
"""
import json
import sys

import torch
from transformers import LlamaForCausalLM

FLOAT32_ROUNDING = 2.0 ** -24


class Float64Rotary(torch.nn.Module):
    """Cosines and sines of angles that are float64 from the frequencies on; plain rotary embedding only."""

    def __init__(self, config):
        super().__init__()
        parameters = config.rope_parameters
        if parameters["rope_type"] != "default":
            sys.exit(f"rope type {parameters['rope_type']}: only the default one is known here")
        half = torch.arange(0, config.head_dim, 2, dtype=torch.float64)
        self.frequencies = parameters["rope_theta"] ** (-half / config.head_dim)

    def forward(self, hidden, position_ids):
        angle = position_ids[..., None].double() * self.frequencies
        angle = torch.cat([angle, angle], -1)
        return angle.cos().to(hidden.dtype), angle.sin().to(hidden.dtype)


class Float64Norm(torch.nn.Module):
    """transformers' LlamaRMSNorm without its cast to float32."""

    def __init__(self, norm):
        super().__init__()
        self.weight, self.epsilon = norm.weight, norm.variance_epsilon

    def forward(self, hidden):
        return self.weight * hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + self.epsilon)


def all_float64(model):
    model.model.rotary_emb = Float64Rotary(model.config)
    model.model.norm = Float64Norm(model.model.norm)
    for layer in model.model.layers:
        layer.input_layernorm = Float64Norm(layer.input_layernorm)
        layer.post_attention_layernorm = Float64Norm(layer.post_attention_layernorm)


def gradients(path, ids, dtype):
    """The model after backward, and (input, d_output) of every linear layer by name."""
    model = LlamaForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="sdpa").to(dtype)
    if dtype == torch.float64:
        all_float64(model)
    inputs, terms = {}, {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda m, x, y, name=name: inputs.__setitem__(name, x[0].detach()[0]))
            module.register_full_backward_hook(
                lambda m, dx, dy, name=name: terms.__setitem__(name, (inputs[name], dy[0].detach()[0])))
    logits = model(torch.tensor([ids])).logits[0, :-1]
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]))
    loss.backward()
    return model, terms, loss.item()


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with open(sys.argv[2], encoding="utf-8") as file:
        check = json.load(file)["grad_check"]
    double, terms, loss = gradients(sys.argv[1], check["ids"], torch.float64)
    single, _, _ = gradients(sys.argv[1], check["ids"], torch.float32)
    print(f"loss {loss:.12f}, the reference has {check['loss_value']:.12f}")
    print(f"{'entry':52} {'reference':>12} {'float64 off':>11} {'float32 off':>11} {'condition':>9} {'its floor':>9}")
    for entry in check["entries"]:
        name, index, grad = entry["tensor"], tuple(entry["index"]), entry["grad"]
        off = [abs(m.get_parameter(name).grad[index].item() / grad - 1) for m in (double, single)]
        layer = name.removesuffix(".weight")
        condition = floor = "-"
        if layer in terms and layer != "lm_head":
            x, dy = terms[layer]
            products = dy[:, index[0]] * x[:, index[1]]
            number = (products.abs().sum() / products.sum().abs()).item()
            condition, floor = f"{number:.1f}", f"{number * FLOAT32_ROUNDING:.1e}"
        print(f"{name + str(list(index)):52} {grad:12.5e} {off[0]:11.1e} {off[1]:11.1e} {condition:>9} {floor:>9}")


main()
