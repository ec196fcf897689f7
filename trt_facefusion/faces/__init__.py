"""Photos -> aligned crops: detection, alignment, identity, and the reading of a folder of faces."""
