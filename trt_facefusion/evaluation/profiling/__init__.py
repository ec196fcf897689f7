"""`trt-ff profile`: how fast an engine is, where the time of a call goes, and whether two engines differ.

Times are taken around the calls that a user would make, with inputs that take turns; two engines are measured in
alternating order, so that what slows down both cancels out. Stages, layers and memory come from a look inside, which
each kind of engine allows in its own way: events and TensorRT's profiler on a GPU, ONNX Runtime's trace on a CPU.

May import: the ground, `model.presets`, `quantization.precision` (rows of a plan), `engine`, `faces` and `inference`.

Modules, from the ground up; each imports only those above it in this list:

    statistics     percentiles, the ratio of two engines with its interval; measures nothing
    estimate       how long stored engines will take, predicted from their kernels
    machine        the processor, and versions of what was measured with
    memory         what a model takes on the CPU, in a process of its own
    inputs         random inputs of the right range, where no faces are at hand
    layers         times of layers, merged with the kernels and the plan
    onnx_trace     reads the trace of ONNX Runtime's profiler
    trtexec        NVIDIA's own program on the same engine, as a second opinion
    measure        takes times: calls in turn, throughput, one batch size (`CyclingInputs`)
    workload       what an engine is fed with while it is measured (`Workload`)
    result         the profile of one engine, as JSON too
    fit_factors    the factors of this GPU, from the layers that were measured
    bench          an engine that is being measured, wherever it runs
    cpu_bench      in ONNX Runtime, or in a library that cannot be looked into
    gpu_bench      on a GPU
    run            the command: one engine, or two in turn (`profile`)

Start reading at `run.profile`, then `bench.Bench.profile`.
"""
