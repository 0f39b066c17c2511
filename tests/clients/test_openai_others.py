"""openai-python's other endpoints, and those that no client has: embeddings, models, tokens, the server's state."""

import base64
import json
import struct

import pytest
import requests

from server import CONTEXT, NAME, Server


def embed(client, texts, **fields):
    return client.embeddings.create(model=NAME, input=texts, **fields)


def length(vector: list[float]) -> float:
    return sum(x * x for x in vector) ** 0.5


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_vectors_have_unit_length(client, pooling):
    texts = ["fn main", "a longer text than that", "fn main"]
    answer = embed(client, texts, encoding_format="float", extra_body={"pooling": pooling})
    vectors = [item.embedding for item in answer.data]
    assert [item.index for item in answer.data] == [0, 1, 2]
    assert all(len(vector) == 32 and abs(length(vector) - 1) < 1e-4 for vector in vectors)
    assert vectors[0] == vectors[2] != vectors[1]
    assert answer.usage.total_tokens == answer.usage.prompt_tokens > 0


def test_vectors_in_either_form_and_of_ids(client, lenient, server: Server):
    numbers = embed(client, "fn main", encoding_format="float").data[0].embedding
    # Without a wish the client asks for base64 and decodes it, after it has checked that this is a list of numbers.
    assert embed(lenient, "fn main").data[0].embedding == pytest.approx(numbers)
    text = embed(lenient, "fn main", encoding_format="base64").data[0].embedding
    assert list(struct.unpack("<32f", base64.b64decode(text))) == pytest.approx(numbers)
    ids = server.tokens("fn main")
    assert embed(client, ids, encoding_format="float").data[0].embedding == numbers
    assert embed(client, [ids, ids], encoding_format="float").data[1].embedding == numbers


@pytest.mark.parametrize("fields, param", [({"dimensions": 8}, "dimensions"), ({"encoding_format": "hex"}, "encoding_format")], ids=str)
def test_vectors_that_cannot_be_had(client, refused, fields, param):
    with refused(400, param=param):
        embed(client, "x", **fields)


@pytest.mark.parametrize("texts", ["", [], [""], [[99999]], [-1]], ids=str)
def test_vectors_of_nothing(client, refused, texts):
    with refused(400, param="input"):
        embed(client, texts)


def test_models(client, refused):
    [model] = client.models.list().data
    assert (model.id, model.object, model.model_extra["max_model_len"]) == (NAME, "model", CONTEXT)
    assert client.models.retrieve(NAME) == model
    with refused(404, param="model", code="model_not_found"):
        client.models.retrieve("another")


@pytest.mark.parametrize("text", ["fn main() {}", "é🙂\u2028 <|im_end|>", " \n\t", "a\x00b"])
def test_tokens_go_there_and_back(server: Server, text):
    assert server.text(server.tokens(text)) == text


def test_tokens_of_a_conversation(client, server: Server):
    messages = [{"role": "user", "content": "Hi"}]
    tokens = server.post("/tokenize", {"messages": messages}).json()
    answer = client.chat.completions.create(model=NAME, messages=messages, max_tokens=1)
    assert tokens["count"] == len(tokens["tokens"]) == answer.usage.prompt_tokens


def test_the_server_tells_how_it_does(server: Server):
    get = lambda path: requests.get(server.url + path, timeout=30)
    assert get("/health").json() == get("/ready").json() == {"status": "ok"}
    document = get("/openapi.json").json()
    assert document["openapi"].startswith("3.")
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/v1/embeddings"):
        assert "post" in document["paths"][path]
    live = get("/api/live").json()
    assert live["model"] == NAME and {"waiting", "running", "occupancy", "recent"} <= set(live)
    assert "<html" in get("/").text.lower() and "<html" in get("/docs").text.lower()
    json.dumps(live, allow_nan=False)


def test_metrics_count_what_was_done(client, server: Server):
    before = server.metrics()
    answer = client.completions.create(model=NAME, prompt="fn main() {", max_tokens=9, extra_body={"ignore_eos": True})
    server.wait_until_idle()
    after = server.metrics()
    grown = lambda name: after[name] - before[name]
    assert grown("prompt_tokens_total") == answer.usage.prompt_tokens
    assert grown("generation_tokens_total") == 9
    assert grown('finished_total{reason="length"}') == 1
    assert grown("steps_total") >= 9 and grown("time_to_first_token_seconds_count") == 1
    blocks = lambda metrics: sum(value for name, value in metrics.items() if name.startswith("kv_blocks"))
    assert blocks(before) == blocks(after) > 0, "free + cached + owned are all blocks"
