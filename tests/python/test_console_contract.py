"""The console's API against its document, `docs/openapi.json`, in each role; and each of its problems, provoked once."""

import http.client
import itertools
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import threading

import pytest
from console import Console, settings
from gateway import PATIENCE, ROOT, running_gateway

SCHEMATHESIS = pathlib.Path(sys.executable).with_name("schemathesis")
CONFIG = pathlib.Path(__file__).with_name("schemathesis.toml")
DOCUMENT = ROOT / "docs/openapi.json"
# Streams do not end by themselves.
STREAMS = "events$"
CASES = 20
# Problems of a gateway that does not work: no request brings them about.
NOT_PROVOKED = {"driver-silent", "ending", "internal"}

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def console():
    """A console with devices, which come back when a test has kicked them."""
    with tempfile.TemporaryDirectory() as folder:
        lines, port, tokens = settings(folder)
        with running_gateway(lines) as gateway:
            console = Console(gateway, port, tokens)
            over = threading.Event()
            device = console.device()
            keeping = threading.Thread(target=keep_registered, args=(console, device, over))
            keeping.start()
            yield console
            over.set()
            keeping.join()
            console.leave()


def keep_registered(console, device, over):
    while not over.wait(1.0):
        if not console.ask("/devices?limit=1")["devices"]:
            device.register()


@pytest.mark.parametrize("role", ["viewer", "operator", "nobody"])
def test_the_api_does_what_its_document_says(console, role, tmp_path):
    if not SCHEMATHESIS.exists():
        assert "CI" not in os.environ, "schemathesis is not installed"
        pytest.skip("schemathesis is not installed")
    command = [SCHEMATHESIS, "--config-file", CONFIG, "run", DOCUMENT, "--url", console.url, "--checks", "all"]
    # A request to change something is JSON: a form of another site cannot send it.
    command += ["--header", "Content-Type: application/json", "--exclude-path-regex", STREAMS, "--warnings", "off"]
    command += ["--max-examples", str(CASES), "--seed", "1", "--continue-on-failure"]
    if role != "nobody":
        command += ["--header", f"Authorization: Bearer {console.tokens.of[role]}"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=10 * PATIENCE)
    assert run.returncode == 0, run.stdout[-20_000:] + run.stderr
    assert console.ask("/overview")["devices"]["total"] <= 1


def documented_problems():
    """The types in the table of `docs/console.md`."""
    text = (ROOT / "docs/console.md").read_text()
    table = text.split("| Type, after `urn:lwm2m-gateway:problem:`", 1)[1].split("\n\n", 1)[0]
    return re.findall(r"^\| `([a-z-]+)` \|", table, re.MULTILINE)


# The request that brings a problem about: method, path, headers, and the length that it announces for its body.
PROVOCATIONS = {
    "invalid-request": ("GET", "/devices?limit=0", {}),
    "not-authenticated": ("GET", "/devices", {"Authorization": None}),
    "not-allowed": ("DELETE", "/devices/nobody", {"Authorization": "viewer"}),
    "cross-site": ("GET", "/devices", {"Origin": "http://evil.example"}),
    "not-found": ("GET", "/nothing", {}),
    "device-not-registered": ("GET", "/devices/nobody", {}),
    "no-such-trace": ("GET", "/traces/nothing", {}),
    "method-not-allowed": ("PUT", "/devices", {}),
    "body-too-large": ("POST", "/devices", {**JSON, "Content-Length": "4194305"}),
    "not-json": ("POST", "/devices", {"Content-Type": "text/plain"}),
    "wrong-host": ("GET", "/devices", {"Host": "evil.example"}),
    "too-many": ("GET", "/devices", {"Authorization": "wrong"}),
}


@pytest.mark.parametrize("problem", [problem for problem in documented_problems() if problem not in NOT_PROVOKED])
def test_each_documented_problem_is_provoked_and_told_as_documented(console, problem):
    # Too many wrong tokens are one more than are forgiven in a second.
    attempts = itertools.count() if problem == "too-many" else range(1)
    for _ in attempts:
        status, media_type, document = ask(console, *PROVOCATIONS[problem])
        if status in {429} or problem != "too-many":
            break
    assert media_type == "application/problem+json"
    assert document["type"] == f"urn:lwm2m-gateway:problem:{problem}"
    assert (document["status"], document["instance"]) == (status, f"/api/v1{PROVOCATIONS[problem][1].split('?')[0]}")
    assert {"title", "detail"} <= document.keys()


def ask(console, method, path, headers):
    """Status, media type and JSON of an answer; without a header `Authorization` it is that of an operator."""
    headers = {"Authorization": "operator", **headers}
    role = headers.pop("Authorization")
    if role is not None:
        headers["Authorization"] = f"Bearer {console.tokens.of.get(role, 'lgw_wrong')}"
    connection = http.client.HTTPConnection(console.url.removeprefix("http://"), timeout=PATIENCE)
    try:
        connection.putrequest(method, f"/api/v1{path}", skip_host="Host" in headers)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.headers.get_content_type(), json.loads(answer.read())
    finally:
        connection.close()
