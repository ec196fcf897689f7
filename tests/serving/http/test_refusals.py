"""What cannot be served is refused with a reason and a remedy, and the service is right afterwards."""

from __future__ import annotations

import io
import re
import socket
import struct
import tempfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from running import BOUNDARY, FORM, Parts, Running, make_form

from trt_facefusion.serving.limits import ServiceLimits

Start = Callable[..., Running]


def make_bomb(side: int) -> bytes:
    """A PNG of a few kilobytes whose header promises ``side`` x ``side`` pixels."""
    chunks = [b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(bytes(1 << 20))]
    chunks.append(b"IEND")
    parts = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def encode(pixels: Any, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


NO_FACE = encode(np.zeros((64, 64, 3), np.uint8))


def check_problem(reply: Any, status: int, words: str = "") -> None:
    assert reply.status == status, reply.body
    assert reply.headers["Content-Type"] == "application/problem+json"
    problem = reply.json
    assert problem["status"] == status and problem["request"] == reply.headers["X-Request-Id"]
    assert words in problem["detail"] and problem["remedy"]
    assert not re.search(r"Traceback|\.py|/(home|tmp|work|usr|root|etc)", reply.body.decode())


CASES: dict[str, tuple[Callable[[bytes], Parts], int, str]] = {
    "no target": (lambda photo: [("source", photo)], 400, "target"),
    "two targets": (lambda photo: [("target", photo)] * 2, 400, "2 parts called target"),
    "unknown part": (lambda photo: [("target", photo), ("colour", b"red")], 400, "no part 'colour'"),
    "unknown choice": (lambda photo: [("target", photo), ("faces", b"some")], 400, "faces is not one of"),
    "a choice twice": (lambda photo: [("target", photo), ("faces", b"all"), ("faces", b"all")], 400, "faces"),
    "a long text": (lambda photo: [("target", photo), ("faces", b"x" * 300)], 413, "256 bytes"),
    "too many sources": (lambda photo: [("source", photo)] * 9 + [("target", photo)], 413, "9 source photos"),
    "too many parts": (lambda photo: [("source", b"x")] * 99, 413, "too many parts"),
    "not a picture": (lambda photo: [("target", b"hello")], 415, "target: not a JPEG"),
    "a GIF": (lambda photo: [("target", b"GIF89a" + bytes(40))], 415, "GIF"),
    "an empty target": (lambda photo: [("target", b"")], 415, "target"),
    "a bomb": (lambda photo: [("target", make_bomb(30_000))], 413, "30000x30000"),
    "too many pixels": (lambda photo: [("target", make_bomb(6_000))], 413, "more than 24 megapixels"),
    "cut short": (lambda photo: [("target", photo[: len(photo) // 2])], 422, "target"),
    "no face": (lambda photo: [("target", NO_FACE)], 422, "no face"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_bad_request_is_refused_with_a_reason(case: str, plain: Running, photos: list[bytes]) -> None:
    make, status, words = CASES[case]
    check_problem(plain.swap(make(photos[0])), status, words)
    assert not plain.engines.batches and plain.service.in_service == 0


def test_bodies_that_are_no_form_are_refused(plain: Running, photos: list[bytes]) -> None:
    whole = make_form([("target", photos[0])])
    for body, kind, status in (
        (b"{}", "application/json", 415),
        (whole, "multipart/form-data", 400),
        (whole, "multipart/form-data; boundary=other", 400),
        (whole, f"multipart/form-data; boundary={'x' * 500}", 400),
        (whole[:-10], FORM, 400),
        (b"", FORM, 400),
        (whole.replace(b"name=", b"mane="), FORM, 400),
        (f"--{BOUNDARY}\r\nX: {'y' * 10_000}\r\n\r\n".encode(), FORM, 400),
    ):
        check_problem(plain.ask("POST", "/v1/swap", body, Content_Type=kind), status)
    assert plain.swap([("target", photos[0])]).status == 200


def test_what_is_not_there_is_said(plain: Running) -> None:
    check_problem(plain.get("/v1/../../etc/passwd"), 404)
    check_problem(plain.get("/v1/swap"), 405)
    check_problem(plain.get("/docs"), 404)


def test_a_name_that_leads_elsewhere_reaches_neither_files_nor_log(
    plain: Running, photos: list[bytes], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("a file was made")

    for name in ("TemporaryFile", "NamedTemporaryFile", "mkstemp", "SpooledTemporaryFile"):
        monkeypatch.setattr(tempfile, name, refuse)
    with caplog.at_level("INFO"):
        body = make_form([("target", photos[0])], filename="../../../etc/cron.d/owned")
        assert plain.ask("POST", "/v1/swap", body, Content_Type=FORM).status == 200
    assert "owned" not in caplog.text and "owned" not in str([vars(record) for record in caplog.records])


def test_bytes_are_counted_before_anything_is_decoded(start: Start, photos: list[bytes]) -> None:
    running = start(limits=ServiceLimits(upload_bytes=50_000, request_bytes=300_000, held_bytes=1 << 20))
    check_problem(running.swap([("target", bytes(60_000))]), 413, "0 MiB")
    check_problem(running.ask("POST", "/v1/swap", bytes(400_000), Content_Type=FORM), 413, "the request has more")
    parts = b"".join(make_form([("source", bytes(40_000))])[: -len(BOUNDARY) - 6] for _ in range(9))
    pieces = iter([parts[at : at + 9000] for at in range(0, len(parts), 9000)])
    chunked = running.ask("POST", "/v1/swap", pieces, Content_Type=FORM)  # type: ignore[arg-type]
    check_problem(chunked, 413)
    assert running.service.in_service == 0


def test_huge_headers_are_refused(plain: Running) -> None:
    with socket.create_connection(("127.0.0.1", plain.port), timeout=30) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: " + b"y" * 40_000 + b"\r\n\r\n")
        assert b" 431 " in connection.recv(4096).split(b"\r\n")[0]
    with socket.create_connection(("127.0.0.1", plain.port), timeout=30) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Long: " + b"y" * 70_000)
        assert b" 400 " in connection.recv(4096).split(b"\r\n")[0]
    with socket.create_connection(("127.0.0.1", plain.port), timeout=30) as connection:
        connection.sendall(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
        assert b" 400 " in connection.recv(4096)
    assert plain.get("/healthz").status == 200


def test_an_engine_that_fails_is_told_without_its_inside(plain: Running, photos: list[bytes]) -> None:
    plain.engines.fail = lambda: RuntimeError("cannot open /home/someone/engine.plan")
    reply = plain.swap([("target", photos[0])])
    check_problem(reply, 500)
    assert b"someone" not in reply.body and b"RuntimeError" not in reply.body
    plain.engines.fail = None
    assert plain.swap([("target", photos[0])]).status == 200


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 1 << 20), st.binary(max_size=8)), max_size=5), st.integers(0, 1 << 20))
def test_whatever_is_sent_gets_an_answer_that_was_meant(
    plain: Running, photos: list[bytes], changes: list[tuple[int, bytes]], length: int
) -> None:
    body = bytearray(make_form([("target", NO_FACE), ("faces", b"all")]))
    for place, value in changes:
        at = place % len(body)
        body[at : at + len(value)] = value
    reply = plain.ask("POST", "/v1/swap", bytes(body[: length % (2 * len(body))]), Content_Type=FORM)
    assert reply.status in {400, 413, 415, 422}
