"""What the tests share: one server, and clients that check every answer against their own types."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import openai
import pytest

from server import Server


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cases", type=int, default=40, help="cases per operation in test_schema.py")


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with Server("--kv-memory", "16M") as server:
        yield server
        server.wait_until_idle()


def connect(server: Server, **options) -> openai.OpenAI:
    """A client that refuses any answer that OpenAI's own types do not allow, and never asks twice."""
    options = {"api_key": "none", "max_retries": 0, "timeout": 120, "_strict_response_validation": True} | options
    return openai.OpenAI(base_url=f"{server.url}/v1", **options)


@pytest.fixture(scope="session")
def client(server: Server) -> openai.OpenAI:
    return connect(server)


@pytest.fixture(scope="session")
def lenient(server: Server) -> openai.OpenAI:
    """For the answers that OpenAI itself gives and its types forbid: plain completions have `finish_reason: null` before the end of
    a stream, `echo` begins with a log-probability of null, and vectors may come in base64."""
    return connect(server, _strict_response_validation=False)


Refused = Callable[..., AbstractContextManager[None]]


@pytest.fixture(scope="session")
def refused() -> Refused:
    """`with refused(400, param="n"):` what is inside must be refused in OpenAI's form."""

    @contextmanager
    def expect(status: int, *, param: str | None = None, code: str | None = None, says: tuple[str, ...] = ()):
        with pytest.raises(openai.APIStatusError) as caught:
            yield
        error = caught.value
        assert error.status_code == status, error
        assert set(error.body) == {"message", "type", "param", "code"}, error.body
        assert isinstance(error.body["message"], str) and error.body["message"], error.body
        assert isinstance(error.body["type"], str), error.body
        if param is not None:
            assert error.body["param"] == param, error.body
        if code is not None:
            assert error.body["code"] == code, error.body
        for part in says:
            assert part in error.body["message"], error.body

    return expect
