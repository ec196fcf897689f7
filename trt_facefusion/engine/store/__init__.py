"""The store of engines: every engine has a manifest, is written whole or not at all, and is checked when it is read.

``<root>/<model>/<precision>-<target>-<backend>-<version>/`` holds the engine, its typed ONNX, its plan, its manifest
and how it is fed. A folder is filled under a temporary name, synced and renamed. A model is its digest: two files of
one name live side by side. An engine says by its pins what the machine must have that loads it.

It may import `engine.backends`, `engine.timing` and `engine.runtime`, `storage` and the ground.

Modules, from the ground up:

    atomic      all or nothing, also when the process is killed or the disk is full
    lock        one build at a time for each folder
    manifest    everything that went in, and all that is known of what came out; the key of a build
    identity    which folder belongs to a model
    fit         whether an engine runs on a machine, and the command that rebuilds it if not
    machine     what this machine has to run engines with
    store       finding, loading, saving and listing engines

Start with `manifest.py`, then `store.py`.
"""
