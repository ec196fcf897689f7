"""Runners behind one protocol (``base.Runner``): onnxruntime on a CPU, pycuda on a GPU, and a numerical stand-in."""
