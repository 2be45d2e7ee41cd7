"""Protocol suites against this server and against plain vLLM: `make comply`."""
