"""`trt-ff diff`: two engines or ONNX models on the same faces, and where the error of one against the other enters.

Both are fed alike, by the contract that their folders hold or that the user describes. Outputs are compared face by
face with Polygraphy's functions, pictures by the metrics of `evaluation.accuracy`, layers by the values of every tensor
that both graphs have. A is the reference. What cannot run here is stood in for by its typed ONNX, and the user is told.

May import: the ground, `model`, `quantization.calibration` (batches), `engine`, `faces`, `inference` and
`evaluation.accuracy`.

Modules, from the ground up; each imports only those above it in this list:

    contracts      how both models are fed: the one contract that they share
    sides          a model that runs here (`RunnableModel`), and the batch size that two of them take
    pair           two such models with one contract, one batch and one picture (`ModelPair`)
    outputs        figures of outputs, face by face
    handed_in      the file that a stored engine was built from, as a third to compare with
    pictures       B's pictures against A's, and both against those of that file
    layer_error    what a layer adds to an error, and what it only passes on
    layers         two graphs, tensor by tensor, within bounds of memory (`LayerComparison`)
    settings       what the command was told
    saved          the folder of --save
    output_run     runs both models on all faces, batch by batch
    result         what comes out, as JSON too, and whether the tolerances were kept
    layer_run      runs both graphs on a few faces, layer by layer
    compare        the command: opens, runs and compares (`diff`)

Start reading at `compare.diff`, then `pair.pair_models`; `layer_error` explains the figures of layers.
"""
