"""The command line. A subcommand imports its room inside `run`, so that `litseq --help` stays quick."""
