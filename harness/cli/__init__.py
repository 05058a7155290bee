"""The ``harness`` command, one group of subcommands a file."""
