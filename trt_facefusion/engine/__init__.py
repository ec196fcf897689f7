"""What comes out: engines that are built, stored with all that is known of them, and run.

A backend turns a typed ONNX into an engine and says which of its kernels really compute in INT8. The store keeps the
engine with a manifest: digests of everything that went in, versions, accuracy, kernels, what it was pinned to. A runner
runs it, here or on a GPU. Backends differ in capabilities, which are fields; nothing compares a backend's name.

It may import `model` and `quantization`, `storage` and the ground.

Subpackages, from the ground up:

    runtime/     runners behind one protocol: onnxruntime on a CPU, pycuda on a GPU, and a numerical stand-in
    backends/    what builds engines and opens them again, behind one protocol, with a registry of one line each
    timing/      how long an engine will take: predicted from its kernels, for a GPU that need not be there
    store/       folders of engines with their manifests; whether an engine fits a machine

Start with `backends/base.py` (the protocol), then `backends/registry.py` (which backends there are).
"""
