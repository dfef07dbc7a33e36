"""A LwM2M 1.0 device on aiocoap: a table of resources in plain text and TLV (OMA LwM2M Core section 6.4.3)."""

import asyncio
import struct
import threading

import aiocoap
from aiocoap import resource

TEXT, LINKS, TLV = 0, 40, 11542
INSTANCE, MULTIPLE, RESOURCE = 0b00, 0b10, 0b11


class Device:
    """Lives on a thread of its own; `values` and what it was told can be read at any time."""

    def __init__(self, server, endpoint, values, secret=None, binding="U", items=()):
        """With a secret it speaks DTLS (tinydtls), and its endpoint name is the identity."""
        self.server = server
        self.endpoint = endpoint
        self.secret = secret
        self.binding = binding
        # Further query items of its Register, such as a password.
        self.items = tuple(items)
        self.objects = Objects(values)
        self.context = None
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def register(self):
        self._run(self._register())

    def update(self):
        """A message by which the gateway knows that the device is awake."""
        return self._run(self._request(aiocoap.POST, self.location))

    def deregister(self):
        return self._run(self._request(aiocoap.DELETE, self.location))

    def notify(self, path, value):
        """A new value; whoever observes it, or what it belongs to, is told."""
        self._run(self._notify(path, value))

    def close(self):
        self._run(self.context.shutdown())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    def _run(self, work):
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout=30)

    async def _register(self):
        if self.context is None:
            await self._connect()
        links = ",".join(f"</{oid}/{iid}>" for oid, iid in self.objects.instances()).encode()
        query = (f"ep={self.endpoint}", "lt=300", "lwm2m=1.0", f"b={self.binding}", *self.items)
        response = await self._request(aiocoap.POST, ("rd",), query, links)
        assert response.code == aiocoap.CREATED, response
        # aiocoap forgets a DTLS connection that nobody holds.
        self.remote = response.remote
        self.location = response.opt.location_path

    async def _connect(self):
        self.context = await aiocoap.Context.create_server_context(
            self.objects, bind=("127.0.0.1", 0), transports=["tinydtls" if self.secret else "udp6"]
        )
        if self.secret:
            keys = {"psk": self.secret.encode(), "client-identity": self.endpoint.encode()}
            self.context.client_credentials.load_from_dict({f"{self.server}/*": {"dtls": keys}})

    async def _request(self, code, path, query=(), payload=b""):
        message = aiocoap.Message(code=code, uri=self.server)
        message.opt.uri_path = path
        message.opt.uri_query = query
        if payload:
            message.opt.content_format = LINKS
            message.payload = payload
        return await self.context.request(message).response

    async def _notify(self, path, value):
        self.objects.values[path] = value
        self.objects.tell_observers()


