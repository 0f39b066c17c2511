"""Measures how fast PyTorch trains the SMALL model on this machine's CPU, and prints one JSON object.

    python train_torch.py --threads 2
    python train_torch.py --threads 2 --variants minimal --steps 3

SMALL is the preset of make_model.py: 214.5M parameters of which 34.1M are active. A step is forward, backward,
clipping to a global norm of 1 and AdamW, in f32, on --batch sequences of --context random tokens. Each variant runs
in a process of its own, so that its peak memory is its own:

transformers          MixtralForCausalLM with grouped experts and SDPA
transformers+compile  the same under torch.compile
minimal               the module below: tokens sorted by expert, a matmul for each expert, fused projections, SDPA
minimal+compile       the same, with all but the experts' matmuls compiled (the rows per expert differ every step)
"""

import argparse
import ctypes
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from make_model import CONTEXT, EXPERTS_PER_TOKEN, HEAD_DIM, KV_HEADS, PRESETS, config
from torch import nn
from torch.nn import functional as F

SHAPE = PRESETS["small"]
VARIANTS = ["transformers", "transformers+compile", "minimal", "minimal+compile"]
EPS, THETA = 1e-5, 1e6


# --- The minimal module --------------------------------------------------------------------------------------


def rotate(x, cos, sin):
    """RoPE on [batch, heads, length, head_dim], the halves of a head being its pairs."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


def swiglu(x):
    gate, up = x.chunk(2, -1)
    return F.silu(gate) * up


class Attention(nn.Module):
    """Norm, attention, residual, and the next norm with the router's choice: all that has a fixed shape."""

    def __init__(self):
        super().__init__()
        hidden, self.heads = SHAPE["hidden"], SHAPE["heads"]
        self.widths = [self.heads * HEAD_DIM, KV_HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM]
        self.norm = nn.RMSNorm(hidden, eps=EPS)
        self.qkv = nn.Linear(hidden, sum(self.widths), bias=False)
        self.out = nn.Linear(self.widths[0], hidden, bias=False)
        self.next_norm = nn.RMSNorm(hidden, eps=EPS)
        self.router = nn.Linear(hidden, SHAPE["experts"], bias=False)

    def forward(self, x, cos, sin):
        batch, length, hidden = x.shape
        q, k, v = self.qkv(self.norm(x)).split(self.widths, -1)
        q, k, v = (t.view(batch, length, -1, HEAD_DIM).transpose(1, 2) for t in (q, k, v))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        k, v = (t.expand(batch, self.heads, length, HEAD_DIM) for t in (k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, -1))
        normed = self.next_norm(x).view(-1, hidden)
        weights, chosen = self.router(normed).softmax(-1).topk(EXPERTS_PER_TOKEN)
        return x, normed, weights / weights.sum(-1, keepdim=True), chosen


