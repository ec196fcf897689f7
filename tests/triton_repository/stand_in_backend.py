"""A backend for TensorRT's and onnxruntime's models where Triton has neither: onnxruntime in the python backend.

Which file is loaded, and what is refused, follows the backends that it stands in for: TensorRT's takes
``cc_model_filenames`` by the GPU's compute capability (here: of the environment), else the default file.
"""

import json
import os
from pathlib import Path

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils

RUNTIMES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}


class TritonPythonModel:
    """Serves an ONNX whatever its file is called."""

    @staticmethod
    def auto_complete_config(config):
        return config

    def initialize(self, args):
        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"]) / args["model_version"]
        name = config["default_model_filename"]
        if config["platform"] == "tensorrt_plan":
            name = config["cc_model_filenames"].get(os.environ.get("STAND_IN_GPU", "8.6"), name)
        path = folder / name
        if not path.is_file():
            raise pb_utils.TritonModelException(f"unable to find '{path}'")
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._require_border(config)
        self.outputs = [output["name"] for output in config["output"]]

    def _require_border(self, config):
        """Names and sizes as the configuration has them, as both backends check it."""
        batched = config["max_batch_size"] > 0
        for tensor in self.session.get_inputs():
            (described,) = [one for one in config["input"] if one["name"] == tensor.name]
            dims = [int(size) for size in described["dims"]]
            shape = list(tensor.shape)
            if batched:
                assert not isinstance(shape[0], int), "a batch axis that is fixed"
                shape = shape[1:]
            assert len(shape) == len(dims), (tensor.name, tensor.shape, dims)
            assert all(not isinstance(s, int) or s == d for s, d in zip(shape, dims, strict=True)), (
                tensor.name,
                shape,
                dims,
            )

    def execute(self, requests):
        """All requests in one inference, as a batch that Triton merged."""
        feeds = {
            tensor.name: np.concatenate(
                [pb_utils.get_input_tensor_by_name(request, tensor.name).as_numpy() for request in requests]
            )
            for tensor in self.session.get_inputs()
        }
        results = self.session.run(self.outputs, feeds)
        sizes = [request.inputs()[0].as_numpy().shape[0] for request in requests]
        ends = np.cumsum(sizes)[:-1]
        parts = [np.split(result, ends) for result in results]
        return [self._respond([part[number] for part in parts]) for number in range(len(requests))]

    def _respond(self, results):
        tensors = zip(self.outputs, map(np.ascontiguousarray, results), strict=True)
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, values) for name, values in tensors])
