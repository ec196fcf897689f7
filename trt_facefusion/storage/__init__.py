"""Files, and documents in them: written whole or not at all, read strictly and within bounds, whoever wrote them.

`files` reads and writes single files, `leftovers` knows to whom temporary ones belong. `documents` decodes JSON into
dataclasses, and is what every document of ours goes through (manifest, calibration, preset, record, search);
`plain_yaml` and `arrays` do the same for YAML and NumPy's files. Imports only `errors`.
"""
