"""The sidecar: intercept → identify → authorize → sign → forward → settle. Never touches Redis."""