class Expert(nn.Module):
    activation = staticmethod(swiglu)

    def __init__(self):
        super().__init__()
        self.gate_up = nn.Linear(SHAPE["hidden"], 2 * SHAPE["ffn"], bias=False)
        self.down = nn.Linear(SHAPE["ffn"], SHAPE["hidden"], bias=False)

    def forward(self, x):
        return self.down(self.activation(self.gate_up(x)))


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = Attention()
        self.experts = nn.ModuleList(Expert() for _ in range(SHAPE["experts"]))

    def forward(self, x, cos, sin):
        x, normed, weights, chosen = self.attention(x, cos, sin)
        order = chosen.flatten().argsort()
        counts = chosen.flatten().bincount(minlength=len(self.experts)).tolist()
        rows = normed.index_select(0, order // EXPERTS_PER_TOKEN).split(counts)
        done = torch.cat([expert(part) for expert, part in zip(self.experts, rows, strict=True)])
        # Back in the order of the tokens, where a token's experts lie side by side.
        back = torch.empty_like(order)
        back[order] = torch.arange(order.numel())
        done = done.index_select(0, back).view(-1, EXPERTS_PER_TOKEN, x.shape[-1])
        return x + torch.einsum("tk,tkh->th", weights, done).view_as(x)


class Minimal(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(SHAPE["vocab"], SHAPE["hidden"])
        self.layers = nn.ModuleList(Layer() for _ in range(SHAPE["layers"]))
        self.norm = nn.RMSNorm(SHAPE["hidden"], eps=EPS)
        self.head = nn.Linear(SHAPE["hidden"], SHAPE["vocab"], bias=False)
        angles = torch.outer(torch.arange(CONTEXT), THETA ** (-torch.arange(0, HEAD_DIM, 2) / HEAD_DIM)).repeat(1, 2)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def forward(self, tokens):
        x, length = self.embed(tokens), tokens.shape[1]
        for layer in self.layers:
            x = layer(x, self.cos[:length], self.sin[:length])
        return self.head(self.norm(x))

    def compile_parts(self):
        for layer in self.layers:
            layer.attention.compile(dynamic=False)
        Expert.activation = staticmethod(torch.compile(swiglu, dynamic=True))


# --- Measuring -----------------------------------------------------------------------------------------------


def build(variant):
    """The model's logits as a function of tokens, and its parameters."""
    name, _, compiled = variant.partition("+")
    if name == "minimal":
        model = Minimal()
        for parameter in model.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)
        if compiled:
            model.compile_parts()
        return model, list(model.parameters())
    from transformers import MixtralConfig, MixtralForCausalLM

    mixtral = MixtralConfig(**{**config(SHAPE), "dtype": "float32"}, attn_implementation="sdpa", use_cache=False)
    model = MixtralForCausalLM(mixtral).train()
    model.set_experts_implementation("grouped_mm")
    parameters = list(model.parameters())
    if compiled:
        model.compile(dynamic=False)
    return (lambda tokens: model(input_ids=tokens).logits), parameters


def keep_freed_memory():
    """Lets glibc keep what is freed: otherwise every large tensor of every step is mapped and zeroed anew."""
    m_trim_threshold, m_mmap_max = -1, -4
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return False
    return bool(libc.mallopt(m_trim_threshold, 2**31 - 1) and libc.mallopt(m_mmap_max, 0))


def measure(options, variant):
    torch.set_num_threads(options.threads)
    torch.manual_seed(1)
    kept = keep_freed_memory() if options.keep_freed == "on" else False
    logits, parameters = build(variant)
    optimiser = torch.optim.AdamW(
        parameters, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, **{options.optimiser: True}
    )
    parts = {"forward_s": [], "backward_s": [], "optimiser_s": [], "step_s": []}
    for step in range(options.warm_up + options.steps):
        tokens = torch.randint(SHAPE["vocab"], (options.batch, options.context + 1))
        times = [time.perf_counter()]
        loss = F.cross_entropy(logits(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        times.append(time.perf_counter())
        loss.backward()
        times.append(time.perf_counter())
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        times.append(time.perf_counter())
        print(f"{variant}: step {step}, loss {loss.item():.3f}, {times[-1] - times[0]:.2f} s", file=sys.stderr)
        if step >= options.warm_up:
            for part, start, end in zip(parts, times, times[1:], strict=False):
                parts[part].append(end - start)
            parts["step_s"].append(times[-1] - times[0])
    medians = {part: statistics.median(times) for part, times in parts.items()}
    tokens = options.batch * options.context
    return {
        "tokens_per_s": tokens / medians["step_s"],
        "tokens_per_s_best": tokens / min(parts["step_s"]),
        "tokens_per_s_worst": tokens / max(parts["step_s"]),
        **medians,
        "loss": loss.item(),
        "parameters": sum(parameter.numel() for parameter in parameters),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "threads": torch.get_num_threads(),
        "optimiser": options.optimiser,
        "freed_memory_kept": kept,
    }


def cpu_name():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def run_apart(variant):
    done = subprocess.run([sys.executable, *sys.argv, "--only", variant], stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout) if done.returncode == 0 else {"error": f"exit status {done.returncode}"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--optimiser", choices=["fused", "foreach"], default="fused", help="which AdamW")
    parser.add_argument("--keep-freed", choices=["on", "off"], default="on", help="see keep_freed_memory()")
    parser.add_argument("--only", choices=VARIANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options, options.only)))
        return

    load_before = os.getloadavg()[0]
    variants = {variant: run_apart(variant) for variant in options.variants}
    finished = {name: out["tokens_per_s"] for name, out in variants.items() if "error" not in out}
    out = {
        "model": "small",
        "batch": options.batch,
        "context": options.context,
        "dtype": "float32",
        "best": max(finished, key=finished.get) if finished else None,
        "variants": variants,
        "torch": torch.__version__,
        "torch_config": torch.__config__.show(),
        "parallel_info": torch.__config__.parallel_info(),
        "cpu": cpu_name(),
        "load_before": load_before,
    }
    print(json.dumps(out, indent=2))


if __name__ == "__main__":
    main()
