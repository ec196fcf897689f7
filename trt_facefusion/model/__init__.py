"""What goes in: a generator, from wherever it comes to the one form of its graph that everything above works on.

A model is a checkpoint with the factory of its network, an ONNX file, or the bundled reference generator. This package
knows what such a network expects of its inputs, loads it without trusting the file, exports it to ONNX where it is
torch, checks that the export agrees with it, and prepares the graph: fixed sizes, folded constants, unique names, known
shapes. Nothing here knows about faces, INT8 or engines.

It may import the ground (`errors`, `types`, `text`, `sampling`) and `storage`. torch and onnxruntime are imported where
they are used: an ONNX file needs no torch.

Modules and subpackages, from the ground up; each imports only from those above it:

    messages       ONNX models as protobuf messages of any size: bytes, digests, nested graphs, weights beside the file
    sessions       the one place where onnxruntime sessions are opened
    presets/       what a generator expects: its inputs, its picture, and the syntax of `--input`
    generators/    networks in torch: the reference generator, a user's checkpoint, factory and code
    export/        where a model comes from, and torch -> ONNX
    graph/         the prepared graph: its normal form, an index over it, the role of every node

Start with `export/source.py` (what a source of a model tells), then `graph/prepare.py` (what happens to its graph).
"""
