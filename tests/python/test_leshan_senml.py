"""A device of LwM2M 1.1 on Eclipse Leshan's client library: SenML, composite operations, Send and object versions."""

import contextlib
import dataclasses
import json
import shutil

import pytest
from clients import LESHAN_DEFINITIONS, leshan_device
from credentials import SECRET, Credentials
from gateway import ROOT, Application, Client, crash, running_gateway

TEMPERATURE = "/3303/0/5700"

# Without a member the gateway chooses a format that the device announced.
ACCEPTED = [{}, {"accept": 110}, {"accept": 112}]
SENT = [{}, {"format": 110}, {"format": 112}]
COMPOSITE = SENT + [{"format": 110, "accept": 112}, {"format": 112, "accept": 110}, {"format": 110, "accept": 110}]

# The formats of a Send.
SENML = {"json": 110, "cbor": 112}

# The values of instance 0 of the object 26250 (Values.java). No test writes to this instance.
FIXED = {
    "/26250/0/0": 9007199254740993,
    "/26250/0/1": 21.625,
    "/26250/0/2": True,
    "/26250/0/3": "Grüße",
    "/26250/0/4": "AP8Q",
    "/26250/0/5": 1717886813,
    "/26250/0/6": "3:0",
    "/26250/0/7/0": -1,
    "/26250/0/7/5": 70000,
    "/26250/0/8": 18446744073709551615,
    "/26250/0/9": "</3/0>",
}

# The values that tests write to instance 1. They write both sets, so that a write without effect is noticed.
WRITTEN = [
    {
        "0": -9223372036854775808,
        "1": -0.5,
        "2": False,
        "3": "",
        "4": "",
        "5": 4102444800,
        "6": "65535:65535",
        "7/1": -9223372036854775808,
        "8": 0,
        "9": "</1/0>",
    },
    {
        "0": 9223372036854775807,
        "1": 1e300,
        "2": True,
        "3": "a\u0000\n\"ü𝄞",
        "4": "+/8=",
        "5": 0,
        "6": "3303:0",
        "7/1": 9223372036854775807,
        "8": 18446744073709551614,
        "9": "</5/0>,</3303/0>",
    },
]


