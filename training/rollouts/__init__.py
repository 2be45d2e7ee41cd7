"""Replies: the requests, the engine that samples them, and their shards on disk."""
