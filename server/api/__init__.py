"""The routes, and the plugin that puts them into vLLM's own app."""
