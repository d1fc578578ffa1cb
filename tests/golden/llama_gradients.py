"""Makes llama_gradients.json: a tiny random Llama (Llama 3 rope scaling, grouped-query attention, untied
head) run in float64 by Hugging Face transformers, with logprobs, entropies and every gradient of
sum(d_logprob * logprob + d_entropy * entropy). Usage: python llama_gradients.py > llama_gradients.json"""
import json

import torch
from transformers import LlamaConfig, LlamaForCausalLM

TEMPERATURE = 0.75
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 13,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-05,
    "rope_theta": 100.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
}


def main():
    torch.manual_seed(7)
    model = LlamaForCausalLM(LlamaConfig(**CONFIG, attn_implementation="eager")).double()
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, dtype=torch.float64)
        value = 1 + 0.3 * noise if name.endswith("norm.weight") else 0.5 * noise
        parameter.data = value.float().double()
    sequences = [torch.randint(0, 13, (45,)), torch.randint(0, 13, (6,))]
    out = {"config": CONFIG, "temperature": TEMPERATURE, "sequences": [], "tensors": {}}
    objective = 0.0
    for ids in sequences:
        logits = model(ids[None]).logits[0, :-1] / TEMPERATURE
        log_p = torch.log_softmax(logits, -1)
        logprob = log_p[torch.arange(len(ids) - 1), ids[1:]]
        entropy = -(log_p.exp() * log_p).sum(-1)
        d_logprob = torch.randn(len(ids) - 1).float().double()
        d_entropy = torch.randn(len(ids) - 1).float().double()
        objective = objective + (d_logprob * logprob + d_entropy * entropy).sum()
        out["sequences"].append(
            {
                "ids": ids.tolist(),
                "d_logprob": d_logprob.tolist(),
                "d_entropy": d_entropy.tolist(),
                "logprob": logprob.tolist(),
                "entropy": entropy.tolist(),
            }
        )
    objective.backward()
    for name, parameter in model.named_parameters():
        out["tensors"][name] = {
            "value": [float(f"{v:.9g}") for v in parameter.detach().flatten().tolist()],
            "gradient": [float(f"{v:.9g}") for v in parameter.grad.flatten().tolist()],
        }
    print(json.dumps(out, separators=(",", ":")))


main()
