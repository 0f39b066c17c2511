"""openai-python and /v1/completions: texts and token ids to be continued."""

import math

import openai
import pytest

from conftest import connect
from server import CONTEXT, NAME, Server

PROMPT = "fn main() {"


def complete(client: openai.OpenAI, prompt=PROMPT, **fields):
    """A completion; fields that OpenAI's client does not know go into the body as they are."""
    body = {name: fields.pop(name) for name in ("ignore_eos", "return_token_ids", "skip_special_tokens") if name in fields}
    asked = {"model": NAME, "prompt": prompt, "seed": 1} | fields
    return client.completions.create(**asked, extra_body=body)


def texts(answer) -> list[str]:
    return [choice.text for choice in answer.choices]


def test_an_answer_is_complete(client):
    first, second = complete(client, ignore_eos=True), complete(client, ignore_eos=True)
    assert first.id != second.id and texts(first) == texts(second)
    assert first.choices[0].finish_reason == "length" and first.choices[0].logprobs is None
    assert first.usage.completion_tokens == 16, "OpenAI's default"
    assert first.usage.total_tokens == first.usage.prompt_tokens + 16


def test_prompts_in_all_forms(client, server: Server):
    ids = server.tokens(PROMPT)
    [plain] = texts(complete(client, temperature=0))
    assert texts(complete(client, ids, temperature=0)) == [plain]
    other = texts(complete(client, "let x", temperature=0))
    assert texts(complete(client, [PROMPT, "let x"], temperature=0)) == [plain, *other]
    lists = complete(client, [ids, server.tokens("let x")], temperature=0)
    assert texts(lists) == [plain, *other]
    assert lists.usage.prompt_tokens == len(ids) + len(server.tokens("let x")), "each prompt counts once"


def test_choices_are_in_the_order_of_prompts(client):
    answer = complete(client, [PROMPT, "let x"], n=3, temperature=1.3, ignore_eos=True)
    assert [choice.index for choice in answer.choices] == list(range(6))
    assert answer.usage.completion_tokens == 6 * 16
    assert texts(answer)[:3] == texts(complete(client, n=3, temperature=1.3, ignore_eos=True))
    assert texts(complete(client, n=2, best_of=2, temperature=1.3, ignore_eos=True)) == texts(answer)[:2]


@pytest.mark.parametrize("fields", [{}, {"echo": True}, {"echo": True, "logprobs": 3}, {"logprobs": 0}, {"stop": ["e"]}], ids=str)
def test_a_stream_says_what_the_whole_answer_says(lenient, fields):
    asked = {"prompt": [PROMPT, "let x"], "n": 2, "temperature": 1.3, "max_tokens": 20} | fields
    whole = complete(lenient, **asked)
    *chunks, last = complete(lenient, **asked, stream=True, stream_options={"include_usage": True})
    assert last.choices == [] and last.usage == whole.usage
    for told in whole.choices:
        mine = [chunk.choices[0] for chunk in chunks if chunk.choices[0].index == told.index]
        assert "".join(choice.text for choice in mine) == told.text
        assert [choice.finish_reason for choice in mine] == [None] * (len(mine) - 1) + [told.finish_reason]
        if told.logprobs:
            for part in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
                pieces = [getattr(choice.logprobs, part) for choice in mine if choice.logprobs]
                assert sum(pieces, []) == getattr(told.logprobs, part), part


def test_echo_scores_the_prompt_as_generation_scored_it(lenient, server: Server):
    ids = server.tokens(PROMPT)
    made = complete(lenient, ids, temperature=0, logprobs=5, ignore_eos=True, return_token_ids=True).choices[0]
    everything = ids + made.model_extra["token_ids"]
    scored = complete(lenient, everything, echo=True, logprobs=5, max_tokens=0)
    told = scored.choices[0].logprobs
    assert scored.usage.completion_tokens == 0
    assert len(told.tokens) == len(everything)
    assert told.token_logprobs[0] is None and told.top_logprobs[0] is None, "nothing stands before the first token"
    assert told.token_logprobs[len(ids):] == made.logprobs.token_logprobs
    assert told.top_logprobs[len(ids):] == made.logprobs.top_logprobs
    assert all(value <= 0 for value in told.token_logprobs[1:])
    again = complete(lenient, everything, echo=True, logprobs=5, max_tokens=0)
    assert again.choices[0].logprobs == told and again.usage.prompt_tokens_details.cached_tokens == 0


