"""Files, and documents in them: written whole or not at all, read strictly and within bounds, whoever wrote them.

What this project writes (manifests, calibrations, plans, presets, records of builds, searches) is read back by
strangers' hands: edited, damaged, of another version, or made to do harm. So a document is decoded into a dataclass, a
field that does not fit is refused by its name, and nothing is built in memory before its size is known. What is being
written has a temporary name that its owner holds the lock of; it is synced and renamed, and what a killed process left
is swept by whoever writes there next.

It may import the ground (`errors`, `types`, `text`, `sampling`), and nothing else of this project.

Modules, from the ground up:

    leftovers     temporary files and folders: who owns them, and what becomes of those whose owner is dead
    documents     JSON as dataclasses, decoded strictly: every document of ours goes through it
    arrays        NumPy's files, without code from them and within bounds
    plain_yaml    YAML without aliases, tags or repeated keys, as plans and presets need it
    files         single files, read within bounds and written atomically; errors in plain words

Start with `files.py` for writing, with `documents.py` for reading.
"""
