"""The networks: SAM, MobileSAM, SAM 2 and the project's small SAM."""
