"""Runners behind one protocol (`base.Runner`): onnxruntime, OpenVINO and a simulator on a CPU, pycuda on a GPU.

A runner takes feeds by name and gives outputs by name, one after the other, asynchronously, or as a stream of many with
several in flight. On a GPU each inference in flight has a slot: page-locked buffers, a stream, events, perhaps a
captured graph. Where no GPU is at hand, the typed ONNX is run on the CPU, with FP16 rounding forced where the graph
says FP16.

It may import `model`, `storage` and the ground. It knows nothing of how engines are built.

Modules, from the ground up:

    base                             the protocol, and how feeds are checked
    half                             FP16 rounding on a CPU that would skip it
    in_flight                        futures, and what runners share
    session                          what the runners of onnxruntime's sessions share
    onnxruntime                      the runner of ONNX models
    device, engine_file, engine_io   pycuda's errors in our words; a serialised engine, and what it takes and gives
    openvino                         the runner of OpenVINO's engines
    qnn                              engines for Qualcomm's neural processor, in the simulator
    graphs, layer_times              CUDA graphs; TensorRT's own times for layers
    slots, pycuda                    all that one inference in flight needs; the runner of TensorRT engines
    polygraphy, run_results          our runners as Polygraphy's, and its files

Start with `base.py`, then `pycuda.py`, which says which thread owns what and why.
"""
