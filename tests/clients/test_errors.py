"""What is refused, by openai-python and by hand: the status, and OpenAI's shape of an error."""

import json
import time

import openai
import pytest
import requests

from conftest import connect
from server import NAME, Server
from test_openai_chat import HELLO, chat

CHAT = "/v1/chat/completions"
NOT_NUMBERS = ("NaN", "Infinity", "-Infinity")


def shape(response: requests.Response) -> dict:
    """The error in a response, which must have OpenAI's shape."""
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    body = response.json()
    assert set(body) == {"error"} and set(body["error"]) == {"message", "type", "param", "code"}, body
    return body["error"]


@pytest.mark.parametrize("fields, param", [
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages[0].content[0].type"),
    ({"max_tokens": 0}, None),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 10**30}, "max_tokens"),
    ({"max_completion_tokens": -1}, "max_completion_tokens"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": 1e300}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_p": 1.1}, "top_p"),
    ({"top_k": -2}, "top_k"),
    ({"min_p": 1.5}, "min_p"),
    ({"n": 0}, "n"),
    ({"n": 1000}, "n"),
    ({"frequency_penalty": 3}, "frequency_penalty"),
    ({"presence_penalty": -3}, "presence_penalty"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"logit_bias": {"word": 1}}, "logit_bias.word"),
    ({"logit_bias": {"-1": 1}}, "logit_bias.-1"),
    ({"logit_bias": {"629": 1}}, "logit_bias.629"),
    ({"logit_bias": {"1": 101}}, "logit_bias.1"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"stop": [""]}, "stop"),
    ({"stop": [f"word {i}" for i in range(5000)]}, "stop"),
    ({"stop": "x" * 5000}, "stop"),
    ({"stop_token_ids": [629]}, "stop_token_ids"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"functions": [{"name": "f"}]}, "functions"),
    ({"audio": {"voice": "alloy", "format": "wav"}}, "audio"),
    ({"store": True}, "store"),
    ({"service_tier": "flex"}, "service_tier"),
    ({"reasoning_effort": "low"}, "reasoning_effort"),
], ids=lambda value: str(value)[:60])
def test_a_wrong_field_is_named(client, refused, fields, param):
    with refused(400, param=param):
        chat(client, **fields)


def test_fields_that_only_other_servers_know(client, refused):
    for field, value in {"cache_salt": "x", "guided_json": {}, "use_beam_search": True, "prompt_logprobs": 1}.items():
        with refused(400, param=field, code="unsupported_parameter"):
            client.chat.completions.create(model=NAME, messages=HELLO, extra_body={field: value})


def test_another_model(client, refused):
    with refused(404, param="model", code="model_not_found"):
        chat(client, model="another")


def test_too_long_a_conversation(client, refused):
    with refused(400, code="context_length_exceeded", says=("4096",)):
        chat(client, messages=[{"role": "user", "content": "word " * 20_000}])


def send(server: Server, data: bytes, path: str = CHAT, **headers: str) -> requests.Response:
    headers = {"content-type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
    return requests.post(server.url + path, data=data, headers=headers, timeout=60)


@pytest.mark.parametrize("data", [
    b"", b"{", b"null", b"[]", b'"x"', b"\xff\xfe", b'{"messages": "\xed\xa0\x80"}', b"{}", b"[" * 100_000, b'{"a":' * 5000,
    json.dumps({"model": NAME, "messages": HELLO}).encode() + b"}",
], ids=lambda data: data[:16].decode(errors="replace"))
@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/responses", "/v1/messages", "/v1/embeddings", "/tokenize", "/detokenize"])
def test_a_body_that_is_none(server: Server, data, path):
    response = send(server, data, path)
    assert response.status_code == 400
    shape(response)


@pytest.mark.parametrize("value", NOT_NUMBERS)
def test_numbers_that_are_none(server: Server, value):
    body = f'{{"model": "{NAME}", "messages": [{{"role": "user", "content": "x"}}], "temperature": {value}}}'
    assert send(server, body.encode()).status_code == 400


def test_statuses(server: Server):
    body = json.dumps({"model": NAME, "messages": HELLO, "max_tokens": 1}).encode()
    asked = {
        "wrong type": (send(server, body, content_type="text/plain"), 415),
        "wrong method": (requests.get(server.url + CHAT, timeout=30), 405),
        "wrong path": (requests.get(server.url + "/v1/nothing", timeout=30), 404),
        "too large": (send(server, b" " * (17 << 20)), 413),
    }
    for what, (response, status) in asked.items():
        assert response.status_code == status, what
        shape(response)
    assert send(server, body, content_type="application/json; charset=utf-8").ok
    assert send(server, body, x_request_id="mine-1").headers["x-request-id"] == "mine-1"


def test_more_than_the_queue_holds_is_refused_at_once(refused):
    with Server("--kv-memory", "2M", "--max-running", "1", "--max-queue", "1") as server:
        client = connect(server)
        streams = [chat(client, max_tokens=3000, ignore_eos=True, stream=True) for _ in range(2)]
        with pytest.raises(openai.RateLimitError) as caught:
            chat(client)
        assert int(caught.value.response.headers["retry-after"]) >= 1
        assert set(caught.value.body) == {"message", "type", "param", "code"}
        for stream in streams:
            stream.close()
        server.wait_until_idle()
        assert is_let_in_within(10, client), "the places of those who left are free again"


def is_let_in_within(seconds: float, client: openai.OpenAI) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            return chat(client).usage.completion_tokens > 0
        except openai.RateLimitError:
            time.sleep(0.05)
    return False


def test_keys():
    secret = "a secret of the tests"
    with Server("--kv-memory", "2M", environment={"LYCEUM_API_KEYS": secret}) as server:
        assert chat(connect(server, api_key=secret)).choices
        with pytest.raises(openai.AuthenticationError):
            chat(connect(server, api_key="another secret, as long"))
        nobody = requests.post(server.url + CHAT, json={"messages": HELLO}, timeout=30)
        assert nobody.status_code == 401 and nobody.headers["www-authenticate"] == "Bearer"
        shape(nobody)
        assert requests.get(server.url + "/health", timeout=30).ok, "whoever watches the server needs no key"
