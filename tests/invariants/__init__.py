"""What must hold on the real engine, whatever changes around it. Runs vLLM on a tiny random model."""
