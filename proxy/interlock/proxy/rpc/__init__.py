"""The gRPC side of the sidecar: how calls come in, how they go out, and what statuses mean."""
