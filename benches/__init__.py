"""aioxide's benchmarks: event loops side by side, CPU time per operation.

`python -m benches --help` tells the usage, `benches/README.md` what is measured and how to read it.
"""
