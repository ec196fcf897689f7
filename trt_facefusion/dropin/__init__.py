"""An engine as a file that other tools take in the place of the generator they know.

insightface, FaceFusion and Deep-Live-Cam open a generator's ONNX in onnxruntime. What is written here is the typed
graph of a proven engine, with the border of the file that it was made from: names, order, types and static shapes of
inputs and outputs, and the matrix for embeddings last among the initializers, where these tools read it. Notes beside
it say what each tool needs, which provider runs it fast, and how far its pictures are from the engine's, measured.

May import: the ground, `model`, `quantization.calibration` (tables), `engine`, `evaluation.profiling` (samples) and
`inference`.

Modules, from the ground up:

    border    what the file takes and gives, as the original has it
    graph     a typed graph -> the drop-in file
    ranges    ranges of tensors -> the calibration table that onnxruntime's TensorRT provider reads
    check     the file in onnxruntime's default session against the engine
    notes     what each tool and provider needs to be told
    export    all of it, from an engine's folder

Start with `export.py`.
"""
