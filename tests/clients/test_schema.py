"""Schemathesis: thousands of requests made from /openapi.json, those that it allows and those that it forbids.

No answer may be a fault of the server (5xx), have a status or a type that the document does not name, or break its schema. What is not
checked: that every request that the document allows is answered with 200 (a schema cannot say that a prompt is too long)."""

import os
import subprocess
import sys

import pytest

from server import Server

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance"


@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_no_request_breaks_the_server(request: pytest.FixtureRequest, tmp_path, mode: str):
    cases = request.config.getoption("--cases")
    # A short context bounds the work of requests that ask for all that fits, 128 times.
    with Server("--kv-memory", "4M", "--context", "256") as server:
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json"]
        options = ["--mode", mode, "--max-examples", str(cases), "--phases", "examples,coverage,fuzzing", "--checks", CHECKS,
                   "--workers", "4", "--request-timeout", "120", "--continue-on-failure", "--generation-database", "none",
                   "--suppress-health-check", "all", "--warnings", "off", "--no-color"]
        environment = os.environ | {"HYPOTHESIS_STORAGE_DIRECTORY": str(tmp_path)}
        run = subprocess.run(command + options, cwd=tmp_path, env=environment, capture_output=True, text=True)
        print(run.stdout[-2000:])
        assert run.returncode == 0, run.stdout + run.stderr
        server.wait_until_idle()
        assert "panicked" not in server.log()
