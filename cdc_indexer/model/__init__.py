"""What all stand on: values, rules and errors; no I/O."""
