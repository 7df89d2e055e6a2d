"""Git and DVC: the graph, parameters, worktrees, outputs."""
