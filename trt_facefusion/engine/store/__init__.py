"""The store of engines: every engine has a manifest, is written whole or not at all, and is checked when it is read.

A folder is ``<root>/<model>/<precision>-<target>-<backend>-<backend version>/``. Its manifest says everything that went
in (digests, settings) and what came out (kernels, accuracy, fall-backs), and of which machine the engine is.

May import: the ground, `storage`, and `engine.backends` and `engine.runtime`.

Modules, from the ground up; each imports only those above it in this list:

    atomic      folders that appear whole or not at all, and what is left of those that did not
    manifest    the manifest, read strictly; the key of a build
    fit         whether an engine runs on a machine, and what differs
    identity    which folder of a store belongs to a model
    lock        one build at a time for each engine folder
    machine     what this machine has to run engines with
    store       lists, loads and saves engines

Start reading at `manifest.Manifest` and `store.Store`; `fit.list_misfits` refuses an engine of another GPU.
"""
