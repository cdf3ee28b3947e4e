"""The stages of a call, a file each."""
