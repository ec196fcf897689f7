"""The store of engines: every engine has a manifest, is written whole or not at all, and is checked when it is read."""
