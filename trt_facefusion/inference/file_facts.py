"""What an ONNX file shows of which known generator it is."""

from __future__ import annotations

from trt_facefusion.errors import ModelError
from trt_facefusion.model.export import OnnxSource
from trt_facefusion.model.graph.border import read_input_specs, read_output_specs
from trt_facefusion.model.messages import iterate_graphs
from trt_facefusion.model.presets.library import PRESETS
from trt_facefusion.model.presets.recognition import FileFacts
from trt_facefusion.storage.files import digest_regular


def read_file_facts(source: OnnxSource) -> FileFacts:
    """The facts of a file; its SHA-256 only where a public file has its size.

    Raises:
        ModelError: the file cannot be read, or is no ONNX model.
    """
    model = source.model
    graphs = list(iterate_graphs(model.graph))
    read = {name for graph in graphs for node in graph.node for name in node.input}
    read |= {output.name for graph in graphs for output in graph.output}
    unread = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer if tensor.name not in read}
    size = source.path.stat().st_size
    public = any(file.bytes == size for known in PRESETS.generators.values() for file in known.files)
    sha256 = digest_regular(source.path, "model", ModelError).hex() if public else ""
    return FileFacts(read_input_specs(model), read_output_specs(model), unread, size, sha256)
