"""The HTTP process: vLLM's own OpenAI server, its two generating routes replaced by ones that understand guidance.

Never imports torch itself; meets vLLM only in `api/`, `start/vllm_server.py` and `requests/models.py`.
"""
