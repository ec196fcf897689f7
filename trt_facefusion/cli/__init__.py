"""The command line `trt-ff`: a file for each command, and the only package that prints.

`main` turns every error into a message, a remedy and an exit code; `app` lists the commands; `console` is all that
reaches the terminal. A command is a function whose parameters are groups of options (`groups`): dataclasses that say
what typer is to read. Groups that are settings of a build stand in `build.options`, those that describe the model in
`options`, all others beside their command. Commands hand the settings to `build`, `evaluation`, `doctor` or `report`,
and show what comes back.

May import everything.

Modules, from the ground up; each imports only those above it in this list:

    console, figures, listing              the terminal; how figures, and lists of names, are written
    groups, limit_options                  groups of options as parameters; an option for each limit of a metric
    model_choice, options                  which model the options name; options of several commands, and their settings
    generator_options                      the generator of `faces curate`
    histograms                             histograms drawn for a terminal
    build_table, plan_table, diff_tables   what these commands show
    face_tables, face_sheet, plan_files    what `faces` shows; the files that `faces` and `plan` write
    build, plan, calibrate                 making engines, plans and calibrations
    convert, cache                         calibration caches
    engines, inspect                       stored engines
    diff, profile                          comparing and measuring engines
    faces, presets, report, doctor         photos, known generators, pages, this machine
    app                                    the commands of `trt-ff`
    main                                   the entry point, and what happens to errors

Start reading at `app`, then `build.command`.
"""
