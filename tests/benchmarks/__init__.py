"""The harness measures what it says it measures."""
