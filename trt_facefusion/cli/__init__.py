"""The command line `trt-ff`: one file per command, and the only package that prints.

`main` turns every error into a message, a remedy and an exit code; `app` lists the commands; `console` is all that
reaches the terminal. A command is a function whose parameters are groups of options (`groups`): dataclasses that say
what typer is to read. Groups that are settings of a build stand in `build.options`, those that describe the model in
`options`, all others beside their command. Commands hand the settings to `build`, `evaluation`, `doctor` or `report`,
and show what comes back.
"""
