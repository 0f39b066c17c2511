"""Lyceum and llama.cpp side by side on this machine: alternating runs, medians, a Markdown table.

    python compare.py /tmp/bench-models/small --threads 2

MODEL is a folder of make_model.py; beside it lie the files of to_gguf.py (MODEL-F16.gguf ...). Each pair names
what Lyceum packs and the file that llama.cpp reads: the same bits per weight. Runs alternate (A B A B ...), so
that a machine that grows hot or busy slows both. Nothing else should run meanwhile: see the load average.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

PAIRS = ["bf16:F16", "int8:Q8_0", "int4:Q4_0"]
HERE = Path(__file__).parent


def run_json(command):
    """Runs a command that prints one JSON object."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}\nfailed:\n{done.stderr or done.stdout}")
    return json.loads(done.stdout)


class Lyceum:
    name = "Lyceum"

    def __init__(self, options, weights):
        self.options, self.weights = options, weights

    def run(self, parallel):
        options = self.options
        command = [options.lyceum, "bench", options.model, "--weights", self.weights, "--json"]
        command += ["--prompt-tokens", options.prompt_tokens, "--gen-tokens", options.gen_tokens]
        command += ["--parallel", parallel, "--context", options.context, "--threads", options.threads]
        out = run_json(command)
        return {
            "prefill": out["prefill_tokens_per_s"],
            "decode": out["decode_tokens_per_s"],
            "load_s": out["load_s"],
            "peak_rss_bytes": out["peak_rss_bytes"],
            "weight_bytes": out["weight_bytes"],
        }


class LlamaCpp:
    name = "llama.cpp"

    def __init__(self, options, file_type):
        self.options = options
        self.path = options.model.with_name(f"{options.model.name}-{file_type}.gguf")
        self.fastest = {}  # what the first run of each measurement found, so that later runs need not try again
        self.system_info = None

    def run(self, parallel):
        """The fastest variants of prefill and decode may differ, so each is a run of its own."""
        out = self.measure("decode", ["--prompt-tokens", 0, "--parallel", parallel], ("decode", parallel))
        result = {"decode": out["decode"][str(parallel)]["median"], "weight_bytes": out["weight_bytes"]}
        result.update(load_s=out["load_s"], peak_rss_bytes=out["peak_rss_bytes"])
        if parallel == 1:
            options = ["--prompt-tokens", self.options.prompt_tokens, "--parallel"]
            result["prefill"] = self.measure("prefill", options, "prefill")["prefill"]["median"]
        return result

    def measure(self, what, options, key):
        command = [sys.executable, HERE / "bench_llama_cpp.py", self.path, *options]
        command += ["--gen-tokens", self.options.gen_tokens, "--context", self.options.context]
        command += ["--threads", self.options.threads, "--repeats", self.options.repeats]
        for option, value in self.fastest.get(key, {}).items():
            command += [f"--{option}", "on" if value else "off"]
        out = run_json(command)
        found = out["prefill"] if what == "prefill" else next(iter(out["decode"].values()))
        self.fastest[key] = {option: found[option] for option in ("flash", "unified")}
        self.system_info = out["system_info"]
        return out


def alternate(peers, parallel, rounds):
    """Every peer's results, round by round."""
    results = {peer.name: [] for peer in peers}
    for each in range(rounds):
        for peer in peers:
            results[peer.name].append(peer.run(parallel))
            print(f"round {each + 1}/{rounds}, {parallel} sequences: {peer.name} done", file=sys.stderr)
    return results


def spread(values):
    return statistics.median(values), min(values), max(values)


def row(title, results, key):
    """One line of the table: medians with their spread, and the ratio of the medians."""
    (ours, *ours_ends), (theirs, *theirs_ends) = (spread([run[key] for run in runs]) for runs in results.values())
    cells = [title]
    for median, ends in ((ours, ours_ends), (theirs, theirs_ends)):
        cells.append(f"{median:.1f} ({ends[0]:.1f} to {ends[1]:.1f})")
    cells.append(f"**{ours / theirs:.2f}**")
    return "| " + " | ".join(cells) + " |"


def size_row(title, results):
    """Memory and load time, which are not rates."""
    cells = [title]
    for runs in results.values():
        median = {key: statistics.median(run[key] for run in runs) for key in ("weight_bytes", "peak_rss_bytes", "load_s")}
        cells.append(
            f"weights {median['weight_bytes'] / 1e9:.2f} GB, peak {median['peak_rss_bytes'] / 1e9:.2f} GB, "
            f"load {median['load_s']:.2f} s"
        )
    return "| " + " | ".join(cells) + " | |"


def compare(options, pair, log):
    weights, file_type = pair.split(":")
    peers = [Lyceum(options, weights), LlamaCpp(options, file_type)]
    names = f"{weights} against {file_type}"
    for parallel in options.parallel:
        results = alternate(peers, parallel, options.rounds)
        log.append({"weights": weights, "gguf": file_type, "parallel": parallel, "runs": results})
        if parallel == 1:
            print(row(f"{names}: prefill {options.prompt_tokens}", results, "prefill"), flush=True)
        print(row(f"{names}: decode, {parallel} at {options.context}", results, "decode"), flush=True)
    print(size_row(f"{names}: memory", results), flush=True)
    return peers[1].system_info


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--lyceum", type=Path, default=Path("target/release/lyceum"))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--pairs", nargs="+", default=PAIRS, help="what Lyceum packs, colon, llama.cpp's type")
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--gen-tokens", type=int, default=64)
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--parallel", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=3, help="A B pairs of runs")
    parser.add_argument("--repeats", type=int, default=3, help="within one run of llama.cpp")
    parser.add_argument("--log", type=Path, help="keep every run here, as JSON")
    options = parser.parse_args()

    load_before = os.getloadavg()[0]
    log, system_info = [], None
    print(f"Model `{options.model.name}`, {options.threads} threads, tokens/s: median of {options.rounds} runs (range).\n")
    print("| | Lyceum | llama.cpp | ratio |\n|---|---|---|---|", flush=True)
    for pair in options.pairs:
        system_info = compare(options, pair, log)
    machine = run_json([options.lyceum, "bench", "--machine", "--threads", options.threads, "--json"])

    limits = ", ".join(f"{key} {value:.1f}" if isinstance(value, float) else f"{key} {value}" for key, value in machine.items())
    print(f"\nLimits of the machine, just after: {limits}.")
    print(f"llama.cpp: {system_info}. Load average before: {load_before:.2f}.")
    if options.log:
        options.log.write_text(json.dumps({"machine": machine, "runs": log}, indent=1) + "\n")


if __name__ == "__main__":
    main()
