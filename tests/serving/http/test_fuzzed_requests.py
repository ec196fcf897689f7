"""A thousand requests of every kind of wrongness, with right ones among them: nothing leaks, nothing breaks."""

from __future__ import annotations

import json
import random
import re
import socket
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from running import FORM, Running, in_threads, make_form, wait_until
from test_inference_protocol import INFER, make_images
from test_refusals import NO_FACE, make_bomb

from trt_facefusion.serving.limits import ServiceLimits

DELIBERATE = {200, 400, 404, 405, 408, 413, 415, 422, 431, 503}
Start = Callable[..., Running]


def read_rss_mib() -> float:
    match = re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match is not None
    return int(match[1]) / 1024


def count_open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


class Fuzzer:
    """Sends what ``seed`` says; counts statuses, and answers to right requests that were not right."""

    def __init__(self, running: Running, photos: list[bytes], right: list[bytes]) -> None:
        self.running, self.photos, self.right = running, photos, right
        self.statuses: Counter[int | str] = Counter()
        self.wrong = 0

    def send(self, seed: int) -> None:
        rng = random.Random(seed)
        kinds = [self.ask_right, self.mutate, self.mutate, self.bomb, self.leave, self.tensors, self.wander, self.shout]
        rng.choice(kinds)(rng)

    def count(self, status: int | str) -> None:
        self.statuses[status] += 1

    def ask_right(self, rng: random.Random) -> None:
        number = rng.randrange(len(self.photos))
        reply = self.running.swap([("target", self.photos[number])])
        self.count(reply.status)
        self.wrong += reply.status == 200 and reply.body != self.right[number]

    def mutate(self, rng: random.Random) -> None:
        photo = rng.choice([NO_FACE, rng.choice(self.photos)])
        body = bytearray(make_form([("target", photo), ("faces", b"all")], "../" * rng.randrange(9) + "x"))
        for _ in range(rng.randrange(1, 20)):
            body[rng.randrange(len(body))] = rng.randrange(256)
        self.count(
            self.running.ask("POST", "/v1/swap", bytes(body[: rng.randrange(len(body) + 1)]), Content_Type=FORM).status
        )

    def bomb(self, rng: random.Random) -> None:
        self.count(self.running.swap([("target", make_bomb(rng.choice([1_000, 4_000, 30_000, 2_000_000_000])))]).status)

    def leave(self, rng: random.Random) -> None:
        """Go in the middle of a request, or right after it."""
        body = make_form([("target", rng.choice(self.photos))])
        head = (
            f"POST /v1/swap HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {FORM}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        whole = head.encode() + body
        with socket.create_connection(("127.0.0.1", self.running.port), timeout=30) as connection:
            connection.sendall(whole[: rng.choice([10, len(head), len(whole) // 2, len(whole)])])
        self.count("left")

    def tensors(self, rng: random.Random) -> None:
        images = make_images(1)
        entry = {"name": "image", "datatype": "FP32", "shape": list(images.shape)}
        entry["parameters"] = {"binary_data_size": rng.choice([images.nbytes, 1, -1, 1 << 40])}
        head = json.dumps({"inputs": [entry] * rng.choice([1, 1, 2])}).encode()
        length = rng.choice([str(len(head)), "7", "x", ""])
        body = head + images.tobytes()[: rng.choice([images.nbytes, 8])]
        self.count(self.running.ask("POST", INFER, body, Inference_Header_Content_Length=length).status)

    def wander(self, rng: random.Random) -> None:
        paths = [
            "/v1/swap",
            "/%2e%2e/etc/passwd",
            "/v2/models/%00/infer",
            "/v1/" + "x" * 2000,
            "/readyz?" + "a=b&" * 99,
        ]
        method = rng.choice(["GET", "POST", "PUT", "DELETE", "OPTIONS"])
        self.count(self.running.ask(method, rng.choice(paths), bytes(rng.randrange(100))).status)

    def shout(self, rng: random.Random) -> None:
        """Bytes that are no HTTP, or too much of it."""
        noise = rng.choice([rng.randbytes(300), b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 9000, b"POST / HTTP/9.9\r\n\r\n"])
        with socket.create_connection(("127.0.0.1", self.running.port), timeout=30) as connection, suppress(OSError):
            connection.sendall(noise)
            connection.shutdown(socket.SHUT_WR)
            connection.recv(4096)
        self.count("shouted")


@pytest.mark.slow
def test_a_thousand_bad_requests_leave_the_service_as_it_was(start: Start, photos: list[bytes]) -> None:
    running = start(limits=ServiceLimits(receive_s=5.0))
    right = [running.swap([("target", photo)]).body for photo in photos]
    fuzzer = Fuzzer(running, photos, right)

    def send(numbers: range) -> None:
        for number in numbers:
            fuzzer.send(number)

    in_threads([lambda first=first: send(range(first, 200, 4)) for first in range(4)])
    wait_until(lambda: running.service.in_service == 0)
    threads, files, rss = threading.active_count(), count_open_files(), read_rss_mib()
    in_threads([lambda first=first: send(range(200 + first, 1200, 4)) for first in range(4)])
    wait_until(lambda: running.service.in_service == 0 and count_open_files() <= files + 2)
    assert sum(fuzzer.statuses.values()) == 1200 and fuzzer.wrong == 0
    assert set(fuzzer.statuses) - {"left", "shouted"} <= DELIBERATE, fuzzer.statuses
    assert threading.active_count() <= threads + 1 and read_rss_mib() < rss + 60
    assert running.read_metric("trt_ff_held_pixels") == 0 and running.service.batcher.waiting == 0
    assert [running.swap([("target", photo)]).body for photo in photos] == right
