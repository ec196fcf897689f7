"""Photos -> aligned crops and identities: what calibration, verification and pictures are made of.

A folder is read photo by photo: opened without trusting it, stripped of all but its pixels, turned upright; the largest
face is found, aligned and embedded; of copies of one picture the largest stays. For every photo that is left out there
is a reason. Crops are cut again when they are asked for, so that a set of any size fits into memory. People are kept
apart: nobody is calibrated on and verified on, and no face is swapped with itself.

May import the ground, `storage` and `model.sessions` (the embedder's network). What needs a generator's activations is
in `build/`.

Modules and the subpackage, from the ground up:

    kinds, orientation, metadata    what a file is, how it must be turned, what is taken off before it is decoded
    image_file, decode              bytes of an image file; upright RGB pixels
    align                           five landmarks -> a similarity transform -> an aligned crop; the templates
    detector, converter, embedder   faces with landmarks; identity as a vector, and as another recogniser's
    split, pairing, duplicates      who is held out, who lends a face to whom, what is a copy
    crops, faceset                  crops that are cut on demand; a set of faces, and what was left out
    reader, find, folder            one photo after another; the photos of a folder; a folder -> a `FaceSet`
    curation/    what a set covers and lacks, and the selection of photos that covers most

Start with `folder.py` (`read_faces`), then `reader.py` and `faceset.py`.
"""
