"""emqxlwm2m was written for EMQX's own LwM2M gateway: it works unchanged with this one."""

import pytest
from device import Device
from emqxlwm2m.engines.emqx import EMQxEngine
from gateway import PATIENCE, running_gateway

ENDPOINT = "thermostat-1"


@pytest.fixture(scope="module")
def gateway():
    with running_gateway() as gateway:
        yield gateway


@pytest.fixture
def device(gateway):
    values = {
        (1, 0, 1): 300,
        (1, 0, 2): 1,
        (1, 0, 6): True,
        (1, 0, 7): "U",
        (3, 0, 0): "Acme",
        (3, 0, 9): 81,
        (3303, 0, 5700): 20.5,
    }
    device = Device(gateway.uri, ENDPOINT, values)
    yield device
    device.close()


@pytest.fixture
def endpoint(gateway, device):
    """The application's face of the device, once the device is registered."""
    engine = EMQxEngine.via_mqtt(host="127.0.0.1", port=gateway.mqtt, timeout=PATIENCE)
    with engine:
        endpoint = engine.endpoint(ENDPOINT)
        registrations = endpoint.registrations()
        device.register()
        registration = registrations.get(timeout=PATIENCE)
        assert (registration.lt, registration.lwm2m, registration.b) == (300, "1.0", "U")
        assert list(registration) == ["/1/0", "/3/0", "/3303/0"]
        yield endpoint
        assert device.deregister().code.is_successful()


def test_read_gives_one_resource_and_a_whole_instance(endpoint):
    assert endpoint.read("/3/0/0").value == "Acme"
    assert endpoint.read("/3303/0/5700").value == 20.5
    assert endpoint.read("/1/0/6").value is True
    assert dict(endpoint.read("/1/0")) == {"/1/0/1": 300, "/1/0/2": 1, "/1/0/6": True, "/1/0/7": "U"}


def test_read_of_what_is_not_there_gives_the_code_of_the_device(endpoint):
    assert endpoint.read("/3/0/1").code.value == "4.04"


def test_write_sets_one_resource(endpoint, device):
    assert endpoint.write("/1/0/1", 86400).code.value == "2.04"
    assert endpoint.write("/3/0/15", "Europe/Oslo").code.value == "2.04"
    assert device.objects.values[1, 0, 1] == 86400
    assert device.objects.values[3, 0, 15] == "Europe/Oslo"


def test_write_of_several_sets_all_of_them(endpoint, device):
    response = endpoint.write("/1/0", {"1": 600, "2": 5, "6": False, "7": "UQ"})
    assert response.code.value == "2.04"
    written = {rid: device.objects.values[1, 0, rid] for rid in (1, 2, 6, 7)}
    assert written == {1: 600, 2: 5, 6: False, 7: "UQ"}


def test_write_attr_sets_the_attributes_that_are_given(endpoint, device):
    assert endpoint.write_attr("/3303/0/5700", pmin=5, pmax=90, gt=30.5).code.value == "2.04"
    assert device.objects.attributes[3303, 0, 5700] == {"pmin": "5", "pmax": "90", "gt": "30.5"}


def test_execute_passes_its_arguments(endpoint, device):
    assert endpoint.execute("/3/0/4").code.value == "2.04"
    assert endpoint.execute("/3/0/5", "0='now'").code.value == "2.04"
    assert device.objects.executed == [((3, 0, 4), ""), ((3, 0, 5), "0='now'")]


def test_discover_lists_links_with_attributes(endpoint):
    endpoint.write_attr("/3303/0", pmin=5, pmax=90)
    response = endpoint.discover("/3303/0")
    assert dict(response) == {"/3303/0": {"pmin": 5, "pmax": 90}, "/3303/0/5700": {}}


def test_observe_brings_notifications_until_it_is_cancelled(endpoint, device):
    observation = endpoint.observe("/3303/0/5700")
    assert observation.value == 20.5
    for value in (21.5, 22.0, -3.25):
        device.notify((3303, 0, 5700), value)
        notification = observation.notifications.get(timeout=PATIENCE)
        assert (notification.req_path, notification.value) == ("/3303/0/5700", value)

    assert endpoint.cancel_observe("/3303/0/5700").value == -3.25
    device.notify((3303, 0, 5700), 99.0)
    # The answer comes after everything that was sent before it.
    assert endpoint.read("/3303/0/5700").value == 99.0
    assert observation.notifications.empty()


def test_create_and_delete_an_instance(endpoint, device):
    assert endpoint.create("/3303", {"1/5700": 18.25, "1/5701": "Cel"}).code.value == "2.01"
    assert device.objects.values[3303, 1, 5700] == 18.25
    assert endpoint.read("/3303/1/5701").value == "Cel"
    assert endpoint.delete("/3303/1").code.value == "2.02"
    assert endpoint.delete("/3303/1").code.value == "4.04"
    assert (3303, 1) not in device.objects.instances()
