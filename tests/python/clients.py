"""How the devices of tests/clients are started."""

import os
import pathlib

from gateway import ROOT, Client

LESHAN = pathlib.Path(os.environ.get("LESHAN_DEVICE", ROOT / "target/clients/leshan"))
LESHAN_DEFINITIONS = ROOT / "tests/clients/leshan/definitions"


def leshan_device(server, endpoint, folder, *options):
    """A device on Eclipse Leshan's client library; its log is in the folder. What else it takes: LeshanDevice.java."""
    classes = os.pathsep.join([str(LESHAN / "classes"), str(LESHAN / "dependency" / "*")])
    return Client(["java", "-cp", classes, "LeshanDevice", server, endpoint, str(ROOT / "xml"), *options], folder)
