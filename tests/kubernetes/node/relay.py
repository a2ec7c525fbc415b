"""Connections between the node's network and others, without a link between them: bytes are carried by a process that
holds a socket in each."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_CLONE_NEWNET = 0x40000000
_CHUNK = 1 << 18
_held: set[asyncio.Task[object]] = set()


class NodeNetwork:
    """Makes sockets in the network namespace of a process: a thread of its own lives there."""

    def __init__(self, pid: int) -> None:
        self._thread = ThreadPoolExecutor(1, initializer=self._enter, initargs=(pid,))

    @staticmethod
    def _enter(pid: int) -> None:
        handle = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(handle, _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "can't enter the node's network")
        finally:
            os.close(handle)

    async def connect(self, host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect from the node's network; ``host`` is an address."""
        loop = asyncio.get_running_loop()
        sock = await loop.run_in_executor(self._thread, socket.socket)
        try:
            sock.setblocking(False)
            await loop.sock_connect(sock, (host, port))
        except BaseException:
            sock.close()
            raise
        return await asyncio.open_connection(sock=sock, limit=_CHUNK)

    async def listener(self, host: str) -> socket.socket:
        """Return a socket that listens on a free port of the node's network."""

        def make() -> socket.socket:
            sock = socket.socket()
            sock.bind((host, 0))
            sock.listen(128)
            return sock

        return await asyncio.get_running_loop().run_in_executor(self._thread, make)

    def close(self) -> None:
        self._thread.shutdown(wait=False)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(_CHUNK):
        writer.write(chunk)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


async def join(
    near: tuple[asyncio.StreamReader, asyncio.StreamWriter], far: tuple[asyncio.StreamReader, asyncio.StreamWriter]
) -> None:
    """Carry bytes both ways until both sides have ended; an end of one side is passed on as such."""
    # asyncio itself holds its connections' tasks weakly: unheld, a collection may end one half-way.
    task = asyncio.current_task()
    assert task is not None
    _held.add(task)
    task.add_done_callback(_held.discard)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_pump(near[0], far[1]))
            group.create_task(_pump(far[0], near[1]))
    except* OSError:
        pass  # either side may hang up at any time: the other is told by the closing below
    finally:
        for _, writer in (near, far):
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def serve_dial(path: Path, network: NodeNetwork) -> asyncio.Server:
    """Serve connections into the node's network on a socket file, which every network namespace of the machine sees.

    A client's first line is the address and the port that it wants.
    """

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            host, port = (await reader.readline()).decode().split()
            far = await network.connect(host, int(port))
        except (OSError, ValueError):
            writer.close()
            return
        await join((reader, writer), far)

    return await asyncio.start_unix_server(answer, path, limit=_CHUNK)


async def forward_to_node(network: NodeNetwork, host: str, port: int, listen_port: int = 0) -> asyncio.Server:
    """Listen on loopback here, and carry connections to ``host:port`` in the node's network."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far = await network.connect(host, port)
        except OSError:
            writer.transport.abort()  # as a closed port would: reset
            return
        await join((reader, writer), far)

    return await asyncio.start_server(answer, "127.0.0.1", listen_port, limit=_CHUNK, backlog=512)


async def forward_from_node(network: NodeNetwork, node_ip: str, port: int) -> tuple[asyncio.Server, int]:
    """Listen in the node's network, and carry connections to a loopback port here.

    :returns: the server and the port in the node.
    """

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            near = await asyncio.open_connection("127.0.0.1", port, limit=_CHUNK)
        except OSError:
            writer.transport.abort()
            return
        await join(near, (reader, writer))

    sock = await network.listener(node_ip)
    return await asyncio.start_server(answer, sock=sock, limit=_CHUNK), sock.getsockname()[1]


async def forward_by_dial(path: Path, host: str, port: int) -> asyncio.Server:
    """Listen on loopback here, and carry connections through a running node's socket file to ``host:port`` in it."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far = await asyncio.open_unix_connection(path, limit=_CHUNK)
        except OSError:
            writer.transport.abort()
            return
        far[1].write(f"{host} {port}\n".encode())
        await join((reader, writer), far)

    return await asyncio.start_server(answer, "127.0.0.1", 0, limit=_CHUNK, backlog=512)
