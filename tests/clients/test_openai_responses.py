"""openai-python and /v1/responses: items, functions, typed events."""

import json

import jsonschema
import openai
import pytest

from server import NAME
from test_openai_formats import PERSON, WEATHER

FORECAST = {"type": "function", "name": "forecast", "description": "Tells the weather", "parameters": WEATHER, "strict": True}


def respond(client: openai.OpenAI, **fields):
    asked = {"model": NAME, "input": "Say something.", "max_output_tokens": 12, "store": False} | fields
    return client.responses.create(**asked, extra_body={"seed": 1})


def test_an_answer_is_complete(client):
    first, second = respond(client), respond(client)
    assert first.id != second.id and first.output_text == second.output_text
    assert (first.status, first.model) == ("incomplete", NAME)
    assert first.incomplete_details.reason == "max_output_tokens" and first.error is None
    assert first.usage.output_tokens == 12
    assert first.usage.total_tokens == first.usage.input_tokens + 12
    assert first.output[0].role == "assistant"


def test_a_stream_ends_in_the_whole_answer(client):
    whole = respond(client, include=["message.output_text.logprobs"], top_logprobs=2)
    events = list(respond(client, include=["message.output_text.logprobs"], top_logprobs=2, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    names = [event.type.removeprefix("response.") for event in events]
    assert names[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
    assert names[-4:] == ["output_text.done", "content_part.done", "output_item.done", "incomplete"]
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    assert "".join(delta.delta for delta in deltas) == whole.output_text and len(deltas) > 1
    last = events[-1].response
    assert last.output_text == whole.output_text
    assert last.output[0].content == whole.output[0].content
    assert last.usage.output_tokens == 12


def test_the_stream_helper_of_the_client_adds_up(client):
    form = {"type": "json_schema", "name": "word", "schema": {"enum": ["yes", "no"]}, "strict": True}
    with client.responses.stream(model=NAME, input="Hi", text={"format": form}) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        assert stream.get_final_response().output_text == text in ('"yes"', '"no"')


def test_a_call_and_what_it_returned(client):
    asked = {"tools": [FORECAST], "tool_choice": {"type": "function", "name": "forecast"}, "max_output_tokens": 400}
    whole = respond(client, **asked)
    [call] = whole.output
    assert (whole.status, call.type, call.name) == ("completed", "function_call", "forecast")
    jsonschema.validate(json.loads(call.arguments), WEATHER)
    events = list(respond(client, **asked, stream=True))
    deltas = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    assert "".join(deltas) == call.arguments and len(deltas) > 1
    [done] = [event for event in events if event.type == "response.function_call_arguments.done"]
    assert done.arguments == call.arguments

    returned = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    conversation = [{"role": "user", "content": "Weather?"}, call.model_dump(), returned]
    assert respond(client, input=conversation, tools=[FORECAST]).usage.output_tokens <= 12


def test_a_text_that_ended_is_valid(client):
    form = {"type": "json_schema", "name": "person", "schema": PERSON, "strict": True}
    answer = respond(client, text={"format": form}, max_output_tokens=600)
    assert answer.status == "completed"
    jsonschema.validate(json.loads(answer.output_text), PERSON)


def test_instructions_come_before(client):
    plain = respond(client)
    with_them = respond(client, instructions="Speak like a pirate.", metadata={"a": "b"})
    assert with_them.usage.input_tokens > plain.usage.input_tokens
    assert with_them.instructions == "Speak like a pirate." and with_them.metadata == {"a": "b"}


@pytest.mark.parametrize("fields, param", [
    ({"previous_response_id": "resp_1"}, "previous_response_id"),
    ({"store": True}, "store"),
    ({"background": True}, "background"),
    ({"truncation": "auto"}, "truncation"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"temperature": 2.5}, "temperature"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"include": ["file_search_call.results"]}, "include"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:,"}]}]}, "input[0].content[0].type"),
    ({"input": []}, "input"),
], ids=str)
def test_what_is_not_supported_is_named(client, refused, fields, param):
    with refused(400, param=param):
        respond(client, **fields)
