"""What a value checkpoint holds: the trunk with its heads, the probe, the files on disk and their checks."""
