"""The reference central index: takes the studies of many centres, and shows them to who may read."""
