"""Backends behind one small protocol: a typed ONNX goes in, an engine and what its kernels really do come out."""
