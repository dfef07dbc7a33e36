"""The console's API against its document, `docs/openapi.json`, in each role; and each of its problems, provoked once."""

import contextlib
import ctypes
import http.client
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
import time

import pytest
from console import Console, settings
from gateway import PATIENCE, ROOT, Application, running_gateway

SCHEMATHESIS = pathlib.Path(sys.executable).with_name("schemathesis")
CONFIG = pathlib.Path(__file__).with_name("schemathesis.toml")
DOCUMENT = ROOT / "docs/openapi.json"
# Streams do not end by themselves.
STREAMS = "events$"
CASES = 10
# Problems that need more than a request: those of campaigns and of a silent driver have tests below, and the end of the
# program has one in tests/program/console/commands.rs.
PROVOKED_APART = {"driver-silent", "ending", "campaign-conflict", "too-many-campaigns"}
# Problems of a cluster, which tests/program/cluster/operation.rs provokes.
PROVOKED_APART |= {"device-elsewhere", "no-such-node", "last-node", "store-silent"}

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def console():
    """A console with a device, which comes back when a test has kicked it."""
    with tempfile.TemporaryDirectory() as folder:
        lines, port, tokens = settings(folder)
        with running_gateway(lines) as gateway, contextlib.ExitStack() as stack:
            console = Console(gateway, port, tokens)
            stack.callback(console.leave)
            over = threading.Event()
            keeping = threading.Thread(target=keep_registered, args=(console, console.device(), over))
            keeping.start()
            stack.callback(keeping.join)
            stack.callback(over.set)
            yield console


@pytest.fixture(scope="module")
def names(console):
    """Devices that no other test kicks: one is awake, one sleeps, one is observed; and a command that has ended."""
    awake, asleep, observed = console.device("awake"), console.device("asleep", binding="UQ"), console.device("observed")
    with Application(console.gateway, observed.endpoint) as application:
        application.command("observe", path="/3303/0/5700")
    # A command would wake it.
    while console.ask(f"/devices/{asleep.endpoint}")["state"] != "asleep":
        time.sleep(0.1)
    done = console.ask(f"/devices/{awake.endpoint}/commands?wait=10", "POST", READ)
    return {"awake": awake.endpoint, "asleep": asleep.endpoint, "observed": observed.endpoint, "done": done["id"]}


def keep_registered(console, device, over):
    while not over.wait(1.0):
        if not console.ask(f"/devices?limit=1&prefix={device.endpoint}")["devices"]:
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
    if role == "nobody":
        command += ["--phases", "examples,coverage"]
    else:
        command += ["--header", f"Authorization: Bearer {console.tokens.of[role]}"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=10 * PATIENCE)
    assert run.returncode == 0, run.stdout[-20_000:] + run.stderr


def documented_problems():
    """The types in the table of `docs/console.md`."""
    text = (ROOT / "docs/console.md").read_text()
    table = text.split("| Type, after `urn:lwm2m-gateway:problem:`", 1)[1].split("\n\n", 1)[0]
    return re.findall(r"^\| `([a-z-]+)` \|", table, re.MULTILINE)


def test_the_documentation_has_each_problem():
    source = (ROOT / "src/console/http/problem.rs").read_text()
    known = re.findall(r'\("([a-z-]+)", StatusCode::', source)
    assert set(known) - {"internal"} == set(documented_problems())


READ = {"msgType": "read", "data": {"path": "/3/0/0"}}
OBSERVE = {"msgType": "observe", "data": {"path": "/3303/0/5700"}}
# The request that brings a problem about: method, path, headers and, for some, the JSON of the body.
PROVOCATIONS = {
    "invalid-request": ("GET", "/devices?limit=0", {}),
    "not-authenticated": ("GET", "/devices", {"Authorization": None}),
    "not-allowed": ("DELETE", "/devices/nobody", {"Authorization": "viewer"}),
    "cross-site": ("GET", "/devices", {"Origin": "http://evil.example"}),
    "not-found": ("GET", "/nothing", {}),
    "device-not-registered": ("GET", "/devices/nobody", {}),
    "no-such-command": ("GET", f"/commands/{'0' * 32}", {}),
    "no-such-trace": ("GET", "/traces/999999", {}),
    "no-such-key": ("DELETE", "/generated-keys/nobody", {}),
    "no-such-campaign": ("GET", "/firmware/campaigns/nothing", {}),
    "campaign-invalid": ("POST", "/firmware/campaigns", JSON, {"name": "a"}),
    "command-invalid": ("POST", "/devices/{awake}/commands", JSON, {"msgType": "fetch"}),
    "observed-already": ("POST", "/devices/{observed}/commands", JSON, OBSERVE),
    "device-asleep": ("POST", "/devices/{asleep}/commands", JSON, {**READ, "mheaders": {"ttl": 0}}),
    "queue-full": ("POST", "/devices/{asleep}/commands", JSON, READ),
    "not-pending": ("DELETE", "/commands/{done}", {}),
    "method-not-allowed": ("PUT", "/devices", {}),
    "body-too-large": ("POST", "/devices", {**JSON, "Content-Length": "16777217"}),
    "not-json": ("POST", "/devices", {"Content-Type": "text/plain"}),
    "wrong-host": ("GET", "/devices", {"Host": "evil.example"}),
    "too-many": ("GET", "/devices", {"Authorization": "wrong"}),
}
# A queue is full after some commands, and wrong tokens are too many after some requests.
ATTEMPTS = 60


