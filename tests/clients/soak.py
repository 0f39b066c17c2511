"""Keeps a server at its limits for a while, with clients of all kinds (visitors.py), and says whether it bore that.

    python soak.py --minutes 30
    python soak.py --minutes 1 -- --speculate ngram --kv-cache int8

The cache is far too small for the crowd, so sequences are preempted all the time; the queue is short, so some are refused. At the end
everybody must have been answered or refused, equal requests must have had equal answers, nothing may be left in the engine, memory
must be flat, and SIGTERM must end the process with 0 once the last streams have ended."""

import argparse
import asyncio
import random
import statistics
import time
from collections import Counter
from pathlib import Path

import aiohttp

from server import Server
from visitors import CROWD, PLAIN, Place, Wrong, body, listen

# The cache holds four of the longest sequences, so that what runs is always fighting for it.
OPTIONS = ("--kv-memory", "512K", "--context", "512", "--max-running", "64", "--max-queue", "96")
# What memory may grow by between the second and the last third of the time.
GROWTH = 1.05
SLACK_MIB = 8


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30, help="how long (default 30; CI takes 1)")
    parser.add_argument("--clients", type=int, default=220, help="clients at once (default 220)")
    parser.add_argument("--patience", type=float, default=300, help="seconds after which an answer counts as lost (default 300)")
    parser.add_argument("--seed", type=int, default=0, help="who comes when")
    parser.add_argument("options", nargs="*", help="further options of the server, after --")
    return parser.parse_args()


async def come_and_go(place: Place, dice: random.Random, until: float, patience: float, words: Counter, wrongs: list[str]) -> None:
    """One client after the other, until it is time."""
    while time.monotonic() < until:
        [visitor] = dice.choices(list(CROWD), list(CROWD.values()))
        try:
            word = await asyncio.wait_for(visitor(place, dice), patience)
            words[f"{visitor.__name__}: {word}"] += 1
            if word == "429":
                await asyncio.sleep(dice.uniform(0, 2))
        except (TimeoutError, Wrong, aiohttp.ClientError, OSError, ValueError, LookupError) as error:
            wrongs.append(f"{visitor.__name__}: {type(error).__name__}: {error}")


async def watch(place: Place, process: int, memory: list[float], wrongs: list[str]) -> None:
    """Reads the server's memory (MiB) and asks for its health every second."""
    while True:
        pages = Path(f"/proc/{process}/status").read_text()
        memory.append(next(int(line.split()[1]) / 1024 for line in pages.splitlines() if line.startswith("VmRSS")))
        async with place.session.get(place.url + "/health") as response:
            if response.status != 200:
                wrongs.append(f"/health: {await response.text()}")
        await asyncio.sleep(1)


async def crowd(server: Server, asked: argparse.Namespace) -> tuple[Counter, list[float], list[str]]:
    """Lets everybody come, and waits until the last has gone."""
    words, wrongs, memory = Counter(), [], []
    until = time.monotonic() + 60 * asked.minutes
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as session:
        place = Place(server.url, session)
        watching = asyncio.create_task(watch(place, server.process.pid, memory, wrongs))
        dice = [random.Random(f"{asked.seed} {client}") for client in range(asked.clients)]
        await asyncio.gather(*(come_and_go(place, own, until, asked.patience, words, wrongs) for own in dice))
        watching.cancel()
        result = await asyncio.gather(watching, return_exceptions=True)
        wrongs += [f"the watch broke off: {error!r}" for error in result if not isinstance(error, asyncio.CancelledError)]
    return words, memory, wrongs


async def knock(place: Place) -> str:
    """What a newcomer is told while the server drains: 503, also if it has left already."""
    try:
        async with place.session.post(place.url + PLAIN, json=body(random.Random(1), max_tokens=1)) as response:
            return str(response.status)
    except aiohttp.ClientError:
        return "503"


async def drain(server: Server, wrongs: list[str]) -> None:
    """SIGTERM while streams run: they go on to their ends, and nobody new is let in."""
    async with aiohttp.ClientSession() as session:
        place = Place(server.url, session)
        asked = body(random.Random(0), max_tokens=300, ignore_eos=True)
        streams = [asyncio.create_task(listen(place, PLAIN, asked)) for _ in range(8)]
        while server.busy()["queue_running"] == 0 and not all(stream.done() for stream in streams):
            await asyncio.sleep(0.01)
        server.ask_to_leave()
        wrongs += [f"at SIGTERM somebody new was let in: {word}" for word in [await knock(place)] if word != "503"]
        ends = await asyncio.gather(*streams, return_exceptions=True)
        wrongs += [f"a stream did not end well at SIGTERM: {end!r}" for end in ends if isinstance(end, BaseException) or end[0] != "streamed"]


def judge_engine(server: Server, wrongs: list[str]) -> None:
    """Nothing may be left, and what was meant to happen must have happened."""
    try:
        server.wait_until_idle()
    except AssertionError as error:
        wrongs.append(str(error))
    metrics = server.metrics()
    ended = {name: value for name, value in metrics.items() if name.startswith("finished_total")}
    print(f"ended: {ended}; preemptions: {metrics['preemptions_total']:.0f}; hits: {metrics['prefix_hit_ratio']:.0%}; steps: {metrics['steps_total']:.0f}")
    for name in ("preemptions_total", 'finished_total{reason="cancelled"}', 'finished_total{reason="length"}', "prefix_tokens_found_total"):
        if metrics[name] == 0:
            wrongs.append(f"{name} is 0: this was no saturation")
    if metrics['finished_total{reason="failed"}'] > 0:
        wrongs.append("requests failed in the engine")


def judge_memory(memory: list[float], wrongs: list[str]) -> None:
    """Flat: the last third of the time like the second."""
    third = len(memory) // 3
    middle, last = statistics.median(memory[third : 2 * third]), statistics.median(memory[2 * third :])
    print(f"memory: {memory[0]:.0f} MiB at first, then {middle:.0f}, then {last:.0f}; at most {max(memory):.0f}")
    if last > middle * GROWTH + SLACK_MIB:
        wrongs.append(f"memory grew from {middle:.0f} to {last:.0f} MiB")


def main() -> None:
    asked = arguments()
    server = Server(*OPTIONS, *asked.options)
    words, memory, wrongs = asyncio.run(crowd(server, asked))
    for word, count in sorted(words.items()):
        print(f"{count:8} {word}")
    if not any(word.endswith(": 429") for word in words):
        wrongs.append("nobody was refused: this was no saturation")
    judge_memory(memory, wrongs)
    if server.process.poll() is None:
        judge_engine(server, wrongs)
        asyncio.run(drain(server, wrongs))
    status = server.stop()
    if status != 0:
        wrongs.append(f"the server ended with {status}")
    log = server.log()
    server.remove()
    if "panicked" in log:
        wrongs.append("something panicked")
    if wrongs:
        print(log[-5000:])
        raise SystemExit(f"{len(wrongs)} wrongs:\n" + "\n".join(wrongs[:40]))
    print(f"{sum(words.values())} visits; all were answered or refused, nothing was left")


if __name__ == "__main__":
    main()
