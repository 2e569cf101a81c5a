"""The parts of benchmarks/gpu_check.py: the plan, the run, its processes, its result, and what is prepared before."""
