"""thincow: writable, deduplicated copy-on-write views of disks and disk images."""

__version__ = "0.1.0"
