"""DTLS with clients that others wrote, against the built program. What one of them cannot do is in tests/clients/README.md."""

import contextlib
import time

import aiocoap
import pytest
from clients import leshan_device
from credentials import SECRET, WRONG_SECRET, Credentials
from device import Device
from gateway import PATIENCE, Application, Client, crash, running_gateway
from line import CLIENT_HELLO, CLIENT_KEY_EXCHANGE, Line
from openssl_device import OpensslDevice, registers_over_udp

PSK_SUITES = [
    "PSK-AES128-CCM8",
    "PSK-AES128-CCM",
    "PSK-AES128-GCM-SHA256",
    "PSK-AES128-CBC-SHA256",
    "PSK-AES256-CCM8",
    "PSK-AES256-CCM",
    "PSK-AES256-GCM-SHA384",
    "PSK-AES256-CBC-SHA384",
    "ECDHE-PSK-AES128-CBC-SHA256",
    "ECDHE-PSK-AES256-CBC-SHA384",
]
CERTIFICATE_SUITES = [
    "ECDHE-ECDSA-AES128-CCM8",
    "ECDHE-ECDSA-AES128-CCM",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES128-SHA256",
    "ECDHE-ECDSA-AES256-CCM8",
    "ECDHE-ECDSA-AES256-CCM",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES256-SHA384",
]
RSA_SUITES = [
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-SHA256",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-SHA384",
]
LIBRARIES = ["openssl", "gnutls"]
TEMPERATURE = "/3303/0/5700"


@pytest.fixture(scope="module")
def credentials(tmp_path_factory):
    others = ["ticket", "killed", "aiocoap", "aiocoap-lossy", "leshan", "leshan-lossy", "leshan-moving"]
    libcoap = [f"libcoap-{library}" for library in LIBRARIES]
    return Credentials(tmp_path_factory.mktemp("credentials"), PSK_SUITES + libcoap + others)


@pytest.fixture(scope="module")
def gateway(credentials):
    with running_gateway(dtls=secured(credentials)) as gateway:
        yield gateway


def secured(credentials, **others):
    """The lines of configuration: pre-shared keys and certificates, of both sides."""
    keys = {
        "psk_file": credentials.psk_file,
        "certfile": credentials.server.certificate,
        "keyfile": credentials.server.key,
        "cacertfile": credentials.authority.certificate,
        "verify": "verify_peer",
        "fail_if_no_peer_cert": True,
    }
    return "\n".join(f"dtls.{key} = {toml(value)}" for key, value in (keys | others).items())


def stored(folder):
    """The lines of configuration: what outlives the gateway."""
    return f"store.enable = true\nstore.file = '{folder / 'store.redb'}'"


def toml(value):
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    return str(value).lower() if isinstance(value, bool) else f'"{value}"'


# --- openssl s_client ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suite", PSK_SUITES)
def test_openssl_with_a_pre_shared_key(gateway, tmp_path, suite):
    with Application(gateway, suite) as application, psk_device(gateway, tmp_path, suite, suite) as device:
        registers_is_read_and_notifies(application, device, suite)
        assert device.suite() == suite


@pytest.mark.parametrize("suite", CERTIFICATE_SUITES)
def test_openssl_with_a_certificate(gateway, credentials, tmp_path, suite):
    own = credentials.device(suite)
    pair = ("-cert", own.certificate, "-key", own.key)
    device = certificate_device(gateway.coaps, credentials, tmp_path, suite, *pair)
    with Application(gateway, suite) as application, device:
        registers_is_read_and_notifies(application, device, suite)
        assert device.suite() == suite


def test_openssl_with_a_certificate_of_rsa(credentials, tmp_path):
    server = credentials.rsa_server()
    rsa = secured(credentials, certfile=server.certificate, keyfile=server.key)
    own = credentials.device("rsa")
    pair = ("-cert", own.certificate, "-key", own.key)
    with running_gateway(dtls=rsa) as gateway, Application(gateway, "rsa") as application:
        for suite in RSA_SUITES:
            with certificate_device(gateway.coaps, credentials, tmp_path, suite, *pair) as device:
                registers_is_read_and_notifies(application, device, "rsa")
                assert device.suite() == suite


def test_openssl_without_a_certificate(gateway, credentials, tmp_path):
    """It is sent away; where nobody is asked for one, it is served."""
    with certificate_device(gateway.coaps, credentials, tmp_path, CERTIFICATE_SUITES[0]) as device:
        device.wait_for("alert")
        assert not device.established()
    anonymous = secured(credentials, fail_if_no_peer_cert=False, identity="none")
    with running_gateway(dtls=anonymous) as open_gateway, Application(open_gateway, "anyone") as application:
        with certificate_device(open_gateway.coaps, credentials, tmp_path, CERTIFICATE_SUITES[0]) as device:
            registers_is_read_and_notifies(application, device, "anyone")


