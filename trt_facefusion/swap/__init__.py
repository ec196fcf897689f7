"""Photo in, photo out: faces found, swapped by an engine, and pasted back so that all other pixels stay as they were.

    from trt_facefusion.swap.swapper import Swapper

    with Swapper("engines/swap") as swapper:
        swapper.swap("me.jpg", "party.jpg").save("out.png")

The steps: detect, align by the preset's template, embed the source, infer in batches, mask, match the colours, paste. A
photo keeps its channels and depth; a picture that is broken (NaN, flat) is never shown; results say that they were
generated.

May import: the ground, `storage`, `model`, `engine`, `faces` and `inference`.

Modules and the subpackage, from the ground up:

    timing                      seconds by stage
    photo, photo_file           a photo in its own channels and depth; as a file
    provenance                  marks and signatures: who made this face
    masks, colour, paste        how a crop becomes part of a photo
    detectors, identity         SCRFD and RetinaFace files; photos of a person -> an identity
    selection                   which faces are swapped
    feeds, engines              a face into a network; sound pictures, by a safer engine where one is broken
    steps                       all of it but the rendering
    swapper                     all of it, for one photo
    video/                      for videos
    files                       a photo, a folder or a video -> the same swapped

Start with `swapper.py`.
"""
