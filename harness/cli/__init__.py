"""The command ``harness``, one subcommand a file."""