def test_openssl_resumes_with_a_ticket(gateway, tmp_path):
    session = tmp_path / "session"
    with Application(gateway, "ticket") as application, Line(gateway.coaps_uri) as line:
        with psk_device(line, tmp_path, PSK_SUITES[0], "ticket", "-sess_out", session) as device:
            registers_is_read_and_notifies(application, device, "ticket")
        assert (line.seen(CLIENT_HELLO), line.seen(CLIENT_KEY_EXCHANGE)) == (2, 1)
        with psk_device(line, tmp_path, PSK_SUITES[0], "ticket", "-sess_in", session) as device:
            registers_is_read_and_notifies(application, device, "ticket")
        assert (line.seen(CLIENT_HELLO), line.seen(CLIENT_KEY_EXCHANGE)) == (4, 1)


@pytest.mark.parametrize(
    "identity, secret", [("wrong-key", WRONG_SECRET), ("nobody", SECRET)], ids=["a wrong key", "an unknown identity"]
)
def test_openssl_is_not_served_with(gateway, tmp_path, identity, secret):
    """Its last flight, sent once more, has no answer, or an alert has ended it."""
    with Line(gateway.coaps_uri) as line:
        device = psk_device(line, tmp_path, PSK_SUITES[0], identity, secret=secret)
        with device:
            wait_until(lambda: line.seen(CLIENT_KEY_EXCHANGE) > 1 or device.process.poll() is not None)
            assert line.seen(CLIENT_KEY_EXCHANGE) > 0 and not device.established(), device.output()
            device.process.kill()


def test_openssl_is_sent_away_when_its_key_is_taken_away(tmp_path):
    """While it is connected, and while the gateway is not there."""
    credentials = Credentials(tmp_path, ["stays", "goes", "goes-later"])
    lines = secured(credentials) + "\nwatch_interval = '1s'"
    with running_gateway(stored(tmp_path), lines) as gateway, contextlib.ExitStack() as stack:

        def registered(name):
            folder = tmp_path / name
            folder.mkdir()
            device = stack.enter_context(psk_device(gateway, folder, PSK_SUITES[0], name))
            assert device.register(name) == aiocoap.CREATED
            return device

        stays, goes, goes_later = registered("stays"), registered("goes"), registered("goes-later")
        credentials.keep_keys("stays", "goes-later")
        wait_until(lambda: goes.process.poll() is not None)
        crash(gateway)
        credentials.keep_keys("stays")
        gateway.start()
        wait_until(lambda: goes_later.process.poll() is not None)
        assert stays.update() == aiocoap.CHANGED


def test_openssl_without_encrypt_then_mac_is_not_served_with_cbc(gateway, tmp_path):
    """Its records would be MAC-then-encrypt."""
    with psk_device(gateway, tmp_path, "PSK-AES128-CBC-SHA256", "leshan", "-no_etm") as device:
        device.wait_for("alert handshake failure")
        assert not device.established()


def test_openssl_goes_on_after_the_gateway_was_killed(credentials, tmp_path):
    """It notices nothing. A command that is sent before the gateway has subscribed again would be lost."""
    with running_gateway(stored(tmp_path), secured(credentials)) as gateway, Line(gateway.coaps_uri) as line:
        with psk_device(line, tmp_path, PSK_SUITES[0], "killed") as device:
            with Application(gateway, "killed") as application:
                registers_is_read_and_notifies(application, device, "killed")
            crash(gateway)
            gateway.start()
            with Application(gateway, "killed") as application:
                device.notify("22.5")
                notified(application, 22.5)
                assert application.value("read", TEMPERATURE) == 20.5
                assert device.update() == aiocoap.CHANGED
        assert line.seen(CLIENT_HELLO) == 2


def test_an_endpoint_name_of_another_identity_is_refused(gateway, tmp_path):
    with psk_device(gateway, tmp_path, PSK_SUITES[0], PSK_SUITES[0]) as device:
        assert device.register("leshan") == aiocoap.FORBIDDEN


