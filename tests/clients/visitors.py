"""Who comes to the soak: clients that ask and listen, and clients that leave, stammer or flood.

Each visitor asks once and returns what became of it in a word. It raises `Wrong` if the server did something that it must never do."""

import asyncio
import json
import random
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import aiohttp

from server import NAME

# What prompts begin with: some of these are in the prefix cache, and all do not fit.
BEGINNINGS = [f"// File number {number}: " + "let total = total + next; " * number for number in range(1, 9)]
CHAT, PLAIN = "/v1/chat/completions", "/v1/completions"


class Wrong(Exception):
    """The server did what it must never do."""


@dataclass
class Place:
    """Where visitors go, and what they remember together."""

    url: str
    session: aiohttp.ClientSession
    # What was answered to requests with a seed, which must never change: prefixes, batches and preemption notwithstanding.
    answers: dict[str, str] = field(default_factory=dict)


def body(dice: random.Random, **fields) -> dict:
    """A plain completion's request."""
    prompt = dice.choice(BEGINNINGS) + str(dice.randrange(50))
    asked = {"model": NAME, "prompt": prompt, "seed": dice.randrange(4), "max_tokens": dice.choice([1, 8, 40, 120]),
             "temperature": dice.choice([0, 0.8, 1.5]), "priority": dice.randrange(-2, 3), "ignore_eos": dice.random() < 0.5}
    return asked | fields


def refused(status: int, headers, text: str) -> str:
    """Checks a refusal: OpenAI's shape, and when to come back."""
    error = json.loads(text)["error"]
    if not error["message"] or set(error) != {"message", "type", "param", "code"}:
        raise Wrong(f"an error of another shape: {text}")
    if status == 429 and int(headers["Retry-After"]) < 1:
        raise Wrong("429 without a time to come back")
    if status >= 500:
        raise Wrong(f"{status}: {text}")
    return str(status)


async def ask(place: Place, path: str, asked: dict) -> tuple[str, dict | None]:
    """Asks, and waits for the whole answer."""
    async with place.session.post(place.url + path, json=asked) as response:
        text = await response.text()
        if response.status != 200:
            return refused(response.status, response.headers, text), None
        return "answered", json.loads(text)


async def listen(place: Place, path: str, asked: dict) -> tuple[str, list[dict]]:
    """Asks, and reads the stream to its end."""
    events, ended = [], False
    async with place.session.post(place.url + path, json=asked | {"stream": True}) as response:
        if response.status != 200:
            return refused(response.status, response.headers, await response.text()), []
        async for line in response.content:
            if line == b"data: [DONE]\n":
                ended = True
            elif line.startswith(b"data: "):
                events.append(json.loads(line[6:]))
    if not ended or any("error" in event for event in events):
        raise Wrong(f"a stream that broke off: {events[-1:]}")
    return "streamed", events


def remember(place: Place, asked: dict, texts: dict[int, str]) -> None:
    """A seed is an answer, every time."""
    decides = ("prompt", "seed", "max_tokens", "temperature", "ignore_eos", "n", "stop", "structured_outputs")
    key = json.dumps([asked.get(name) for name in decides])
    told = json.dumps(sorted(texts.items()))
    if place.answers.setdefault(key, told) != told:
        raise Wrong(f"another answer than before to {key}: {told} instead of {place.answers[key]}")


async def asks(place: Place, dice: random.Random) -> str:
    asked = body(dice, n=dice.choice([1, 1, 1, 4]))
    word, answer = await ask(place, PLAIN, asked)
    if answer:
        if len(answer["choices"]) != asked["n"] or not all(choice["finish_reason"] for choice in answer["choices"]):
            raise Wrong(f"an answer that is not whole: {answer}")
        remember(place, asked, {choice["index"]: choice["text"] for choice in answer["choices"]})
    return word


async def listens(place: Place, dice: random.Random) -> str:
    asked = body(dice, n=dice.choice([1, 1, 2]))
    word, events = await listen(place, PLAIN, asked)
    texts: dict[int, str] = {}
    ends: list[int] = []
    for choice in (choice for event in events for choice in event["choices"]):
        texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
        ends += [choice["index"]] if choice["finish_reason"] else []
    if events:
        if sorted(ends) != list(range(asked["n"])):
            raise Wrong(f"each choice ends once, but these ended: {ends}")
        remember(place, asked, texts)
    return word


async def chats(place: Place, dice: random.Random) -> str:
    messages = [{"role": "user", "content": dice.choice(BEGINNINGS)}]
    asked = {"model": NAME, "messages": messages, "max_tokens": 30, "logprobs": True, "top_logprobs": 3}
    return (await listen(place, CHAT, asked))[0] if dice.random() < 0.5 else (await ask(place, CHAT, asked))[0]


async def asks_elsewhere(place: Place, dice: random.Random) -> str:
    text = dice.choice(BEGINNINGS)
    path, asked = dice.choice([
        ("/v1/responses", {"input": text, "max_output_tokens": 20}),
        ("/v1/messages", {"messages": [{"role": "user", "content": text}], "max_tokens": 20}),
        ("/v1/embeddings", {"input": [text, text + "!"]}),
        ("/tokenize", {"prompt": text}),
        (PLAIN, {"prompt": text, "echo": True, "logprobs": 2, "max_tokens": 3}),
    ])
    return (await ask(place, path, asked | {"model": NAME}))[0]


