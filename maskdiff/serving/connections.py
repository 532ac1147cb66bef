"""Limits of connections: how many there may be, and how long the server waits for a client.

Time counts from the beginning of a phase, not from the last byte, because a client may send one
byte a second. A connection that was closed before its client has read the answer stays open until
it is aborted.
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

from maskdiff.serving.error_responses import TOO_SLOW, RequestError
from maskdiff.serving.model import ServerLimits

# What a connection waits for: the head of a request, its body, the next request, the client to
# read the response, or the server to produce it.
Phase = Literal["head", "body", "idle", "write", "work"]
BODY_GRACE = 1.0  # seconds for the application to refuse a slow body before the connection is cut
READ = 2**14  # bytes read at a time; the event loop does nothing else meanwhile
MAX_CHUNKS = 2**13  # of a body; every chunk takes time, however short it is
IPV6_PREFIX = 64  # bits of an IPv6 address that identify a client


class ChunkLimitedParser(h11.Connection):
    """h11's parser, which rejects a body of more than `MAX_CHUNKS` chunks."""

    chunks = 0

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """See h11. Raises RemoteProtocolError."""
        event = super().next_event()
        if isinstance(event, h11.Request):
            self.chunks = 0
        elif isinstance(event, h11.Data):
            self.chunks += 1
            if self.chunks > MAX_CHUNKS:
                raise h11.RemoteProtocolError(f"the body has more than {MAX_CHUNKS} parts")
        return event


class Connection(H11Protocol):
    """A connection of `address`: the phase it is in, and when that began.

    Attributes:
        phase: What the connection waits for.
        since: When the phase began, in seconds of the event loop.
        address: The client, see `client_address`.
    """

    phase: Phase = "head"
    since = 0.0
    address = ""
    _phase_cycle: RequestResponseCycle | None = None  # the request of the phase

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.conn = ChunkLimitedParser(
            h11.SERVER, self.config.h11_max_incomplete_event_size or 2**14
        )
        if hasattr(transport, "max_size"):  # one of asyncio's
            transport.max_size = READ
        self.address = client_address(self.client[0]) if self.client else ""
        self.since = self.loop.time()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.update_phase()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.update_phase()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.update_phase()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.update_phase()

    def update_phase(self) -> None:
        """Update `phase` and `since`."""
        phase = self._current_phase()
        if (phase, self.cycle) != (self.phase, self._phase_cycle):
            self.phase, self._phase_cycle, self.since = phase, self.cycle, self.loop.time()

    def _current_phase(self) -> Phase:
        if self.transport.is_closing() or self.flow.write_paused:
            return "write"
        if self.conn.their_state is h11.SEND_BODY:
            return "body"
        if self.conn.their_state is h11.IDLE:
            return "idle" if self.cycle is not None and not self._head_started() else "head"
        return "idle" if self.cycle is None or self.cycle.response_complete else "work"

    def _head_started(self) -> bool:
        """Return whether a part of a request's head was received."""
        return bool(self.conn.trailing_data[0])

    def send_400_response(self, msg: str) -> None:
        """Reject bytes that are no HTTP, and drop the request that they belong to."""
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:  # a response has begun
            self.transport.close()

    def expire(self) -> None:
        """End a connection whose time is over; with status 408 after a part of a head."""
        if self.phase == "head" and self._head_started() and self.conn.our_state is h11.IDLE:
            error = RequestError(
                TOO_SLOW, "the headers did not come in time", code="headers_too_slow"
            )
            body = json.dumps(error.as_json()).encode()
            headers = [
                ("Content-Type", "application/json"),
                ("Content-Length", str(len(body))),
                ("Connection", "close"),
            ]
            response = h11.Response(status_code=TOO_SLOW, headers=headers)
            for event in (response, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
            self.transport.close()
        else:
            self.drop()

    def client_closed(self) -> bool:
        """Return whether the client has closed while reading is paused by its next request."""
        if not self.flow.read_paused or not hasattr(select, "poll"):
            return False
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket"), getattr(select, "POLLRDHUP", 0))
        return bool(poll.poll(0))

    def drop(self) -> None:
        """End the connection at once."""
        self.connections.discard(self)
        self.transport.abort()


class ConnectionGuard:
    """Admits connections and ends those that wait too long for their client.

    When there are too many, the one that has waited longest for its client is ended, so that idle
    clients do not keep others out. A connection in phase "work" is never ended.
    """

    def __init__(self, limits: ServerLimits, connections: set[Connection]) -> None:
        self.limits, self.connections = limits, connections
        self._seconds: dict[Phase, float] = {
            "head": limits.header_timeout,
            "body": limits.body_timeout + BODY_GRACE,
            "idle": limits.idle_timeout,
            "write": limits.write_timeout,
        }

    def admit(self, host: str) -> bool:
        """Return whether to accept a connection from `host`; ends another one if needed."""
        address = client_address(host)
        same = [connection for connection in self.connections if connection.address == address]
        if len(same) >= self.limits.max_per_client and not self.end_longest(same):
            return False
        return len(self.connections) < self.limits.max_connections or self.end_longest()

    def end_longest(self, among: Iterable[Connection] | None = None) -> bool:
        """End the connection that has waited longest for its client; return False if none waits."""
        for connection in (candidates := list(self.connections if among is None else among)):
            connection.update_phase()
        waiting = [connection for connection in candidates if connection.phase != "work"]
        if not waiting:
            return False
        min(waiting, key=lambda connection: connection.since).drop()
        return True

    def sweep(self, now: float) -> None:
        """End the connections whose time is over at `now`, in seconds of the event loop."""
        for connection in list(self.connections):
            connection.update_phase()
            if now - connection.since > self._seconds.get(connection.phase, float("inf")):
                connection.expire()
            elif connection.phase == "work" and connection.client_closed():
                connection.drop()


def client_address(host: str) -> str:
    """Return what identifies a client: an IPv4 address, an IPv6 network, or `host`."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, IPV6_PREFIX), strict=False))


__all__ = ["Connection", "ConnectionGuard", "client_address"]
