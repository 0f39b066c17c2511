"""`lyceum serve` and llama.cpp's server side by side on this machine: alternating runs, medians, Markdown tables.

    python compare_servers.py /tmp/bench-models/small --server path/to/llama-server --pair int8:Q8_0 --clients 1 8 32

MODEL is a folder of make_model.py; beside it lie the files of to_gguf.py. Both servers are asked by `lyceum bench --url`, with the same
prompts. Runs alternate (A B A B ...), each with a server of its own. Nothing else should run meanwhile.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

PORT = 8917
URL = f"http://127.0.0.1:{PORT}"


def start(command, health):
    """A running server, once it answers."""
    log = tempfile.TemporaryFile()
    server = subprocess.Popen([str(word) for word in command], stdout=log, stderr=log)
    for _ in range(600):
        if server.poll() is not None:
            log.seek(0)
            raise SystemExit(f"{' '.join(map(str, command))}\nended:\n{log.read().decode(errors='replace')}")
        try:
            with urllib.request.urlopen(URL + health, timeout=1):
                return server
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise SystemExit(f"{command[0]} does not answer")


class Lyceum:
    name = "Lyceum"

    def __init__(self, options):
        self.options = options

    def start(self, slots, context):
        o = self.options
        command = [o.lyceum, "serve", o.model, "--weights", o.pair.split(":")[0], "--threads", o.threads]
        command += ["--port", PORT, "--log", "error", "--kv-memory", o.kv_memory, *o.lyceum_options.split()]
        return start(command, "/ready")


class LlamaServer:
    name = "llama.cpp"

    def __init__(self, options):
        self.options = options

    def start(self, slots, context):
        o = self.options
        path = o.model.with_name(f"{o.model.name}-{o.pair.split(':')[1]}.gguf")
        command = [o.server, "-m", path, "-t", o.threads, "-tb", o.threads, "-np", slots, "-c", slots * context]
        command += ["--port", PORT, "--no-webui", *o.server_options.split()]
        return start(command, "/health")


def load(options, **settings):
    """A running load; `json.loads` of its output has the figures."""
    command = [options.lyceum, "bench", "--url", URL + "/v1", "--vocab", options.vocab, "--json"]
    for name, value in settings.items():
        command += ["--" + name.replace("_", "-"), value]
    return subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def figures(running):
    out, err = running.communicate()
    if running.returncode != 0:
        raise SystemExit(f"the load failed:\n{err}")
    found = json.loads(out)
    if found["failed"]:
        raise SystemExit(f"{found['failed']} requests failed, the first: {found['first_error']}")
    return found


def closed(options, clients, seed):
    """Clients that ask again when they are answered: prompts of 128, answers of 64."""
    requests = max(options.requests * clients // 8, 8)
    settings = dict(parallel=clients, requests=requests, prompt_tokens=128, gen_tokens=64, seed=seed)
    return figures(load(options, **settings))


def mixed(options, seed):
    """8 clients whose answers are long, while prompts of 4000 tokens arrive: at random, or one behind the other."""
    few = load(options, parallel=8, requests=1_000_000, seconds=options.seconds, prompt_tokens=128, gen_tokens=2000, seed=seed)
    time.sleep(1.0)
    arrivals = dict(parallel=32, rate=options.rate) if options.rate else dict(parallel=1)
    arrivals.update(requests=1_000_000, seconds=options.seconds - 3.0, prompt_tokens=4000, gen_tokens=1)
    many = load(options, **arrivals, seed=seed + 1000)
    return figures(few), figures(many)


def ms(seconds):
    return f"{seconds * 1e3:.1f}" if seconds < 0.1 else f"{seconds * 1e3:.0f}"


def cell(values, form="{:.1f}"):
    return f"{form.format(statistics.median(values))} ({form.format(min(values))} to {form.format(max(values))})"


def run(options, slots, context, measure):
    """`measure` of each server in turn, `rounds` times: lists by name."""
    found = {}
    for turn in range(options.rounds):
        for program in options.programs:
            server = program.start(slots, context)
            try:
                found.setdefault(program.name, []).append(measure(turn))
            finally:
                server.terminate()
                server.wait()
            print(f"round {turn + 1}/{options.rounds}: {program.name} done", file=sys.stderr)
    return found


def throughput(options):
    print("| | Lyceum, tokens/s | llama.cpp, tokens/s | ratio | first token, ms (median / p99) | between tokens, ms (median / p99) |")
    print("|---|---|---|---|---|---|", flush=True)
    for clients in options.clients:
        found = run(options, clients, 256, lambda turn: closed(options, clients, turn))
        speed = {name: [f["output_tokens_per_s"] for f in runs] for name, runs in found.items()}
        ratio = statistics.median(speed["Lyceum"]) / statistics.median(speed["llama.cpp"])
        middle = lambda name, what, p: ms(statistics.median(f[what][p] for f in found[name]))
        spread = lambda what: " against ".join(
            f"{middle(name, what, 'p50')} / {middle(name, what, 'p99')}" for name in ("Lyceum", "llama.cpp")
        )
        cells = [f"{options.pair.replace(':', ' against ')}, {clients} clients", cell(speed["Lyceum"]), cell(speed["llama.cpp"])]
        cells += [f"**{ratio:.2f}**", spread("first_token_s"), spread("between_parts_s")]
        print(f"| {' | '.join(cells)} |", flush=True)


def latency(options):
    arrive = f"at {options.rate} a second" if options.rate else "one behind the other"
    print(f"| 8 decode, prompts of 4000 arrive {arrive} | between tokens, ms: median | p99 | p99 / median | first token of the prompts, s: median | p99 |")
    print("|---|---|---|---|---|---|", flush=True)
    found = run(options, 12, 4352, lambda turn: mixed(options, turn))
    for name, runs in found.items():
        gap = lambda p: [few["between_parts_s"][p] * 1e3 for few, _ in runs]
        first = lambda p: [many["first_token_s"][p] for _, many in runs]
        uneven = [few["between_parts_s"]["p99"] / few["between_parts_s"]["p50"] for few, _ in runs]
        cells = [name, cell(gap("p50")), cell(gap("p99")), cell(uneven, "{:.2f}"), cell(first("p50"), "{:.2f}"), cell(first("p99"), "{:.2f}")]
        print(f"| {' | '.join(cells)} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--lyceum", type=Path, default=Path(__file__).parents[2] / "target/release/lyceum")
    parser.add_argument("--server", type=Path, help="llama.cpp's llama-server")
    parser.add_argument("--pair", default="int8:Q8_0", help="what Lyceum packs, and the file that llama.cpp reads")
    parser.add_argument("--clients", type=int, nargs="*", default=[1, 8, 32])
    parser.add_argument("--latency", action="store_true", help="measure latencies beside long prompts instead")
    parser.add_argument("--requests", type=int, default=48, help="requests for 8 clients; others in proportion")
    parser.add_argument("--rate", type=float, help="long prompts that arrive per second; one behind the other if not given")
    parser.add_argument("--seconds", type=float, default=60, help="how long latencies are measured")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--vocab", type=int, default=4096, help="prompts hold ids below this")
    parser.add_argument("--kv-memory", default="1G")
    parser.add_argument("--lyceum-options", default="", help="more options of lyceum serve, in one word")
    parser.add_argument("--server-options", default="-fa on -cb", help="more options of llama-server, in one word")
    options = parser.parse_args()
    options.programs = [Lyceum(options)] + ([LlamaServer(options)] if options.server else [])
    if len(options.programs) < 2:
        raise SystemExit("--server: where is llama-server?")
    (latency if options.latency else throughput)(options)


if __name__ == "__main__":
    main()
