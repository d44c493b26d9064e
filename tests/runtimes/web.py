"""ONNX Runtime Web: Node or a browser asks for jobs over HTTP, and posts the results."""

from __future__ import annotations

import contextlib
import json
import math
import os
import queue
import shutil
import signal
import subprocess
import tempfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
# A browser's start on a busy machine, and the largest model, take seconds.
PATIENCE = 120
BROWSERS = (
    *("chromium", "chromium-browser", "google-chrome", "chrome"),
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
HEADLESS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--enable-logging=stderr",
)


def pack(arrays: dict[str, np.ndarray]) -> bytes:
    """A line of JSON that lists the arrays as [name, dtype, shape], then their bytes."""
    header = [[name, a.dtype.name, a.shape] for name, a in arrays.items()]
    data = (np.ascontiguousarray(a).tobytes() for a in arrays.values())
    return b"".join([json.dumps(header).encode(), b"\n", *data])


def unpack(message: bytes) -> list[np.ndarray]:
    """The arrays of a message. Raises: RuntimeError with what the runtime said."""
    line, data = message.split(b"\n", 1)
    header = json.loads(line)
    if isinstance(header, dict):
        raise RuntimeError(header["error"])
    arrays, offset = [], 0
    for _, dtype, shape in header:
        arrays.append(np.frombuffer(data, dtype, math.prod(shape), offset).reshape(shape))
        offset += arrays[-1].nbytes
    return arrays


class _Handler(SimpleHTTPRequestHandler):
    """Files of this folder, the next job, and where its result goes."""

    protocol_version = "HTTP/1.1"
    extensions_map = {**SimpleHTTPRequestHandler.extensions_map, ".wasm": "application/wasm"}
    server: Any

    def __init__(self, *args: Any) -> None:
        super().__init__(*args, directory=str(HERE))

    def do_GET(self) -> None:
        if self.path != "/job":
            return super().do_GET()
        try:
            self._reply(200, self.server.jobs.get(timeout=10))
        except queue.Empty:
            self._reply(202)

    def do_POST(self) -> None:
        self.server.results.put(self.rfile.read(int(self.headers["Content-Length"])))
        self._reply(200)

    def _reply(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Nothing: what counts is in the results."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        self.jobs: queue.Queue[bytes] = queue.Queue()
        self.results: queue.Queue[bytes] = queue.Queue()
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, *args: Any) -> None:
        """Nothing: a worker that is stopped leaves its last request behind."""


class Worker:
    """Node or a browser that runs ONNX files until it is closed."""

    def __init__(self, kind: str) -> None:
        self.server = _Server()
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.log = Path(self.folder.name) / "log"
        url = f"http://127.0.0.1:{self.server.server_port}"
        with self.log.open("wb") as log:
            # A group of its own: a browser is many processes.
            self.process = subprocess.Popen(
                _node(url) if kind == "node" else _browser(url, self.folder.name),
                **{"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log},
                start_new_session=True,
            )

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def run(self, file: Path, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        """The outputs, in the file's order. Raises: RuntimeError with what the runtime said."""
        self.server.jobs.put(pack({"": np.fromfile(file, np.uint8), **feeds}))
        for _ in range(PATIENCE):
            with contextlib.suppress(queue.Empty):
                return unpack(self.server.results.get(timeout=1))
            if not self.alive:
                break
        said = self.log.read_text(errors="replace")[-2000:]
        self.close()
        raise ConnectionError(f"the worker gave no result:\n{said}")

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait()
        self.server.shutdown()
        self.server.server_close()
        self.folder.cleanup()


def _node(url: str) -> list[str]:
    return [_found("Node", ("node",)), str(HERE / "worker.mjs"), url]


def _browser(url: str, folder: str) -> list[str]:
    browser = _found("Chromium", BROWSERS)
    return [browser, *HEADLESS, f"--user-data-dir={folder}/profile", f"{url}/page.html"]


def _found(what: str, names: tuple[str, ...]) -> str:
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        raise FileNotFoundError(
            f"{what}: expected one of {', '.join(names)} on the path, got none. Install {what}."
        )
    return found
