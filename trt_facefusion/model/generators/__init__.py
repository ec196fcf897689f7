"""Networks in torch: the bundled reference generator, and a user's checkpoint, factory and code.

A user's file is hostile until shown otherwise, and a user's code is the user's own affair: the checkpoint is read
without running code from it and in bounded memory; the factory is run, but what it prints, raises or changes does not
reach the build. All code that the factory's import brings in is found without running it, because it decides what the
network is and so belongs to the digest of the model.

May import the ground and `storage`, nothing else of `model`. torch is imported inside of functions.

From the ground up:

    torch_here         whether torch can be used
    local_code         the user's own code behind a factory, file by file
    user_code          runs code of the user's: one line for whatever it raises, stdout stays ours
    weight_sets        which of the sets of weights in a checkpoint is taken (EMA first), and what the others are called
    checkpoint_file    reads a `.pth` or `.safetensors` file without running code, in bounded memory
    checkpoint         the weights of such a file, checked and put into a network
    factory            the network that `module:factory` makes
    reference          the architecture of the reference generator; its text is part of that model's digest
    weights            the reference generator with its packaged weights

Start with `checkpoint.py`; `reference.py` is the network that tests and benchmarks run.
"""

from trt_facefusion.model.generators.checkpoint import load_weights, read_state, read_weights
from trt_facefusion.model.generators.factory import build_from_factory
from trt_facefusion.model.generators.weights import REFERENCE_WEIGHTS, load_reference

__all__ = ["REFERENCE_WEIGHTS", "build_from_factory", "load_reference", "load_weights", "read_state", "read_weights"]
