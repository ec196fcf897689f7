"""What comes out: engines that are built, stored with all that is known of them, and run.

A typed ONNX goes in; an engine file, a folder with its manifest, and a runner come out. Backends differ by what they
say they can do (`backends.capabilities`), never by their name; TensorRT, pycuda and onnxruntime are imported where they
are used, so that all of this can be imported on a machine that has none of them. What goes into an engine is decided
above, in `build`; which stored engine runs on a machine in `inference.select`.

May import: the ground (`errors`, `types`, `storage`), `model`, and `quantization`.

Subpackages, from the ground up; each imports only those above it in this list:

    runtime/     runners behind one protocol: onnxruntime on a CPU, pycuda on a GPU, a GPU engine's stand-in on a CPU
    backends/    what builds engines and opens them again, behind one protocol; the registry has a line for each
    store/       folders with an engine, its manifest and its typed ONNX; whether an engine fits a machine

Start reading at `backends/base.py` (request and result of a build), then `backends/registry.py`, `runtime/base.py` and
`store/manifest.py`.

Where is decided ...

* which backend builds for a target: `backends.registry`;
* whether an engine of another GPU, driver or library is refused: `store.fit`;
* what a kernel really computes in: `backends.kernels`, from the backend's log or inspector;
* how a GPU's FP16 is computed on a CPU: `runtime.half`.
"""
