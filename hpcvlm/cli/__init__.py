"""The command line: parse, call ops, render the result."""
