"""What a folder of faces covers, where its gaps are, and the selection of its photos that covers most."""
