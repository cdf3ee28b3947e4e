"""The webhook that puts sidecars into pods of a Kubernetes cluster."""
