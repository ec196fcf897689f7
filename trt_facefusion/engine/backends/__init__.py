"""Backends behind one small protocol: a typed ONNX goes in, an engine and what its kernels really do come out.

A backend is its own files and one line in the registry. What backends differ in is data (`capabilities`); nothing
compares their names. The vendor's library is imported when a build needs it, and every error that it raises becomes one
of ours, with a remedy.

May import: the ground, `model`, `quantization.calibration` (its tables), and `engine.runtime`.

Modules, from the ground up; each imports only those above it in this list:

    capabilities                           what backends differ in, as fields
    checks                                 what every backend asks of a typed ONNX
    device, gpu_support                    the GPU of this machine; what a GPU can compute in INT8 and FP16
    interrupts                             Ctrl-C while C++ is at work
    tensorrt_kernels                       which of TensorRT's kernels multiply and add
    pins                                   what an engine was built on and for
    uploader                               calibration batches in GPU memory
    base                                   the protocol, the request and the result of a build
    constraints, scales                    a plan and a table, as a weakly typed TensorRT 10 takes them
    kernels, rtx_log                       a plan against the kernels that came out; TensorRT-RTX's build log
    callbacks, session                     what TensorRTs call back; the steps of a build that they share
    calibrator, inspector                  TensorRT 10's calibrators; kernels by the engine inspector
    tensorrt_config                        the builder configuration of TensorRT 10 and 11
    tensorrt_typed, tensorrt_weak          strongly and weakly typed builds
    onnxruntime, tensorrt, tensorrt_rtx    the backends
    registry                               which there are, and which one a target gets

Start reading at `base.Backend`, then `onnxruntime` (the smallest of the backends) and `registry`.
"""
