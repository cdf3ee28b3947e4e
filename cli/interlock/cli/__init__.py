"""The `interlock` command: wires the rooms together, and is the operator's tool."""
