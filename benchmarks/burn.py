"""A runtime that burns CPU: `key` is {"burn_s": seconds}. To see whether more hosts do more work.

Given to the daemon as MM_RUNTIMES=benchmarks.burn:BurnRuntime.
"""
