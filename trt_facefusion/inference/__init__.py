"""Faces -> network inputs -> pictures, on any engine or on the network as it was handed in.

Calibration, verification, comparison and profiling (and serving, to come) all run networks on faces. They share these
modules, so that a face is fed and a picture is read in one way only: what was calibrated is what is served.

All that runs here is a `Runner` of `engine.runtime`; what differs is where it comes from. `open.open_model` takes a
path: an engine's folder, a model's folder in the store (then `select` says which engine fits this machine) or an ONNX
file. `original.Original` is the network untouched, whose pictures all others are judged against.

May import: the ground, `model`, `engine` and `faces`.

Modules, from the ground up:

    embedders           which network embeds the faces that a generator is fed with
    identity            the source's embedding -> what a generator is fed: emap, converter
    feeder              faces -> inputs: images, embeddings of another person, fixed values
    renderer            inputs -> pictures: runs a model on a feeder's faces and decodes its output
    file_facts          what an ONNX file shows of which known generator it is
    described           a model prepared as its inputs and its picture are described
    type_adapter        a runner that takes the input types of another
    original            the network as it was handed in; how its noise is fixed
    graph_difference    the first node at which a prepared graph, or a batch, differs from the original
    select              which of a model's stored engines to run on a machine
    open                a path -> what can be run: an engine or an ONNX file, with its manifest

Start reading at `feeder.Feeder` and `renderer.PictureRenderer` for the way of a face, at `open.open_model` for that of
a path:

    with open_model(Path("engines/swap")).open_runner() as runner:
        pictures = PictureRenderer(feeder, output, batch=4)(runner)
"""
