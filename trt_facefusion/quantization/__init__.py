"""What INT8 means for a network: ranges, precisions, corrections, and the ONNX that says all of it.

A prepared graph and faces go in; a strongly typed ONNX comes out, whose casts and Q/DQ a backend turns into an engine.
Nothing here knows a backend, a GPU or a picture. What is chosen by measuring pictures (rules, thresholds, corrections,
the plan of a search) is chosen above, in `build.tuning`, with the arithmetic of these packages.

Two documents pass through it, and belong to no backend: the calibration table (tensor -> amax, text in TensorRT's own
format, with a JSON of histograms beside it) and the plan (node -> precision and reason, YAML).

May import: the ground (`errors`, `types`, `text`, `sampling`, `storage`) and `model`.

Subpackages, from the ground up; each imports only those above it in this list:

    calibration/    faces -> histograms -> the range of every activation, and the cache that keeps them
    precision/      the plan: rules that make one, groups of layers, the logic of the search
    correction/     INT8 grids; scale and shift of channels, weight scales, rounding and biases
    folding/        scales of channels moved upstream into constants, where they cost nothing at run time
    lowering/       plan + ranges + corrections -> typed ONNX

Start reading at `lowering.typed.lower`: its arguments are what the others make.

Where is decided ...

* the threshold of one tensor: `calibration.cache.Calibration.table`, by a rule of `calibration.thresholds`;
* whether a node is INT8: `precision.rules`, one rule after another;
* which corrections there are, and what a user calls them: `correction.kinds`;
* where a Q/DQ stands: `lowering.typed` for TensorRT, `lowering.integer` for onnxruntime on a CPU.
"""
