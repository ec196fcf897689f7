"""Too much, too slow, too late: refused or given up, and nothing of it lasts."""

from __future__ import annotations

import http.client
import io
import re
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import PIL.Image
import pytest
from running import FORM, Running, in_threads, make_form, wait_until

from trt_facefusion.serving import server
from trt_facefusion.serving.limits import Pace, ServiceLimits

Start = Callable[..., Running]


def leave_after(running: Running, photo: bytes, condition: Callable[[], bool]) -> None:
    """Ask for a swap, and go when ``condition`` holds."""
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=60)
    connection.request("POST", "/v1/swap", make_form([("target", photo)]), {"Content-Type": FORM})
    wait_until(condition)
    connection.close()


def test_more_than_the_service_takes_get_503_and_when_to_come_back(start: Start, photos: list[bytes]) -> None:
    running = start(limits=ServiceLimits(requests=3))
    running.engines.gate.clear()
    refusals = []

    def ask_more() -> None:
        wait_until(lambda: running.service.in_service == 3)
        refusals.extend(running.swap([("target", photos[0])]) for _ in range(4))
        running.engines.gate.set()

    calls = [lambda photo=photo: running.swap([("target", photo)]) for photo in photos[:3]]
    *replies, _ = in_threads([*calls, ask_more])
    assert [reply.status for reply in replies] == [200] * 3
    assert [reply.status for reply in refusals] == [503] * 4
    assert all(int(reply.headers["Retry-After"]) >= 1 and "again" in reply.json["remedy"] for reply in refusals)
    assert running.read_metric("trt_ff_rejected_total") == 4
    assert running.swap([("target", photos[0])]).status == 200


def test_what_is_late_gets_504_and_is_not_inferred(start: Start, photos: list[bytes]) -> None:
    running = start(limits=ServiceLimits(deadline_s=1.0))
    running.engines.gate.clear()
    replies = in_threads([lambda photo=photo: running.swap([("target", photo)]) for photo in photos[:4]])
    assert [reply.status for reply in replies] == [504] * 4
    assert len(running.engines.batches) == 1
    running.engines.gate.set()
    wait_until(lambda: running.service.batcher.busy_s == 0)
    inferred = sum(running.engines.batches)
    assert running.swap([("target", photos[0])]).status == 200
    assert sum(running.engines.batches) == inferred + 1 and running.service.in_service == 0


def test_a_client_that_leaves_costs_no_inference(start: Start, photos: list[bytes]) -> None:
    running = start()
    running.engines.gate.clear()
    busy = threading.Thread(target=lambda: running.swap([("target", photos[0])]))
    busy.start()
    wait_until(lambda: running.engines.batches == [1])
    leave_after(running, photos[1], lambda: running.service.batcher.waiting == 1)
    wait_until(lambda: running.service.in_service == 1)
    running.engines.gate.set()
    busy.join(60)
    assert running.engines.batches == [1]
    assert running.read_metric("trt_ff_cancelled_total") == 1
    assert running.swap([("target", photos[2])]).status == 200
    assert running.read_metric("trt_ff_held_pixels") == 0


def test_a_request_that_trickles_in_is_given_up(start: Start, photos: list[bytes]) -> None:
    running = start(limits=ServiceLimits(receive_s=0.5))
    body = make_form([("target", photos[0])])
    head = f"POST /v1/swap HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {FORM}\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", running.port), timeout=30) as connection:
        connection.sendall(head.encode() + body[:100])
        assert b" 408 " in connection.recv(4096).split(b"\r\n")[0]
    assert running.service.in_service == 0


def test_headers_that_trickle_in_are_cut_off(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_GRACE_S", 0.0)
    running = start(limits=ServiceLimits(receive_s=0.5))
    with socket.create_connection(("127.0.0.1", running.port), timeout=30) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: ")
        started = time.monotonic()
        with suppress(ConnectionResetError):
            assert connection.recv(100) == b""
        assert time.monotonic() - started < 20
    assert running.get("/healthz").status == 200


def test_a_client_that_reads_nothing_is_cut_off(
    start: Start, photos: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_GRACE_S", 0.0)
    running = start(limits=ServiceLimits(receive_s=3.0))
    body = make_form([("target", make_large(photos[0]))])
    head = f"POST /v1/swap HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {FORM}\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", running.port))
        connection.sendall(head.encode() + body)
        wait_until(lambda: running.read_metric("trt_ff_faces_total") == 1)
        wait_until(lambda: len(running.server.server_state.connections) == 1)
        wait_until(lambda: not running.server.server_state.connections)
        reply = b""
        with suppress(ConnectionResetError):
            while part := connection.recv(1 << 20):
                reply += part
    promised = re.search(rb"content-length: (\d+)", reply)
    assert promised is None or len(reply) < int(promised[1])
    assert running.get("/healthz").status == 200


def make_large(photo: bytes) -> bytes:
    """``photo`` in a corner of noise that no PNG makes small."""
    pixels = np.random.default_rng(0).integers(0, 256, (1800, 1800, 3), dtype=np.uint8)
    face = np.asarray(PIL.Image.open(io.BytesIO(photo)))
    pixels[: len(face), : len(face)] = face
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def test_the_last_small_packet_of_an_answer_goes_out_at_once(plain: Running) -> None:
    with socket.create_connection(("127.0.0.1", plain.port), timeout=30) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert connection.recv(4096)
        (kept,) = plain.server.server_state.connections
        accepted = kept.transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_large_bodies_together_are_bounded(start: Start) -> None:
    running = start(limits=ServiceLimits(held_bytes=200_000, upload_bytes=500_000))
    reply = running.swap([("target", bytes(300_000))])
    assert reply.status == 503 and "Retry-After" in reply.headers
    assert running.swap([("target", b"x")]).status == 415


def test_pixels_of_all_together_are_bounded(start: Start, photos: list[bytes]) -> None:
    running = start(limits=ServiceLimits(held_pixels=70_000), pace=Pace(threads=4))  # one photo has 65,536
    replies = in_threads([lambda photo=photo: running.swap([("target", photo)]) for photo in photos[:6]])
    assert [reply.status for reply in replies] == [200] * 6
    assert running.read_metric("trt_ff_held_pixels") == 0


def test_a_hanging_engine_makes_the_service_unhealthy(start: Start, photos: list[bytes]) -> None:
    running = start(limits=ServiceLimits(hang_s=0.2, deadline_s=1.0))
    running.engines.gate.clear()
    assert running.swap([("target", photos[0])]).status == 504
    assert running.get("/healthz").status == running.get("/readyz").status == 503
    running.engines.gate.set()
    wait_until(lambda: running.get("/healthz").status == 200)


def test_while_it_is_stopped_what_was_begun_is_finished(start: Start, photos: list[bytes]) -> None:
    running = start()
    running.engines.gate.clear()

    def stop() -> list[int]:
        wait_until(lambda: running.engines.batches == [1])
        running.server.drain()
        statuses = [running.get("/readyz").status, running.swap([("target", photos[1])]).status]
        running.engines.gate.set()
        return statuses

    reply, statuses = in_threads([lambda: running.swap([("target", photos[0])]), stop])
    assert reply.status == 200 and statuses == [503, 503]
    assert running.engines.batches == [1]
