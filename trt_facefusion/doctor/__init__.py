"""What a machine can build and run, and what is wrong with it; nothing is changed.

``examine.py`` is where it starts and what `trt-ff doctor` shows; ``driver.py`` asks the NVIDIA driver, ``packages.py``
looks at what is installed, ``advice.py`` says what a person should do. Which libraries are looked for comes from the
backends (``engine/backends/registry.py``). May import ``engine`` and all that it may.
"""
