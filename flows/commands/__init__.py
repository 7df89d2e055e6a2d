"""The subcommands of `gridflow`, which read their options and call what does the work."""
