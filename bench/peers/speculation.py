"""What speculation gains: the same requests to `lyceum serve` without it, with n-grams and with a draft model, in turn.

    python speculation.py ../../models/demo ../../models/demo/draft heldout.txt --clients 1 8 32

Prompts are pieces of TEXT, which neither model should have seen. Every answer must be the same in all three ways; it is compared.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from compare_servers import PORT, URL, start


def ask(prompt, options):
    body = dict(prompt=prompt, max_tokens=options.tokens, temperature=options.temperature, seed=7, ignore_eos=True)
    request = urllib.request.Request(URL + "/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as answer:
        return json.load(answer)


def metric(name):
    with urllib.request.urlopen(URL + "/metrics") as page:
        lines = page.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


def measure(options, prompts, clients, speculation):
    server = start([options.lyceum, "serve", options.model, "--port", PORT, "--log", "error", "--kv-memory", "256M", *speculation], "/ready")
    try:
        with ThreadPoolExecutor(clients) as pool:
            list(pool.map(lambda prompt: ask(prompt, options), prompts[-clients:]))  # the scheduler learns what steps cost
            since, drafted, accepted = time.monotonic(), metric("lyceum_speculation_drafted_total"), metric("lyceum_speculation_accepted_total")
            answers = list(pool.map(lambda prompt: ask(prompt, options), prompts))
            seconds = time.monotonic() - since
        drafted, accepted = metric("lyceum_speculation_drafted_total") - drafted, metric("lyceum_speculation_accepted_total") - accepted
    finally:
        server.kill()
        server.wait()
    tokens = sum(answer["usage"]["completion_tokens"] for answer in answers)
    return tokens / seconds, drafted, accepted, [answer["choices"][0]["text"] for answer in answers]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("draft", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--lyceum", type=Path, default=Path(__file__).parents[2] / "target/release/lyceum")
    parser.add_argument("--clients", type=int, nargs="*", default=[1, 8, 32])
    parser.add_argument("--requests", type=int, default=64, help="for 32 clients; a quarter for one")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    text = options.text.read_text(errors="replace")
    ways = {"off": [], "ngram": ["--speculate", "ngram"], "draft": ["--draft", options.draft]}
    print("| clients | " + " | ".join(f"{way}, tokens/s" for way in ways) + " | n-gram gains | draft gains | accepted of drafted: n-gram | draft |")
    print("|" + "---|" * 8, flush=True)
    for clients in options.clients:
        count = max(options.requests * clients // 32, options.requests // 4)
        step = len(text) // count
        prompts = [text[i * step : i * step + 700] for i in range(count)]
        found = {way: [] for way in ways}
        for turn in range(options.rounds):
            for way, flags in ways.items():
                found[way].append(measure(options, prompts, clients, flags))
            print(f"round {turn + 1}/{options.rounds} of {clients} clients done", file=sys.stderr)
        texts = {tuple(run[3]) for runs in found.values() for run in runs}
        if len(texts) != 1:
            raise SystemExit("speculation changed an answer")
        speed = {way: statistics.median(run[0] for run in runs) for way, runs in found.items()}
        rate = lambda way: sum(r[2] for r in found[way]) / max(sum(r[1] for r in found[way]), 1)
        cells = [str(clients), *(f"{speed[way]:.0f}" for way in ways)]
        cells += [f"{speed[way] / speed['off']:.2f}" for way in ("ngram", "draft")] + [f"{rate(way):.2f}" for way in ("ngram", "draft")]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
