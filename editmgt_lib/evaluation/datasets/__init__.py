"""The benchmarks, each read in the layout its authors publish; `registry` finds them by name."""
