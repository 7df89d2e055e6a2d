"""Sets of boxes and masks: from a source to a RAW set, and out again in other formats."""
