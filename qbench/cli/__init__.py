"""The command line: verbs, options, views of the console."""