def test_offsets_are_where_tokens_stand(lenient):
    answer = complete(lenient, echo=True, logprobs=1, temperature=0, skip_special_tokens=False).choices[0]
    assert answer.text.startswith(PROMPT)
    told = answer.logprobs
    assert told.text_offset[0] == 0 and told.text_offset == sorted(told.text_offset)
    for token, offset, top in zip(told.tokens, told.text_offset, told.top_logprobs):
        if top is not None:
            assert 1 <= len(top) <= 2 and token in top
        if not token.startswith("bytes:"):
            # Bytes that turned out to be no text are told with the token after them.
            assert answer.text[offset:].lstrip("\ufffd").startswith(token), (token, offset)


def test_logprobs_are_negative_and_sorted_out(client):
    told = complete(client, logprobs=4, temperature=0, ignore_eos=True).choices[0].logprobs
    for own, top in zip(told.token_logprobs, told.top_logprobs):
        assert own == max(top.values()) and sum(map(math.exp, top.values())) <= 1 + 1e-4


def test_a_repeated_prompt_is_found_in_the_cache(client):
    prompt = "A beginning that nobody wrote before; " * 10
    first, second = (complete(client, prompt, temperature=0) for _ in range(2))
    assert first.usage.prompt_tokens_details.cached_tokens < second.usage.prompt_tokens_details.cached_tokens
    assert texts(first) == texts(second)


def test_a_gap_is_filled(client, refused):
    with refused(400, param="suffix", code="unsupported_parameter"):
        complete(client, suffix="}")
    # The same model, with tokens for this.
    names = {"<tool_response>": "<|fim_prefix|>", "</tool_response>": "<|fim_suffix|>", "<think>": "<|fim_middle|>"}
    with Server("--kv-memory", "4M", rename=names) as server:
        filled = complete(connect(server), suffix="}", return_token_ids=True, temperature=0)
        ids = filled.choices[0].model_extra["prompt_token_ids"]
        assert server.text(ids) == f"<|fim_prefix|>{PROMPT}<|fim_suffix|>}}<|fim_middle|>"
        with refused(400, param="echo"):
            complete(connect(server), suffix="}", echo=True)


@pytest.mark.parametrize("prompt", ["", [], [[]], [""], [-1], [[-1]], [1.5], [629], [[1], [10**9]], ["a", [1]], {}, 3, None, [None]], ids=str)
def test_prompts_that_are_none(client, refused, prompt):
    with refused(400, param="prompt"):
        complete(client, prompt)


def test_more_than_fits_is_refused_with_both_counts(client, refused):
    too_long = [1] * (CONTEXT + 5)
    with refused(400, code="context_length_exceeded", says=(str(CONTEXT), str(CONTEXT + 5))):
        complete(client, too_long)
    with refused(400, code="context_length_exceeded", says=(str(CONTEXT), str(CONTEXT + 1))):
        complete(client, [1] * 10, max_tokens=CONTEXT - 9)
    assert complete(client, [1] * (CONTEXT - 16), ignore_eos=True).usage.total_tokens == CONTEXT


@pytest.mark.parametrize("fields, param", [
    ({"max_tokens": -1}, "max_tokens"),
    ({"logprobs": 21}, "logprobs"),
    ({"best_of": 3}, "best_of"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
], ids=str)
def test_values_out_of_range(client, refused, fields, param):
    with refused(400, param=param):
        complete(client, **fields)