class Objects(resource.ObservableResource, resource.PathCapable):
    """Answers every path itself."""

    def __init__(self, values):
        super().__init__()
        self.values = dict(values)
        self.observers = []
        self.attributes = {}
        self.executed = []

    def instances(self):
        return sorted({path[:2] for path in self.values})

    def tell_observers(self):
        for observer in list(self.observers):
            observer.trigger()

    async def add_observation(self, request, observer):
        self.observers.append(observer)
        observer.accept(lambda: self.observers.remove(observer))

    async def render_get(self, request):
        path = path_of(request)
        if request.opt.accept == LINKS:
            return self._links(path)
        if path in self.values:
            return message(aiocoap.CONTENT, TEXT, text(self.values[path]))
        below = {below: value for below, value in self.values.items() if below[: len(path)] == path}
        if not below:
            return message(aiocoap.NOT_FOUND)
        if len(path) == 2:
            return message(aiocoap.CONTENT, TLV, resources(below))
        instances = sorted({below[1] for below in below})
        of = lambda iid: {path: value for path, value in below.items() if path[1] == iid}
        return message(aiocoap.CONTENT, TLV, b"".join(tlv(INSTANCE, iid, resources(of(iid))) for iid in instances))

    async def render_put(self, request):
        path = path_of(request)
        if request.opt.uri_query:
            self.attributes[path] = dict(item.split("=", 1) for item in request.opt.uri_query)
            return message(aiocoap.CHANGED)
        return self._write(path[:2], request)

    async def render_post(self, request):
        path = path_of(request)
        if len(path) == 3:
            self.executed.append((path, request.payload.decode()))
            return message(aiocoap.CHANGED)
        if len(path) == 2:
            return self._write(path, request)
        for _kind, iid, inner in entries(request.payload):
            for _kind, rid, value in entries(inner):
                self.values[path + (iid, rid)] = decoded(path[0], rid, value)
        return message(aiocoap.CREATED)

    async def render_delete(self, request):
        path = path_of(request)
        gone = [below for below in self.values if below[: len(path)] == path]
        for below in gone:
            del self.values[below]
        return message(aiocoap.DELETED if gone else aiocoap.NOT_FOUND)

    def _links(self, path):
        with_attributes = [f"</{'/'.join(map(str, path))}>"]
        with_attributes += [f"{key}={value}" for key, value in self.attributes.get(path, {}).items()]
        below = [f"</{'/'.join(map(str, below))}>" for below in sorted(self.values) if below[: len(path)] == path != below]
        return message(aiocoap.CONTENT, LINKS, ",".join([";".join(with_attributes)] + below).encode())

    def _write(self, instance, request):
        if request.opt.content_format != TLV:
            return message(aiocoap.UNSUPPORTED_CONTENT_FORMAT)
        for kind, rid, value in entries(request.payload):
            if kind == MULTIPLE:
                several = {number: int.from_bytes(one, "big", signed=True) for _kind, number, one in entries(value)}
                self.values[instance + (rid,)] = several
            else:
                self.values[instance + (rid,)] = decoded(instance[0], rid, value)
        return message(aiocoap.CHANGED)


def message(code, content_format=None, payload=b""):
    answer = aiocoap.Message(code=code, payload=payload)
    if content_format is not None:
        answer.opt.content_format = content_format
    return answer


def path_of(request):
    return tuple(int(segment) for segment in request.opt.uri_path)


def text(value):
    return (str(int(value)) if isinstance(value, bool) else str(value)).encode()


def resources(values):
    return b"".join(tlv(RESOURCE, path[2], encoded(value)) for path, value in sorted(values.items()))


def encoded(value):
    if isinstance(value, bool):
        return bytes([value])
    if isinstance(value, int):
        size = next(size for size in (1, 2, 4, 8) if -(1 << (8 * size - 1)) <= value < 1 << (8 * size - 1))
        return value.to_bytes(size, "big", signed=True)
    if isinstance(value, float):
        return struct.pack(">d", value)
    return value.encode()


def decoded(oid, rid, value):
    """By the definitions of the few resources that are written here."""
    if (oid, rid) in {(1, 1), (1, 2), (1, 3), (3, 13)}:
        return int.from_bytes(value, "big", signed=True)
    if (oid, rid) in {(1, 6)}:
        return bool(value[0])
    if (oid, rid) in {(3303, 5700), (3303, 5601), (3303, 5602), (3308, 5900)}:
        return struct.unpack(">d" if len(value) == 8 else ">f", value)[0]
    if (oid, rid) in {(5, 0), (3339, 5522)}:
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def tlv(kind, identifier, value):
    header = kind << 6 | (0x20 if identifier > 255 else 0)
    name = identifier.to_bytes(2 if identifier > 255 else 1, "big")
    if len(value) < 8:
        return bytes([header | len(value)]) + name + value
    size = 1 if len(value) < 1 << 8 else 2
    return bytes([header | size << 3]) + name + len(value).to_bytes(size, "big") + value


def entries(payload):
    """Kind, id and value of each entry."""
    at = 0
    while at < len(payload):
        header = payload[at]
        name_end = at + (3 if header & 0x20 else 2)
        size = header >> 3 & 3
        value_start = name_end + size
        length = int.from_bytes(payload[name_end:value_start], "big") if size else header & 7
        yield header >> 6, int.from_bytes(payload[at + 1 : name_end], "big"), payload[value_start : value_start + length]
        at = value_start + length
