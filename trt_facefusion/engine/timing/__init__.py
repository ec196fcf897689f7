"""How long an engine will take, before a GPU is rented: a model of its kernels, never a measurement.

The kernels of an engine, as its maker lists them, say what they read and write and in which type they multiply; a
table says what a GPU can do; the longer of moving and multiplying, and a launch, is a kernel's time. Factors that were
fitted on a GPU replace the published figures by what it reaches. All is predicted, and whoever shows it says so.

It may import `engine.backends`, `model`, `storage` and the ground.

Modules, from the ground up:

    gpus           what is published of GPUs, with sources (`gpus.yaml`)
    work           kernel -> bytes by type, multiplications, the type they are done in
    factors        the share of the published figures that a GPU reaches, kept for each GPU
    roofline       kernels -> predicted time, and what bounds it
    attribution    time of kernels -> time of the nodes that a plan decides on
    fit            factors from measured times of kernels
    summary        what a manifest keeps; whether INT8 pays

Start with `roofline.py`.
"""
