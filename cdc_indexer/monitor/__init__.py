"""What people and machines can see: logs, metrics, the status page."""
