"""The real server, started by its own command, met over HTTP: curl's view, the SDK's and the openai package's."""
