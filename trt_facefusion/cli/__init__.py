"""The command line `trt-ff`: one file per command, and the only package that prints.

A command is a function whose parameters are groups of options: dataclasses that say what typer is to read. Groups that
are settings of a build stand in `build.options`, those that describe the model in `options`, all others beside their
command. Commands hand the settings to `build`, `evaluation`, `doctor` or `report`, and show what comes back. Every
error becomes a message, a remedy and an exit code; with ``--json`` exactly one JSON object goes to stdout, and
everything else to stderr.

It may import every other package; none imports it.

Modules, from the ground up:

    console                    all that reaches the terminal: progress, messages, tables, JSON
    groups, options            dataclasses as options; which model, and the settings of a build
    figures, histograms        figures of pictures in tables; histograms drawn with letters
    build, plan                the way of a model, whole or to its plan
    diff, profile              two engines held against each other; how fast they are
    faces, calibrate, cache    photos, curated; calibrations, made and looked at
    engines, presets, report   what is stored, what is known, what a build leaves
    doctor                     this machine
    app, main                  the list of commands; the entry point, and what happens to errors

Start with `build.py`, the longest of the commands, then `main.py` for what happens to errors.
"""
