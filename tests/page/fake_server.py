"""A server that behaves as the page's test wants: the page's own files, an API whose answers follow from the prompt, and an engine's figures
that follow from the clock. For what a model cannot be made to say, and for working on the page without building anything:

    python3 tests/page/fake_server.py --port 8000
"""

import argparse
import json
import math
import random
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "crates/serve/page"
TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'"
)

TOUR = """## A short tour

A **mixture of experts** sends each token to *two of sixteen* small networks, chosen by a `router`. Three things follow:

1. Only the chosen experts are computed.
2. All of them must be in memory:
   - shared attention, about 55B parameters
   - sixteen experts of 111B each
3. Load must be even, or some experts starve.

```rust
/// Sends each token to its best experts.
fn route(logits: &[f32], k: usize) -> Vec<(usize, f32)> {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a])); // largest first
    order.truncate(k);
    println!("chosen: {order:?}");
    softmax(&order, logits)
}
```

| part | parameters | per token |
|:-----|-----------:|:---------:|
| attention | 55B | all |
| experts | 1.8T | 2 of 16 |

> What is not computed costs nothing but memory.

See <https://arxiv.org/abs/2401.04088> and [the report](https://example.org/report "a title").
"""

ATTACK = """Here it comes: <script>window.attacked = 1</script> <img src=x onerror="window.attacked = 2">

<script>window.attacked = 3</script>

<iframe srcdoc="<script>parent.attacked = 4</script>"></iframe><svg onload="window.attacked = 5"></svg>

[press me](javascript:window.attacked=6) [or me](  JaVa\tScript:window.attacked=7 ) <javascript:window.attacked=8> [data](data:text/html,<script>alert(1)</script>)
![picture](https://example.org/pixel.png) [good](https://example.org/page) [mail](mailto:someone@example.org)

```html"><img src=x onerror=window.attacked=9>
<img src=x onerror="window.attacked = 10">
```

| <img src=x onerror="window.attacked=11"> | b |
|---|---|
| <style>body{display:none}</style> | `<script>window.attacked=12</script>` |

The end.
"""

CODE = "    match n {\n        0 | 1 => n as u64,\n        _ => fibonacci(n - 1) + fibonacci(n - 2),\n    }\n}\n"
GAP = "    for &number in numbers {\n        if best.is_none_or(|known| number > known) {\n            best = Some(number);\n        }\n    }\n"


OPENAPI = {
    "openapi": "3.1.0",
    "info": {"title": "Fake", "description": "An API that *pretends*. <script>window.attacked = 1</script>"},
    "paths": {
        "/v1/things": {"post": {
            "tags": ["Things"], "summary": "Makes a thing", "parameters": [{"name": "dry", "in": "query", "schema": {"type": "boolean"}}],
            "requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Thing"}}}},
            "responses": {"200": {"description": "It is made", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Thing"}}}}},
        }},
    },
    "components": {"schemas": {"Thing": {"description": "A thing.", "required": ["name"], "properties": {
        "name": {"type": "string", "description": "What it is `called`."},
        "parts": {"type": ["array", "null"], "items": {"$ref": "#/components/schemas/Thing"}},
        "colour": {"oneOf": [{"type": "null"}, {"enum": ["red", "blue"]}]},
    }}}},
}


def pieces(text):
    """Text in what could be tokens."""
    return [text[at : at + 3] for at in range(0, len(text), 3)]


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address, key=None, model=None):
        super().__init__(address, Handler)
        self.key = key
        self.model = {"id": "fake-mixture", "object": "model", "created": 0, "owned_by": "test"} | (model or {})
        self.requests = []  # bodies of the API's requests, oldest first
        self.departed = 0  # clients that left before their stream ended
        self.started = time.monotonic()
        self.engine = FakeEngine()


