"""Side-by-side benchmarks: upstream run directly, EvalScope, and evalshim. See README.md."""
