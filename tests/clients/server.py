"""The server under test: the real program, a tiny model with random weights, a port of its own."""

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import requests

TREE = Path(__file__).resolve().parents[2]
FIXTURE = TREE / "tests/fixtures/models/qwen3_moe_bpe"
PROGRAM = Path(os.environ.get("LYCEUM", TREE / "target/release/lyceum"))

# What clients call the model.
NAME = "tiny"
# Positions served: more than the fixture was made for, which random weights do not mind.
CONTEXT = 4096


class Server:
    """A running server. `options` go to `lyceum serve`; `rename` spells tokens of the model differently."""

    def __init__(self, *options: str, rename: dict[str, str] | None = None, environment: dict[str, str] | None = None):
        self.folder = Path(tempfile.mkdtemp(prefix="lyceum-clients-"))
        self._copy_model(rename or {})
        command = [PROGRAM, "serve", self.folder, "--port", "0", "--name", NAME, "--log", "warn", *options]
        with self._log_path().open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | (environment or {}))
        self._asked = False
        self.url = self._wait_for_address()

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_) -> None:
        status = self.stop()
        log = self.log()
        self.remove()
        assert status == 0, f"the server ended with {status}:\n{log}"

    def ask_to_leave(self) -> None:
        """Sends SIGTERM, once: a second one would have it leave at once."""
        if not self._asked and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self._asked = True

    def stop(self) -> int:
        """Asks the server to leave, and returns its exit status."""
        self.ask_to_leave()
        try:
            return self.process.wait(timeout=90)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    def remove(self) -> None:
        """Removes the copy of the model and the log."""
        shutil.rmtree(self.folder)

    def log(self) -> str:
        """What the server wrote."""
        return self._log_path().read_text(errors="replace")

    def post(self, path: str, body: dict, **options) -> requests.Response:
        """Sends JSON."""
        return requests.post(self.url + path, json=body, timeout=120, **options)

    def tokens(self, text: str) -> list[int]:
        """The ids of a text."""
        return self.post("/tokenize", {"prompt": text}).json()["tokens"]

    def text(self, ids: list[int]) -> str:
        """The text of ids, special tokens included."""
        return self.post("/detokenize", {"tokens": ids}).json()["prompt"]

    def metrics(self) -> dict[str, float]:
        """All of /metrics, by name with labels."""
        lines = requests.get(self.url + "/metrics", timeout=60).text.splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name.removeprefix("lyceum_"): float(value) for name, value in pairs}

    def busy(self) -> dict[str, float]:
        """What is waiting, running or owned: all of it is 0 in a server that has answered everybody."""
        held = ("queue_places", "queue_waiting", "queue_running")
        is_held = lambda name: name in held or name.startswith("kv_blocks") and 'state="owned"' in name
        return {name: value for name, value in self.metrics().items() if is_held(name)}

    def wait_until_idle(self, seconds: float = 30) -> None:
        """Waits until nothing waits, runs or owns cache blocks."""
        until = time.monotonic() + seconds
        while any(self.busy().values()):
            assert time.monotonic() < until, f"still held after {seconds} s: {self.busy()}"
            time.sleep(0.05)

    def _copy_model(self, rename: dict[str, str]) -> None:
        for name in ("model.safetensors", "tokenizer.json", "tokenizer_config.json"):
            shutil.copy(FIXTURE / name, self.folder)
        config = json.loads((FIXTURE / "config.json").read_text()) | {"max_position_embeddings": CONTEXT}
        (self.folder / "config.json").write_text(json.dumps(config))
        tokenizer = (FIXTURE / "tokenizer.json").read_text()
        for old, new in rename.items():
            assert f'"{old}"' in tokenizer, f"the fixture has no token {old}"
            tokenizer = tokenizer.replace(f'"{old}"', f'"{new}"')
        (self.folder / "tokenizer.json").write_text(tokenizer)

    def _log_path(self) -> Path:
        return self.folder / "server.log"

    def _wait_for_address(self) -> str:
        until = time.monotonic() + 120
        while time.monotonic() < until and self.process.poll() is None:
            found = re.search(r"listening on (http://\S+?)/?\s", self.log())
            if found and self._is_ready(found[1]):
                return found[1]
            time.sleep(0.05)
        self.process.kill()
        raise RuntimeError(f"the server did not become ready:\n{self.log()}")

    @staticmethod
    def _is_ready(url: str) -> bool:
        try:
            return requests.get(url + "/ready", timeout=5).ok
        except requests.RequestException:
            return False
