"""A session over TCP: the same clients and server, each in a process of its own.

Frames are a length and a message; nothing else is ever decoded before its sender is known. The
protocol needs no secret channel, for what must stay secret is sealed or masked; a server that
faces more than this machine should still sit behind TLS, which hides who takes part.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Awaitable, Callable, Mapping

from dai_lab.secagg.client import Client
from dai_lab.secagg.server import Server, Sum
from dai_lab.secagg.terms import Vector
from dai_lab.secagg.wire import Refused

Reply = Callable[[Mapping[int, bytes]], dict[int, bytes]]


async def serve(
    server: Server,
    *,
    clients: int,
    patience: float = 10.0,
    host: str = "127.0.0.1",
    port: int = 0,
    ready: Callable[[int], None] = lambda port: None,
) -> Sum:
    """Play a session with whoever connects.

    Args:
        server: The state machine, at its start.
        clients: How many to wait for; fewer may come.
        patience: Seconds that a step may take, above 0; who is later has dropped out.
        host: Address to listen on.
        port: Port to listen on; 0 for any free one.
        ready: Is told the port once clients may connect.

    Raises:
        TooFew: Fewer clients are left than the threshold.
        ValueError: No patience.
    """
    if not patience > 0:
        raise ValueError(f"serve: patience must be above 0 seconds, got {patience}")
    lines: dict[int, tuple[asyncio.StreamReader, asyncio.StreamWriter]] = {}
    adverts: dict[int, bytes] = {}
    full = asyncio.Event()
    most = 4096 + 16 * server.terms.width + 256 * len(server.roster)

    async def welcome(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            number = int(struct.unpack("<I", await reader.readexactly(4))[0])
            data = await receive(reader, most)
            server.known(number, data)
        except (Refused, OSError, EOFError):
            writer.close()
            return
        if number in lines or full.is_set():
            writer.close()  # an id sits once, and nobody comes late
            return
        lines[number], adverts[number] = (reader, writer), data
        if len(lines) == clients:
            full.set()

    listening = await asyncio.start_server(welcome, host, port)
    ready(listening.sockets[0].getsockname()[1])
    try:
        await _within(patience, full.wait())
        full.set()
        told = server.introduce(adverts)
        steps: list[Reply] = [server.route, server.gather]
        if server.terms.active:
            steps.append(server.witness)
        for step in steps:
            told = step(await _answers(lines, told, patience, most))
        return server.total(await _answers(lines, told, patience, most))
    finally:
        listening.close()
        for _, writer in lines.values():
            writer.close()


async def join(client: Client, vector: Vector, *, host: str, port: int) -> None:
    """Take part in a session, to its end.

    Args:
        client: The state machine, at its start.
        vector: See :meth:`Client.mask`.
        host: Where the server listens.
        port: Where the server listens.

    Raises:
        Refused: The server departs from the protocol.
        EOFError: The server hung up, or went on without this client.
    """
    reader, writer = await asyncio.open_connection(host, port)
    most = 4096 + 16 * client.terms.width + 256 * len(client.roster)
    try:
        writer.write(struct.pack("<I", client.number))
        await send(writer, client.advertise())
        await send(writer, client.share(await receive(reader, most)))
        await send(writer, client.mask(await receive(reader, most), vector))
        if client.terms.active:
            await send(writer, client.consent(await receive(reader, most)))
        await send(writer, client.unmask(await receive(reader, most)))
    except asyncio.IncompleteReadError as error:
        raise EOFError("join: the server hung up, or went on without this client") from error
    finally:
        writer.close()


async def send(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Send one frame."""
    writer.write(struct.pack("<I", len(data)))
    writer.write(data)
    await writer.drain()


async def receive(reader: asyncio.StreamReader, most: int) -> bytes:
    """Receive one frame of at most ``most`` bytes.

    Raises:
        Refused: It says that it is longer.
        EOFError: The line ended before it did.
    """
    length = int(struct.unpack("<I", await reader.readexactly(4))[0])
    if length > most:
        raise Refused(f"tcp: a message of {length} bytes, and there are none above {most}")
    return await reader.readexactly(length)


async def _answers(
    lines: Mapping[int, tuple[asyncio.StreamReader, asyncio.StreamWriter]],
    told: Mapping[int, bytes],
    patience: float,
    most: int,
) -> dict[int, bytes]:
    found: dict[int, bytes] = {}

    async def ask(client: int) -> None:
        reader, writer = lines[client]
        try:
            await send(writer, told[client])
            found[client] = await receive(reader, most)
        except (Refused, OSError, EOFError):
            writer.close()

    await _within(patience, asyncio.gather(*map(ask, told)))
    return dict(found)


async def _within(patience: float, what: Awaitable[object]) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(what, patience)
