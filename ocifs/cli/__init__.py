"""The command line: one short module for each group of verbs; each parses, calls the floors below, and prints."""
