"""What comes out: engines that are built, stored with all that is known of them, and run.

Three packages, each of which imports only from those before it:

* ``runtime``: runners behind one protocol (``base.Runner``): onnxruntime on a CPU, pycuda on a GPU, and the numerical
  stand-in of a GPU engine on a CPU (``half``). It knows nothing of how engines are built.
* ``backends``: what builds engines and opens them again, behind one protocol (``base.Backend``). ``registry`` has a
  line for each; ``capabilities`` are the fields by which they differ. Nothing compares a backend's name.
* ``store``: folders with an engine, its manifest and its typed ONNX; whether an engine fits a machine (``fit``).

May import ``model`` and ``quantization``, and the modules that lie beside the packages. Start reading at
``backends/base.py``, then ``backends/registry.py``.
"""
