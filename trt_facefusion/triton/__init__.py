"""A model repository for NVIDIA Triton: the engine for every GPU, and the same steps of a swap before and behind it.

    trt-ff package triton engines/swap/int8-sm86-... engines/swap/int8-sm89-... -o model_repository/

Of an engine called ``swap`` four models are made: ``swap`` (the generator), ``swap_preprocess`` and
``swap_postprocess`` (Triton's python backend, which runs `swap.steps`), and ``swap_photo``, the ensemble: photos in, a
photo out. Beside them lie the files that start it: a Dockerfile, docker-compose.yaml, manifests for Kubernetes and
KServe.

Triton itself is not imported: configurations are written through its own messages, of the package tritonclient.

May import: the ground, `storage`, `model`, `engine`, `faces`, `inference`, `swap` and `dropin.graph` (which opset needs
which onnxruntime).

Modules, from the ground up:

    messages         Triton's own configuration messages, and their text
    border           what a generator takes and gives, as Triton counts dimensions and batches
    gpus             which engine serves which GPU; every GPU that is named has one
    releases         what is known of Triton's containers
    steps            bytes of photos -> the generator's inputs; its outputs -> bytes of a photo
    python_models    the same as models of Triton's python backend
    warmup           sample faces as the generator's first inputs
    configs          the four configurations
    deploy           files that start it: docker compose, Kubernetes, KServe
    repository       all of it, written whole or not at all

Start with `repository.py`.
"""
