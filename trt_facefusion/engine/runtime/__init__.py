"""Runners behind one protocol (``base.Runner``): onnxruntime on a CPU, pycuda on a GPU, and a numerical stand-in.

A runner takes arrays by name and gives arrays by name, from any thread; several inferences may be in flight. It knows
nothing of how engines are built, and may import the ground and `model` (messages, sessions).

Modules, from the ground up; each imports only those above it in this list:

    base                      the protocol of a runner, and what inputs must be
    device                    pycuda's errors in the words of this project
    engine_file               loads serialised TensorRT engines
    graphs                    CUDA graphs: what one inference queues, captured once
    half                      FP16 as a GPU computes it, on a CPU
    in_flight                 several inferences at once, for whatever has no streams of its own
    layer_times               TensorRT's own times of layers
    run_results               inputs and outputs on the disk, as `polygraphy` opens them
    engine_io                 what a TensorRT engine takes and gives
    onnxruntime               the runner on a CPU, and the stand-in
    polygraphy                our runners as Polygraphy's
    slots                     all that one inference in flight needs on a GPU; a pool of them
    pycuda                    the runner on a GPU

Start reading at `base.Runner`, then `onnxruntime` and `pycuda`.
"""
