"""The guide inside vLLM: the logits processor, the worker's extra methods, the hook on hidden states."""
