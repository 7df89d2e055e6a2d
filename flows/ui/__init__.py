"""What Prefect shows and serves: forms, artifacts, lineage, server, heartbeats, notifications."""
