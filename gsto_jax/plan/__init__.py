"""What a step costs on chips that are not here: compiled ahead of time, and read.

hlo       a compiled program, with its loops multiplied out
machines  chips by name: topologies, memory
measure   the train and eval steps of a configuration on one of them
"""
