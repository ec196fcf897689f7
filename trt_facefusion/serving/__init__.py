"""One process that answers over HTTP: photos in, a fused photo out, by engines that stand in for each other.

May import: the ground, `storage`, `model`, `engine`, `faces`, `inference`, `evaluation` and `swap`.

Modules, from the ground up:

    seam        what the queue asks for, and what answers: faces in, pictures out, each with the engine that made it
"""
