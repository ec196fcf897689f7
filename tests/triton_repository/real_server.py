"""A real tritonserver on loopback, from the environment that scripts/get_triton.sh makes."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
STAND_IN = Path(__file__).with_name("stand_in_backend.py")


@dataclass(frozen=True)
class Triton:
    """A server that runs: ports of HTTP and metrics."""

    http: int
    metrics_port: int
    log: Path

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.http, timeout=120)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): text for name, text in headers.items()})
            response = connection.getresponse()
            return response.status, response.read(), response.headers
        finally:
            connection.close()

    def swap(self, model: str, sources: Sequence[bytes], target: bytes) -> bytes:
        """The photo that the ensemble gives. Raises RuntimeError with Triton's error."""
        tensors = [("target_photo", [target])] + ([("source_photos", list(sources))] if sources else [])
        parts, inputs = [], []
        for name, photos in tensors:
            raw = b"".join(len(photo).to_bytes(4, "little") + photo for photo in photos)
            parts.append(raw)
            inputs.append(
                {
                    "name": name,
                    "datatype": "BYTES",
                    "shape": [len(photos)],
                    "parameters": {"binary_data_size": len(raw)},
                }
            )
        outputs = [{"name": "photo", "parameters": {"binary_data": True}}]
        header = json.dumps({"inputs": inputs, "outputs": outputs}).encode()
        status, content, headers = self.ask(
            "POST",
            f"/v2/models/{model}/infer",
            header + b"".join(parts),
            Inference_Header_Content_Length=str(len(header)),
            Content_Type="application/octet-stream",
        )
        if status != 200:
            raise RuntimeError(f"{status}: {content.decode(errors='replace')}")
        start = int(headers["Inference-Header-Content-Length"])
        return content[start + 4 :]

    def load(self, model: str, **_: str) -> None:
        status, content, _headers = self.ask("POST", f"/v2/repository/models/{model}/load", b"{}")
        if status != 200:
            raise RuntimeError(content.decode())

    def unload(self, model: str) -> None:
        assert self.ask("POST", f"/v2/repository/models/{model}/unload", b"{}")[0] == 200

    def metric(self, name: str, model: str) -> float:
        """The sum over versions of a counter of ``model``."""
        connection = http.client.HTTPConnection("127.0.0.1", self.metrics_port, timeout=30)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        found = re.findall(rf'^{name}{{[^}}]*model="{model}"[^}}]*}} ([0-9.e+]+)$', text, re.MULTILINE)
        return sum(map(float, found))


def find_environment() -> Path | None:
    """Where the script put Triton: ``.triton/``, or what TRT_FF_TRITON names; None where it is not."""
    place = Path(os.environ.get("TRT_FF_TRITON", ROOT / ".triton"))
    return place if (place / "bin" / "python").exists() and list(_find_servers(place)) else None


def _find_servers(place: Path) -> Iterator[Path]:
    yield from place.glob("lib/python*/site-packages/pytriton/tritonserver")


@contextmanager
def run_triton(
    environment: Path, folder: Path, repository: Path, load: Sequence[str], *options: str, gpu: str = "8.6"
) -> Iterator[Triton]:
    """Start it with stand-ins for the backends that it lacks; strictly: nothing of a configuration is completed.

    Raises RuntimeError with the log where it does not become ready.
    """
    server = next(_find_servers(environment))
    backends = _make_backends(server, folder / "backends")
    ports = _find_ports(3)
    log = folder / "triton.log"
    command = [
        str(server / "bin" / "tritonserver"),
        f"--model-repository={repository}",
        f"--backend-directory={backends}",
        "--model-control-mode=explicit",
        *(f"--load-model={model}" for model in load),
        "--disable-auto-complete-config",
        "--strict-model-config=true",
        *(f"--{kind}-address=127.0.0.1" for kind in ("http", "grpc", "metrics")),
        *(f"--{kind}-port={port}" for kind, port in zip(("http", "grpc", "metrics"), ports, strict=True)),
        "--exit-timeout-secs=25",
        *options,
    ]
    variables = {
        **os.environ,
        "PATH": f"{environment / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "STAND_IN_GPU": gpu,
    }
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=variables)
    triton = Triton(ports[0], ports[2], log)
    try:
        _wait(triton, process)
        yield triton
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        if process.poll() is None:
            process.kill()
            process.wait()


def _make_backends(server: Path, folder: Path) -> Path:
    """Triton's own python backend, and stand-ins for what the package has not."""
    import shutil

    if not folder.exists():
        for name in ("tensorrt", "onnxruntime"):
            (folder / name).mkdir(parents=True)
            shutil.copyfile(STAND_IN, folder / name / "model.py")
        (folder / "python").symlink_to(server / "backends" / "python")
    return folder


def _find_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _wait(triton: Triton, process: subprocess.Popen[bytes], limit_s: float = 240) -> None:
    end = time.monotonic() + limit_s
    while time.monotonic() < end and process.poll() is None:
        with suppress(OSError):
            if triton.ask("GET", "/v2/health/ready")[0] == 200:
                return
        time.sleep(0.25)
    raise RuntimeError(f"Triton did not become ready:\n{triton.log.read_text()[-6000:]}")
