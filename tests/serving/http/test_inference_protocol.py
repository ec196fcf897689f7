"""The Open Inference Protocol, by hand and by Triton's own client."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from pixelwise import SIZE
from running import Running, in_threads, wait_until

from trt_facefusion.serving.problems import RequestError, TooLargeError
from trt_facefusion.serving.tensors import read_infer_request, write_infer_reply
from trt_facefusion.types import TensorSpec

INFER = "/v2/models/swap/infer"
Start = Callable[..., Running]


def make_images(count: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random((count, 3, SIZE, SIZE), np.float32)


def ask_binary(running: Running, images: NDArray[np.float32], **parameters: Any) -> Any:
    size = {"binary_data_size": images.nbytes}
    entry = {"name": "image", "datatype": "FP32", "shape": list(images.shape), "parameters": size}
    document = {"inputs": [entry], "parameters": {"binary_data_output": True}, **parameters}
    head = json.dumps(document).encode()
    length = {"Inference_Header_Content_Length": str(len(head))}
    return running.ask("POST", INFER, head + images.tobytes(), **length)


def read_binary(reply: Any) -> NDArray[np.float32]:
    length = int(reply.headers["Inference-Header-Content-Length"])
    (output,) = json.loads(reply.body[:length])["outputs"]
    return np.frombuffer(reply.body[length:], np.float32).reshape(output["shape"])


def test_tritons_client_is_served_as_it_is(plain: Running) -> None:
    triton = pytest.importorskip("tritonclient.http", reason="tritonclient is not installed")
    client = triton.InferenceServerClient(f"127.0.0.1:{plain.port}")
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("swap")
    assert client.get_server_metadata()["name"] == "trt-facefusion"
    assert client.get_model_metadata("swap")["inputs"][0]["shape"] == [-1, 3, SIZE, SIZE]
    config = client.get_model_config("swap", "1")
    assert config["max_batch_size"] == 4 and config["input"][0]["dims"] == [3, SIZE, SIZE]
    images = make_images(2)
    for binary in (True, False):
        infer_input = triton.InferInput("image", images.shape, "FP32")
        infer_input.set_data_from_numpy(images, binary_data=binary)
        outputs = [triton.InferRequestedOutput("picture", binary_data=binary)]
        result = client.infer("swap", [infer_input], outputs=outputs, request_id="7")
        assert np.array_equal(result.as_numpy("picture"), 1 - images) and result.get_response()["id"] == "7"
    stats = client.get_inference_statistics("swap")["model_stats"][0]
    assert stats["inference_stats"]["success"]["count"] >= 2 and stats["inference_count"] >= 4
    with pytest.raises(triton.InferenceServerException, match="no model 'other'"):
        client.infer("other", [infer_input])
    client.close()


def test_json_alone_does(plain: Running) -> None:
    images = make_images(1)
    entry = {"name": "image", "datatype": "FP32", "shape": list(images.shape), "data": images.tolist()}
    reply = plain.ask("POST", INFER, json.dumps({"inputs": [entry]}).encode())
    (output,) = reply.json["outputs"]
    assert output["datatype"] == "FP32" and "Inference-Header-Content-Length" not in reply.headers
    assert np.allclose(np.reshape(output["data"], output["shape"]), 1 - images, atol=1e-6)


def test_requests_that_come_together_are_one_inference(start: Start) -> None:
    running = start()
    running.engines.gate.clear()
    images = [make_images(1 + number % 2, number) for number in range(6)]

    def open_gate() -> None:
        wait_until(lambda: running.service.in_service == 6 and len(running.engines.batches) == 1)
        running.engines.gate.set()

    *replies, _ = in_threads([*(lambda own=own: ask_binary(running, own) for own in images), open_gate])
    assert all(np.array_equal(read_binary(reply), 1 - own) for reply, own in zip(replies, images, strict=True))
    assert sum(running.engines.batches) == 9 and len(running.engines.batches) < 6
    assert max(running.engines.batches) in {3, 4}


def test_a_network_of_a_fixed_batch_is_served_request_by_request(start: Start, tmp_path: Path) -> None:
    net = tiny.save(tiny.generator(batch=1), tmp_path / "fixed.onnx")
    running = start(net=net, inputs=(f"image=image:{tiny.SIZE}:0:1:template=arcface_128",))
    assert running.get("/v2/models/swap/config").json["max_batch_size"] == 0
    images = np.random.default_rng(1).random((1, 3, tiny.SIZE, tiny.SIZE), np.float32)
    assert read_binary(ask_binary(running, images)).shape == (1, 3, tiny.SIZE, tiny.SIZE)


IMAGE = {"name": "image", "datatype": "FP32", "shape": [1, 3, SIZE, SIZE]}
BAD: list[tuple[Any, int]] = [
    (b"no json", 400),
    ([], 400),
    ({}, 400),
    ({"inputs": {}}, 400),
    ({"inputs": [5]}, 400),
    ({"inputs": [{**IMAGE, "data": [1, 2]}]}, 400),
    ({"inputs": [{**IMAGE, "data": ["x"] * 12288}]}, 400),
    ({"inputs": [{**IMAGE, "datatype": "BYTES"}]}, 400),
    ({"inputs": [{**IMAGE, "shape": [1 << 20, 1 << 20]}]}, 413),
    ({"inputs": [{**IMAGE, "shape": [-1, 3]}]}, 400),
    ({"inputs": [{**IMAGE, "parameters": {"binary_data_size": 12}}]}, 400),
    ({"inputs": [{**IMAGE, "name": "other", "shape": [1], "data": [1]}]}, 400),
    ({"inputs": [{**IMAGE, "shape": [1], "data": [1]}]}, 400),
    ({"inputs": [{**IMAGE, "datatype": "INT32", "shape": [1, 3, SIZE, SIZE], "data": [0] * 3 * SIZE * SIZE}]}, 400),
    ({"inputs": [{**IMAGE, "data": [0] * 3 * SIZE * SIZE}], "outputs": [{"name": "other"}]}, 400),
]


@pytest.mark.parametrize("number", range(len(BAD)))
def test_what_is_not_the_protocol_is_refused(number: int, plain: Running) -> None:
    document, status = BAD[number]
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    reply = plain.ask("POST", INFER, body)
    assert reply.status == status and reply.json["error"] and reply.json["remedy"]


def test_more_samples_than_go_in_together_are_refused(plain: Running) -> None:
    reply = ask_binary(plain, make_images(5))
    assert reply.status == 400 and "at most 4" in reply.json["remedy"]


@pytest.mark.parametrize("length", ["-1", "99999999999", "x", "12345"])
def test_a_wrong_length_of_the_json_is_refused(length: str, plain: Running) -> None:
    assert plain.ask("POST", INFER, b'{"inputs":[]}', Inference_Header_Content_Length=length).status == 400


DTYPES = st.sampled_from([np.bool_, np.uint8, np.int32, np.int64, np.float16, np.float32, np.float64])
TENSORS = DTYPES.flatmap(lambda dtype: arrays.arrays(dtype, arrays.array_shapes(max_dims=4, max_side=4)))


@given(st.lists(TENSORS, min_size=1, max_size=3), st.lists(st.booleans(), min_size=3, max_size=3))
def test_tensors_come_out_as_they_went_in(tensors: list[NDArray[Any]], binary: list[bool]) -> None:
    """What is written as a reply, read as a request, is the same."""
    outputs = {f"t{number}": tensor for number, tensor in enumerate(tensors)}
    specs = [TensorSpec(name, tensor.shape, tensor.dtype.name) for name, tensor in outputs.items()]
    requested = [
        {"name": name, "parameters": {"binary_data": flag}} for name, flag in zip(outputs, binary, strict=False)
    ]
    asked = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}], "outputs": requested})
    try:
        body, length = write_infer_reply(read_infer_request(asked.encode(), None), outputs, specs, "swap", "1")
    except RequestError as error:
        assert "binary" in error.remedy
        assert not all(np.isfinite(tensor).all() for tensor in tensors)
        return
    head, tail = (body, b"") if length is None else (body[:length], body[length:])
    document = json.loads(head)
    again = json.dumps({"inputs": document["outputs"]}).encode()
    feeds = read_infer_request(again + tail, None if length is None else str(len(again))).feeds
    for name, tensor in outputs.items():
        assert feeds[name].dtype == tensor.dtype and np.array_equal(feeds[name], tensor, equal_nan=True)


@given(st.binary(max_size=200), st.one_of(st.none(), st.text(max_size=6)))
def test_any_body_is_read_or_refused(body: bytes, length: str | None) -> None:
    try:
        read_infer_request(body, length)
    except (RequestError, TooLargeError) as error:
        assert error.message and error.remedy
