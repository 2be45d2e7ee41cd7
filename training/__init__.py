"""Training of value models: prompts, rollouts, rewards, targets, fitting. Imports valuemodels, never the server."""
