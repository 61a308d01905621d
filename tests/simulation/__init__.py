"""The core in a world that is played in one process: archive, index, disk, processes; one seed, millions of faults."""
