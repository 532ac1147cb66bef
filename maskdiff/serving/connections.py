"""Limits of connections: how many there may be, and how long the server waits for a client.

For: `Connection`, uvicorn's protocol with a phase, and `Guard`, which ends connections. Not for:
HTTP, which h11 reads, or the time that an answer takes. Easy to get wrong: time counts from the
beginning of a phase, not from the last byte, because a client may send one byte a second; and a
connection that was closed before its client has read the answer stays until it is aborted.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import select
from collections.abc import Iterable
from typing import Literal

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from maskdiff.serving.refusals import TOO_SLOW, Refused
from maskdiff.serving.served import Limits

# What a connection waits for: the head of a request, its body, the next request, the client that
# reads the answer, or the answer.
Phase = Literal["head", "body", "idle", "write", "work"]
BODY_GRACE = 1.0  # seconds for the application to refuse a slow body before the connection is cut
READ = 2**14  # bytes that are read at a time, because the loop does nothing else meanwhile
MAX_PARTS = 2**13  # of a body; every part takes time, however short it is
IPV6_PREFIX = 64  # bits of an address that tell IPv6 clients apart


class Reader(h11.Connection):
    """h11's reader, which refuses a body in more than `MAX_PARTS` parts."""

    parts = 0

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """See h11. Raises RemoteProtocolError."""
        event = super().next_event()
        if isinstance(event, h11.Request):
            self.parts = 0
        elif isinstance(event, h11.Data):
            self.parts += 1
            if self.parts > MAX_PARTS:
                raise h11.RemoteProtocolError(f"the body has more than {MAX_PARTS} parts")
        return event


class Connection(H11Protocol):
    """A connection of `address`; `phase` is what it waits for, `since` when that began."""

    phase: Phase = "head"
    since = 0.0
    address = ""
    _of: RequestResponseCycle | None = None  # the request that the phase belongs to

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.conn = Reader(h11.SERVER, self.config.h11_max_incomplete_event_size or 2**14)
        if hasattr(transport, "max_size"):  # one of asyncio's
            transport.max_size = READ
        self.address = client_address(self.client[0]) if self.client else ""
        self.since = self.loop.time()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.observe()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.observe()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.observe()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.observe()

    def observe(self) -> None:
        """Bring `phase` and `since` up to date."""
        phase = self._phase()
        if (phase, self.cycle) != (self.phase, self._of):
            self.phase, self._of, self.since = phase, self.cycle, self.loop.time()

    def _phase(self) -> Phase:
        if self.transport.is_closing() or self.flow.write_paused:
            return "write"
        if self.conn.their_state is h11.SEND_BODY:
            return "body"
        if self.conn.their_state is h11.IDLE:
            return "idle" if self.cycle is not None and not self._begun() else "head"
        return "idle" if self.cycle is None or self.cycle.response_complete else "work"

    def _begun(self) -> bool:
        """Whether a part of a request's head has come."""
        return bool(self.conn.trailing_data[0])

    def send_400_response(self, msg: str) -> None:
        """Refuse bytes that are no HTTP. A request that they are a part of is given up."""
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:  # an answer has begun
            self.transport.close()

    def expire(self) -> None:
        """End a connection whose time is over; after a part of a head with status 408."""
        if self.phase == "head" and self._begun() and self.conn.our_state is h11.IDLE:
            refused = Refused(TOO_SLOW, "the headers did not come in time", code="headers_too_slow")
            body = json.dumps(refused.as_json()).encode()
            headers = [
                ("Content-Type", "application/json"),
                ("Content-Length", str(len(body))),
                ("Connection", "close"),
            ]
            for event in (
                h11.Response(status_code=TOO_SLOW, headers=headers),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
            self.transport.close()
        else:
            self.drop()

    def has_left(self) -> bool:
        """Whether the client has gone while nothing is read, because its next request waits."""
        if not self.flow.read_paused or not hasattr(select, "poll"):
            return False
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket"), getattr(select, "POLLRDHUP", 0))
        return bool(poll.poll(0))

    def drop(self) -> None:
        """End the connection at once."""
        self.connections.discard(self)
        self.transport.abort()


class Guard:
    """Admits connections and ends those that wait too long for their client.

    Where there are too many connections, the one that has waited longest for its client is ended,
    so that clients which do nothing do not keep others out. One in phase "work" is never ended.
    """

    def __init__(self, limits: Limits, connections: set[Connection]) -> None:
        self.limits, self.connections = limits, connections
        self._seconds: dict[Phase, float] = {
            "head": limits.header_timeout,
            "body": limits.body_timeout + BODY_GRACE,
            "idle": limits.idle_timeout,
            "write": limits.write_timeout,
        }

    def admit(self, host: str) -> bool:
        """Whether a connection from `host` may come; another is ended where that is needed."""
        address = client_address(host)
        own = [connection for connection in self.connections if connection.address == address]
        if len(own) >= self.limits.max_per_client and not self.end_longest(own):
            return False
        return len(self.connections) < self.limits.max_connections or self.end_longest()

    def end_longest(self, among: Iterable[Connection] | None = None) -> bool:
        """End the connection that has waited longest for its client; False if there is none."""
        for connection in (candidates := list(self.connections if among is None else among)):
            connection.observe()
        waiting = [connection for connection in candidates if connection.phase != "work"]
        if not waiting:
            return False
        min(waiting, key=lambda connection: connection.since).drop()
        return True

    def sweep(self, now: float) -> None:
        """End the connections whose time is over at `now`, in seconds of the event loop."""
        for connection in list(self.connections):
            connection.observe()
            if now - connection.since > self._seconds.get(connection.phase, float("inf")):
                connection.expire()
            elif connection.phase == "work" and connection.has_left():
                connection.drop()


def client_address(host: str) -> str:
    """What tells clients apart: an IPv4 address, the network of an IPv6 address, or `host`."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, IPV6_PREFIX), strict=False))


__all__ = ["Connection", "Guard", "client_address"]
