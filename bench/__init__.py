"""`make bench`: what Interlock costs, beside no proxy at all and beside nginx. docs/benchmark.md explains it."""