@pytest.fixture(scope="module")
def definitions(tmp_path_factory):
    """A folder with the definitions that the program ships, and both versions of the object 26250."""
    folder = tmp_path_factory.mktemp("definitions") / "xml"
    shutil.copytree(ROOT / "xml", folder)
    shutil.copytree(LESHAN_DEFINITIONS, folder, dirs_exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def gateway(definitions, tmp_path_factory):
    keys = Credentials(tmp_path_factory.mktemp("credentials"), ["leshan-dtls"]).psk_file
    with running_gateway("report_attributes = true", f"dtls.psk_file = '{keys}'", definitions) as gateway:
        yield gateway


@dataclasses.dataclass
class Leshan:
    """A device, its application, the report of its registration, and the number of Sends so far."""

    application: Application
    device: Client
    registered: dict
    sends: int = 0

    @contextlib.contextmanager
    def uses(self, *expected):
        """The device encodes and decodes payloads in these formats, and no others, in the meantime (Formats.java)."""
        before = len(self.device.output())
        yield
        lines = self.device.output()[before:].splitlines()
        used = {line for line in lines if line.startswith(("encode ", "decode "))}
        assert used == set(expected), (used, expected)


@pytest.fixture(scope="module", params=["udp", "dtls"])
def leshan(gateway, tmp_path_factory, request):
    """The device has version 2.0 of the object 26250."""
    endpoint = f"leshan-{request.param}"
    uri, secured = {"udp": (gateway.uri, ()), "dtls": (gateway.coaps_uri, (f"psk={endpoint}:{SECRET}",))}[request.param]
    folder = tmp_path_factory.mktemp(endpoint)
    device = device_of_version("2_0", uri, endpoint, folder, *secured)
    with Application(gateway, endpoint) as application, device:
        yield registered(application, device)


def registered(application, device):
    report = application.expect("up/resp", "register")["data"]
    device.wait_for("registered ")
    return Leshan(application, device, report)


def device_of_version(version, uri, endpoint, folder, *secured):
    return leshan_device(uri, endpoint, folder, f"values={LESHAN_DEFINITIONS}/26250-{version}.xml", *secured)


# --- Versions -------------------------------------------------------------------------------------------------------


def test_the_register_has_formats_and_versions(leshan):
    same(
        leshan.registered,
        {
            "ep": leshan.application.endpoint,
            "lt": 300,
            "lwm2m": "1.1",
            "b": "U",
            "alternatePath": "/",
            "objectList": [
                "/1/0",
                "/3",
                "/3/0",
                "/5",
                "/5/0",
                "/3303",
                "/3303/0",
                "/26250",
                "/26250/0",
                "/26250/1",
            ],
            "objectAttributes": {
                "/": {"rt": "oma.lwm2m", "ct": "60 110 112 11542 11543"},
                "/3": {"ver": "1.2"},
                "/5": {"ver": "1.1"},
                "/3303": {"ver": "1.1"},
                "/26250": {"ver": "2.0"},
            },
        },
    )


def test_a_definition_is_that_of_the_announced_version(leshan, gateway, tmp_path):
    """The resource /26250/x/0 is an Integer in version 2.0 and a String in 1.0, which Leshan does not announce."""
    of_version_2 = leshan.application
    same(content(of_version_2.command("read", path="/26250/0/0", accept="text")), {"/26250/0/0": 9007199254740993})
    refused = of_version_2.command("write", path="/26250/1/0", value="soon")
    assert (refused["code"], refused["reason"]) == ("4.00", 'value of /26250/1/0: "soon" is not a valid Integer'), refused

    device = device_of_version("1_0", gateway.uri, "leshan-1.0", tmp_path)
    with Application(gateway, "leshan-1.0") as of_version_1, device:
        report = registered(of_version_1, device).registered
        assert "/26250" not in report["objectAttributes"], report
        for accept in ACCEPTED + [{"accept": "text"}]:
            same(content(of_version_1.command("read", path="/26250/0/0", **accept)), {"/26250/0/0": "42"})
        assert of_version_1.command("write", path="/26250/0/0", value="soon")["code"] == "2.04"
        same(content(of_version_1.command("read", path="/26250/0/0")), {"/26250/0/0": "soon"})


# --- Read, write, observe -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accept", ACCEPTED, ids=str)
def test_reads(leshan, accept):
    application = leshan.application
    with leshan.uses(f"encode {accept.get('accept', 112)}"):
        for path in ["/26250/0", "/26250/0/7", *FIXED]:
            below = {entry: value for entry, value in FIXED.items() if f"{entry}/".startswith(f"{path}/")}
            same(content(application.command("read", path=path, **accept)), below)


@pytest.mark.parametrize("format", SENT, ids=str)
def test_writes(leshan, format):
    application = leshan.application
    used = f"decode {format.get('format', 112)}"
    for values in WRITTEN:
        entries = [{"path": path, "value": value} for path, value in values.items()]
        with leshan.uses(used):
            assert application.command("write", basePath="/26250/1", content=entries, **format)["code"] == "2.04"
        read = content(application.command("read", path="/26250/1"))
        same({path: read[f"/26250/1/{path}"] for path in values}, values)
    for values in WRITTEN:
        for path, value in values.items():
            if "/" not in path:
                with leshan.uses(used):
                    written = application.command("write", path=f"/26250/1/{path}", value=value, **format)
                assert written["code"] == "2.04", (path, written)
                same(content(application.command("read", path=f"/26250/1/{path}")), {f"/26250/1/{path}": value})


@pytest.mark.parametrize("format", SENT, ids=str)
def test_writes_the_instances_of_a_resource(leshan, format):
    application = leshan.application
    counts = "/26250/1/7"
    for mode, values, then in [
        ("replace", {"0": 1, "65535": 2}, {"0": 1, "65535": 2}),
        ("update", {"0": 3, "4": 4}, {"0": 3, "4": 4, "65535": 2}),
        ("replace", {"4": 5}, {"4": 5}),
    ]:
        entries = [{"path": path, "value": value} for path, value in values.items()]
        with leshan.uses(f"decode {format.get('format', 112)}"):
            written = application.command("write", basePath=counts, mode=mode, content=entries, **format)
        assert written["code"] == "2.04", written
        expected = {f"{counts}/{path}": value for path, value in then.items()}
        same(content(application.command("read", path=counts)), expected)


@pytest.mark.parametrize("accept", ACCEPTED, ids=str)
def test_observes(leshan, accept):
    application, device = leshan.application, leshan.device
    with leshan.uses(f"encode {accept.get('accept', 112)}"):
        before = content(application.command("observe", path=TEMPERATURE, **accept))
        assert list(before) == [TEMPERATURE], before
        for value in (21.5, 22, -1e-300):
            device.say(f"set {value}")
            same(content(application.expect("up/notify", "notify")["data"]), {TEMPERATURE: value})
        same(content(application.command("cancel-observe", path=TEMPERATURE)), {TEMPERATURE: -1e-300})
    sends_but_does_not_notify(leshan)


# --- Composite operations -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("formats", COMPOSITE, ids=str)
def test_reads_composite(leshan, formats):
    application = leshan.application
    paths = ["/3/0/0", "/3/0/99", "/26250/0", "/77", "3/0/1"]
    with leshan.uses(*used(formats)):
        read = application.command("read-composite", paths=paths, **formats)
    same(content(read), {"/3/0/0": "Eclipse Leshan", "/3/0/1": "model 500"} | FIXED)
    assert (read["reqPaths"], read["missing"]) == (paths, ["/3/0/99", "/77"]), read
    read = application.command("read-composite", paths=["/26250/0/7/5", "/26250/0/6"], **formats)
    same(content(read), {"/26250/0/7/5": 70000, "/26250/0/6": "3:0"})
    assert "missing" not in read, read


def test_reads_everything(leshan):
    """No server may read the Security object (0)."""
    application = leshan.application
    read = content(application.command("read", path="/"))
    assert read == content(application.command("read-composite", paths=["/"]))
    for path in ["/1/0", "/3/0", "/5/0", "/3303/0", "/26250/1"]:
        below = {entry: value for entry, value in read.items() if entry.startswith(f"{path}/")}
        same(below, content(application.command("read", path=path)))
    same({entry: value for entry, value in read.items() if entry.startswith("/26250/0/")}, FIXED)
    assert {path.split("/")[1] for path in read} == {"1", "3", "5", "3303", "26250"}, read


@pytest.mark.parametrize("format", SENT, ids=str)
def test_writes_composite(leshan, format):
    application, device = leshan.application, leshan.device
    for values, offset in zip(WRITTEN, ("+02:00", "-09:30"), strict=True):
        entries = {"/3/0/14": offset} | {f"/26250/1/{path}": value for path, value in values.items()}
        named = [{"path": path, "value": value} for path, value in entries.items()]
        with leshan.uses(f"decode {format.get('format', 112)}"):
            written = application.command("write-composite", content=named, **format)
        same(written, {"code": "2.04", "codeMsg": "changed", "reqPaths": list(entries)})
        device.wait_for(f"written 14 {offset}")
        same(content(application.command("read-composite", paths=list(entries))), entries)


@pytest.mark.parametrize("formats", COMPOSITE, ids=str)
def test_observes_composite(leshan, formats):
    application, device = leshan.application, leshan.device
    paths = [TEMPERATURE, "/26250/1/0", "/26250/0/7", "/77"]
    fixed = {"/26250/0/7/0": -1, "/26250/0/7/5": 70000}
    application.command("write", path="/26250/1/0", value=1)
    with leshan.uses(*used(formats)):
        observed = application.command("observe-composite", paths=paths, **formats)
    assert content(observed).items() >= ({"/26250/1/0": 1} | fixed).items(), observed
    assert (observed["reqPaths"], observed["missing"]) == (paths, ["/77"]), observed

    # Leshan decodes the path list again for each notification.
    with leshan.uses(*used(formats)):
        device.say("set 21.5")
        notified = application.expect("up/notify", "notify")["data"]
    same(content(notified), {TEMPERATURE: 21.5, "/26250/1/0": 1} | fixed)
    assert notified["reqPaths"] == paths and "missing" not in notified, notified

    # The device may send the notification before the answer.
    written = application.publish("write", path="/26250/1/0", value=2)
    heard = dict(application.receive() for _ in range(2))
    assert (heard["up/resp"]["reqID"], heard["up/resp"]["data"]["code"]) == (written, "2.04"), heard
    same(content(heard["up/notify"]["data"]), {TEMPERATURE: 21.5, "/26250/1/0": 2} | fixed)

    with leshan.uses(*used(formats)):
        cancelled = application.command("cancel-observe-composite", paths=paths[::-1])
    same(content(cancelled), {TEMPERATURE: 21.5, "/26250/1/0": 2} | fixed)
    sends_but_does_not_notify(leshan)


def test_a_composite_observation_and_versions_survive_a_restart(definitions, tmp_path):
    """The gateway is killed, and the device does not notice. Only its Register had the formats and the versions."""
    store = f"store.enable = true\nstore.file = '{tmp_path / 'store.redb'}'"
    paths = [TEMPERATURE, "/26250/0/0"]
    with running_gateway(store, definitions=definitions) as gateway:
        with device_of_version("2_0", gateway.uri, "leshan-restart", tmp_path) as device:
            with Application(gateway, "leshan-restart") as application:
                registered(application, device)
                observed = application.command("observe-composite", paths=paths)
                same(content(observed), {TEMPERATURE: 20.5, "/26250/0/0": 9007199254740993})
            crash(gateway)
            gateway.start()
            with Application(gateway, "leshan-restart") as application:
                leshan = Leshan(application, device, {})
                device.say("set 21.5")
                notified = application.expect("up/notify", "notify")
                same(content(notified["data"]), {TEMPERATURE: 21.5, "/26250/0/0": 9007199254740993})
                assert (notified["reqID"], notified["data"]["reqPaths"]) == (1, paths), notified
                with leshan.uses("encode 112"):
                    same(content(application.command("read", path="/26250/0")), FIXED)
                read = application.command("read", path="/26250/0/0", accept="text")
                same(content(read), {"/26250/0/0": 9007199254740993})
                application.command("cancel-observe-composite", paths=paths)
                sends_but_does_not_notify(leshan)


def used(formats):
    """The path list, and the answer."""
    return f"decode {formats.get('format', 112)}", f"encode {formats.get('accept', 112)}"


# --- Send -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", SENML)
def test_sends_a_history(leshan, format):
    """The second Send is larger than a datagram: Leshan sends it block-wise."""
    application, device = leshan.application, leshan.device
    history = [(26.5, "2024-06-08T22:46:53.25Z", 1717886813.25), (27, "2024-06-08T22:47:03Z", 1717886823)]
    for value, moment, _seconds in history:
        device.say(f"set {value}")
        device.say(f"collect {TEMPERATURE} {moment}")
    device.say(f"send {format}")
    expected = [{"path": TEMPERATURE, "value": value, "time": seconds} for value, _moment, seconds in history]
    sent(leshan, expected)

    for _value, moment, _seconds in history:
        device.say(f"collect /26250/0 {moment}")
    device.say(f"send {format}")
    times = [seconds for _value, _moment, seconds in history]
    sent(leshan, [entry(path, time=time) for time in times for path in FIXED])


@pytest.mark.parametrize("format", SENML)
def test_sends_without_times(leshan, format):
    application, device = leshan.application, leshan.device
    device.say("collect /26250/0")
    with leshan.uses(f"encode {SENML[format]}"):
        device.say(f"send {format}")
        sent(leshan, [entry(path) for path in FIXED])


def entry(path, **time):
    return {"path": path, "value": FIXED[path]} | time


def sends_but_does_not_notify(leshan):
    """The device does not notify of a change: the next message for the application is a Send with the new value."""
    device = leshan.device
    device.say("set 25.5")
    device.say(f"collect {TEMPERATURE}")
    device.say("send cbor")
    sent(leshan, [{"path": TEMPERATURE, "value": 25.5}])


def sent(leshan, expected):
    """The application gets a Send with these entries in this order, and the device gets 2.04."""
    payload = leshan.application.expect("up/send", "send")
    same(
        payload,
        {"msgType": "send", "data": {"code": "2.05", "codeMsg": "content", "reqPath": "/", "content": expected}},
    )
    leshan.sends += 1
    leshan.device.wait_for(f"send {leshan.sends} answered CHANGED(204)")


# --- What Leshan does otherwise -------------------------------------------------------------------------------------


def test_an_error_of_leshan_is_passed_on(leshan):
    application = leshan.application
    for kind, data, code in [
        # Leshan has no LwM2M CBOR, and rejects paths that overlap.
        ("read", {"path": "/26250/0", "accept": "lwm2m-cbor"}, "4.06"),
        ("read-composite", {"paths": ["/3/0/0", "/3/0"]}, "4.00"),
        ("read-composite", {"paths": ["/77", "/78/0/0"]}, "4.04"),
        ("observe-composite", {"paths": ["/77", "/78/0/0"]}, "4.04"),
        ("write-composite", {"content": [text("/3/0/14"), text("/77/0/0")]}, "4.04"),
        # Leshan throws a NullPointerException if the object definition does not have the resource.
        ("write-composite", {"content": [text("/3/0/14"), text("/26250/0/99")]}, "5.00"),
    ]:
        assert application.command(kind, **data)["code"] == code, (kind, data)
    assert application.value("read", "/3/0/14") != "refused"


def test_leshan_encodes_large_unsigned_integers_in_tlv_as_signed(leshan):
    """Leshan encodes 2^64 - 1 like the signed -1: one byte, 255."""
    application = leshan.application
    same(content(application.command("read", path="/26250/0/8", accept="tlv")), {"/26250/0/8": 255})


def text(path):
    return {"path": path, "type": "String", "value": "refused"}


# --- Comparing ------------------------------------------------------------------------------------------------------


def content(data):
    """Returns the values of a successful answer by path, and checks that each path occurs once and has no time."""
    assert data["code"] == "2.05", data
    values = {entry["path"]: entry["value"] for entry in data["content"]}
    assert len(values) == len(data["content"]) and all(len(entry) == 2 for entry in data["content"]), data
    return values


def same(actual, expected):
    """Compares as JSON: Python takes `true` for 1."""
    assert json.dumps(actual, sort_keys=True) == json.dumps(expected, sort_keys=True), (actual, expected)
