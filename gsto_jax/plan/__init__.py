"""What a step costs on chips that are not here: compiled ahead of time, and read.

hlo       a compiled program and its arrays: what runs, and how often
costs     what one operation costs, counted as XLA counts
schedule  how long a kernel takes, by the compiler's final schedule of it
machines  chips by name: topologies, memory
step_plan what a compiled step costs a chip
measure   compiles the train and eval steps of a configuration; the largest batch that fits
estimate  how long a step takes, on paper
record    a plan as a file, which a run compares itself with
tables    all of it for people
"""
