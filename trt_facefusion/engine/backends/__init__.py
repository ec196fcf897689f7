"""Backends behind one small protocol: a typed ONNX goes in, an engine and what its kernels really do come out.

Start reading at ``base.py`` (the protocol, the request, the result), ``capabilities.py`` (what backends differ in) and
``registry.py`` (which there are, and which one a target gets). ``tensorrt.py``, ``tensorrt_rtx.py`` and
``onnxruntime.py`` are the backends; ``session.py`` holds the steps of a build that all TensorRTs share.
"""