def test_a_registration_is_its_identitys(gateway, tmp_path):
    """Neither another identity nor plain UDP gets at it; a new association of its own does, before it says anything."""
    owner, other = PSK_SUITES[:2]
    again = tmp_path / "again"
    again.mkdir()
    with Application(gateway, owner) as application, psk_device(gateway, tmp_path, owner, owner) as device:
        registers_is_read_and_notifies(application, device, owner)
        with psk_device(gateway, again, owner, other) as intruder:
            intruder.location = device.location
            assert intruder.update() == aiocoap.FORBIDDEN
        assert registers_over_udp(gateway.coap, owner) == aiocoap.FORBIDDEN
        assert application.value("read", TEMPERATURE) == 20.5
        with psk_device(gateway, again, owner, owner) as rebooted:
            rebooted.value = "30.5"
            rebooted.wait_until_established()
            assert application.value("read", TEMPERATURE) == 30.5


def psk_device(line, folder, suite, identity, *options, secret=SECRET):
    """On the gateway, or on a line to it."""
    port = getattr(line, "coaps", None) or line.port
    key = ("-psk_identity", identity, "-psk", secret.encode().hex())
    return OpensslDevice(port, folder, "-cipher", f"{suite}:@SECLEVEL=0", *key, *options)


def certificate_device(port, credentials, folder, suite, *options):
    verified = ("-CAfile", credentials.authority.certificate, "-verify_return_error")
    return OpensslDevice(port, folder, "-cipher", f"{suite}:@SECLEVEL=0", *verified, *options)


def registers_is_read_and_notifies(application, device, endpoint):
    assert device.register(endpoint) == aiocoap.CREATED
    assert application.expect("up/resp", "register")["data"]["ep"] == endpoint
    device.value = "20.5"
    assert application.value("read", TEMPERATURE) == 20.5
    assert application.value("observe", TEMPERATURE) == 20.5
    device.notify("21.5")
    notified(application, 21.5)


# --- libcoap ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("credential", ["a pre-shared key", "a certificate"])
def test_libcoap(gateway, credentials, tmp_path, library, credential):
    """It registers; it has no resources, which is what it answers a read with."""
    endpoint = f"libcoap-{library}"
    own = credentials.device(endpoint)
    options = {
        "a pre-shared key": ("-u", endpoint, "-k", SECRET),
        "a certificate": ("-c", own.certificate, "-j", own.key, "-C", credentials.authority.certificate),
    }
    uri = f"{gateway.coaps_uri}/rd?ep={endpoint}&lt=300&lwm2m=1.0&b=U"
    # It ends with the answer, unless it has to ask again: it registers each second.
    post = ("-m", "post", "-t", "40", "-e", "</3/0>", "-G", str(int(PATIENCE)), "-v", "7")
    command = [f"coap-client-{library}", *post, *map(str, options[credential]), uri]
    with Application(gateway, endpoint) as application, Client(command, tmp_path) as device:
        application.expect("up/resp", "register")
        device.wait_for("c:2.01")
        application.publish("read", path="/3/0/0")
        heard = application.receive()
        while heard[1]["msgType"] == "register":
            heard = application.receive()
        assert heard[1]["msgType"] == "read" and heard[1]["data"]["code"] == "4.04", heard
        device.process.terminate()


# --- aiocoap on tinydtls ------------------------------------------------------------------------------------------------


def test_aiocoap(gateway):
    with aiocoap_device(gateway.coaps_uri, "aiocoap") as device, Application(gateway, "aiocoap") as application:
        aiocoap_registers_is_read_and_notifies(application, device)


def test_aiocoap_on_a_lossy_line(gateway):
    with Line(gateway.coaps_uri, loss=0.1, seed=6347) as line, Application(gateway, "aiocoap-lossy") as application:
        with aiocoap_device(line.uri, "aiocoap-lossy") as device:
            aiocoap_registers_is_read_and_notifies(application, device)
        assert line.lost > 0


@contextlib.contextmanager
def aiocoap_device(uri, endpoint):
    device = Device(uri, endpoint, {(3, 0, 0): "Acme", (3303, 0, 5700): 20.5}, secret=SECRET)
    with contextlib.closing(device):
        yield device


def aiocoap_registers_is_read_and_notifies(application, device):
    device.register()
    application.expect("up/resp", "register")
    assert application.value("read", "/3/0/0") == "Acme"
    assert application.value("observe", TEMPERATURE) == 20.5
    device.notify((3303, 0, 5700), 21.5)
    notified(application, 21.5)


# --- Leshan, on Californium ---------------------------------------------------------------------------------------------


def pre_shared_key(endpoint, _credentials):
    return (f"psk={endpoint}:{SECRET}",)


