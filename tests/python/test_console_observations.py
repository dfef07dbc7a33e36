"""An observation that lasts as long as somebody looks: `while=stream`, with a real stream and in real time."""

import http.client
import time

from gateway import PATIENCE


def test_an_observation_ends_a_minute_after_the_last_stream_was_closed(console):
    """`while=stream`, with a real stream and in real time."""
    device = console.device()
    stream = http.client.HTTPConnection("127.0.0.1", int(console.url.rsplit(":", 1)[1]), timeout=PATIENCE)
    token = {"Authorization": f"Bearer {console.operator}"}
    stream.request("GET", f"/api/v1/devices/{device.endpoint}/events", headers=token)
    answer = stream.getresponse()
    assert answer.status == 200 and answer.fp.readline()
    observe = {"msgType": "observe", "data": {"path": "/3303/0/5700"}}
    console.ask(f"/devices/{device.endpoint}/commands?wait=20&while=stream", "POST", observe)
    observed = lambda: console.ask(f"/devices/{device.endpoint}")["observed"]
    assert [one["path"] for one in observed()] == ["/3303/0/5700"]
    answer.close()
    stream.close()
    closed = time.monotonic()
    while observed():
        assert time.monotonic() - closed < 60 + PATIENCE, "the observation goes on"
        time.sleep(0.5)
    assert time.monotonic() - closed >= 59, "the observation ended too early"
