"""Make the documentation's pictures anew, from a real Airflow in a headless Chromium: ``make pictures``.

The quickstart runs, and is photographed: its result, its DAG, a task's log; then the connection's form. Only
docs/pictures/architecture.svg is drawn by hand.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

from ray_provider.testing import AirflowStack

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs" / "pictures"
DAG = "ray_quickstart"
#: A picture may be so large (bytes): everybody who reads a page loads it.
MOST_BYTES = 150_000
_SECONDS = 60.0


class Browser:
    """One tab of a headless Chromium, told what to do by its DevTools protocol.

    :param socket: to the tab.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._count = 0

    async def tell(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Give a command and wait for its answer."""
        self._count += 1
        await self._socket.send_json({"id": self._count, "method": method, "params": parameters})
        while True:
            answer = await self._socket.receive_json(timeout=_SECONDS)
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return dict(answer["result"])

    async def run(self, script: str) -> Any:
        """Run JavaScript in the page and give its value."""
        answer = await self.tell("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        return answer["result"].get("value")

    async def until(self, script: str) -> None:
        """Wait until JavaScript gives something true."""
        for _ in range(int(_SECONDS * 4)):
            if await self.run(script):
                return
            await asyncio.sleep(0.25)
        raise TimeoutError(f"{script}: {await self.run('document.body.innerText.slice(0, 2000)')}")

    async def go(self, url: str, script: str) -> None:
        """Open a page and wait until it shows what JavaScript looks for."""
        await self.tell("Page.navigate", url=url)
        await self.until(script)

    async def click(self, script: str) -> None:
        """Click, as a mouse does, on the middle of the element that JavaScript gives."""
        box = await self.run(f"({script}).getBoundingClientRect().toJSON()")
        where = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2, "button": "left", "clickCount": 1}
        for kind in ("mousePressed", "mouseReleased"):
            await self.tell("Input.dispatchMouseEvent", type=kind, **where)
        await asyncio.sleep(0.5)

    async def size(self, width: int, height: int) -> None:
        """Set how much of a page is seen (pixels)."""
        seen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        await self.tell("Emulation.setDeviceMetricsOverride", **seen)

    async def picture(self, name: str, clip: str | None = None) -> None:
        """Photograph the page.

        :param clip: JavaScript that gives the element to photograph alone.
        """
        await asyncio.sleep(1.0)  # what fades in
        further: dict[str, Any] = {}
        if clip:
            box = await self.run(f"({clip}).getBoundingClientRect().toJSON()")
            further["clip"] = {**{side: box[side] for side in ("x", "y", "width", "height")}, "scale": 1}
        taken = await self.tell("Page.captureScreenshot", format="png", **further)
        keep(name, base64.b64decode(taken["data"]))


@contextlib.asynccontextmanager
async def browser() -> AsyncIterator[Browser]:
    """Start Chromium, and end it."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        raise SystemExit("There is no Chromium: apt-get install chromium.")
    with tempfile.TemporaryDirectory(prefix="pictures-", ignore_cleanup_errors=True) as profile:
        options = [
            "--headless=new",
            "--disable-gpu",
            "--hide-scrollbars",
            "--remote-debugging-port=0",
            "--no-first-run",
        ]
        if os.geteuid() == 0:
            options.append("--no-sandbox")
        command = [program, *options, f"--user-data-dir={profile}", "about:blank"]
        silent = {"stdout": asyncio.subprocess.DEVNULL, "stderr": asyncio.subprocess.DEVNULL}
        process = await asyncio.create_subprocess_exec(*command, **silent)
        try:
            told = Path(profile, "DevToolsActivePort")
            for _ in range(int(_SECONDS * 4)):
                if told.exists() and told.read_text().count("\n"):
                    break
                await asyncio.sleep(0.25)
            port = told.read_text().split()[0]
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                    tab = next(one for one in await answer.json() if one["type"] == "page")
                async with session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                    found = Browser(socket)
                    await found.tell("Page.enable")
                    yield found
        finally:
            process.terminate()
            await process.wait()


def keep(name: str, content: bytes) -> None:
    """Keep a picture, with few colours: that makes a page of text small."""
    from io import BytesIO

    from PIL import Image

    made = BytesIO()
    Image.open(BytesIO(content)).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(made, "PNG", optimize=True)
    if made.tell() > MOST_BYTES:
        raise SystemExit(f"{name} has {made.tell()} bytes, more than {MOST_BYTES}.")
    PICTURES.mkdir(exist_ok=True)
    PICTURES.joinpath(f"{name}.png").write_bytes(made.getvalue())
    sys.stdout.write(f"docs/pictures/{name}.png: {made.tell()} bytes\n")


async def photograph(url: str, run_id: str) -> None:
    """Photograph what Airflow shows of the run, and the form."""
    async with browser() as tab:
        await tab.size(1280, 760)
        run = f"{url}/dags/{DAG}/runs/{run_id}"
        await tab.go(f"{run}/tasks/delays", "document.body.innerText.includes('SUCCEEDED')")
        await tab.picture("task-log")
        await tab.size(1280, 1500)
        button = (
            "[...document.querySelectorAll('button')].find(b => /add connection/i.test(b.ariaLabel || b.innerText))"
        )
        await tab.go(f"{url}/connections", f"!!{button}")
        await tab.click(button)
        await tab.until("!!document.querySelector('[role=dialog] [role=combobox]')")
        # Airflow shows all fields where a connection is added.
        await tab.run("document.querySelector('[role=dialog] [role=combobox]').focus()")
        await tab.tell("Input.insertText", text="ray")
        await tab.until("!!document.querySelector('[role=option]')")
        for kind in ("keyDown", "keyUp"):
            await tab.tell("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13)
        await tab.until("document.querySelector('[role=dialog]').innerText.includes('Ray dashboard')")
        await tab.click(
            "[...document.querySelectorAll('[role=dialog] button')].find(b => b.innerText == 'Ray dashboard')"
        )
        await tab.picture("connection-form", "document.querySelector('[role=dialog]')")


def main() -> int:
    """Make all pictures."""
    home = Path(tempfile.mkdtemp(prefix="airflow-"))
    # Where the example puts it unless told: the log that is photographed names no folder of this machine.
    image = Path(tempfile.gettempdir()) / "flight_delays.png"
    stack = AirflowStack(home, dags_folder=ROOT / "examples" / "dags", env={"RAY_EXAMPLE_IMAGE": str(image)})
    try:
        with stack:
            stack.client.add_connection("ray_default", "ray", extra={"backend": "local"})
            run_id = stack.client.trigger_run(DAG)
            stack.client.wait_run(DAG, run_id, state="success", timeout=240)
            keep("flight-delays", image.read_bytes())
            asyncio.run(photograph(stack.url, run_id))
    finally:
        shutil.rmtree(home, ignore_errors=True)
        image.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
