"""Photos in, a fused photo out: the same as `trt-ff swap` makes, for everyone his own."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tiny
from numpy.typing import NDArray
from running import Parts, Reply, Running, Setting, in_threads, wait_until

from trt_facefusion.serving.logs import JsonLines
from trt_facefusion.swap.swapper import Swapper

Start = Callable[..., Running]


def read(encoded: bytes) -> NDArray[np.uint8]:
    return np.asarray(PIL.Image.open(io.BytesIO(encoded)).convert("RGB"))


def swap_locally(setting: Setting, tmp_path: Path, target: bytes, suffix: str, sources: list[bytes]) -> bytes:
    """What `Swapper.swap` writes."""
    named = []
    for number, photo in enumerate([target, *sources]):
        named.append(tmp_path / f"photo{number}")
        named[-1].write_bytes(photo)
    with Swapper(setting.net, contract=setting.contract) as swapper:
        return swapper.swap(named[1:], named[0]).save(tmp_path / f"out{suffix}").read_bytes()


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_the_answer_is_byte_for_byte_what_a_swapper_writes(
    kind: str, plain: Running, inverting: Setting, photos: list[bytes], tmp_path: Path
) -> None:
    reply = plain.swap([("target", photos[0]), ("format", kind.encode())])
    assert reply.status == 200 and reply.headers["Content-Type"] == f"image/{kind}"
    assert reply.body == swap_locally(inverting, tmp_path, photos[0], f".{kind}", [])
    assert b"facefusion" in reply.body
    assert reply.headers["X-Engine"] == "inverting.onnx (onnx)" and reply.headers["X-Faces"] == "1"
    assert reply.headers["X-Precision"] == "onnx" and float(reply.headers["X-Milliseconds"]) > 0


def test_json_holds_the_same_picture_and_says_who_made_it(plain: Running, photos: list[bytes]) -> None:
    image = plain.swap([("target", photos[1])])
    reply = plain.swap([("target", photos[1]), ("response", b"json")], X_Request_Id="mine-1")
    assert base64.b64decode(reply.json["image"]) == image.body and reply.json["media_type"] == "image/png"
    assert reply.json["faces"] == [{"engine": "inverting.onnx", "precision": "onnx", "role": "baseline"}]
    assert reply.json["request"] == reply.headers["X-Request-Id"] == "mine-1"
    assert set(reply.json["milliseconds"]) == {"prepare", "render", "finish", "total"}


def test_sixteen_at_once_get_each_the_answer_to_their_own_photo(plain: Running, photos: list[bytes]) -> None:
    alone = [plain.swap([("target", photo)]).body for photo in photos]
    plain.engines.batches.clear()
    replies: list[Reply] = in_threads([lambda photo=photo: plain.swap([("target", photo)]) for photo in photos])
    assert [reply.status for reply in replies] == [200] * 16
    assert [reply.body for reply in replies] == alone and len(set(alone)) == 16
    assert sum(plain.engines.batches) == 16


def test_what_comes_together_goes_into_one_inference(start: Start, photos: list[bytes]) -> None:
    running = start()
    running.engines.gate.clear()
    calls = [lambda photo=photo: running.swap([("target", photo)]) for photo in photos[:9]]

    def open_gate() -> None:
        wait_until(lambda: sum(running.engines.batches) + running.service.batcher.waiting == 9)
        running.engines.gate.set()

    *replies, _ = in_threads([*calls, open_gate])
    assert {reply.status for reply in replies} == {200}
    assert sum(running.engines.batches) == 9 and max(running.engines.batches) == 4
    assert len(running.engines.batches) <= 4
    assert running.read_metric("trt_ff_batch_size_count") == len(running.engines.batches)
    assert running.read_metric("trt_ff_faces_total") == 9


def test_a_swap_takes_several_sources(start: Start, photos: list[bytes], tmp_path: Path) -> None:
    net = tiny.save(tiny.generator(embedding=128), tmp_path / "swap.onnx")
    inputs = (f"image=image:{tiny.SIZE}:0:1:template=arcface_128", "identity=embedding")
    running = start(net=net, inputs=inputs)
    setting = Setting(net, inputs)
    sources: Parts = [("source", photos[0]), ("source", photos[1])]
    both = running.swap([*sources, ("target", photos[2])])
    one = running.swap([sources[0], ("target", photos[2])])
    assert both.body == swap_locally(setting, tmp_path, photos[2], ".png", photos[:2])
    assert one.status == 200 and one.body != both.body
    missing = running.swap([("target", photos[2])])
    assert missing.status == 400 and "source" in missing.json["remedy"] and "--" not in missing.json["remedy"]


def test_all_faces_are_swapped_where_that_is_asked_for(plain: Running, photos: list[bytes]) -> None:
    pair = np.hstack([read(photo) for photo in photos[:2]])
    buffer = io.BytesIO()
    PIL.Image.fromarray(pair).save(buffer, "PNG")
    largest = plain.swap([("target", buffer.getvalue())])
    both = plain.swap([("target", buffer.getvalue()), ("faces", b"all")])
    assert largest.headers["X-Faces"] == "1" and both.headers["X-Faces"] == "2"
    assert (read(largest.body) != read(both.body)).any()


def test_everything_is_described_for_machines(plain: Running) -> None:
    described = plain.get("/openapi.json").json
    form = described["paths"]["/v1/swap"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert set(form["properties"]) == {"source", "target", "faces", "format", "response"}
    assert "/v2/models/{name}/infer" in described["paths"]
    ready = plain.get("/readyz").json
    assert ready["ready"] and ready["engines"][0]["state"] == "serving"
    assert plain.get("/healthz").json["alive"]
    assert plain.ask("HEAD", "/readyz").status == plain.ask("HEAD", "/healthz").status == 200


def test_requests_are_counted_and_logged_without_what_they_hold(
    plain: Running, photos: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    before = plain.read_metric("trt_ff_requests_total")
    with caplog.at_level("INFO", "trt_facefusion.serving"):
        reply = plain.swap([("target", photos[3])], X_Request_Id="the-id")
        plain.get("/secret/path")
    lines = [json.loads(JsonLines().format(record)) for record in caplog.records]
    (swapped,) = [line for line in lines if line.get("id") == "the-id"]
    assert swapped["route"] == "/v1/swap" and swapped["status"] == reply.status == 200 and swapped["faces"] == 1
    assert swapped["received"] > len(photos[3]) and swapped["engine"] == "inverting.onnx (onnx)"
    assert "secret" not in json.dumps(lines) and "photo" not in json.dumps(swapped)
    assert plain.read_metric("trt_ff_requests_total") >= before + 2
