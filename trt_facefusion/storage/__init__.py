"""Files, and documents in them: written whole or not at all, read strictly and within bounds, whoever wrote them.

Every document of ours (manifest, calibration, preset, record, search) is read by `documents.decode`, which refuses what
does not fit with the field and what is wrong with it. Imports only `errors`.

Modules, from the ground up; each imports only those above it in this list:

    leftovers     temporary files and folders: who owns them, and what becomes of those whose owner is dead
    files         reads and writes single files
    documents     JSON -> dataclasses, by the letter
    plain_yaml    the YAML of plans and presets
    arrays        NumPy's files of strangers

Start reading at `documents.decode` and `files.write_atomic`.
"""
