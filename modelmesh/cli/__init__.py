"""The command line: environment and flags in, one exit status out."""
