"""Benchmarks of flexsc_loop against other event loops; README.md in this folder explains the method."""
