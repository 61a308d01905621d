"""The central index: one POST, in order per study, parallel across studies."""
