"""`trt-ff compare`: one model in every precision on every backend, side by side: size, time, accuracy, effort.

Engines are built as `trt-ff build` builds them, or named; what is measured and what is only predicted is never mixed. A
backend that cannot build here is a row with its reason. Any torch module can be lined up, too: in torch's own
precisions, and in the libraries that take its ONNX. May import: everything but `report`, `doctor` and `cli`.

Modules, from the ground up; each imports only those above it in this list:

    published        figures that others published, with their source: for orientation only
    entry            one engine of the comparison, and all of them
    measuring        times and memory of engines that run on this machine, in turns
    painting         pictures of a few faces by every engine
    cells            rows and remarks in words, as terminal, Markdown and page show them
    gather           builds what can be built, and gathers the comparison
    module_inputs    inputs of a torch module: name, type, shape
    module_quantize  a torch module in other precisions, in torch and as ONNX
    module_run       a torch module's variants, timed in turns and held against FP32
    module_cells     the same in words

Start reading at `gather.line_up`, then `module_run.line_up_module`.
"""
