"""Runners behind one small protocol: named arrays in, named arrays out."""