def certificate(endpoint, credentials):
    own = credentials.device(endpoint)
    server = credentials.server.certificate_der()
    return ("mode=x509", f"own={own.certificate_der()}", f"key={own.key_der()}", f"server={server}")


@pytest.mark.parametrize(
    "credential, options",
    [
        (pre_shared_key, ("suite=TLS_PSK_WITH_AES_128_CCM_8", "cid=6")),
        (pre_shared_key, ("suite=TLS_PSK_WITH_AES_128_GCM_SHA256", "cid=0")),
        (certificate, ("suite=TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8",)),
        (certificate, ("suite=TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "cid=6")),
    ],
    ids=["a pre-shared key", "a pre-shared key, GCM", "a certificate", "a certificate, GCM"],
)
def test_leshan_with(gateway, credentials, tmp_path, credential, options):
    device = leshan_device(gateway.coaps_uri, "leshan", tmp_path, *credential("leshan", credentials), *options)
    with Application(gateway, "leshan") as application, device:
        leshan_registers_is_read_and_notifies(application, device)
        leaves(application, device)


def test_leshan_with_raw_public_keys(credentials, tmp_path):
    """Of both sides (RFC 7250): the gateway calls it as the file with its key is called."""
    own = credentials.device("leshan-raw")
    trusted = secured(credentials, raw_public_keys=True, pinned=[own.public_key()])
    server = credentials.server.public_key_der()
    raw = ("mode=rpk", f"own={own.public_key_der()}", f"key={own.key_der()}", f"server={server}")
    with running_gateway(dtls=trusted) as gateway, Application(gateway, "leshan-raw") as application:
        with leshan_device(gateway.coaps_uri, "leshan-raw", tmp_path, *raw) as device:
            leshan_registers_is_read_and_notifies(application, device)


def test_leshan_with_cbc_is_refused(gateway, tmp_path):
    """Californium has no encrypt-then-MAC."""
    suite = "suite=TLS_PSK_WITH_AES_128_CBC_SHA256"
    with leshan_device(gateway.coaps_uri, "leshan", tmp_path, f"psk=leshan:{SECRET}", suite) as device:
        device.wait_for("HANDSHAKE_FAILURE")


def test_leshan_on_a_lossy_line(gateway, tmp_path):
    with Line(gateway.coaps_uri, loss=0.1, seed=9146) as line, Application(gateway, "leshan-lossy") as application:
        with leshan_device(line.uri, "leshan-lossy", tmp_path, f"psk=leshan-lossy:{SECRET}", "cid=6") as device:
            leshan_registers_is_read_and_notifies(application, device)
        assert line.lost > 0


def test_leshan_moves_and_the_gateway_is_killed_without_a_handshake(credentials, tmp_path):
    """With a Connection ID (RFC 9146), and with the store."""
    with running_gateway(stored(tmp_path), secured(credentials)) as gateway, Line(gateway.coaps_uri) as line:
        with leshan_device(line.uri, "leshan-moving", tmp_path, f"psk=leshan-moving:{SECRET}", "cid=6") as device:
            with Application(gateway, "leshan-moving") as application:
                leshan_registers_is_read_and_notifies(application, device)
                hellos = line.seen(CLIENT_HELLO)

                line.move()
                notifies(application, device, 22.5)
                assert application.value("read", "/3/0/0") == "Eclipse Leshan"
                line.move()
                device.say("update")
                device.wait_for("updated")
                assert application.value("read", TEMPERATURE) == 22.5

            crash(gateway)
            gateway.start()
            with Application(gateway, "leshan-moving") as application:
                notifies(application, device, 23.5)
                assert application.value("read", "/3/0/0") == "Eclipse Leshan"
                line.move()
                notifies(application, device, 24.5)
                assert application.value("read", TEMPERATURE) == 24.5
                leaves(application, device)
        assert line.seen(CLIENT_HELLO) == hellos


def leshan_registers_is_read_and_notifies(application, device):
    application.expect("up/resp", "register")
    device.wait_for("registered ")
    assert application.value("read", "/3/0/0") == "Eclipse Leshan"
    assert application.value("observe", TEMPERATURE) == 20.5
    notifies(application, device, 21.5)


def notifies(application, device, value):
    device.say(f"set {value}")
    notified(application, value)


def leaves(application, device):
    device.say("quit")
    device.wait_for("deregistered")


# --- What all do --------------------------------------------------------------------------------------------------------


def notified(application, value):
    payload = application.expect("up/notify", "notify")
    assert payload["data"]["content"] == [{"path": TEMPERATURE, "value": value}], payload


def wait_until(true):
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.05)
