"""Tells a central index about every study of a PACS the moment it is committed."""

__version__ = "0.1.0"
