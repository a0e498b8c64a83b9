"""The paper's micro-benchmark: what a call costs, on pages and without, against the size of a batch."""
