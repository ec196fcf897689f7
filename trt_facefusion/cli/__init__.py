"""The command line `trt-ff`: one file per command, and the only package that prints.

A command is a function whose parameters are groups of options: dataclasses that say what typer is to read. Groups that
are settings of a build stand in `build.options`, those that describe the model in `options`, all others beside their
command. Commands hand the settings to `build`, `evaluation`, `swap`, `serving`, `triton`, `doctor` or `report`, and
show what comes back. Every error becomes a message, a remedy and an exit code; with ``--json`` exactly one JSON object
goes to stdout, and everything else to stderr.

It may import every other package; none imports it.

Modules, from the ground up:

    console                                all that reaches the terminal: progress, messages, tables, JSON
    groups, limit_options, model_choice    dataclasses as options; one for each limit; which model is meant
    options                                which model, and the settings of a build that the options give
    figures, histograms, listing           figures of pictures, histograms drawn with letters, lists of names
    build_table, plan_table, plan_files    what `build` and `plan` show and write
    build, plan, calibrate                 the way of a model, whole or one step of it
    diff_tables, diff, profile             two models held against each other; how fast they are
    face_sheet, face_tables                what `faces` shows and writes
    lineup_table, module_table, compare    every engine of a model side by side
    generator_options, faces               photos, audited and curated
    convert, cache                         calibrations, looked at, compared, taken along
    engines, inspect, estimate             what is stored, one engine, how long it will take
    export, package                        an engine as a file for other tools, as what Triton loads
    presets, report                        what is known, what a build leaves
    swap                                   photos, folders and videos, swapped
    canary_options, canary                 a candidate's rollout in a service: its options; looked at, decided on
    serve                                  the same over HTTP
    doctor                                 this machine
    app, main                              the list of commands; the entry point, and what happens to errors

Start with `build.py`, the longest of the commands, then `main.py` for what happens to errors.
"""
