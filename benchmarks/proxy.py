"""A TCP proxy on loopback that makes a network slow, or deaf for a while.

``python proxy.py LISTEN_PORT HOST:PORT DELAY_S [STALL_AT STALL_FOR]``: every chunk arrives DELAY_S later; from
STALL_AT to STALL_AT + STALL_FOR seconds after the first connection nothing arrives. Prints ``ready`` when it listens.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time


class Proxy:
    def __init__(self, upstream: tuple[str, int], delay: float, stall_at: float, stall_for: float) -> None:
        self.upstream, self.delay = upstream, delay
        self.stall_at, self.stall_for = stall_at, stall_for
        self.began: float | None = None

    def stalled(self) -> bool:
        if self.began is None or not self.stall_for:
            return False
        return self.stall_at <= time.monotonic() - self.began < self.stall_at + self.stall_for

    async def pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def fill() -> None:
            while True:
                try:
                    data = await reader.read(65536)
                except OSError:
                    data = b""
                await queue.put((time.monotonic() + self.delay, data))
                if not data:
                    return

        filler = asyncio.create_task(fill())
        try:
            while True:
                due, data = await queue.get()
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                while self.stalled():
                    await asyncio.sleep(0.02)
                if not data:
                    break
                writer.write(data)
                await writer.drain()
        except OSError:
            pass  # the other side went away: the connection ends, as it would on a network
        finally:
            filler.cancel()
            writer.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.began = self.began or time.monotonic()
        try:
            up_reader, up_writer = await asyncio.open_connection(*self.upstream)
        except OSError:
            writer.close()
            return
        await asyncio.gather(self.pump(reader, up_writer), self.pump(up_reader, writer))


async def main() -> None:
    port, upstream, delay = int(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    stall = [float(x) for x in sys.argv[4:6]] or [0.0, 0.0]
    host, _, upstream_port = upstream.rpartition(":")
    proxy = Proxy((host, int(upstream_port)), delay, *stall)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", port)
    print("ready", flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
