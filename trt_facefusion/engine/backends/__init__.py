"""Backends behind one small protocol: a typed ONNX goes in, an engine and what its kernels really do come out.

TensorRT 11 and TensorRT-RTX build the typed ONNX as it is; TensorRT 10 builds the FP32 ONNX, with the plan as
constraints of layers and the table handed over by a calibrator. On a CPU OpenVINO compiles the typed ONNX; for
onnxruntime the typed ONNX itself is the engine. A build can be stopped with Ctrl-C though C++ is at work, and what the
library says is read: its log, its inspector or the graph that it runs names the kernels, and they are held against the
plan.

It may import `engine.runtime`, `model`, `quantization`, `storage` and the ground.

Modules, from the ground up:

    device, gpu_support                       the GPU of this machine; what a GPU can compute, by its compute capability
    processor                                 the processor of this machine
    chips                                     Qualcomm's chips, by the numbers that its compiler knows
    capabilities                              what backends differ in, as fields
    pins                                      what an engine was built on and for
    base                                      the protocol, the request, the result, kernels
    checks, kernels                           what every backend asks of a model; a plan held against real kernels
    interrupts, rtx_log, callbacks            Ctrl-C, the log, the progress
    uploader, calibrator                      calibration batches in GPU memory; TensorRT 10's calibrators
    session                                   the steps of a build that all three TensorRTs share
    constraints, scales                       a plan and a table in the words of TensorRT 10's network
    inspector, tensorrt_kernels               kernels of a built engine; which of them multiply and add
    tensorrt_config                           the builder's configuration of TensorRT 10 and 11
    tensorrt_typed, tensorrt_weak             strongly and weakly typed builds
    tensorrt, tensorrt_rtx, onnxruntime       the backends
    openvino_kernels, openvino                kernels of the graph that OpenVINO runs; the backend
    qnn_trace, qnn                            kernels in the trace of Qualcomm's compiler; the backend for phones
    registry                                  one line for each; which one a target gets

Start with `base.py`, `capabilities.py` and `registry.py`; `onnxruntime.py` is the shortest backend.
"""
