"""Other dataset formats, in and out. A format is a module with `read` and `write`."""