async def wants_a_form(place: Place, dice: random.Random) -> str:
    forms = [{"regex": "[a-z]{4}-[0-9]{4}"}, {"choice": ["yes", "no"]}, {"json": {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": False}}]
    asked = body(dice, structured_outputs=dice.choice(forms), max_tokens=120, ignore_eos=False)
    word, answer = await ask(place, PLAIN, asked)
    if answer:
        remember(place, asked, {0: answer["choices"][0]["text"]})
    return word


async def floods_with_stops(place: Place, dice: random.Random) -> str:
    many = [f"{dice.randrange(10**9)}" for _ in range(dice.choice([64, 64, 20_000]))]
    word, _ = await ask(place, PLAIN, body(dice, stop=many))
    if len(many) > 64 and word not in ("400", "429"):
        raise Wrong(f"{len(many)} stop strings: {word}")
    return word


async def leaves(place: Place, dice: random.Random) -> str:
    """Goes after some pieces of a stream, or before the first."""
    asked = body(dice, stream=True, max_tokens=200, n=dice.choice([1, 3]))
    async with place.session.post(place.url + PLAIN, json=asked) as response:
        for _ in range(dice.choice([0, 1, 5])):
            await response.content.readline()
        response.close()
    return "left"


async def loses_patience(place: Place, dice: random.Random) -> str:
    """Goes while it waits for a whole answer: queued, in the prompt or later."""
    try:
        word, _ = await asyncio.wait_for(ask(place, PLAIN, body(dice, max_tokens=200)), timeout=dice.uniform(0.001, 0.5))
    except TimeoutError:
        return "left"
    return word


def head(path: str, length: int) -> bytes:
    return f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n".encode()


async def raw(place: Place):
    parts = urlsplit(place.url)
    return await asyncio.open_connection(parts.hostname, parts.port)


async def status(reader: asyncio.StreamReader) -> str:
    """The status of an answer, which is read to its end."""
    answer = await reader.read(-1)
    if not answer:
        return "cut off"
    word = answer.split(b" ", 2)[1].decode()
    if word.startswith("5"):
        raise Wrong(answer[-500:].decode(errors="replace"))
    return word


async def resets(place: Place, dice: random.Random) -> str:
    """Asks, and is gone with a reset of the connection."""
    reader, writer = await raw(place)
    asked = json.dumps(body(dice, stream=True, max_tokens=200)).encode()
    writer.write(head(PLAIN, len(asked)) + asked[: dice.choice([len(asked), len(asked) // 2])])
    await writer.drain()
    await asyncio.sleep(dice.uniform(0, 0.2))
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    return "reset"


async def stammers(place: Place, dice: random.Random) -> str:
    """Sends a damaged body."""
    asked = bytearray(json.dumps(body(dice)).encode())
    for _ in range(dice.randrange(1, 6)):
        asked[dice.randrange(len(asked))] = dice.randrange(256)
    if dice.random() < 0.3:
        del asked[dice.randrange(len(asked)) :]
    reader, writer = await raw(place)
    writer.write(head(dice.choice([PLAIN, CHAT, "/v1/responses"]), len(asked)) + bytes(asked))
    try:
        return await status(reader)
    finally:
        writer.close()


async def dribbles(place: Place, dice: random.Random) -> str:
    """Sends a body slowly, and perhaps not all of it."""
    asked = json.dumps(body(dice)).encode()
    reader, writer = await raw(place)
    whole = dice.random() < 0.7
    try:
        writer.write(head(PLAIN, len(asked)))
        for start in range(0, len(asked) if whole else len(asked) // 2, 16):
            writer.write(asked[start : start + 16])
            await writer.drain()
            await asyncio.sleep(dice.uniform(0, 0.2))
        return await status(reader) if whole else "left"
    finally:
        writer.close()


async def stalls(place: Place, dice: random.Random) -> str:
    """Promises a body that never comes; the server must not wait for ever."""
    reader, writer = await raw(place)
    try:
        writer.write(head(PLAIN, 1000) + b'{"prompt": ')
        word = await status(reader)
    finally:
        writer.close()
    if word not in ("408", "cut off"):
        raise Wrong(f"a body that never came: {word}")
    return word


async def reads_slowly(place: Place, dice: random.Random) -> str:
    """Asks for a long stream and hardly reads it."""
    reader, writer = await raw(place)
    asked = json.dumps(body(dice, stream=True, max_tokens=250, logprobs=20, n=4)).encode()
    try:
        writer.write(head(PLAIN, len(asked)) + asked)
        for _ in range(20):
            if not await reader.read(200):
                break
            await asyncio.sleep(0.1)
    finally:
        writer.close()
    return "left"


async def overwhelms(place: Place, dice: random.Random) -> str:
    """Sends more than the server reads."""
    reader, writer = await raw(place)
    try:
        writer.write(head(PLAIN, 1 << 30) + b" " * 4096)
        word = await status(reader)
    finally:
        writer.close()
    if word != "413":
        raise Wrong(f"a body of 1 GiB: {word}")
    return word


Visitor = Callable[[Place, random.Random], Awaitable[str]]

# How often each comes.
CROWD: dict[Visitor, int] = {
    asks: 20, listens: 20, chats: 8, asks_elsewhere: 8, wants_a_form: 6, leaves: 10, loses_patience: 10, resets: 6, stammers: 8,
    dribbles: 4, reads_slowly: 3, floods_with_stops: 2, overwhelms: 2, stalls: 1,
}
