"""Anthropic's client and /v1/messages."""

import json

import anthropic
import jsonschema
import pytest

from server import NAME, Server
from test_openai_formats import WEATHER

HELLO = [{"role": "user", "content": "Say something."}]
FORECAST = {"name": "forecast", "description": "Tells the weather", "input_schema": WEATHER}


@pytest.fixture(scope="module")
def claude(server: Server) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0, timeout=120, _strict_response_validation=True)


def ask(client: anthropic.Anthropic, extra: dict = {}, **fields):
    asked = {"model": NAME, "max_tokens": 12, "messages": HELLO} | fields
    # The client has no name for this any more; the API has.
    return client.messages.create(**asked, extra_body={"temperature": 0} | extra)


def test_an_answer_is_complete(claude):
    first, second = ask(claude), ask(claude)
    assert first.id != second.id and first.content == second.content
    assert (first.type, first.role, first.model) == ("message", "assistant", NAME)
    assert first.stop_reason in ("max_tokens", "end_turn")
    assert first.usage.output_tokens <= 12
    assert second.usage.input_tokens + second.usage.cache_read_input_tokens == first.usage.input_tokens + first.usage.cache_read_input_tokens


def test_a_stream_says_what_the_whole_answer_says(claude):
    whole = ask(claude, max_tokens=40)
    events = list(ask(claude, max_tokens=40, stream=True))
    names = [event.type for event in events]
    assert names[:2] == ["message_start", "content_block_start"]
    assert names[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert "".join(event.delta.text for event in events if event.type == "content_block_delta") == whole.content[0].text
    assert events[-2].delta.stop_reason == whole.stop_reason
    assert events[-2].usage.output_tokens == whole.usage.output_tokens
    with claude.messages.stream(model=NAME, max_tokens=40, messages=HELLO, extra_body={"temperature": 0}) as stream:
        assert stream.get_final_message().content[0].text == whole.content[0].text


def test_a_stop_sequence(claude):
    full = ask(claude, max_tokens=60).content[0].text
    stop = full[len(full) // 2 : len(full) // 2 + 3]
    answer = ask(claude, max_tokens=60, stop_sequences=[stop])
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", stop)
    assert answer.content[0].text == full[: full.index(stop)]


def test_a_call_and_what_it_returned(claude):
    asked = {"tools": [FORECAST], "tool_choice": {"type": "any", "disable_parallel_tool_use": True}, "max_tokens": 400}
    whole = ask(claude, **asked)
    [call] = whole.content
    assert (whole.stop_reason, call.type, call.name) == ("tool_use", "tool_use", "forecast")
    jsonschema.validate(call.input, WEATHER)
    events = list(ask(claude, **asked, stream=True))
    parts = [event.delta.partial_json for event in events if event.type == "content_block_delta"]
    assert json.loads("".join(parts)) == call.input and len(parts) > 1

    returned = {"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}
    messages = [*HELLO, {"role": "assistant", "content": [call.model_dump(exclude_none=True)]}, {"role": "user", "content": [returned]}]
    assert ask(claude, messages=messages, tools=[FORECAST]).usage.output_tokens <= 12


def test_counting(claude):
    counted = claude.messages.count_tokens(model=NAME, messages=HELLO, system="Be brief.")
    usage = ask(claude, system="Be brief.").usage
    assert counted.input_tokens == usage.input_tokens + usage.cache_read_input_tokens


@pytest.mark.parametrize("fields, param", [
    ({"max_tokens": 0}, "max_tokens"),
    ({"extra": {"temperature": 1.5}}, "temperature"),
    ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking"),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
    ({"messages": [*HELLO, {"role": "assistant", "content": "It"}]}, "messages"),
    ({"messages": []}, "messages"),
], ids=str)
def test_what_is_not_supported_is_named(claude, fields, param):
    with pytest.raises(anthropic.BadRequestError) as caught:
        ask(claude, **fields)
    assert caught.value.body["error"]["param"] == param