class FakeEngine:
    """Figures that look like an engine under a changing load."""

    bounds = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0]

    def __init__(self):
        self.random = random.Random(1)
        self.lock = threading.Lock()
        self.at = 0.0
        self.first = [0] * (len(self.bounds) + 1)
        self.between = [0] * (len(self.bounds) + 1)
        self.bias = [[self.random.lognormvariate(0, 0.35) for _ in range(16)] for _ in range(8)]
        self.bias[3][5] = 0.0
        self.sums = {"tokens_in": 0, "tokens_out": 0, "steps": 0, "rows": 0, "drafted": 0, "accepted": 0, "looked_up": 0, "found": 0}
        self.recent = []

    def note(self, histogram, value, times=1):
        histogram[sum(bound < value for bound in self.bounds)] += times

    def load(self):
        return max(0.0, 12 + 10 * math.sin(self.at / 14) + 3 * math.sin(self.at / 3.1))

    def step(self):
        running = min(16, max(1, round(self.load())))
        prefill = 96 if self.random.random() < 0.12 else 0
        drafted = 4 * running if running <= 8 else running
        accepted = sum(self.random.random() < 0.71 for _ in range(drafted))
        rows = running + prefill + drafted
        seconds = (0.011 + 0.0007 * rows) * self.random.lognormvariate(0, 0.12)
        self.at += seconds
        outputs = running + accepted
        self.recent = self.recent[-255:] + [
            {"at": self.at, "seconds": seconds, "rows": rows, "sequences": running, "outputs": outputs, "drafted": drafted, "accepted": accepted}
        ]
        self.note(self.between, seconds, outputs)
        if prefill:
            self.note(self.first, 0.08 * self.random.lognormvariate(0, 0.5) + 0.02 * max(0, self.load() - 16))
        for name, value in {"tokens_in": prefill, "tokens_out": outputs, "steps": 1, "rows": rows, "drafted": drafted, "accepted": accepted,
                            "looked_up": prefill, "found": prefill // 3}.items():
            self.sums[name] += value

    def stats(self, seconds):
        with self.lock:
            while self.at < seconds + 60:  # as if it had run for a while
                self.step()
            sums = self.sums
            running = min(16, max(1, round(self.load())))
            waiting = max(0, round(self.load()) - 16)
            owned = running * 9
            histogram = lambda counts: {"bounds": self.bounds, "counts": list(counts), "sum": 0.0}
            return {
                "uptime": self.at, "waiting": waiting, "running": running,
                "occupancy": [{"free": 256 - owned - 48, "cached": 48, "owned": owned}, {"free": 256 - owned, "cached": 0, "owned": owned}],
                "totals": {"submitted": 80, "steps": sums["steps"], "rows": sums["rows"], "generated": sums["tokens_out"], "looked_up": sums["looked_up"],
                           "found": sums["found"], "preemptions": 3, "drafted": sums["drafted"], "accepted": sums["accepted"]},
                "first_token": histogram(self.first), "inter_token": histogram(self.between),
                "tokens_in": sums["tokens_in"], "tokens_out": sums["tokens_out"],
                "expert_tokens": [[round(bias * sums["rows"]) for bias in layer] for layer in self.bias],
                "spent": {"scheduling": 0.01 * self.at, "draft": 0.1 * self.at, "model": 0.86 * self.at, "sampling": 0.02 * self.at, "text": 0.01 * self.at},
                "recent": list(self.recent), "goodput": {"sequences": 80, "fast": [79, 41]},
                "context": 8192, "weight_bytes": 3 << 29, "kv_bytes": 1 << 28,
            }


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        path = self.path.split("?")[0]
        if path in ("/", "/docs"):
            self.send_page("docs.html" if path == "/docs" else "index.html")
        elif path.startswith("/assets/"):
            self.send_page(path.removeprefix("/assets/"))
        elif self.refused():
            pass
        elif path == "/v1/models":
            self.send_json({"object": "list", "data": [self.server.model]})
        elif path == "/openapi.json":
            self.send_json(OPENAPI)
        elif path == "/api/live":
            self.send_json(self.server.engine.stats(time.monotonic() - self.server.started))
        else:
            self.send_error_json(404, f"there is nothing at {path}")

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.refused():
            return
        self.server.requests.append(body)
        chat = self.path == "/v1/chat/completions"
        prompt = body["messages"][-1]["content"] if chat else body["prompt"]
        if "busy" in prompt:
            self.send_error_json(429, "the queue is full", "rate_limit_exceeded", {"Retry-After": "2"})
        elif "no template" in prompt and chat:
            self.send_error_json(400, "the model `fake-mixture` has no chat template: use /v1/completions", "no_chat_template")
        else:
            self.stream(chat, prompt, body)

    def stream(self, chat, prompt, body):
        text, pause = TOUR, 0.004
        if not chat:
            text = GAP if body.get("suffix") else CODE
        elif "attack" in prompt:
            text = ATTACK
        elif "slow" in prompt:
            text, pause = "word " * 400, 0.03
        elif "echo" in prompt:
            text = prompt + "\u2028after a line separator"
        tokens = pieces(text)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        try:
            for index, piece in enumerate(tokens):
                time.sleep(pause)
                choice = {"index": 0, "finish_reason": None, "token_ids": [index]}
                choice |= {"delta": {"content": piece} | ({"role": "assistant"} if index == 0 else {})} if chat else {"text": piece}
                self.event({"choices": [choice], "usage": None})
                if "breaks" in prompt and index == 20:
                    self.event({"error": {"message": "logits were not finite", "type": "server_error", "code": None}})
                    return
                if "leaves" in prompt and index == 20:
                    return
            self.event({"choices": [{"index": 0, "finish_reason": "stop"} | ({"delta": {}} if chat else {"text": ""})], "usage": None})
            self.event({"choices": [], "usage": {
                "prompt_tokens": 20, "completion_tokens": len(tokens), "total_tokens": 20 + len(tokens),
                "prompt_tokens_details": {"cached_tokens": 16}, "completion_tokens_details": {"accepted_prediction_tokens": 12}}})
            self.wfile.write(b"data: [DONE]\n\n")
        except (BrokenPipeError, ConnectionResetError):
            self.server.departed += 1

    def event(self, value):
        self.wfile.write(b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n")
        self.wfile.flush()

    def refused(self):
        if self.server.key is None or self.headers["Authorization"] == f"Bearer {self.server.key}":
            return False
        self.send_error_json(401, "this server wants an API key", "invalid_api_key")
        return True

    def send_page(self, name):
        file = PAGE / name
        if file.parent != PAGE or not file.is_file():
            return self.send_error_json(404, f"there is no {name}")
        self.send_bytes(200, file.read_bytes(), {"Content-Type": TYPES[file.suffix], "Content-Security-Policy": POLICY})

    def send_json(self, value, status=200, headers=None):
        self.send_bytes(status, json.dumps(value).encode(), {"Content-Type": "application/json"} | (headers or {}))

    def send_error_json(self, status, message, code=None, headers=None):
        self.send_json({"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}, status, headers)

    def send_bytes(self, status, data, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--key", help="refuse requests without this API key")
    options = parser.parse_args()
    server = Server(("127.0.0.1", options.port), options.key)
    print(f"http://127.0.0.1:{options.port}")
    server.serve_forever()


if __name__ == "__main__":
    main()
