from __future__ import annotations

import threading

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from trt_facefusion.errors import BadInputError, ModelError
from trt_facefusion.quantization.calibration import Batches, Histogram, collect

IMAGES = np.random.default_rng(0).random((12, 3, 16, 16), np.float32)


def network(**weights: np.ndarray) -> onnx.ModelProto:
    """conv -> relu -> log -> output, and the shape of the input."""
    rng = np.random.default_rng(1)
    kernel = weights.get("kernel", rng.normal(size=(4, 3, 3, 3)).astype(np.float32))
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["conv"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("Add", ["relu", "one"], ["shifted"]),
        helper.make_node("Log", ["shifted"], ["output"]),
        helper.make_node("Shape", ["image"], ["shape"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 16, 16])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["N", 4, 16, 16])],
        [
            numpy_helper.from_array(kernel, "kernel"),
            numpy_helper.from_array(weights.get("one", np.float32([1])), "one"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def batches(size: int = 4, images: np.ndarray = IMAGES) -> Batches:
    return Batches(lambda indices: {"image": images[list(indices)]}, len(images), size)


def no_workers_left() -> bool:
    return not any(thread.name.startswith("histogram") for thread in threading.enumerate())


def test_histograms_are_those_of_the_activations():
    import onnxruntime as ort

    model = network()
    before = model.SerializeToString()
    histograms = collect(model, ["image", "conv", "output"], batches())
    assert model.SerializeToString() == before
    tapped = onnx.ModelProto.FromString(before)
    tapped.graph.output.append(onnx.ValueInfoProto(name="conv"))
    session = ort.InferenceSession(tapped.SerializeToString(), providers=["CPUExecutionProvider"])
    conv, output = session.run(["conv", "output"], {"image": IMAGES})
    for name, values in (("image", IMAGES), ("conv", conv), ("output", output)):
        assert histograms[name].count == values.size
        assert histograms[name].amax == pytest.approx(np.abs(values).max(), rel=1e-5)


def test_batch_size_and_order_of_images_change_nothing():
    expected = collect(network(), ["image", "relu"], batches(1), threads=1)
    for size in (2, 5, 12):
        assert collect(network(), ["image", "relu"], batches(size, IMAGES[::-1]), threads=1) == expected


def test_progress_counts_batches():
    calls = []
    collect(network(), ["relu"], batches(5), progress=lambda *call: calls.append(call))
    assert calls[0] == ("calibrate", 0, 3)
    assert calls[-1] == ("calibrate", 3, 3)


def test_histograms_come_in_the_order_of_the_graph():
    assert list(collect(network(), ["output", "relu", "image", "conv"], batches())) == [
        "image",
        "conv",
        "relu",
        "output",
    ]


def test_inputs_alone_and_a_tensor_named_twice():
    assert list(collect(network(), ["image"], batches())) == ["image"]
    assert collect(network(), ["relu", "relu"], batches())["relu"].count == 12 * 4 * 256


def test_a_constant_tensor_is_fine():
    kernel = np.zeros((4, 3, 3, 3), np.float32)
    histogram = collect(network(kernel=kernel), ["relu"], batches())["relu"]
    assert histogram.amax == 0
    assert histogram.count == 12 * 4 * 256


def test_a_broken_activation_is_named_with_its_batch():
    images = IMAGES.copy()
    images[9] = 1
    kernel = np.full((4, 3, 3, 3), -1, np.float32)
    # log(conv + 1 + 27 - 1): zero where a whole patch is one, which only image 9 of batch 2 has.
    model = network(kernel=kernel, one=np.float32([27]))
    model.graph.node[2].input[0] = "conv"
    with pytest.raises(ModelError, match=r"activation 'output' .* in batch 2"):
        collect(model, ["conv", "output"], batches(4, images))
    assert no_workers_left()


def test_a_broken_input_is_named():
    images = IMAGES.copy()
    images[5, 0, 0, 0] = np.nan
    with pytest.raises(BadInputError, match=r"input 'image' holds 1 .* in batch 1"):
        collect(network(), ["relu", "image"], batches(4, images))


@pytest.mark.parametrize(
    ("tensor", "complaint"),
    [("nothing", "no activation 'nothing'"), ("kernel", "no activation 'kernel'"), ("shape", "not a floating point")],
)
def test_tensors_that_cannot_be_calibrated_are_refused(tensor, complaint):
    with pytest.raises(ModelError, match=complaint):
        collect(network(), [tensor], batches())


@pytest.mark.parametrize(
    "feeds", [{}, {"image": IMAGES[:, :2]}, {"picture": IMAGES}, {"image": IMAGES.astype(np.float64)}]
)
def test_inputs_that_do_not_fit_are_refused_with_what_the_model_wants(feeds):
    with pytest.raises(ModelError, match="onnxruntime cannot run") as caught:
        collect(network(), ["image"], [feeds])
    assert "image: tensor(float)" in caught.value.remedy
    assert "\n" not in caught.value.message


def test_an_operator_that_onnxruntime_lacks_is_refused():
    model = network()
    model.graph.node[1].op_type = "NoSuchOperator"
    with pytest.raises(ModelError, match="cannot load the model"):
        collect(model, ["relu"], batches())


def test_no_tensors_need_no_pass():
    assert collect(network(), [], batches()) == {}


def test_no_batches_are_refused():
    with pytest.raises(BadInputError, match="not one batch"):
        collect(network(), ["relu"], [])


def test_ctrl_c_leaves_no_thread_behind():
    def interrupted():
        yield {"image": IMAGES[:4]}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect(network(), ["image", "relu"], interrupted())
    assert no_workers_left()


def test_activations_are_dropped_batch_by_batch():
    """A batch's inputs are garbage once the batch after it has been counted."""
    import weakref

    alive: list[weakref.ref] = []
    most = 0

    def tracked():
        nonlocal most
        for _ in range(8):
            feeds = {"image": IMAGES[:4].copy()}
            alive.append(weakref.ref(feeds["image"]))
            most = max(most, sum(ref() is not None for ref in alive))
            yield feeds
            del feeds

    collect(network(), ["image", "relu"], tracked())
    assert most <= 3


def test_batches_cover_every_sample_once():
    reader = Batches(lambda indices: {"x": np.array(indices)}, 10, 4)
    assert len(reader) == 3
    for _ in range(2):
        assert [feeds["x"].tolist() for feeds in reader] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_a_real_generator(shared_models):
    path = shared_models / "generator" / "zerodcepp_lowlight.onnx"
    model = onnx.load(path)
    tensors = [node.output[0] for node in model.graph.node if node.op_type == "Conv"]
    name = model.graph.input[0].name
    images = np.random.default_rng(2).random((2, 3, 64, 64), np.float32)
    histograms = collect(model, tensors, Batches(lambda i: {name: images[list(i)]}, 2, 1))
    assert all(isinstance(h, Histogram) and h.amax > 0 for h in histograms.values())
