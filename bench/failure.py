class BenchError(Exception):
    """The benchmark cannot be run, or something in it did not work; the message says what to do about it."""
