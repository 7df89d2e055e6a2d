"""The report of a run: one self-contained page, a module a section."""
