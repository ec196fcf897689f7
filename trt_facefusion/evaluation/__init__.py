"""Is it right, is it fast: pictures of an engine against those of FP32, two models against each other, times.

What runs comes from `inference` (an engine, a typed ONNX, the network as it was handed in); what is measured here is
only looked at, never changed. Whether an engine is stored, and what is tried when it is not right, is decided in
`build` from the verdicts of `accuracy`; the commands `diff` and `profile` are `comparison` and `profiling`.

May import: the ground (`errors`, `types`, `sampling`, `storage`), `model`, `quantization`, `engine`, `faces` and
`inference`.

Subpackages, from the ground up; each imports only those above it in this list:

    accuracy/      metrics of pictures, the limits on them, and the verdict
    comparison/    `trt-ff diff`: two models output by output, picture by picture, layer by layer
    profiling/     `trt-ff profile`: latency, throughput, memory, and where the time of a call goes

Start reading at `accuracy.judge.judge` (pictures -> figures) and `accuracy.gate.Limits.check` (figures -> verdict);
then `comparison.compare.diff` and `profiling.run.profile`, each of which is its command from end to end.

Where is decided ...

* how far a picture may be off: `accuracy.gate`, by the limits that the metrics in `accuracy.registry` offer;
* which layer adds the error: `comparison.layers`, whose figures `comparison.layer_error` explains;
* what a percentile or a difference of two engines is: `profiling.statistics`.
"""
