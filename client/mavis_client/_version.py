"""The version of the SDK: read by the build, sent as `User-Agent`."""

__version__ = "0.1.0"
