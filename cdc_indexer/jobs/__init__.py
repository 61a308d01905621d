"""What runs: wiring, and recovery."""
