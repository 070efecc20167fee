"""The commands of `editmgt`, one file each; with `cli.py` the only files that print.

Each has `add_parser` and `run(args) -> exit code`. Nothing heavy is imported before a command runs,
so that `--help` answers at once.
"""
