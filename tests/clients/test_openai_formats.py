"""openai-python and what a text must look like: schemas, grammars, calls of functions."""

import json
import re

import jsonschema
import pydantic
import pytest

from server import NAME
from test_openai_chat import HELLO, chat, said

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "mood": {"enum": ["good", "bad"]},
        "tags": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
    },
    "required": ["name", "age", "mood", "tags"],
    "additionalProperties": False,
}
TREE = {
    "$defs": {"node": {
        "type": "object",
        "properties": {"left": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
        "required": ["left"],
        "additionalProperties": False,
    }},
    "$ref": "#/$defs/node",
}
WEATHER = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}


def tool(name: str) -> dict:
    return {"type": "function", "function": {"name": name, "description": "Tells the weather", "parameters": WEATHER}}


def of_schema(schema: dict) -> dict:
    return {"type": "json_schema", "json_schema": {"name": "it", "schema": schema, "strict": True}}


@pytest.mark.parametrize("schema", [PERSON, TREE, {"type": "array", "items": {"const": 1}, "maxItems": 4}], ids=["object", "recursive", "array"])
@pytest.mark.parametrize("seed", range(3))
def test_a_text_that_ended_is_valid(client, schema, seed):
    answer = chat(client, response_format=of_schema(schema), seed=seed, temperature=1.4, max_tokens=600)
    assert answer.choices[0].finish_reason in ("stop", "length")
    if answer.choices[0].finish_reason == "stop":
        jsonschema.validate(json.loads(said(answer)), schema)
    else:
        assert schema is TREE, "only what is recursive may go on and on"


def test_any_object(client):
    # Nothing but braces and quotes is likely, so that random weights come to an end.
    answer = chat(client, response_format={"type": "json_object"}, temperature=0, max_tokens=400)
    text = said(answer)
    assert text.lstrip().startswith("{")
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(text), dict)


def test_parse_of_the_client(client):
    class Person(pydantic.BaseModel):
        age: int
        happy: bool

    answer = client.chat.completions.parse(model=NAME, messages=HELLO, seed=3, max_tokens=300, response_format=Person)
    assert isinstance(answer.choices[0].message.parsed, Person)


@pytest.mark.parametrize("how, pattern", [
    ({"regex": "[0-9]{3}-[a-f]{2}"}, "[0-9]{3}-[a-f]{2}"),
    ({"choice": ["yes", "no", "perhaps"]}, "yes|no|perhaps"),
    ({"grammar": 'start: "a"~2 ("b" | "c") "d"'}, "aa[bc]d"),
    ({"json": {"enum": ["one", 2]}}, '"one"|2'),
], ids=["regex", "choice", "grammar", "json"])
@pytest.mark.parametrize("seed", range(3))
def test_other_ways_to_say_it(client, how, pattern, seed):
    answer = chat(client, structured_outputs=how, seed=seed, temperature=1.5, max_tokens=50)
    assert answer.choices[0].finish_reason == "stop"
    assert re.fullmatch(pattern, said(answer)), said(answer)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "forecast"}}], ids=["required", "named"])
def test_calls_whole_and_streamed(client, choice):
    asked = {"tools": [tool("weather"), tool("forecast")], "tool_choice": choice, "parallel_tool_calls": False, "max_tokens": 400}
    whole = chat(client, **asked)
    [call] = whole.choices[0].message.tool_calls
    assert whole.choices[0].finish_reason == "tool_calls"
    assert call.function.name in (["weather", "forecast"] if choice == "required" else ["forecast"])
    jsonschema.validate(json.loads(call.function.arguments), WEATHER)

    chunks = list(chat(client, **asked, stream=True))
    deltas = [delta for chunk in chunks for delta in chunk.choices[0].delta.tool_calls or []]
    assert deltas[0].function.name == call.function.name and deltas[0].id and deltas[0].type == "function"
    assert all(delta.index == 0 for delta in deltas)
    assert all(delta.id is None and delta.function.name is None for delta in deltas[1:]), "named once"
    assert len(deltas) > 2, "arguments come as they are written"
    assert "".join(delta.function.arguments for delta in deltas) == call.function.arguments
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_the_stream_helper_of_the_client_adds_up(client):
    asked = {"model": NAME, "messages": HELLO, "seed": 1, "max_tokens": 400, "tools": [tool("weather")], "tool_choice": "required"}
    with client.chat.completions.stream(**asked, parallel_tool_calls=False) as stream:
        kinds = {event.type for event in stream}
        [call] = stream.get_final_completion().choices[0].message.tool_calls
    assert "tool_calls.function.arguments.done" in kinds
    jsonschema.validate(json.loads(call.function.arguments), WEATHER)


def test_no_call_where_none_is_wanted(client):
    tools = [tool("weather")]
    assert chat(client, tools=tools, tool_choice="none").choices[0].message.tool_calls is None
    for seed in range(3):
        answer = chat(client, tools=tools, tool_choice="auto", seed=seed, max_tokens=200, temperature=1.5)
        for call in answer.choices[0].message.tool_calls or []:
            assert call.function.name == "weather"


def test_what_a_call_returned_goes_back(client):
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome", "days": 2}'}}
    messages = [*HELLO, {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}]
    with_result = chat(client, messages=messages, tools=[tool("weather")])
    without = chat(client, messages=messages[:-1], tools=[tool("weather")])
    assert with_result.usage.prompt_tokens > without.usage.prompt_tokens


@pytest.mark.parametrize("fields, param", [
    ({"response_format": of_schema({"type": "wizard"})}, "response_format"),
    ({"response_format": of_schema({"type": "object", "properties": {"a": {"$ref": "#/nowhere"}}, "required": ["a"]})}, "response_format"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "it"}}}, "response_format.json_schema.schema"),
    ({"structured_outputs": {"regex": "("}}, "structured_outputs"),
    ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs"),
    ({"structured_outputs": {"grammar": "start: nothing"}}, "structured_outputs"),
    ({"structured_outputs": {"choice": []}}, "structured_outputs"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tools": [tool("weather")], "tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
    ({"tools": [tool("no spaces")]}, "tools[0]"),
    ({"tools": [tool("weather")], "response_format": {"type": "json_object"}}, "response_format"),
], ids=str)
def test_what_cannot_be_held_to_is_refused(client, refused, fields, param):
    with refused(400, param=param):
        chat(client, **fields)
