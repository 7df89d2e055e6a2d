"""Run stages: preparation, processes, failures, messages, sharing."""