@pytest.mark.parametrize("problem", [problem for problem in documented_problems() if problem not in PROVOKED_APART])
def test_each_documented_problem_is_provoked_and_told_as_documented(console, names, problem):
    method, path, headers, *body = PROVOCATIONS[problem]
    path = path.format(**names)
    for _ in range(ATTEMPTS):
        status, media_type, document = ask(console, method, path, headers, *body)
        if document.get("type", "").endswith(f":{problem}"):
            break
        # Commands have a rate, and so have wrong tokens.
        time.sleep(0 if problem == "too-many" else 0.1)
    assert_is_problem(problem, path, (status, media_type, document))


def assert_is_problem(problem, path, answer):
    """Whether an answer tells a problem as documented."""
    status, media_type, document = answer
    assert document["type"] == f"urn:lwm2m-gateway:problem:{problem}", document
    assert media_type == "application/problem+json"
    assert (document["status"], document["instance"]) == (status, f"/api/v1{path.split('?')[0]}")
    assert {"title", "detail"} <= document.keys()


@contextlib.contextmanager
def own_console(folder, lines="", definitions=ROOT / "xml"):
    """A console for one test."""
    of_console, port, tokens = settings(folder)
    with running_gateway(f"{of_console}\n{lines}", definitions=definitions) as gateway:
        yield Console(gateway, port, tokens)


PTRACE_DETACH, PTRACE_SEIZE, PTRACE_INTERRUPT = 17, 0x4206, 0x4207
# waitpid(2): threads, too.
WALL = 0x40000000


def ptrace(request, thread):
    """ptrace(2) without an address and data."""
    libc = ctypes.CDLL(None, use_errno=True)
    nothing = ctypes.c_void_p()
    if libc.ptrace(ctypes.c_long(request), ctypes.c_int(thread), nothing, nothing) < 0:
        raise OSError(ctypes.get_errno(), "ptrace")


@contextlib.contextmanager
def stopped_thread(process, name):
    """One thread of a process stands still, as a debugger would stop it."""
    threads = pathlib.Path(f"/proc/{process.pid}/task").iterdir()
    (thread,) = [int(each.name) for each in threads if (each / "comm").read_text().strip() == name]
    ptrace(PTRACE_SEIZE, thread)
    try:
        ptrace(PTRACE_INTERRUPT, thread)
        os.waitpid(thread, WALL)
        yield
    finally:
        ptrace(PTRACE_DETACH, thread)


def test_an_event_loop_that_stands_still_is_told_and_served_again_when_it_goes_on(tmp_path):
    with own_console(tmp_path) as console:
        for method, path, *body in [
            ("GET", "/devices"),
            ("GET", "/devices/ep1"),
            ("GET", "/overview"),
            ("POST", "/devices/ep1/commands", READ),
        ]:
            with stopped_thread(console.gateway.process, "driver"):
                begin = time.monotonic()
                answer = ask(console, method, path, JSON if body else {}, *body)
                assert_is_problem("driver-silent", path, answer)
                assert 1.5 < time.monotonic() - begin < PATIENCE, "it waits for 2 seconds"
                # What needs no driver is answered.
                assert ask(console, "GET", "/session", {})[0] == 200
            assert ask(console, "GET", "/devices", {})[0] == 200


def test_a_campaign_whose_name_is_taken_or_that_is_too_much_is_refused(tmp_path):
    (tmp_path / "app-3.0.bin").write_bytes(b"version: 3.0\n" + bytes(20_000))
    lines = f"firmware.dir = '{tmp_path}'\nfirmware.public_uri = 'COAP_URI'"
    campaign = {"image": "app-3.0.bin", "version": "3.0", "pattern": "unit-*"}
    path = "/firmware/campaigns"
    with own_console(tmp_path, lines) as console:

        def begin(name):
            return ask(console, "POST", path, JSON, {**campaign, "name": name})

        assert begin("spring-1")[0] == 201
        assert_is_problem("campaign-conflict", path, begin("spring-1"))
        for number in range(2, 33):
            assert begin(f"spring-{number}")[0] == 201
        assert_is_problem("too-many-campaigns", path, begin("spring-33"))
        change = f"{path}/spring-1/cancel"
        assert ask(console, "POST", change, JSON, {})[0] == 200
        assert_is_problem("campaign-conflict", change, ask(console, "POST", change, JSON, {}))
        assert begin("spring-33")[0] == 201


@contextlib.contextmanager
def event_names(console, path):
    """The names of the events of a stream, after its hello."""
    connection = http.client.HTTPConnection(console.url.removeprefix("http://"), timeout=PATIENCE)
    connection.request("GET", f"/api/v1{path}", headers={"Authorization": f"Bearer {console.viewer}"})
    answer = connection.getresponse()
    lines = iter(answer.readline, b"")
    names = (line.split()[1].decode() for line in lines if line.startswith(b"event:"))
    assert (answer.status, next(names)) == (200, "hello")
    try:
        yield names
    finally:
        answer.close()
        connection.close()


def test_every_stream_tells_that_the_definitions_have_changed(tmp_path):
    xml = tmp_path / "xml"
    xml.mkdir()
    with (
        own_console(tmp_path, "watch_interval = '20ms'", xml) as console,
        event_names(console, "/events") as of_all,
        event_names(console, "/devices/ep1/events") as of_device,
    ):
        definition = (ROOT / "xml/3303-1_1.xml").read_text().replace("<ObjectID>3303<", "<ObjectID>32000<")
        (xml / "32000.xml").write_text(definition)
        assert (next(of_all), next(of_device)) == ("definitions", "definitions")
        assert console.ask("/objects/32000")["id"] == 32000


def ask(console, method, path, headers, body=None):
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
        content = b"" if body is None else json.dumps(body).encode()
        if body is not None:
            connection.putheader("Content-Length", str(len(content)))
        connection.endheaders(content)
        answer = connection.getresponse()
        return answer.status, answer.headers.get_content_type(), json.loads(answer.read())
    finally:
        connection.close()
