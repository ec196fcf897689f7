"""Networks of the build of those that people deploy, with random weights from a fixed seed.

Layers, widths and the order of operators follow the public code or papers named in each file, so that the operators,
the MACs and the shapes are those of the real ones. What the weights say is not: see `plausible`.
"""
