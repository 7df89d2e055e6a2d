"""The tests: they mirror the three packages folder by folder."""
