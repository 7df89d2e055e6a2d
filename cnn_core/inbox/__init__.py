"""Judge newly delivered data: what is in it, how it grows a set, whether it drifted."""
