"""What a machine can build and run, and what is wrong with it; nothing is changed.

It works where nothing else does: the driver is asked through ctypes, packages are read from their metadata, and every
library that may be missing is tried by itself. Which libraries are looked for comes from the backends
(`engine.backends.registry`), so that a new backend is examined without a change here.

May import: the ground, and `engine`.

Modules, from the ground up; each imports only those above it in this list:

    findings    what was noticed: a problem, a warning or advice, with the commands that help
    driver      the NVIDIA driver and its GPUs, asked through ctypes
    packages    which libraries are installed, and whether they fit each other
    advice      what a person should do about it
    examine     looks at all of it, and says what `trt-ff build` would do here

Start reading at `examine.examine`; `trt-ff doctor` shows what it gives.
"""
