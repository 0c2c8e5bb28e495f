"""Completions from an inference engine that runs beside the training: vLLM's server, over HTTP."""
